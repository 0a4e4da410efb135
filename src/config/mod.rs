//! The configuration: one TOML file, overridden by the environment, overridden by flags.
//!
//! [`settings`] is the one table of what can be set; [`value`] reads and prints single values;
//! [`layers`] walks the sources. A name or value that is wrong is refused with its place.

mod layers;
mod names;
mod settings;
mod value;

pub use layers::{ConfigError, Flag, Place, Resolved, Sources};
pub use settings::{
    Config, Disk, Groups, KafkaListener, Limits, Memory, Server, Settle, TopicDefaults, Wal,
};
pub(crate) use value::parse_cpu_list;
pub use value::{CoreList, SizeLimit, WalSync};
