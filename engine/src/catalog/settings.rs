//! The table of topic settings: Kafka's names, types, ranges, and what each means here.

/// A type of value, as Kafka's tools know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingType {
    /// `true` or `false`.
    Boolean,
    /// Free text of a fixed choice.
    String,
    /// 32-bit number.
    Int,
    /// 64-bit number.
    Long,
    /// Decimal number.
    Double,
    /// Comma-separated values.
    List,
}

/// One row of the table.
#[derive(Debug)]
pub struct Setting {
    /// Kafka's name.
    pub name: &'static str,
    /// What Kafka sets it to when nobody says otherwise; also ours.
    pub default: &'static str,
    /// What it does, for people.
    pub doc: &'static str,
    pub(crate) rule: Rule,
}

/// Which values a setting takes.
#[derive(Debug)]
pub(crate) enum Rule {
    Boolean,
    /// `false` alone; `true` is a real value of Kafka's and gets this reason.
    Never(&'static str),
    /// 32-bit number from `min` to `max`; beyond `max` the reason `above` is given.
    Int {
        min: i64,
        max: i64,
        above: &'static str,
    },
    /// 64-bit number from `min` up.
    Long {
        min: i64,
    },
    /// Decimal number from 0 to 1.
    Ratio,
    /// One of `served`; a value of `refused` is a real one of Kafka's and gets its reason.
    Choice {
        served: &'static [&'static str],
        refused: &'static [(&'static str, &'static str)],
    },
    /// As `Choice`, several values with commas between them.
    List {
        served: &'static [&'static str],
        refused: &'static [(&'static str, &'static str)],
    },
}

impl Setting {
    /// The row of that name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        let row = SETTINGS.binary_search_by(|row| row.name.cmp(name)).ok()?;
        Some(&SETTINGS[row])
    }

    /// The type of its values.
    #[must_use]
    pub fn kind(&self) -> SettingType {
        match self.rule {
            Rule::Boolean | Rule::Never(_) => SettingType::Boolean,
            Rule::Int { .. } => SettingType::Int,
            Rule::Long { .. } => SettingType::Long,
            Rule::Ratio => SettingType::Double,
            Rule::Choice { .. } => SettingType::String,
            Rule::List { .. } => SettingType::List,
        }
    }

    /// `text` in canonical form.
    ///
    /// # Errors
    /// The reason why it is not a value of this setting.
    pub fn check(&self, text: &str) -> Result<String, String> {
        let text = text.trim();
        let refuse = |why: &str| Err(format!("{} = {text:?}: {why}", self.name));
        match &self.rule {
            Rule::Never(why) if text.eq_ignore_ascii_case("true") => refuse(why),
            Rule::Boolean | Rule::Never(_) => match text.to_ascii_lowercase().as_str() {
                word @ ("true" | "false") => Ok(word.to_owned()),
                _ => refuse("expected true or false"),
            },
            Rule::Int { min, max, above } => match text.parse::<i32>().map(i64::from) {
                Ok(number) if number > *max => refuse(above),
                Ok(number) if number >= *min => Ok(number.to_string()),
                Ok(_) => refuse(&format!("expected at least {min}")),
                Err(_) => refuse("expected a 32-bit number"),
            },
            Rule::Long { min } => match text.parse::<i64>() {
                Ok(number) if number >= *min => Ok(number.to_string()),
                Ok(_) => refuse(&format!("expected at least {min}")),
                Err(_) => refuse("expected a 64-bit number"),
            },
            Rule::Ratio => match text.parse::<f64>() {
                Ok(number) if (0.0..=1.0).contains(&number) => Ok(number.to_string()),
                _ => refuse("expected a number from 0 to 1"),
            },
            Rule::Choice { served, refused } => match choose(text, served, refused) {
                Ok(word) => Ok(word.to_owned()),
                Err(why) => refuse(&why),
            },
            Rule::List { served, refused } => {
                let mut words = Vec::new();
                for word in text.split(',').map(str::trim) {
                    match choose(word, served, refused) {
                        Ok(word) if words.contains(&word) => {}
                        Ok(word) => words.push(word),
                        Err(why) => return refuse(&why),
                    }
                }
                Ok(words.join(","))
            }
        }
    }
}

/// The entry of `served` that `word` is, or why it is none.
fn choose(
    word: &str,
    served: &[&'static str],
    refused: &[(&'static str, &'static str)],
) -> Result<&'static str, String> {
    if let Some(found) = served.iter().find(|known| **known == word) {
        return Ok(found);
    }
    match refused.iter().find(|(known, _)| *known == word) {
        Some((_, why)) => Err((*why).to_owned()),
        None => Err(format!("expected one of {}", served.join(", "))),
    }
}

const NO_RECOMPRESSION: &str =
    "batches are kept as their producers compressed them; the only value served is \"producer\"";
const NO_COMPACTION: &str = "compaction is not built: the only policy served is \"delete\"";
const NO_TIERS: &str = "tiered storage is not built: the only value served is \"false\"";
const ONE_BROKER: &str = "this broker is the only replica: the only value served is 1";
const INT_MAX: i64 = i32::MAX as i64;
const NOT_32_BIT: &str = "expected a 32-bit number";

/// Sorted by name.
pub static SETTINGS: [Setting; 24] = [
    Setting {
        name: "cleanup.policy",
        default: "delete",
        doc: "What happens to old records: \"delete\" removes them by retention.ms and \
              retention.bytes. Compaction is not built.",
        rule: Rule::List {
            served: &["delete"],
            refused: &[("compact", NO_COMPACTION)],
        },
    },
    Setting {
        name: "compression.type",
        default: "producer",
        doc: "Batches are stored and served as their producers compressed them.",
        rule: Rule::Choice {
            served: &["producer"],
            refused: &[
                ("uncompressed", NO_RECOMPRESSION),
                ("gzip", NO_RECOMPRESSION),
                ("snappy", NO_RECOMPRESSION),
                ("lz4", NO_RECOMPRESSION),
                ("zstd", NO_RECOMPRESSION),
            ],
        },
    },
    kept("delete.retention.ms", "86400000", Rule::Long { min: 0 }),
    kept("file.delete.delay.ms", "60000", Rule::Long { min: 0 }),
    kept(
        "flush.messages",
        "9223372036854775807",
        Rule::Long { min: 1 },
    ),
    kept("flush.ms", "9223372036854775807", Rule::Long { min: 0 }),
    kept("index.interval.bytes", "4096", int(0)),
    kept(
        "max.compaction.lag.ms",
        "9223372036854775807",
        Rule::Long { min: 1 },
    ),
    Setting {
        name: "max.message.bytes",
        default: "1048588",
        doc: "Largest record batch accepted, bytes, as compressed by its producer. The broker's \
              own batch limit holds too.",
        rule: int(0),
    },
    Setting {
        name: "message.timestamp.after.max.ms",
        default: "3600000",
        doc: "With CreateTime: how far a batch's largest timestamp may lie ahead of the broker's \
              clock, milliseconds.",
        rule: Rule::Long { min: 0 },
    },
    Setting {
        name: "message.timestamp.before.max.ms",
        default: "9223372036854775807",
        doc: "With CreateTime: how far a batch's timestamps may lie behind the broker's clock, \
              milliseconds. Judged by the batch's first timestamp.",
        rule: Rule::Long { min: 0 },
    },
    Setting {
        name: "message.timestamp.type",
        default: "CreateTime",
        doc: "CreateTime keeps the producer's timestamps; LogAppendTime stamps a batch when it is \
              appended.",
        rule: Rule::Choice {
            served: &["CreateTime", "LogAppendTime"],
            refused: &[],
        },
    },
    kept("min.cleanable.dirty.ratio", "0.5", Rule::Ratio),
    kept("min.compaction.lag.ms", "0", Rule::Long { min: 0 }),
    Setting {
        name: "min.insync.replicas",
        default: "1",
        doc: "Replicas that hold a record before it is acknowledged. This broker is the only one; \
              its acknowledgement means that the record is on the disk.",
        rule: Rule::Int {
            min: 1,
            max: 1,
            above: ONE_BROKER,
        },
    },
    kept("preallocate", "false", Rule::Boolean),
    Setting {
        name: "remote.storage.enable",
        default: "false",
        doc: "Whether old records move to another storage. All are kept here.",
        rule: Rule::Never(NO_TIERS),
    },
    Setting {
        name: "retention.bytes",
        default: "-1",
        doc: "Bytes kept of each partition; the oldest go first, in whole sections. -1: no limit.",
        rule: Rule::Long { min: -1 },
    },
    Setting {
        name: "retention.ms",
        default: "604800000",
        doc: "How long records are kept after their timestamp, milliseconds, in whole sections. \
              -1: no limit.",
        rule: Rule::Long { min: -1 },
    },
    Setting {
        name: "segment.bytes",
        default: "1073741824",
        doc: "Largest stretch of a partition that is dropped at once by retention, bytes. Less \
              than 1 MiB is kept as set and counts as 1 MiB.",
        rule: int(14),
    },
    kept("segment.index.bytes", "10485760", int(4)),
    kept("segment.jitter.ms", "0", Rule::Long { min: 0 }),
    kept("segment.ms", "604800000", Rule::Long { min: 1 }),
    kept("unclean.leader.election.enable", "false", Rule::Boolean),
];

/// A setting that stock tools set and that changes nothing in this broker.
const fn kept(name: &'static str, default: &'static str, rule: Rule) -> Setting {
    Setting {
        name,
        default,
        doc: "Kept as set, without effect here.",
        rule,
    }
}

const fn int(min: i64) -> Rule {
    Rule::Int {
        min,
        max: INT_MAX,
        above: NOT_32_BIT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_its_defaults_are_canonical() {
        assert!(SETTINGS.is_sorted_by(|a, b| a.name < b.name));
        for row in &SETTINGS {
            assert_eq!(row.check(row.default).as_deref(), Ok(row.default));
            assert_eq!(
                Setting::find(row.name).map(|found| found.name),
                Some(row.name)
            );
        }
    }

    #[test]
    fn values_are_judged_and_made_canonical() {
        let check = |name: &str, value: &str| Setting::find(name).expect("known").check(value);
        assert_eq!(check("retention.ms", " 007 ").as_deref(), Ok("7"));
        assert_eq!(check("retention.ms", "-1").as_deref(), Ok("-1"));
        assert!(check("retention.ms", "-2").is_err());
        assert!(check("retention.ms", "9223372036854775808").is_err());
        assert!(check("max.message.bytes", "2147483648").is_err());
        assert_eq!(check("preallocate", "TRUE").as_deref(), Ok("true"));
        assert_eq!(
            check("cleanup.policy", "delete, delete").as_deref(),
            Ok("delete")
        );
        assert!(check("min.cleanable.dirty.ratio", "NaN").is_err());
    }

    #[test]
    fn what_kafka_has_and_this_broker_does_not_is_refused_with_the_reason() {
        let why = |name: &str, value: &str| {
            Setting::find(name)
                .expect("known")
                .check(value)
                .expect_err("refused")
        };
        assert!(why("cleanup.policy", "delete,compact").contains("compaction is not built"));
        assert!(why("compression.type", "zstd").contains("producer"));
        assert!(why("min.insync.replicas", "2").contains("only replica"));
        assert!(why("remote.storage.enable", "TRUE").contains("tiered storage is not built"));
        assert!(why("remote.storage.enable", "no").contains("expected true or false"));
        let setting = Setting::find("remote.storage.enable").expect("known");
        assert_eq!(setting.check("False").as_deref(), Ok("false"), "as it is");
    }
}
