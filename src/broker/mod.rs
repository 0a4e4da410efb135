//! The running broker.
pub mod directories;
pub mod losses;
mod translate;
