//! What each source may say, and how a wrong word is refused.

use super::*;
use crate::config::{CoreList, SizeLimit};

fn from_text(text: &str) -> Result<Resolved, ConfigError> {
    let mut resolved = Resolved::default();
    resolved.read_file(Path::new("millrace.toml"), text)?;
    resolved.check()?;
    Ok(resolved)
}

fn refusal(text: &str) -> String {
    from_text(text).expect_err("a wrong file").to_string()
}

#[test]
fn what_is_printed_reads_back_as_the_same_configuration() {
    let text = "[server]\ncores = [0, 2]\n[topics]\nretention_bytes = -1\nretention_ms = 5\n";
    let resolved = from_text(text).unwrap();
    assert_eq!(resolved.config.server.cores, CoreList::Cores(vec![0, 2]));
    assert_eq!(resolved.config.topics.retention_ms, SizeLimit(Some(5)));
    let again = from_text(&resolved.to_toml()).unwrap();
    assert_eq!(again.config, resolved.config);
    let defaults = from_text(&Resolved::default().to_toml()).unwrap();
    assert_eq!(defaults.config, Config::default());
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = std::env::temp_dir().join(format!("millrace-layers-{}.toml", std::process::id()));
    fs::write(
        &file,
        "[wal]\nfiles = 4\ngroups_in_flight_max = 2\nsync = \"dsync\"\n",
    )
    .unwrap();
    let sources = Sources {
        file: Some(file.clone()),
        environment: vec![
            ("MILLRACE_WAL_FILES".into(), "5".into()),
            ("MILLRACE_WAL_SYNC".into(), "linked-fdatasync".into()),
            ("MILLRACE_SOMETHING_ELSE".into(), "not ours".into()),
        ],
        flags: vec![Flag {
            flag: "--set",
            name: "wal.files".into(),
            value: "6".into(),
        }],
    };
    let resolved = Resolved::from_sources(&sources).unwrap();
    fs::remove_file(&file).unwrap();
    assert_eq!(resolved.config.wal.files, 6);
    assert_eq!(resolved.config.wal.groups_in_flight_max, 2);
    assert_eq!(*resolved.place("wal.files"), Place::Flag("--set"));
    assert_eq!(
        *resolved.place("wal.groups_in_flight_max"),
        Place::File(file, 3)
    );
    let variable = Place::Environment("MILLRACE_WAL_SYNC".into());
    assert_eq!(*resolved.place("wal.sync"), variable);
    assert_eq!(*resolved.place("wal.file_bytes"), Place::Default);
}

#[test]
fn a_wrong_name_is_refused_with_its_line_and_the_nearest_right_one() {
    assert_eq!(
        refusal("[wal]\nfiles = 4\nflie_bytes = 1\n"),
        "millrace.toml:3: unknown setting `wal.flie_bytes`; did you mean `wal.file_bytes`?"
    );
    assert_eq!(
        refusal("[server]\nfile_bytes = 1\n"),
        "millrace.toml:2: unknown setting `server.file_bytes`; did you mean `wal.file_bytes`?"
    );
    assert_eq!(
        refusal("\n[listener.kafka]\n"),
        "millrace.toml:2: unknown setting `listener`; did you mean `listeners`?"
    );
    assert_eq!(
        refusal("[listeners.kafak]\n"),
        "millrace.toml:1: unknown setting `listeners.kafak`; did you mean `listeners.kafka`?"
    );
    assert_eq!(
        refusal("zzzzzzzzzzzzzzz = 1\n"),
        "millrace.toml:1: unknown setting `zzzzzzzzzzzzzzz`"
    );
    let mut resolved = Resolved::default();
    let error = resolved
        .read_variable("MILLRACE_WAL_FILE", "1")
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("did you mean `MILLRACE_WAL_FILES`?"),
        "{error}"
    );
}

#[test]
fn a_wrong_value_is_refused_with_its_line_and_what_would_be_right() {
    assert_eq!(
        refusal("[server]\n\ncores = \"4-1\"\n"),
        "millrace.toml:3: `server.cores`: expected \"auto\", a list as \"0-3\" or \"0,2\", \
         or an array as [0, 2]; no core twice, found \"4-1\""
    );
    assert_eq!(
        refusal("[wal]\ngroups_in_flight_max = 9\n"),
        "millrace.toml:2: `wal.groups_in_flight_max`: 9 is out of range: 1 to 4"
    );
    assert_eq!(
        refusal("[server]\npin = \"yes\"\n"),
        "millrace.toml:2: `server.pin`: expected true or false, found \"yes\""
    );
    assert!(refusal("[wal]\nfiles = 4.5\n").ends_with("found a fraction"));
    assert!(refusal("wal = 4\n").contains("unknown setting `wal`"));
    assert!(refusal("[wal]\nfiles = = 1\n").starts_with("millrace.toml:2: "));
}

#[test]
fn values_that_do_not_fit_each_other_are_refused_where_they_were_set() {
    assert_eq!(
        refusal("[wal]\nfile_bytes = \"1MiB\"\nbatch_bytes_max = \"4MiB\"\n"),
        "default: `wal.commit_buffer_bytes`: 1052672 is more than 524288, \
         half of `wal.file_bytes`"
    );
    assert_eq!(
        refusal("[wal]\nfile_bytes = 4194305\n"),
        "millrace.toml:2: `wal.file_bytes`: 4194305 is not a multiple of 4096"
    );
    assert_eq!(
        refusal("[wal]\nfile_bytes = \"256MiB\"\n"),
        "default: `disk.reserve_bytes`: 167772160 is less than 541065216, twice \
         `wal.file_bytes` and 4 MiB: what settling needs on a full disk"
    );
    assert_eq!(
        refusal("[memory]\nreceive_buffers = 1000\n"),
        "millrace.toml:2: `memory.receive_buffers`: 1000 is not a power of two"
    );
}
