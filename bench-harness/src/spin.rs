//! Whether the generator's threads spin: look for what is due and for what has come without ever
//! sleeping, so that no latency holds what waking a thread takes.
//!
//! Spinning burns a core a thread. Where the broker needs that core the figures get worse, so by
//! default it is done only where enough cores are idle.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::machine::CoreTimes;

/// How long the machine is watched for idle cores.
const WATCHED_FOR: Duration = Duration::from_millis(200);

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SpinMode {
    /// Spin if as many cores are idle as the generator's threads and the broker take.
    Auto,
    /// Spin.
    On,
    /// Sleep until something is due or comes.
    #[default]
    Off,
}

/// What was asked for, and what came of it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Spin {
    pub(crate) asked: SpinMode,
    pub(crate) is_on: bool,
    pub(crate) because: String,
}

/// Cores that the broker takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BrokerCores {
    Known(usize),
    /// It runs on this machine, and nothing is known about it.
    Unknown,
}

impl BrokerCores {
    /// Of a broker that runs anyway: none of this machine's, if it is elsewhere.
    pub(crate) fn of_foreign(address: SocketAddr) -> Self {
        // Only an address of this machine can be bound.
        match UdpSocket::bind((address.ip(), 0)) {
            Ok(_) => Self::Unknown,
            Err(_) => Self::Known(0),
        }
    }
}

impl Spin {
    pub(crate) fn asked(asked: SpinMode) -> Self {
        Self {
            asked,
            ..Self::default()
        }
    }

    /// Decides for `threads` of the generator, once the broker is up. `auto` takes a moment.
    pub(crate) fn decided(self, threads: usize, broker: BrokerCores) -> Self {
        match self.asked {
            SpinMode::Auto => self.judged(threads, broker, CoreTimes::watch_idle(WATCHED_FOR)),
            SpinMode::On | SpinMode::Off => Self {
                is_on: self.asked == SpinMode::On,
                because: "as asked".to_owned(),
                ..self
            },
        }
    }

    fn judged(self, threads: usize, broker: BrokerCores, idle: Option<f64>) -> Self {
        let (is_on, because) = match (broker, idle) {
            (BrokerCores::Unknown, _) => {
                let because = "what the broker on this machine takes is not known";
                (false, because.to_owned())
            }
            (_, None) => (false, "how idle the cores are is not known".to_owned()),
            (BrokerCores::Known(broker), Some(idle)) => {
                // The rest of a core is what looking at it costs.
                let idle = idle.round() as usize;
                let because =
                    format!("{idle} idle cores for {threads} threads and {broker} of the broker");
                (idle >= threads + broker, because)
            }
        };
        Self {
            is_on,
            because,
            ..self
        }
    }

    /// Outcome and reason, in a line.
    pub(crate) fn line(&self) -> String {
        let outcome = if self.is_on { "spins" } else { "sleeps" };
        // Nothing is known of why where a file was written before threads could spin.
        match self.because.as_str() {
            "" => outcome.to_owned(),
            because => format!("{outcome}: {because}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(threads: usize, broker: BrokerCores, idle: Option<f64>) -> bool {
        let spin = Spin::asked(SpinMode::Auto).judged(threads, broker, idle);
        assert!(!spin.because.is_empty());
        spin.is_on
    }

    #[test]
    fn auto_spins_only_beside_idle_cores() {
        assert!(auto(1, BrokerCores::Known(1), Some(1.9)));
        assert!(!auto(1, BrokerCores::Known(1), Some(1.4)));
        assert!(!auto(1, BrokerCores::Known(2), Some(2.0)));
        assert!(auto(2, BrokerCores::Known(0), Some(2.0)));
        assert!(!auto(1, BrokerCores::Unknown, Some(64.0)));
        assert!(!auto(1, BrokerCores::Known(0), None));
    }

    #[test]
    fn what_is_asked_for_is_done() {
        for (asked, is_on) in [(SpinMode::On, true), (SpinMode::Off, false)] {
            let spin = Spin::asked(asked).decided(64, BrokerCores::Unknown);
            assert_eq!(spin.is_on, is_on);
        }
    }

    #[test]
    fn a_broker_elsewhere_takes_no_core_of_ours() {
        let here = "127.0.0.1:9092".parse().expect("an address");
        assert_eq!(BrokerCores::of_foreign(here), BrokerCores::Unknown);
        // A documentation address (RFC 5737): no machine's own.
        let elsewhere = "192.0.2.1:9092".parse().expect("an address");
        assert_eq!(BrokerCores::of_foreign(elsewhere), BrokerCores::Known(0));
    }
}
