//! Reading a stopped broker's data directory.
mod map;
mod overlay;
