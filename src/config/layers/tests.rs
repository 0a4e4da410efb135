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
fn any_text_is_printed_so_that_it_reads_back() {
    let nasty = [
        "it's",
        "l'été",
        "\\",
        "a\\\"b",
        "\n\r\t",
        "\u{0}\u{1b}\u{7f}\u{85}",
        "\u{feff}\u{2028}",
        "\u{1f980}",
        " # no comment",
        "'\u{27}'",
        "\"\"\"",
        "a = \"b\"",
    ];
    for text in nasty {
        let set = |name: &str| Flag {
            flag: "--set",
            name: name.to_owned(),
            value: text.to_owned(),
        };
        let names = ["server.data_dir", "listeners.kafka.advertised_host"];
        let sources = Sources {
            flags: names.map(set).to_vec(),
            ..Sources::default()
        };
        let resolved = Resolved::from_sources(&sources).unwrap();
        let again = from_text(&resolved.to_toml());
        let again = again.unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(again.config, resolved.config, "{text:?}");
    }
}

#[test]
fn a_files_name_cannot_break_out_of_its_comment() {
    let mut resolved = Resolved::default();
    let path = Path::new("a\nb = 1\n.toml");
    resolved.read_file(path, "[wal]\nfiles = 5\n").unwrap();
    let again = from_text(&resolved.to_toml()).unwrap();
    assert_eq!(again.config.wal.files, 5);
}

/// A refusal that names a setting which does not exist sends its reader in circles.
#[test]
fn settings_are_named_by_their_whole_names_everywhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = vec![root.join("docs/kafka.md")];
    let mut directories = vec![root.join("engine/src"), root.join("net/src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                texts.push(path);
            }
        }
    }
    let names = all_names();
    let mut named = 0;
    for path in texts {
        let text = fs::read_to_string(&path).unwrap();
        for name in settings_named(&text) {
            let exists = names.iter().any(|known| known == name);
            assert!(exists, "{}: {name} is not a setting", path.display());
            named += 1;
        }
    }
    assert!(named > 30, "{named}");
}

/// Words that stand where a text names a setting.
fn settings_named(text: &str) -> impl Iterator<Item = &str> {
    let marks = [
        "Busy(\"|",
        "limit: \"|",
        "`|limits.",
        "`|memory.",
        "`|listeners.",
        "`|topics.",
        // A listener's setting without its table's first half.
        "\"|kafka.",
        "`|kafka.",
        " |kafka.",
    ];
    let in_name = |c: char| c.is_ascii_lowercase() || matches!(c, '_' | '.');
    marks.into_iter().flat_map(move |mark| {
        let (before, begin) = mark.split_once('|').expect("a bar before the name");
        let after = text.split(before).skip(1);
        let words = after.map(move |rest| rest.split(|c| !in_name(c)).next().unwrap_or(""));
        words.filter(move |word| {
            let is_ours = begin != "kafka." || word.ends_with("_max");
            word.starts_with(begin) && is_ours
        })
    })
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
    assert_eq!(
        refusal("[topics]\nretention_ms = \"9_223_372_036_854_775_808\"\n"),
        "millrace.toml:2: `topics.retention_ms`: 9223372036854775808 is out of range: \
         0 to 9223372036854775807"
    );
    assert!(from_text("[topics]\nretention_bytes = 9223372036854775807\n").is_ok());
    assert!(refusal("[wal]\nfiles = 4.5\n").ends_with("found a fraction"));
    assert!(refusal("wal = 4\n").contains("unknown setting `wal`"));
    assert!(refusal("[wal]\nfiles = = 1\n").starts_with("millrace.toml:2: "));
}

#[test]
fn a_manifest_has_no_more_room_than_a_start_can_read() {
    let most = millrace_storage::manifest::ROOM_BYTES_MAX;
    let config = from_text(&format!("[disk]\nmanifest_bytes_max = {most}")).expect("allowed");
    assert_eq!(config.config.disk.manifest_bytes_max, most);
    let said = refusal(&format!("[disk]\nmanifest_bytes_max = {}", most + 4_096));
    assert!(said.contains("is out of range"), "{said}");
}

#[test]
fn values_that_do_not_fit_each_other_are_refused_where_they_were_set() {
    assert_eq!(
        refusal("[wal]\nfile_bytes = \"1MiB\"\nbatch_bytes_max = \"4MiB\"\n"),
        "default: `wal.commit_buffer_bytes`: 1052672 is more than 524288, \
         half of `wal.file_bytes`"
    );
    assert_eq!(
        refusal("[memory]\nassembly_bytes_max = \"64MiB\"\n"),
        "default: `listeners.kafka.request_bytes_max`: 104857600 is more than 67108864, \
         `memory.assembly_bytes_max`"
    );
    assert_eq!(
        refusal("[listeners.kafka]\ncontrol_request_bytes_max = \"256MiB\"\n"),
        "millrace.toml:2: `listeners.kafka.control_request_bytes_max`: 268435456 is more than \
         134217728, `memory.assembly_bytes_max`"
    );
    assert_eq!(
        refusal("[memory]\nmesh_append_bytes_max = \"64MiB\"\n"),
        "default: `listeners.kafka.request_bytes_max`: 104857600 is more than 67108864, \
         `memory.mesh_append_bytes_max`"
    );
    assert_eq!(
        refusal("[wal]\ncommit_queue_bytes_max = \"8MiB\"\n"),
        "default: `wal.batch_bytes_max`: 16777216 is more than 8388608, \
         `wal.commit_queue_bytes_max`"
    );
    assert_eq!(
        refusal("[groups]\nsession_timeout_ms_min = 9\nsession_timeout_ms_max = 8\n"),
        "millrace.toml:2: `groups.session_timeout_ms_min`: 9 is more than 8, \
         `groups.session_timeout_ms_max`"
    );
    assert_eq!(
        refusal("[wal]\nfiles = 300\n"),
        "millrace.toml:2: `wal.files`: 300 is more than 256, half of `limits.files_open_max`"
    );
    assert_eq!(
        refusal("[wal]\nbatch_bytes_max = \"64KiB\"\n"),
        "millrace.toml:2: `wal.batch_bytes_max`: 65536 is out of range: 131072 to 268435456"
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
