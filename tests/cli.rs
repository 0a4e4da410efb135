//! The command as scripts see it: what it prints where, and with which code it ends.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

fn millrace(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
    command.args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    millrace(arguments).output().expect("the command was built")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    path
}

/// A broker on small files, and its `ready` line.
fn serve(data_dir: &str) -> (Child, String) {
    serve_logging(data_dir, Stdio::null())
}

/// The same, with its standard error.
fn serve_logging(data_dir: &str, log: Stdio) -> (Child, String) {
    let mut child = millrace(&["serve", "--data-dir", data_dir, "--kafka", "127.0.0.1:0"])
        .args(["--cores", "0", "--set", "server.pin=false"])
        .args([
            "--set",
            "wal.file_bytes=4MiB",
            "--set",
            "wal.batch_bytes_max=2MiB",
        ])
        .args(["--set", "disk.reserve_bytes=12MiB"])
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .expect("the command was built");
    let mut ready = String::new();
    let stdout = child.stdout.take().expect("piped");
    BufReader::new(stdout)
        .read_line(&mut ready)
        .expect("a line of text");
    (child, ready)
}

#[test]
fn a_broker_is_asked_locked_stopped_and_inspected() {
    let path = directory("cli");
    let data_dir = path.to_str().unwrap();
    let nobody = run(&["status", "--data-dir", data_dir]);
    assert_eq!(nobody.status.code(), Some(69), "{}", stderr(&nobody));

    let (mut broker, ready) = serve(data_dir);
    let address = ready.strip_prefix("ready kafka=").expect("the ready line");
    assert!(address.trim().starts_with("127.0.0.1:"), "{ready}");

    let status = run(&["status", "--data-dir", data_dir]);
    assert!(
        stdout(&status).contains(address.trim()),
        "{}",
        stdout(&status)
    );
    let topics = run(&["topics", "--data-dir", data_dir, "--json"]);
    assert_eq!(stdout(&topics).trim(), "[]");
    for arguments in [
        &["serve", "--data-dir", data_dir, "--kafka", "127.0.0.1:0"][..],
        &["inspect", data_dir],
    ] {
        let refused = run(arguments);
        assert_eq!(refused.status.code(), Some(77), "{arguments:?}");
        let holder = format!("in use by process {}", broker.id());
        assert!(stderr(&refused).contains(&holder), "{}", stderr(&refused));
    }

    kill_process(Pid::from_child(&broker), Signal::TERM).unwrap();
    assert_eq!(broker.wait().unwrap().code(), Some(0));
    let inspected = run(&["inspect", "--verify", data_dir]);
    assert_eq!(inspected.status.code(), Some(0), "{}", stderr(&inspected));
    let text = stdout(&inspected);
    for part in [
        "shard 0",
        "wal-000000",
        "manifest-",
        "catalog  cluster",
        "checksum",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }

    check_what_inspect_sees(data_dir);

    let manifest = fs::read_dir(path.join("shard-0"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let manifest = manifest
        .into_iter()
        .find(|file| file.to_str().unwrap().contains("manifest"));
    let manifest = manifest.expect("a manifest");
    fs::write(&manifest, vec![0; 8192]).unwrap();
    for arguments in [
        &["inspect", data_dir][..],
        &["serve", "--data-dir", data_dir, "--kafka", "127.0.0.1:0"],
    ] {
        let damaged = run(arguments);
        assert_eq!(damaged.status.code(), Some(65), "{}", stderr(&damaged));
        assert!(
            stderr(&damaged).contains("manifest-"),
            "{}",
            stderr(&damaged)
        );
    }
    fs::remove_dir_all(&path).unwrap();
}

/// Blocks are listed when that is asked for, and damage of one of two copies is reported.
fn check_what_inspect_sees(data_dir: &str) {
    let listed = stdout(&run(&["inspect", "--blocks", data_dir]));
    let block = "block file=wal-000000 position=4096 lsn=0 bytes=4096 entries=";
    assert!(listed.contains(block), "{listed}");
    let shard = Path::new(data_dir).join("shard-0");
    for (file, position, found) in [
        ("wal-", 2048 + 20, "header's two copies"),
        ("manifest-", 8192 + 100, "two copies"),
    ] {
        let file = fs::read_dir(&shard)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_str().unwrap().contains(file))
            .min()
            .expect("there");
        let whole = fs::read(&file).unwrap();
        let mut damaged = whole.clone();
        damaged[position] ^= 1;
        fs::write(&file, damaged).unwrap();
        let inspected = run(&["inspect", "--verify", data_dir]);
        assert_eq!(inspected.status.code(), Some(65), "{}", stdout(&inspected));
        assert!(stderr(&inspected).contains(found), "{}", stderr(&inspected));
        fs::write(&file, whole).unwrap();
    }
}

/// Makes the broker say something, and waits until it has.
fn break_the_protocol(ready: &str) {
    let address = ready.strip_prefix("ready kafka=").expect("the ready line");
    let mut stream = TcpStream::connect(address.trim()).expect("it listens");
    stream.write_all(&[0xff; 64]).expect("sent");
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Whatever becomes of what it says: the collector at the other end of a pipe dies, or the disk is
/// full of logs, and then the broker is needed most.
#[test]
fn a_broker_whose_log_goes_nowhere_serves_and_stops() {
    let path = directory("cli-log");
    let data_dir = path.to_str().unwrap();
    let (collector, pipe) = io::pipe().unwrap();
    let mut collector = Some(collector);
    let full = File::options().write(true).open("/dev/full").unwrap();
    for log in [Stdio::from(pipe), Stdio::from(full)] {
        let (mut broker, ready) = serve_logging(data_dir, log);
        drop(collector.take());
        break_the_protocol(&ready);
        break_the_protocol(&ready);
        let status = run(&["status", "--data-dir", data_dir]);
        assert_eq!(status.status.code(), Some(0), "{}", stderr(&status));
        kill_process(Pid::from_child(&broker), Signal::TERM).unwrap();
        assert_eq!(broker.wait().unwrap().code(), Some(0));
    }
    check_what_nobody_reads(data_dir);
    fs::remove_dir_all(&path).unwrap();
}

/// `inspect DIR | head` is no failure, and a disk that takes nothing is one.
fn check_what_nobody_reads(data_dir: &str) {
    for arguments in [
        &["inspect", "--blocks", data_dir][..],
        &["config"],
        &["cores"],
    ] {
        let (reader, pipe) = io::pipe().unwrap();
        drop(reader);
        let cut = millrace(arguments).stdout(pipe).output().unwrap();
        assert_eq!(
            cut.status.code(),
            Some(0),
            "{arguments:?}: {}",
            stderr(&cut)
        );
        assert_eq!(stderr(&cut), "");
        let full = File::options().write(true).open("/dev/full").unwrap();
        let lost = millrace(arguments).stdout(full).output().unwrap();
        assert_eq!(lost.status.code(), Some(74), "{arguments:?}");
        assert!(
            stderr(&lost).contains("standard output"),
            "{}",
            stderr(&lost)
        );
    }
}

/// A client verb looks for the broker where the broker looks for its settings.
#[test]
fn every_verb_finds_the_data_directory_of_the_configuration() {
    let path = directory("cli-found");
    let data_dir = path.to_str().unwrap();
    let (mut broker, _) = serve(data_dir);
    let file = path.with_extension("toml");
    fs::write(&file, format!("[server]\ndata_dir = {data_dir:?}\n")).unwrap();
    let by_file = ("MILLRACE_CONFIG", file.to_str().unwrap());
    let reset = ["groups", "reset", "g", "--topic", "t", "--to", "earliest"];
    for (name, value) in [("MILLRACE_SERVER_DATA_DIR", data_dir), by_file] {
        for (arguments, code) in [
            (&["status"][..], 0),
            (&["topics"], 0),
            (&["groups", "--json"], 0),
            (&reset, 76),
            (&["inspect"], 77),
        ] {
            let asked = millrace(arguments).env(name, value).output().unwrap();
            let said = stderr(&asked);
            assert_eq!(asked.status.code(), Some(code), "{arguments:?}: {said}");
        }
    }
    let refused = run(&[&reset[..], &["--data-dir", data_dir]].concat());
    assert_eq!(stderr(&refused), "millrace: refused: there is no topic t\n");
    kill_process(Pid::from_child(&broker), Signal::TERM).unwrap();
    assert_eq!(broker.wait().unwrap().code(), Some(0));
    fs::remove_dir_all(&path).unwrap();
    fs::remove_file(&file).unwrap();
}

#[test]
fn a_data_directory_that_is_no_text_is_refused_and_not_another_one_served() {
    let raw = OsStr::from_bytes(b"d\xff");
    let flag = millrace(&["config", "--data-dir"])
        .arg(raw)
        .output()
        .unwrap();
    assert_eq!(flag.status.code(), Some(64), "{}", stderr(&flag));
    assert!(stderr(&flag).contains("--data-dir"), "{}", stderr(&flag));
    let mut variable = millrace(&["config"]);
    let variable = variable.env("MILLRACE_SERVER_DATA_DIR", raw).output();
    let variable = variable.unwrap();
    assert_eq!(variable.status.code(), Some(78), "{}", stderr(&variable));
    let named = stderr(&variable).contains("MILLRACE_SERVER_DATA_DIR");
    assert!(named, "{}", stderr(&variable));
}

#[test]
fn wrong_words_are_refused_with_their_codes() {
    let cases: [(&[&str], i32, &str); 6] = [
        (&["sevre"], 64, "unrecognized subcommand"),
        (
            &["config", "--set", "wal.flies=1"],
            78,
            "did you mean `wal.files`?",
        ),
        (&["config", "--set", "wal.files"], 64, "NAME=VALUE"),
        (
            &["config", "--cores", "0,0"],
            78,
            "flag --cores: `server.cores`",
        ),
        (
            &["serve", "--accept-loss", "everything"],
            64,
            "SHARD:FROM-TO",
        ),
        (&["inspect", "."], 78, "not a data directory"),
    ];
    for (arguments, code, words) in cases {
        let output = run(arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(words),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
    let variable = millrace(&["config"])
        .env("MILLRACE_WAL_FILES", "17")
        .output()
        .unwrap();
    assert!(
        stdout(&variable).contains("\nfiles = 17\n"),
        "{}",
        stdout(&variable)
    );
    assert!(stdout(&run(&["cores"])).contains("recommended: --cores "));
}
