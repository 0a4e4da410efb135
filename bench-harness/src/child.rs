//! The broker as a child process: started on a free port, asked for nothing but its `ready` line,
//! stopped by SIGTERM, and measured from outside while it lives.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::control;
use crate::interrupt::Interrupts;
use crate::machine::Usage;

/// How long a broker may take to listen; recovery of a large directory is part of it.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long it may take to stop cleanly before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_LOOK_EVERY: Duration = Duration::from_millis(10);

/// How to start a broker.
#[derive(Clone, Debug)]
pub(crate) struct ChildPlan {
    /// The binary; this one by default.
    pub(crate) program: PathBuf,
    pub(crate) data_directory: PathBuf,
    /// Passed on as `--cores`.
    pub(crate) cores: Option<String>,
    /// Whether the directory goes when the broker has stopped.
    pub(crate) remove_directory: bool,
}

/// A running broker. Dropping it kills it.
pub(crate) struct Broker {
    child: Child,
    plan: ChildPlan,
    pub(crate) address: SocketAddr,
    /// What it had used when it was ready.
    at_ready: Usage,
    interrupts: Interrupts,
}

impl Broker {
    /// Starts a broker and waits until it listens.
    pub(crate) fn start(plan: ChildPlan, interrupts: &Interrupts) -> anyhow::Result<Self> {
        fs::create_dir_all(&plan.data_directory)
            .with_context(|| format!("cannot make {}", plan.data_directory.display()))?;
        let mut child = Command::new(&plan.program)
            .args(arguments(&plan))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: Ctrl-C stops the measurement, which then stops the broker.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", plan.program.display()))?;
        interrupts.guard(Some(pid_of(&child)));
        let lines = pump(
            child.stdout.take().expect("piped"),
            child.stderr.take().expect("piped"),
        );
        let address = match wait_until_ready(&mut child, &lines) {
            Ok(address) => address,
            Err(error) => {
                // It may have ended already; then there is nothing left to kill.
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        let at_ready = Usage::of(Some(child.id()))?;
        Ok(Self {
            child,
            plan,
            address,
            at_ready,
            interrupts: interrupts.clone(),
        })
    }

    /// What the broker has used since it was ready.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        Ok(Usage::of(Some(self.child.id()))?.since(&self.at_ready))
    }

    /// What the broker answers to `path` on its control socket; `None` if it has none.
    pub(crate) fn ask(&self, path: &str) -> Option<Value> {
        control::get(&self.plan.data_directory, path).ok()
    }

    /// Stops the broker; fails if it does not stop cleanly.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_none() {
            kill_process(pid_of(&self.child), Signal::TERM).context("cannot signal the broker")?;
        }
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the broker ended with {status}");
                return Ok(());
            }
            if since.elapsed() > STOP_TIMEOUT {
                bail!("the broker did not stop within {STOP_TIMEOUT:?} of SIGTERM and was killed");
            }
            thread::sleep(STOP_LOOK_EVERY);
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Both do nothing to a child that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.interrupts.guard(None);
        if self.plan.remove_directory {
            // Left-overs are visible and harmless.
            let _ = fs::remove_dir_all(&self.plan.data_directory);
        }
    }
}

fn pid_of(child: &Child) -> Pid {
    let id = i32::try_from(child.id()).expect("process ids are positive i32");
    Pid::from_raw(id).expect("a child's id is not 0")
}

fn arguments(plan: &ChildPlan) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec![
        "serve".into(),
        "--data-dir".into(),
        plan.data_directory.clone().into(),
        "--kafka".into(),
        "127.0.0.1:0".into(),
    ];
    if let Some(cores) = &plan.cores {
        arguments.extend(["--cores".into(), cores.into()]);
    }
    arguments
}

/// Reads both outputs to their ends, so that the broker never waits for a full pipe. Standard
/// output comes back line by line; standard error goes on to ours.
fn pump(
    stdout: impl Read + Send + 'static,
    stderr: impl Read + Send + 'static,
) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // After `ready` nobody listens any more, and the pipe is still drained.
            let _ = sender.send(line);
        }
    });
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            eprintln!("broker: {line}");
        }
    });
    receiver
}

fn wait_until_ready(
    child: &mut Child,
    lines: &mpsc::Receiver<String>,
) -> anyhow::Result<SocketAddr> {
    let until = Instant::now() + READY_TIMEOUT;
    loop {
        match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if let Some(address) = parse_ready(&line) {
                    return address;
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                bail!("the broker did not say that it is ready within {READY_TIMEOUT:?}")
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let status = child.wait()?;
                bail!("the broker ended before it was ready: {status}")
            }
        }
    }
}

/// The Kafka address of a `ready kafka=ADDR:PORT ...` line; `None` for any other line.
fn parse_ready(line: &str) -> Option<anyhow::Result<SocketAddr>> {
    let mut words = line.split_ascii_whitespace();
    if words.next() != Some("ready") {
        return None;
    }
    let address = words.find_map(|word| word.strip_prefix("kafka="));
    Some(match address {
        Some(address) => address
            .parse()
            .with_context(|| format!("no address in {line:?}")),
        None => Err(anyhow::anyhow!(
            "the broker is ready without a Kafka listener: {line:?}"
        )),
    })
}

/// A directory under the current one for a broker that lives no longer than a run.
pub(crate) fn default_data_directory() -> PathBuf {
    Path::new(&format!("millrace-bench-data-{}", std::process::id())).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_gives_the_address_among_others() {
        let address = parse_ready("ready amqp=127.0.0.1:5 kafka=127.0.0.1:40123 data=x");
        let address = address.expect("a ready line").expect("an address");
        assert_eq!(address, "127.0.0.1:40123".parse().expect("an address"));
        assert!(parse_ready("listening kafka=127.0.0.1:1").is_none());
        assert!(
            parse_ready("ready amqp=127.0.0.1:5")
                .expect("a ready line")
                .is_err()
        );
    }

    fn plan(program: &str) -> ChildPlan {
        ChildPlan {
            program: program.into(),
            data_directory: std::env::temp_dir().join(format!(
                "millrace-bench-test-{}-{program}",
                std::process::id()
            )),
            cores: None,
            remove_directory: true,
        }
    }

    fn interrupts() -> Interrupts {
        Interrupts::listen().expect("signals can be had")
    }

    #[test]
    fn a_broker_that_ends_before_it_is_ready_is_named() {
        let error = Broker::start(plan("false"), &interrupts())
            .err()
            .expect("not a broker");
        assert!(
            error
                .to_string()
                .starts_with("the broker ended before it was ready"),
            "{error}"
        );
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let error = Broker::start(plan("no-such-program"), &interrupts())
            .err()
            .expect("no program");
        assert_eq!(error.to_string(), "cannot start no-such-program");
    }
}
