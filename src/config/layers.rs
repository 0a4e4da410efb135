//! Resolving: file, then environment, then flags, each value remembered with where it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::names::nearest;
use super::settings::{Config, Field, SECTIONS, Section};
use super::value::Raw;

/// What settling needs on a full disk beside two log files: a manifest and a snapshot.
const RESERVE_SLACK_BYTES: u64 = 4 << 20;

/// Where values may come from, weakest first.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The TOML file, if one is named.
    pub file: Option<PathBuf>,
    /// Environment variables; those named `MILLRACE_SECTION_KEY` count.
    pub environment: Vec<(String, String)>,
    /// Flags of the command line, in order.
    pub flags: Vec<Flag>,
}

/// A setting made by a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// The flag as typed, as `--cores`.
    pub flag: &'static str,
    /// The setting, as `server.cores`.
    pub name: String,
    /// Its value, unparsed.
    pub value: String,
}

/// Where a name or value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of the file, from 1.
    File(PathBuf, usize),
    /// An environment variable.
    Environment(String),
    /// A flag.
    Flag(&'static str),
    /// Nobody set it.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The failure.
        error: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{place}: {reason}")]
    Syntax {
        /// Where.
        place: Place,
        /// What the parser says.
        reason: String,
    },
    /// Nothing has that name.
    #[error("{place}: unknown setting `{name}`{}", hint(nearest.as_ref()))]
    UnknownName {
        /// Where.
        place: Place,
        /// The name as given.
        name: String,
        /// What it was probably meant to be.
        nearest: Option<String>,
    },
    /// The setting cannot have that value.
    #[error("{place}: `{name}`: {reason}")]
    WrongValue {
        /// Where.
        place: Place,
        /// The setting.
        name: String,
        /// What is wrong with it and what would be right.
        reason: String,
    },
}

fn hint(nearest: Option<&String>) -> String {
    nearest.map_or(String::new(), |name| format!("; did you mean `{name}`?"))
}

/// The configuration in force, and where each value came from.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// The values.
    pub config: Config,
    /// By full name, for what is not a default.
    places: BTreeMap<String, Place>,
}

impl Resolved {
    /// Reads all sources.
    ///
    /// # Errors
    /// The first name or value that is wrong, with its place.
    pub fn from_sources(sources: &Sources) -> Result<Self, ConfigError> {
        let mut resolved = Self::default();
        if let Some(path) = &sources.file {
            let text = fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
                path: path.clone(),
                error,
            })?;
            resolved.read_file(path, &text)?;
        }
        for (variable, value) in &sources.environment {
            resolved.read_variable(variable, value)?;
        }
        for flag in &sources.flags {
            let place = Place::Flag(flag.flag);
            resolved.set(&flag.name, &Raw::Bare(flag.value.clone()), place)?;
        }
        resolved.check()?;
        Ok(resolved)
    }

    /// Where a setting's value came from; the name is `section.key`.
    #[must_use]
    pub fn place(&self, name: &str) -> &Place {
        self.places.get(name).unwrap_or(&Place::Default)
    }

    /// What a setting is for, as the printed configuration says it; `None` for an unknown name.
    #[must_use]
    pub fn meaning(&self, name: &str) -> Option<String> {
        let fields = SECTIONS
            .iter()
            .flat_map(|section| section.fields.iter().map(move |field| (section, field)));
        let mut named = fields.filter(|(section, field)| full_name(section, field) == name);
        let (_, field) = named.next()?;
        let lines = field.doc.iter().map(|line| line.trim());
        Some(lines.collect::<Vec<_>>().join(" "))
    }

    /// Every setting: full name, value as TOML, and where it came from.
    pub fn settings(&self) -> impl Iterator<Item = (String, String, &Place)> {
        SECTIONS.iter().flat_map(move |section| {
            section.fields.iter().map(move |field| {
                let name = full_name(section, field);
                let place = self.place(&name);
                (name, (field.show)(&self.config), place)
            })
        })
    }

    /// The whole configuration as a TOML file that says what each setting means.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        for section in SECTIONS {
            for line in section.doc {
                let _ = writeln!(out, "#{line}");
            }
            let _ = writeln!(out, "[{}]", section.path);
            for field in section.fields {
                self.write_field(&mut out, section, field);
            }
            out.push('\n');
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
        out
    }

    fn write_field(&self, out: &mut String, section: &Section, field: &Field) {
        for line in field.doc {
            let _ = writeln!(out, "#{line}");
        }
        if let Some(range) = &field.range {
            let _ = writeln!(out, "# Range: {} to {}.", range.start(), range.end());
        }
        let value = (field.show)(&self.config);
        let default = (field.show)(&Config::default());
        let place = self.place(&full_name(section, field));
        if *place != Place::Default {
            // A file's name may hold what would end the comment.
            let place = place.to_string().replace(char::is_control, "?");
            let _ = writeln!(out, "# Default: {default}. Set by: {place}.");
        }
        let _ = writeln!(out, "{} = {value}", field.key);
    }

    fn read_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let file = File { path, text };
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            place: file.place(error.span().unwrap_or(0..0)),
            reason: error.message().to_owned(),
        })?;
        self.read_table(&file, "", table.get_ref())
    }

    fn read_table(
        &mut self,
        file: &File<'_>,
        prefix: &str,
        table: &DeTable<'_>,
    ) -> Result<(), ConfigError> {
        for (key, value) in table {
            let name = match prefix {
                "" => key.get_ref().to_string(),
                _ => format!("{prefix}.{}", key.get_ref()),
            };
            match value.get_ref() {
                DeValue::Table(table) if is_table(&name) => {
                    self.read_table(file, &name, table)?;
                }
                value_read if find(&name).is_some() => {
                    let place = file.place(value.span());
                    self.set(&name, &raw(value_read), place)?;
                }
                _ => return Err(unknown(name, file.place(key.span()))),
            }
        }
        Ok(())
    }

    /// Takes `MILLRACE_SECTION_KEY`. Variables of another shape are not ours to judge.
    fn read_variable(&mut self, variable: &str, value: &str) -> Result<(), ConfigError> {
        let place = Place::Environment(variable.to_owned());
        let names = all_names();
        if let Some(name) = names.iter().find(|name| variable_name(name) == variable) {
            return self.set(name, &Raw::Bare(value.to_owned()), place);
        }
        let ours = SECTIONS
            .iter()
            .any(|section| variable.starts_with(&variable_name(&format!("{}.", section.path))));
        if !ours {
            return Ok(());
        }
        let variables: Vec<String> = names.iter().map(|name| variable_name(name)).collect();
        let nearest = nearest(variable, variables.iter().map(String::as_str));
        Err(ConfigError::UnknownName {
            place,
            name: variable.to_owned(),
            nearest: nearest.map(str::to_owned),
        })
    }

    fn set(&mut self, name: &str, raw: &Raw, place: Place) -> Result<(), ConfigError> {
        let Some((_, field)) = find(name) else {
            return Err(unknown(name.to_owned(), place));
        };
        if let Err(reason) = (field.set)(&mut self.config, raw) {
            return Err(ConfigError::WrongValue {
                place,
                name: name.to_owned(),
                reason,
            });
        }
        self.places.insert(name.to_owned(), place);
        Ok(())
    }

    /// What single values cannot say: pages, powers of two, and values that must fit each other.
    fn check(&self) -> Result<(), ConfigError> {
        let config = &self.config;
        let pages = [
            ("wal.file_bytes", config.wal.file_bytes),
            ("wal.commit_buffer_bytes", config.wal.commit_buffer_bytes),
            ("disk.manifest_bytes_max", config.disk.manifest_bytes_max),
        ];
        for (name, bytes) in pages {
            if bytes % 4096 != 0 {
                return self.refuse(name, format!("{bytes} is not a multiple of 4096"));
            }
        }
        let powers = [
            ("limits.mesh_ring_slots", config.limits.mesh_ring_slots),
            ("memory.receive_buffers", config.memory.receive_buffers),
        ];
        for (name, count) in powers {
            if !count.is_power_of_two() {
                return self.refuse(name, format!("{count} is not a power of two"));
            }
        }
        for (small, large, times) in SMALLER {
            let (value, bound) = (self.number(small), self.number(large) / times);
            if value > bound {
                let of = if *times == 1 { "" } else { "half of " };
                let reason = format!("{value} is more than {bound}, {of}`{large}`");
                return self.refuse(small, reason);
            }
        }
        let needed = 2 * config.wal.file_bytes + RESERVE_SLACK_BYTES;
        let reserve = config.disk.reserve_bytes;
        if reserve < needed {
            let reason = format!(
                "{reserve} is less than {needed}, twice `wal.file_bytes` and 4 MiB: what settling \
                 needs on a full disk"
            );
            return self.refuse("disk.reserve_bytes", reason);
        }
        Ok(())
    }

    fn number(&self, name: &str) -> u64 {
        let (_, field) = find(name).expect("a setting of the table");
        let shown = (field.show)(&self.config);
        shown.parse().expect("a number")
    }

    fn refuse(&self, name: &str, reason: String) -> Result<(), ConfigError> {
        Err(ConfigError::WrongValue {
            place: self.place(name).clone(),
            name: name.to_owned(),
            reason,
        })
    }
}

/// A setting, another that it must fit into, and how often.
const SMALLER: &[(&str, &str, u64)] = &[
    ("wal.commit_buffer_bytes", "wal.file_bytes", 2),
    ("wal.batch_bytes_max", "wal.file_bytes", 2),
    ("topics.max_message_bytes", "wal.batch_bytes_max", 1),
    (
        "topics.max_message_bytes",
        "listeners.kafka.request_bytes_max",
        1,
    ),
    ("topics.partitions", "limits.partitions_max", 1),
    (
        "groups.session_timeout_ms_min",
        "groups.session_timeout_ms_max",
        1,
    ),
    // Log files stay open, and packs need descriptors too.
    ("wal.files", "limits.files_open_max", 2),
    // What is never small enough would wait, or be refused as busy, for ever.
    (
        "listeners.kafka.request_bytes_max",
        "memory.assembly_bytes_max",
        1,
    ),
    (
        "listeners.kafka.control_request_bytes_max",
        "memory.assembly_bytes_max",
        1,
    ),
    (
        "listeners.kafka.first_request_bytes_max",
        "memory.assembly_bytes_max",
        1,
    ),
    (
        "listeners.kafka.request_bytes_max",
        "memory.mesh_append_bytes_max",
        1,
    ),
    ("wal.batch_bytes_max", "memory.mesh_append_bytes_max", 1),
    ("wal.batch_bytes_max", "wal.commit_queue_bytes_max", 1),
];

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn place(&self, span: Range<usize>) -> Place {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Place::File(self.path.to_owned(), line)
    }
}

fn full_name(section: &Section, field: &Field) -> String {
    format!("{}.{}", section.path, field.key)
}

fn all_names() -> Vec<String> {
    let of = |section: &'static Section| section.fields.iter().map(|f| full_name(section, f));
    SECTIONS.iter().flat_map(of).collect()
}

fn variable_name(name: &str) -> String {
    format!("MILLRACE_{}", name.replace('.', "_").to_uppercase())
}

fn find(name: &str) -> Option<(&'static Section, &'static Field)> {
    let (path, key) = name.rsplit_once('.')?;
    let section = SECTIONS.iter().find(|section| section.path == path)?;
    let field = section.fields.iter().find(|field| field.key == key)?;
    Some((section, field))
}

/// Whether `name` is a table of the file, or holds one.
fn is_table(name: &str) -> bool {
    let inner = format!("{name}.");
    SECTIONS
        .iter()
        .any(|section| section.path == name || section.path.starts_with(&inner))
}

/// The tables and what holds them, as `listeners` holds `listeners.kafka`.
fn tables() -> impl Iterator<Item = &'static str> {
    SECTIONS.iter().flat_map(|section| {
        let above = section.path.match_indices('.');
        let above = above.map(|(at, _)| &section.path[..at]);
        above.chain([section.path])
    })
}

/// The refusal of `name`, with the nearest setting of its table, else of any, else a table.
fn unknown(name: String, place: Place) -> ConfigError {
    let names = all_names();
    let (path, key) = name.rsplit_once('.').unwrap_or(("", &name));
    let beside = names
        .iter()
        .filter_map(|n| n.rsplit_once('.'))
        .filter(|n| n.0 == path);
    let nearest = nearest(key, beside.map(|(_, key)| key))
        .map(|key| format!("{path}.{key}"))
        .or_else(|| {
            names
                .iter()
                .find(|n| n.ends_with(&format!(".{key}")))
                .cloned()
        })
        .or_else(|| nearest(&name, names.iter().map(String::as_str)).map(str::to_owned))
        .or_else(|| nearest(&name, tables()).map(str::to_owned));
    ConfigError::UnknownName {
        place,
        name,
        nearest,
    }
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(_) => {
            integer(value).map_or(Raw::Other("a number too large"), Raw::Integer)
        }
        DeValue::Boolean(flag) => Raw::Bool(*flag),
        DeValue::Array(values) => values
            .iter()
            .map(|value| integer(value.get_ref()))
            .collect::<Option<_>>()
            .map_or(
                Raw::Other("an array of other things than integers"),
                Raw::Integers,
            ),
        DeValue::Float(_) => Raw::Other("a fraction"),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Table(_) => Raw::Other("a table"),
    }
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let DeValue::Integer(integer) = value else {
        return None;
    };
    i64::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok()
}

#[cfg(test)]
mod tests;
