//! Damaged acknowledged data: refused by name, and started without once the operator says so.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use crate::broker::{Broker, Directory, offsets, values};

#[test]
fn damage_is_refused_by_name_and_skipped_only_when_accepted() {
    let directory = Directory::new("damage");
    let broker = Broker::start(&directory, &[]);
    let producer = broker.producer(&[("linger.ms", "0")]);
    for n in 0..50 {
        assert_eq!(
            producer.send_all("damaged", 0, &values(n, n + 1)),
            [n as i64]
        );
    }
    broker.stop();

    // The middle of the log: a block with acknowledged records, and others behind it.
    let log = directory.path().join("shard-0/wal-000000");
    let log = OpenOptions::new().read(true).write(true).open(log).unwrap();
    let mut byte = [0];
    // In a block's header: behind it a block without records has padding alone.
    let position = 30 * 4096 + 40;
    log.read_exact_at(&mut byte, position).unwrap();
    log.write_all_at(&[byte[0] ^ 1], position).unwrap();

    let words = refusal(&directory);
    let (_, flag) = words.split_once("--accept-loss ").expect("the exact flag");
    let range = flag.split_whitespace().next().unwrap();

    let broker = Broker::start(&directory, &["--accept-loss", range]);
    let next = broker.producer(&[]).send_all("damaged", 0, &values(50, 60));
    assert!(next[0] >= 50, "no offset is used twice: {next:?}");
    assert_eq!(next, offsets(next[0], next[0] + 10));
    let check = |broker: &Broker| {
        let mut records = broker.read_all("damaged", 0);
        let new = records.split_off(records.len() - 10);
        assert_eq!(
            (new[0].offset, new[0].value.as_str()),
            (next[0], "value 50")
        );
        assert!(
            !records.is_empty() && records.len() < 50,
            "{} records",
            records.len()
        );
        for kept in &records {
            assert_eq!(
                kept.value,
                format!("value {}", kept.offset),
                "an offset's own record"
            );
        }
    };
    check(&broker);
    broker.stop();
    let broker = Broker::start(&directory, &[]);
    check(&broker);
    broker.stop();
}

/// What a start says that must end with the code for damaged data.
fn refusal(directory: &Directory) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_millrace"))
        .args([
            "serve",
            "--kafka",
            "127.0.0.1:0",
            "--cores",
            "0",
            "--data-dir",
        ])
        .arg(directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut ready).unwrap();
    if !ready.is_empty() {
        child.kill().unwrap();
    }
    let ended = child.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(65), "{words}");
    words
}
