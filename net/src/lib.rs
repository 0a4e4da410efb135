//! Wires: the io_uring driver, connections, and one room per protocol.
