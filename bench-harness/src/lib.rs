//! The load generator, its latency recorders and its reports.
