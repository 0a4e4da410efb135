//! The live line on standard error, once a second, and the same figures kept for the report.

use std::io::{IsTerminal, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::live::{Live, Spread};
use crate::report::micros;
use crate::schedule::SECOND_NS;
use crate::table::{duration_text, rate_text};
use crate::worker::Start;

/// After so many entries each following one covers twice the time: a long run stays small.
const ENTRIES_MAX: usize = 3_600;

/// A shorter rest after the last whole second is no figure of its own.
const REST_NS_MIN: u64 = SECOND_NS / 4;

/// One second of a phase; more of a very long one.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Second {
    /// End of the second, from the phase's first message.
    pub(crate) at_s: f64,
    pub(crate) warmup: bool,
    pub(crate) acked_per_s: f64,
    pub(crate) delivered_per_s: f64,
    pub(crate) requests_in_flight: u64,
    /// Refused messages and fetches so far.
    pub(crate) refused: u64,
    /// Of what was acknowledged in this second, and was due in the measured part.
    #[serde(default)]
    pub(crate) ack_latency: Option<SecondLatency>,
    /// Of what arrived in this second, the same.
    #[serde(default)]
    pub(crate) delivery_latency: Option<SecondLatency>,
}

/// Latency figures of one second, at most 1/32 too high.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct SecondLatency {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

impl SecondLatency {
    fn of(spread: &Spread) -> Option<Self> {
        Some(Self {
            p50_us: micros(spread.quantile_ns(0.5)?),
            p99_us: micros(spread.quantile_ns(0.99)?),
            max_us: micros(spread.quantile_ns(1.0)?),
        })
    }
}

/// Shows and keeps what the threads have done.
pub(crate) struct Progress {
    name: &'static str,
    start: Start,
    next_ns: u64,
    interval_ns: u64,
    previous: Sums,
    seconds: Vec<Second>,
    /// On a terminal the line is written over.
    is_terminal: bool,
}

/// Everything of all threads up to one moment.
struct Sums {
    at_ns: u64,
    acked: u64,
    delivered: u64,
    ack: Spread,
    delivery: Spread,
}

impl Sums {
    fn of(at_ns: u64, lives: &[Arc<Live>]) -> Self {
        Self {
            at_ns,
            acked: lives.iter().map(|live| live.acked.get()).sum(),
            delivered: lives.iter().map(|live| live.delivered.get()).sum(),
            ack: Spread::sum(lives.iter().map(|live| &live.ack)),
            delivery: Spread::sum(lives.iter().map(|live| &live.delivery)),
        }
    }
}

impl Progress {
    pub(crate) fn new(name: &'static str, start: Start) -> Self {
        Self {
            name,
            start,
            next_ns: start.start_ns + SECOND_NS,
            interval_ns: SECOND_NS,
            previous: Sums::of(start.start_ns, &[]),
            seconds: Vec::new(),
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Shows a line if a second has passed.
    pub(crate) fn tick(&mut self, now_ns: u64, lives: &[Arc<Live>]) {
        if now_ns < self.next_ns {
            return;
        }
        if self.seconds.len().is_multiple_of(ENTRIES_MAX) && !self.seconds.is_empty() {
            self.interval_ns *= 2;
        }
        self.next_ns += self.interval_ns * ((now_ns - self.next_ns) / self.interval_ns + 1);
        self.enter(now_ns, lives);
    }

    /// Keeps and shows what has happened since the last entry.
    fn enter(&mut self, now_ns: u64, lives: &[Arc<Live>]) {
        let sums = Sums::of(now_ns, lives);
        let previous = &self.previous;
        let elapsed_s = seconds(now_ns - previous.at_ns);
        let requested: u64 = lives.iter().map(|live| live.requested.get()).sum();
        let answered: u64 = lives.iter().map(|live| live.answered.get()).sum();
        let second = Second {
            at_s: seconds(now_ns - self.start.start_ns),
            warmup: now_ns < self.start.window.start_ns,
            acked_per_s: count(sums.acked - previous.acked) / elapsed_s,
            delivered_per_s: count(sums.delivered - previous.delivered) / elapsed_s,
            requests_in_flight: requested.saturating_sub(answered),
            refused: lives.iter().map(|live| live.refused.get()).sum(),
            ack_latency: SecondLatency::of(&sums.ack.since(&previous.ack)),
            delivery_latency: SecondLatency::of(&sums.delivery.since(&previous.delivery)),
        };
        // A reader at the tail waits for its own figure, not for the producers' beside it.
        let delivery = sums.delivery.quantile_ns(0.99);
        let p99_ns = delivery.or_else(|| sums.ack.quantile_ns(0.99));
        self.show(&second, p99_ns, (sums.acked, sums.delivered));
        self.previous = sums;
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

    /// Ends the line; returns what was kept, with the rest of a second if it is worth a figure.
    pub(crate) fn finish(mut self, now_ns: u64, lives: &[Arc<Live>]) -> Vec<Second> {
        if now_ns.saturating_sub(self.previous.at_ns) >= REST_NS_MIN {
            self.enter(now_ns, lives);
        }
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
