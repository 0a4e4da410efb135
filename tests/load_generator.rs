//! `millrace bench` against `millrace serve`, as scripts run them: what is measured must be whole,
//! verified and in the file.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

/// A directory of the test's own for the broker's data and the report.
fn directory(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    // A directory that an earlier run left is in the way; one that is not there is not.
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("the target directory can be written");
    directory
}

/// Runs one scenario on a child broker; returns its output and its report.
fn bench(name: &str, arguments: &[&str]) -> (Output, Value) {
    let directory = directory(name);
    let output = Command::new(env!("CARGO_BIN_EXE_millrace"))
        .current_dir(&directory)
        .arg("bench")
        .args(arguments)
        .args(["--cores", "0", "--json", "report.json"])
        .output()
        .expect("the binary runs");
    let report = std::fs::read_to_string(directory.join("report.json"));
    let report = report.unwrap_or_else(|error| {
        let errors = String::from_utf8_lossy(&output.stderr);
        panic!("no report: {error}; standard error:\n{errors}")
    });
    let left: Vec<_> = std::fs::read_dir(&directory)
        .expect("listed")
        .map(|entry| entry.expect("listed").file_name())
        .collect();
    assert_eq!(
        left,
        ["report.json"],
        "the broker's data goes with the broker"
    );
    (
        output,
        serde_json::from_str(&report).expect("the report is JSON"),
    )
}

fn assert_clean(output: &Output, report: &Value) {
    let table = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{table}\n{errors}");
    assert!(
        table.contains("none lost, doubled, reordered or damaged"),
        "{table}"
    );
    let verdict = &report["verification"];
    assert_eq!(verdict["lost"], 0);
    assert_eq!(verdict["acknowledged"], verdict["sent"]);
    assert_eq!(report["failures"], Value::Array(Vec::new()));
    assert!(report["broker"]["bytes_written_per_byte_accepted"].as_f64() > Some(0.0));
}

#[test]
fn an_open_loop_from_end_to_end_is_whole_and_verified() {
    let line = "e2e --rate 500 --connections 3 --partitions 4 --warmup 200ms --duration 1s";
    let arguments: Vec<&str> = line.split(' ').collect();
    let (output, report) = bench("bench-e2e", &arguments);
    assert_clean(&output, &report);
    // 1.2 s at 500 per second, of which 1 s is measured.
    assert_eq!(report["verification"]["sent"], 600);
    assert_eq!(report["ack_latency"]["count"], 500);
    assert_eq!(report["delivery_latency"]["count"], 500);
    assert_eq!(report["schema_version"], 1);
}

#[test]
fn a_backlog_over_many_partitions_is_read_whole() {
    let line = "consume --backlog 8MiB --connections 2 --partitions 50 --size 512 --batch 16KiB";
    let arguments: Vec<&str> = line.split(' ').collect();
    let (output, report) = bench("bench-backlog", &arguments);
    assert_clean(&output, &report);
    assert_eq!(report["verification"]["delivered"], 16_384);
    assert_eq!(report["received"]["messages"], 16_384);
}

#[test]
fn a_closed_loop_is_read_back() {
    let line = "produce --connections 2 --partitions 2 --warmup 100ms --duration 500ms";
    let arguments: Vec<&str> = line.split(' ').collect();
    let (output, report) = bench("bench-produce", &arguments);
    assert_clean(&output, &report);
    assert!(report["sent"]["messages_per_s"].as_f64() > Some(0.0));
}
