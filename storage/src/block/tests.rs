//! Questions to the block codec.
