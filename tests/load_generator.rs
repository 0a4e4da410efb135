//! `millrace bench` against `millrace serve`, as scripts run them: what is measured must be whole,
//! verified and in the file.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
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
fn a_backlog_is_caught_up_with_while_producers_go_on() {
    let line = "consume --backlog 4MiB --meanwhile 2000 --connections 2 --partitions 4 --size 512 \
                --fan-out 2";
    let arguments: Vec<&str> = line.split_ascii_whitespace().collect();
    let (output, report) = bench("bench-meanwhile", &arguments);
    assert_clean(&output, &report);
    let verdict = &report["verification"];
    let sent = verdict["sent"].as_u64().expect("a number");
    assert!(sent > 8_192, "{sent}: producers went on");
    assert_eq!(verdict["delivered"].as_u64(), Some(2 * sent));
    // Of those that were sent meanwhile, to each group; the backlog's age says nothing.
    let fresh = report["delivery_latency"]["count"].as_u64();
    assert_eq!(fresh, Some(2 * (sent - 8_192)));
}

#[test]
fn a_closed_loop_is_read_back() {
    let line =
        "produce --connections 2 --partitions 2 --idempotent --warmup 100ms --duration 500ms";
    let arguments: Vec<&str> = line.split(' ').collect();
    let (output, report) = bench("bench-produce", &arguments);
    assert_clean(&output, &report);
    assert!(report["sent"]["messages_per_s"].as_f64() > Some(0.0));
}

/// Runs `millrace bench` in a directory of its own, without a broker.
fn bench_alone(name: &str, arguments: &str) -> (PathBuf, Output) {
    let directory = directory(name);
    let output = Command::new(env!("CARGO_BIN_EXE_millrace"))
        .current_dir(&directory)
        .arg("bench")
        .args(arguments.split_ascii_whitespace())
        .output()
        .expect("the binary runs");
    (directory, output)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_group_reads_everything_and_the_report_knows_its_broker() {
    let line = "e2e --rate 500 --fan-out 3 --size 64..900 --compression zstd --keys 9 \
                --warmup 200ms --duration 1s --html report.html";
    let name = "bench-fan-out";
    let directory = directory(name);
    let output = Command::new(env!("CARGO_BIN_EXE_millrace"))
        .current_dir(&directory)
        .arg("bench")
        .args(line.split_ascii_whitespace())
        .args(["--cores", "0", "--json", "report.json"])
        .output()
        .expect("the binary runs");
    let report = std::fs::read_to_string(directory.join("report.json")).expect("a report");
    let report: Value = serde_json::from_str(&report).expect("the report is JSON");
    assert_clean(&output, &report);
    assert_eq!(report["verification"]["delivered"], 3 * 600);
    assert!(report["commit"].is_string() && report["machine"]["kernel"].is_string());
    let config = report["broker"]["config"].as_array().expect("its settings");
    assert!(
        config
            .iter()
            .any(|setting| setting["name"] == "server.cores")
    );
    let page = std::fs::read_to_string(directory.join("report.html")).expect("a page");
    assert!(page.ends_with("</html>\n") && page.contains("<svg"));
}

#[test]
fn a_report_that_cannot_be_written_does_not_swallow_the_table() {
    let line = "produce --target sink --warmup 0s --duration 300ms --json /dev/full";
    let (_, output) = bench_alone("bench-full", line);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("msg/s"));
    let errors = text(&output.stderr);
    assert!(
        errors.contains("cannot write /dev/full: No space left"),
        "{errors}"
    );
}

#[test]
fn a_peer_that_is_no_broker_is_told_from_none() {
    let (_, output) = bench_alone("bench-nobody", "produce --target 127.0.0.1:1");
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    assert!(
        errors.contains("cannot reach 127.0.0.1:1: Connection refused"),
        "{errors}"
    );

    // Closes whatever comes, some with a reset for what it has not read.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let closer = std::thread::spawn(move || listener.accept().map(drop));
    let line = format!("produce --target {address}");
    let (_, output) = bench_alone("bench-closer", &line);
    closer.join().expect("it ends").expect("one came");
    let errors = text(&output.stderr);
    assert!(
        errors.contains("closed the connection instead of answering"),
        "{errors}"
    );

    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let server = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept()?;
        peer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")?;
        // Until the other side has had enough.
        peer.read_to_end(&mut Vec::new())
    });
    let line = format!("produce --target {address}");
    let (_, output) = bench_alone("bench-http", &line);
    server.join().expect("it ends").expect("it was read");
    let errors = text(&output.stderr);
    assert!(
        errors.contains("does not speak Kafka: its reply begins with"),
        "{errors}"
    );
    assert!(errors.contains("HTTP/1.1 400"), "{errors}");
}

/// Somebody who listens and says nothing is given up soon, with what to look at.
#[test]
fn a_peer_that_says_nothing_is_given_up_soon() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let server = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept()?;
        peer.read_to_end(&mut Vec::new())
    });
    let begun = Instant::now();
    let line = format!("produce --target {address}");
    let (_, output) = bench_alone("bench-silent", &line);
    let took = begun.elapsed();
    server.join().expect("it ends").expect("it was read");
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    assert!(
        errors.contains("said nothing for 5s: check that Kafka is spoken at this port"),
        "{errors}"
    );
    assert!(errors.contains(&address.to_string()), "{errors}");
    assert!(took < Duration::from_secs(12), "{took:?}");
}

#[test]
fn bench_alone_leads_on() {
    let (_, output) = bench_alone("bench-bare", "");
    assert!(output.status.success());
    let help = text(&output.stdout);
    assert!(
        help.contains("Examples:") && help.contains("bench produce --find-max"),
        "{help}"
    );
}

#[test]
fn a_scenario_file_is_refused_by_its_line() {
    let directory = directory("bench-scenario");
    let file = directory.join("wrong.toml");
    std::fs::write(&file, "kind = \"produce\"\nconections = 2\n").expect("written");
    let line = format!("run {}", file.display());
    let (_, output) = bench_alone("bench-scenario-run", &line);
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    let expected = "wrong.toml:2: unknown key `conections`; did you mean `connections`?";
    assert!(errors.contains(expected), "{errors}");
}

#[test]
fn a_search_reports_its_looks_and_two_results_compare() {
    let line = "produce --target sink --find-max --p99-max 1s --warmup 100ms --duration 300ms \
                --json found.json";
    let (directory, output) = bench_alone("bench-search", line);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let file = directory.join("found.json");
    let report = std::fs::read_to_string(&file).expect("a report");
    let report: Value = serde_json::from_str(&report).expect("the report is JSON");
    let search = &report["find_max"];
    assert_eq!(search["confirmed_per_s"], report["scenario"]["rate_per_s"]);
    assert!(
        search["probes"]
            .as_array()
            .is_some_and(|probes| probes.len() > 1)
    );
    let line = format!("compare {0} {0} --html both.html", file.display());
    let (directory, output) = bench_alone("bench-compare", &line);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("x 1.00"));
    assert!(directory.join("both.html").exists());
}

#[test]
fn a_run_that_is_stopped_early_tells_what_it_has() {
    let child = Command::new(env!("CARGO_BIN_EXE_millrace"))
        .current_dir(directory("bench-stopped"))
        .args([
            "bench",
            "produce",
            "--target",
            "sink",
            "--warmup",
            "0s",
            "--duration",
            "60s",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    std::thread::sleep(Duration::from_secs(2));
    let id = i32::try_from(child.id()).expect("process ids are positive i32");
    let pid = Pid::from_raw(id).expect("not 0");
    kill_process(pid, Signal::INT).expect("it still runs");
    let output = child.wait_with_output().expect("it ends");
    let table = text(&output.stdout);
    assert!(output.status.success(), "{table}");
    assert!(
        table.contains("STOPPED EARLY") && table.contains("msg/s"),
        "{table}"
    );
}

#[test]
fn a_group_forms_and_forms_again() {
    let line = "groups --members 7 --rounds 3 --cores 0 --json report.json";
    let (directory, output) = bench_alone("bench-groups", line);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("a group of 7 members"));
    let report = std::fs::read_to_string(directory.join("report.json")).expect("a report");
    let report: Value = serde_json::from_str(&report).expect("the report is JSON");
    assert_eq!(report["rejoin"]["count"], 3);
    assert!(report["first_join_ms"].as_f64() > Some(0.0));
}

/// Starts `bench groups` with a broker that waits so long for more members of a new group, stops it
/// a little after it says `line`, and returns its output.
fn stop_groups_at(name: &str, line: &str, delay_ms: u32) -> (PathBuf, Output) {
    let directory = directory(name);
    let arguments = "bench groups --members 3 --rounds 1000000 --cores 0 --json report.json";
    let mut child = Command::new(env!("CARGO_BIN_EXE_millrace"))
        .current_dir(&directory)
        .args(arguments.split_ascii_whitespace())
        .env(
            "MILLRACE_GROUPS_INITIAL_REBALANCE_DELAY_MS",
            delay_ms.to_string(),
        )
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut said = BufReader::new(child.stderr.take().expect("piped")).lines();
    let found = said.any(|said| said.expect("text").contains(line));
    assert!(found, "it never said {line:?}");
    std::thread::sleep(Duration::from_millis(500));
    let id = i32::try_from(child.id()).expect("process ids are positive i32");
    let pid = Pid::from_raw(id).expect("not 0");
    kill_process(pid, Signal::INT).expect("it still runs");
    let mut output = child.wait_with_output().expect("it ends");
    for line in said {
        output.stderr.extend(line.expect("text").into_bytes());
    }
    (directory, output)
}

#[test]
fn a_group_that_is_stopped_early_tells_what_it_has() {
    let (directory, output) = stop_groups_at("bench-groups-stopped", "the group has formed", 100);
    let table = text(&output.stdout);
    assert!(output.status.success(), "{table}{}", text(&output.stderr));
    assert!(
        table.contains("STOPPED EARLY") && table.contains("first join"),
        "{table}"
    );
    let report = std::fs::read_to_string(directory.join("report.json")).expect("a report");
    let report: Value = serde_json::from_str(&report).expect("the report is JSON");
    assert_eq!(report["interrupted"], true);
    let rejoins = report["rejoin"]["count"]
        .as_u64()
        .expect("some were measured");
    assert!(rejoins < 1_000_000);
    assert!(table.contains(&format!("max, {rejoins} times")), "{table}");
    let left = std::fs::read_dir(&directory).expect("listed").count();
    assert_eq!(left, 1, "the broker's data goes with the broker");
}

#[test]
fn a_group_that_is_stopped_before_it_formed_has_nothing_to_tell() {
    let (directory, output) = stop_groups_at("bench-groups-unformed", "3 members join", 10_000);
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    assert!(
        errors.contains("stopped before the group had formed: nothing was measured"),
        "{errors}"
    );
    let left = std::fs::read_dir(&directory).expect("listed").count();
    assert_eq!(left, 0, "the broker's data goes with the broker");
}

/// What a broker uses is known of any whose process is.
#[test]
fn a_broker_that_runs_anyway_is_measured_by_its_process() {
    let directory = directory("bench-watched");
    let mut broker = Command::new(env!("CARGO_BIN_EXE_millrace"))
        .current_dir(&directory)
        .args(["serve", "--kafka", "127.0.0.1:0", "--cores", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let mut ready = String::new();
    let output = broker.stdout.take().expect("piped");
    let read = BufReader::new(output).read_line(&mut ready);
    read.expect("a line");
    let words = ready.split_ascii_whitespace();
    let address = words.filter_map(|word| word.strip_prefix("kafka=")).next();
    let (address, pid) = (address.expect("a ready line"), broker.id());
    let line = format!(
        "produce --target {address} --target-pid {pid} --warmup 0s --duration 500ms --json r.json"
    );
    let (results, output) = bench_alone("bench-watched-load", &line);
    broker.kill().expect("it still runs");
    broker.wait().expect("it ends");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = std::fs::read_to_string(results.join("r.json")).expect("a report");
    let report: Value = serde_json::from_str(&report).expect("the report is JSON");
    assert!(report["broker"]["usage"]["memory_peak_bytes"].as_u64() > Some(0));
    assert_eq!(
        report["scenario"]["spin"]["is_on"], false,
        "its needs are not known"
    );
}
