//! The live line on standard error, once a second, and the same figures kept for the report.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::recorder::Live;
use crate::schedule::SECOND_NS;
use crate::table::{duration_text, rate_text};
use crate::worker::Start;

/// One second of a phase.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Second {
    /// End of the second, from the phase's first message.
    pub(crate) at_s: f64,
    pub(crate) warmup: bool,
    pub(crate) acked_per_s: f64,
    pub(crate) delivered_per_s: f64,
    pub(crate) requests_in_flight: u64,
    /// Refused messages and fetches so far.
    pub(crate) refused: u64,
}

/// Shows and keeps what the threads have done.
pub(crate) struct Progress {
    name: &'static str,
    start: Start,
    next_ns: u64,
    previous: (u64, u64, u64),
    seconds: Vec<Second>,
    /// On a terminal the line is written over.
    is_terminal: bool,
}

impl Progress {
    pub(crate) fn new(name: &'static str, start: Start) -> Self {
        Self {
            name,
            start,
            next_ns: start.start_ns + SECOND_NS,
            previous: (start.start_ns, 0, 0),
            seconds: Vec::new(),
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Shows a line if a second has passed.
    pub(crate) fn tick(&mut self, now_ns: u64, lives: &[Arc<Live>]) {
        if now_ns < self.next_ns {
            return;
        }
        self.next_ns += SECOND_NS * ((now_ns - self.next_ns) / SECOND_NS + 1);
        let sum = |counter: fn(&Live) -> &AtomicU64| -> u64 {
            lives
                .iter()
                .map(|live| counter(live).load(Ordering::Relaxed))
                .sum()
        };
        let acked = sum(|live| &live.acked);
        let delivered = sum(|live| &live.delivered);
        let elapsed_s = seconds(now_ns - self.previous.0);
        let second = Second {
            at_s: seconds(now_ns - self.start.start_ns),
            warmup: now_ns < self.start.window.start_ns,
            acked_per_s: count(acked - self.previous.1) / elapsed_s,
            delivered_per_s: count(delivered - self.previous.2) / elapsed_s,
            requests_in_flight: sum(|live| &live.in_flight),
            refused: sum(|live| &live.refused),
        };
        self.previous = (now_ns, acked, delivered);
        self.show(
            &second,
            Live::p99_ns(lives.iter().map(AsRef::as_ref)),
            (acked, delivered),
        );
        self.seconds.push(second);
    }

    fn show(&self, second: &Second, p99_ns: Option<u64>, (acked, delivered): (u64, u64)) {
        let mut line = format!("{:>6.1} s  {:<8}", second.at_s, self.name);
        if acked > 0 {
            line += &format!("  {:>11} msg/s sent", rate_text(second.acked_per_s));
        }
        if delivered > 0 {
            line += &format!("  {:>11} msg/s received", rate_text(second.delivered_per_s));
        }
        line += &format!("  in flight {}", second.requests_in_flight);
        if let Some(p99_ns) = p99_ns {
            line += &format!("  p99 {}", duration_text(p99_ns));
        }
        if second.refused > 0 {
            line += &format!("  refused {}", second.refused);
        }
        if second.warmup {
            line += "  (warm-up)";
        }
        self.write(&line);
    }

    /// Writes a line of its own.
    pub(crate) fn say(&self, text: &str) {
        self.write(text);
        if self.is_terminal {
            eprintln!();
        }
    }

    /// Ends the line; returns what was kept.
    pub(crate) fn finish(self) -> Vec<Second> {
        if self.is_terminal && !self.seconds.is_empty() {
            eprintln!();
        }
        self.seconds
    }

    fn write(&self, line: &str) {
        let mut out = std::io::stderr().lock();
        // Progress that cannot be shown is no reason to stop measuring.
        let _ = if self.is_terminal {
            write!(out, "\r\x1b[K{line}").and_then(|()| out.flush())
        } else {
            writeln!(out, "{line}")
        };
    }
}

fn seconds(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64()
}

/// A count as a figure to divide; exact below 2^53.
fn count(value: u64) -> f64 {
    value as f64
}
