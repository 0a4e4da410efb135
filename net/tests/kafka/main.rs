//! The Kafka room from outside: transcripts against a session, with a broker of a few maps behind
//! it, and hostile bytes.

mod admin;
mod broker;
mod client;
mod cluster_admin;
mod endings;
mod fetch;
mod fuzz;
mod group_members;
mod group_offsets;
mod handshake;
mod hostile;
mod lists;
mod long_texts;
mod produce;
mod samples;
mod topic_ids;
