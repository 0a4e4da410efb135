//! The embedded broker: started and stopped within this process, on a real directory.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use super::*;
use crate::config::{Flag, Sources};
use crate::control::{Status, client};
use crate::inspect::{Depth, inspect};

const VERIFY: Depth = Depth {
    verify: true,
    blocks: false,
};

/// A directory of the build's, so that it is on a disk.
fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/broker-tests")
        .join(name);
    let _ = fs::remove_dir_all(&path);
    path
}

fn settings(data_dir: &Path, more: &[(&str, &str)]) -> Resolved {
    let data_dir = data_dir.to_str().unwrap();
    let small = [
        ("server.data_dir", data_dir),
        ("server.pin", "false"),
        ("server.cores", "0"),
        ("listeners.kafka.address", "127.0.0.1:0"),
        ("wal.file_bytes", "4MiB"),
        ("wal.batch_bytes_max", "2MiB"),
        ("disk.reserve_bytes", "12MiB"),
    ];
    let flag = |(name, value): &(&str, &str)| Flag {
        flag: "--set",
        name: (*name).to_owned(),
        value: (*value).to_owned(),
    };
    let sources = Sources {
        flags: small.iter().chain(more).map(flag).collect(),
        ..Sources::default()
    };
    Resolved::from_sources(&sources).unwrap()
}

#[test]
fn an_embedded_broker_listens_answers_and_stops() {
    let directory = directory("embedded");
    let broker = Broker::start(settings(&directory, &[])).unwrap();
    TcpStream::connect(broker.kafka()[0]).unwrap();
    let status: Status =
        serde_json::from_str(&client::get(&directory, "/status").unwrap()).unwrap();
    assert_eq!((status.topics, status.shards.len()), (0, 1));
    assert_eq!(status.kafka, [broker.kafka()[0].to_string()]);

    let second = Broker::start(settings(&directory, &[])).unwrap_err();
    assert!(second.to_string().contains("in use by process"), "{second}");

    let address = broker.kafka()[0];
    broker.stop().unwrap();
    assert!(TcpStream::connect(address).is_err());
    Broker::start(settings(&directory, &[]))
        .unwrap()
        .stop()
        .unwrap();
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn each_core_can_have_its_own_port() {
    let directory = directory("nodes");
    let more = [
        ("server.cores", "0,1"),
        ("listeners.kafka.node_per_core", "true"),
    ];
    let broker = Broker::start(settings(&directory, &more)).unwrap();
    assert_eq!(broker.kafka().len(), 2);
    for address in broker.kafka() {
        TcpStream::connect(address).unwrap();
    }
    assert!(broker.banner().contains(&broker.kafka()[1].to_string()));
    drop(broker);
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_taken_address_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = directory("taken");
    let more = [("listeners.kafka.address", address.as_str())];
    let refusal = Broker::start(settings(&directory, &more)).unwrap_err();
    assert!(refusal.to_string().contains(&address), "{refusal}");
    assert_eq!(refusal.code(), crate::exit::ExitCode::Listen);
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_start_that_fails_at_the_control_socket_leaves_nothing_running() {
    let directory = directory("control");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let kafka = address.to_string();
    let more = [
        ("listeners.kafka.address", kafka.as_str()),
        ("server.cores", "0,1"),
    ];
    let socket = directory.join("control.sock");
    fs::create_dir_all(&socket).unwrap();
    let (text, code) = refusal(settings(&directory, &more));
    assert!(text.contains("control.sock"), "{text}");
    assert_eq!(code, 74);
    assert!(TcpStream::connect(address).is_err(), "nobody serves");
    fs::remove_dir(&socket).unwrap();
    drop(Broker::start(settings(&directory, &more)).unwrap());
    assert!(!socket.exists());
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_broker_in_a_deep_directory_can_be_asked() {
    let top = directory("deep");
    let deep = top.join("d".repeat(120));
    let broker = Broker::start(settings(&deep, &[])).unwrap();
    client::get(&deep, "/status").unwrap();
    drop(broker);
    fs::remove_dir_all(&top).unwrap();
}

/// What a start refuses with, and its code.
fn refusal(settings: Resolved) -> (String, u8) {
    let failure = Broker::start(settings).unwrap_err();
    (failure.to_string(), failure.code().number())
}

#[test]
fn missing_directories_are_refused_until_they_are_back() {
    let directory = directory("missing");
    let two = [("server.cores", "0,1")];
    drop(Broker::start(settings(&directory, &two)).unwrap());
    let away = directory.join("away");
    fs::create_dir(&away).unwrap();
    for missing in [&["shard-0"][..], &["shard-0", "shard-1"]] {
        for shard in missing {
            fs::rename(directory.join(shard), away.join(shard)).unwrap();
        }
        for _ in 0..2 {
            let (text, code) = refusal(settings(&directory, &two));
            assert!(text.contains("shard-0 is missing or empty"), "{text}");
            assert_eq!(code, 65);
        }
        let inspected = inspect(&directory, VERIFY).unwrap();
        assert_eq!(inspected.damages.len(), 1, "{:?}", inspected.damages);
        assert!(inspected.damages[0].contains("shard-0 is missing"));
        for shard in missing {
            fs::remove_dir(directory.join(shard)).unwrap();
            fs::rename(away.join(shard), directory.join(shard)).unwrap();
        }
    }
    drop(Broker::start(settings(&directory, &two)).unwrap());
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn an_inspection_of_a_directory_with_gaps_says_what_a_start_would() {
    let directory = directory("gaps");
    let cores = [("server.cores", "0,1")];
    drop(Broker::start(settings(&directory, &cores)).unwrap());
    // Nothing is at home in shard 1.
    fs::remove_dir_all(directory.join("shard-1")).unwrap();
    fs::create_dir(directory.join("shard-2")).unwrap();
    let inspected = inspect(&directory, VERIFY).unwrap();
    assert!(inspected.damages.is_empty(), "{:?}", inspected.damages);
    fs::rename(directory.join("shard-0"), directory.join("shard-1")).unwrap();
    let inspected = inspect(&directory, Depth::default()).unwrap();
    let text = inspected.damages.join("\n");
    assert!(text.contains("another name or shard"), "{text}");
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn files_with_impossible_numbers_are_left_alone() {
    let directory = directory("strays");
    Broker::start(settings(&directory, &[]))
        .unwrap()
        .stop()
        .unwrap();
    let strays = ["pack", "segment", "manifest", "temporary"].map(|kind| {
        let stray = directory.join(format!("shard-0/{kind}-{}", u64::MAX));
        fs::write(&stray, "not ours").unwrap();
        stray
    });
    Broker::start(settings(&directory, &[]))
        .unwrap()
        .stop()
        .unwrap();
    for stray in &strays {
        assert_eq!(fs::read(stray).unwrap(), b"not ours", "{}", stray.display());
    }
    let found = inspect(&directory, VERIFY).unwrap();
    assert_eq!(found.damages, [] as [&str; 0]);
    fs::remove_dir_all(&directory).unwrap();
}
