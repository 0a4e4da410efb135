//! Millrace: a durable single-node message broker, as a library to embed and as the `millrace`
//! command.

pub mod config;
pub mod control;
pub mod exit;
pub mod inspect;
pub mod lock;
pub mod topology;

pub mod broker;

mod checks;
