//! Kafka's protocol: requests cut from the stream, judged, turned into commands, answered in order.
//!
//! [`Session`] is a connection's side of it. `frame` cuts, `versions` lists what is served, `api`
//! has one file an API. Produce and Fetch are coded by hand on slices, because records pass through
//! here: a produced batch is borrowed from the input until the log has copied it, a fetched one is
//! copied once, into the send buffer. Everything else is decoded by the `kafka-protocol` crate,
//! after `walker` has checked every length and count on the wire.

mod api;
mod cluster;
mod config;
pub mod consumer_protocol;
mod errors;
mod fetch_set;
mod frame;
mod session;
mod topic_key;
mod versions;
mod walker;
mod wire;

/// What a fuzzer throws bytes at. Hostile bytes may be refused, never panic, and never make the
/// decoders reserve more than they deserve. [`Session`] itself is the entry to everything else.
pub mod fuzz {
    pub use super::api::fetch::fuzz_decode as fetch;
    pub use super::api::produce::fuzz_decode as produce;
    pub use super::frame::fuzz_decode as frame;
    pub use super::walker::fuzz_decode as walker;
}

pub use config::{BrokerSetting, BrokerValue, KafkaConfig};
pub use session::Session;
pub use versions::RELEASE;
