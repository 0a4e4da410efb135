//! Single values: read from TOML or from a flag's bare text, printed as TOML.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// A value as a source gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Raw {
    /// A TOML integer.
    Integer(i64),
    /// A TOML string.
    Text(String),
    /// A TOML boolean.
    Bool(bool),
    /// A TOML array of integers.
    Integers(Vec<i64>),
    /// A TOML value of a kind that no setting has.
    Other(&'static str),
    /// Text of a flag or an environment variable: the setting's type decides what it means.
    Bare(String),
}

impl Raw {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Bare(text) => Some(text),
            _ => None,
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Integer(number) => number.to_string(),
            Self::Text(text) => format!("\"{text}\""),
            Self::Bool(flag) => flag.to_string(),
            Self::Integers(numbers) => format!("{numbers:?}"),
            Self::Other(kind) => (*kind).to_owned(),
            Self::Bare(text) => format!("`{text}`"),
        }
    }
}

/// A type that a setting can have.
pub(super) trait Value: Sized {
    /// What a right value looks like, for the message that refuses a wrong one.
    const EXPECTED: &'static str;

    /// Reads a value; `None` if it is not one.
    fn read(raw: &Raw) -> Option<Self>;

    /// The value as TOML.
    fn show(&self) -> String;

    /// The number that a range bounds, for types that have one.
    fn magnitude(&self) -> Option<u64> {
        None
    }
}

/// Reads a value and holds it to its range.
pub(super) fn read<V: Value>(raw: &Raw, range: Option<RangeInclusive<u64>>) -> Result<V, String> {
    let refused = || format!("expected {}, found {}", V::EXPECTED, raw.shown());
    let value = V::read(raw).ok_or_else(refused)?;
    if let (Some(range), Some(magnitude)) = (range, value.magnitude())
        && !range.contains(&magnitude)
    {
        let (min, max) = (range.start(), range.end());
        return Err(format!("{magnitude} is out of range: {min} to {max}"));
    }
    Ok(value)
}

/// A TOML basic string: a control character goes by its number.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            _ if character.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(character));
            }
            _ => out.push(character),
        }
    }
    out.push('"');
    out
}

impl Value for u64 {
    const EXPECTED: &'static str = "a whole number, or a size as \"64MiB\"";

    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Integer(number) => Self::try_from(*number).ok(),
            _ => read_number(raw.text()?),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn magnitude(&self) -> Option<u64> {
        Some(*self)
    }
}

/// `64`, `64KiB`, `64MiB` or `64GiB`, with underscores between digits as in TOML.
fn read_number(text: &str) -> Option<u64> {
    let text = text.replace('_', "");
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    for (unit, factor) in units {
        if let Some(digits) = text.strip_suffix(unit) {
            return digits.trim_end().parse::<u64>().ok()?.checked_mul(factor);
        }
    }
    text.parse().ok()
}

/// A bound that may be absent, as Kafka's -1 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeLimit(pub Option<u64>);

impl Value for SizeLimit {
    const EXPECTED: &'static str = "a whole number, a size as \"64MiB\", or -1 for no limit";

    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Integer(-1) => Some(Self(None)),
            Raw::Bare(text) if text == "-1" => Some(Self(None)),
            _ => u64::read(raw).map(|number| Self(Some(number))),
        }
    }

    fn show(&self) -> String {
        self.0.map_or("-1".to_owned(), |number| number.to_string())
    }

    fn magnitude(&self) -> Option<u64> {
        self.0
    }
}

impl Value for bool {
    const EXPECTED: &'static str = "true or false";

    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Bool(flag) => Some(*flag),
            Raw::Bare(text) => text.parse().ok(),
            _ => None,
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for String {
    const EXPECTED: &'static str = "text in quotes";

    fn read(raw: &Raw) -> Option<Self> {
        raw.text().map(str::to_owned)
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl Value for PathBuf {
    const EXPECTED: &'static str = "a path in quotes";

    fn read(raw: &Raw) -> Option<Self> {
        raw.text().filter(|text| !text.is_empty()).map(Self::from)
    }

    fn show(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl Value for SocketAddr {
    const EXPECTED: &'static str = "an address as \"127.0.0.1:9092\" or \"[::1]:9092\"";

    fn read(raw: &Raw) -> Option<Self> {
        raw.text()?.parse().ok()
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

/// How a commit group is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalSync {
    /// One write with `RWF_DSYNC`.
    Dsync,
    /// A write with an fdatasync linked behind it.
    LinkedFdatasync,
}

impl Value for WalSync {
    const EXPECTED: &'static str = "\"dsync\" or \"linked-fdatasync\"";

    fn read(raw: &Raw) -> Option<Self> {
        match raw.text()? {
            "dsync" => Some(Self::Dsync),
            "linked-fdatasync" => Some(Self::LinkedFdatasync),
            _ => None,
        }
    }

    fn show(&self) -> String {
        quoted(match self {
            Self::Dsync => "dsync",
            Self::LinkedFdatasync => "linked-fdatasync",
        })
    }
}

/// Cores that run a shard each, in shard order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoreList {
    /// As many as the machine and its topology recommend.
    Auto,
    /// These, by the kernel's numbers; never empty, no number twice.
    Cores(Vec<usize>),
}

impl Value for CoreList {
    const EXPECTED: &'static str =
        "\"auto\", a list as \"0-3\" or \"0,2\", or an array as [0, 2]; no core twice";

    fn read(raw: &Raw) -> Option<Self> {
        if let Raw::Integers(numbers) = raw {
            let cores = numbers.iter().map(|n| usize::try_from(*n).ok());
            return Self::distinct(cores.collect::<Option<_>>()?);
        }
        let text = raw.text()?;
        if text == "auto" {
            return Some(Self::Auto);
        }
        Self::distinct(parse_cpu_list(text)?)
    }

    fn show(&self) -> String {
        match self {
            Self::Auto => quoted("auto"),
            Self::Cores(cores) => format!("{cores:?}"),
        }
    }
}

impl CoreList {
    fn distinct(cores: Vec<usize>) -> Option<Self> {
        let mut sorted = cores.clone();
        sorted.sort_unstable();
        sorted.dedup();
        (!cores.is_empty() && sorted.len() == cores.len()).then_some(Self::Cores(cores))
    }
}

/// Cores in the kernel's own notation, as `0-3,8`.
pub(crate) fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    /// Above every kernel's `NR_CPUS`; bounds the list that one range can make.
    const CORE_MAX: usize = 8191;
    let mut cores = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > CORE_MAX {
            return None;
        }
        cores.extend(first..=last);
    }
    Some(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare(text: &str) -> Raw {
        Raw::Bare(text.to_owned())
    }

    #[test]
    fn numbers_take_units_and_keep_their_range() {
        assert_eq!(read(&bare("64MiB"), None), Ok(64_u64 << 20));
        assert_eq!(read(&bare("1_000"), None), Ok(1_000_u64));
        assert_eq!(read(&Raw::Integer(7), Some(1..=8)), Ok(7_u64));
        assert!(
            read::<u64>(&Raw::Integer(9), Some(1..=8))
                .unwrap_err()
                .contains("1 to 8")
        );
        assert!(read::<u64>(&Raw::Integer(-1), None).is_err());
        assert!(read::<u64>(&bare("99999999999GiB"), None).is_err());
        assert_eq!(read(&Raw::Integer(-1), Some(1..=8)), Ok(SizeLimit(None)));
    }

    #[test]
    fn cores_are_lists_without_repeats() {
        let cores = |raw| CoreList::read(&raw);
        assert_eq!(cores(bare("auto")), Some(CoreList::Auto));
        assert_eq!(
            cores(bare("0-2,5")),
            Some(CoreList::Cores(vec![0, 1, 2, 5]))
        );
        assert_eq!(
            cores(Raw::Integers(vec![2, 0])),
            Some(CoreList::Cores(vec![2, 0]))
        );
        for wrong in ["", "1,1", "3-1", "a", "0-", "0-999999999"] {
            assert_eq!(cores(bare(wrong)), None, "{wrong}");
        }
        assert_eq!(cores(Raw::Integers(vec![-1])), None);
    }

    #[test]
    fn shown_values_read_back() {
        let address: SocketAddr = "[::1]:9092".parse().unwrap();
        assert_eq!(address.show(), "\"[::1]:9092\"");
        assert_eq!(
            WalSync::read(&Raw::Text("linked-fdatasync".into()))
                .unwrap()
                .show()
                .len(),
            18
        );
        assert_eq!(String::from("a\"b").show(), "\"a\\\"b\"");
        assert_eq!(String::from("l'été\u{1}").show(), "\"l'été\\u0001\"");
        assert!(
            read::<bool>(&Raw::Text("true".into()), None).is_err(),
            "quotes are text"
        );
    }
}
