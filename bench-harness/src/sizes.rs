//! How long messages are: all the same, evenly between two sizes, or some sizes by weight. The size
//! of a message follows from its number, so that a run can be repeated.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::args::bytes;

/// Most different sizes of a weighted choice.
const CHOICES_MAX: usize = 64;
const WEIGHT_MAX: u64 = 1_000_000;

/// The sizes of messages, in bytes.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) enum Sizes {
    Fixed(u64),
    /// Evenly from the first to the second, both included; rising.
    Even(u64, u64),
    /// Size and weight; not empty, no weight is 0.
    Weighted(Vec<(u64, u64)>),
}

impl Sizes {
    /// The size of the message that `seed` stands for.
    pub(crate) fn draw(&self, seed: u64) -> u64 {
        match self {
            Self::Fixed(size) => *size,
            Self::Even(min, max) => min + mix(seed) % (max - min + 1),
            Self::Weighted(choices) => {
                let total: u64 = choices.iter().map(|(_, weight)| weight).sum();
                let mut point = mix(seed) % total;
                for (size, weight) in choices {
                    if point < *weight {
                        return *size;
                    }
                    point -= weight;
                }
                unreachable!("the point lies below the sum of the weights")
            }
        }
    }

    pub(crate) fn min(&self) -> u64 {
        match self {
            Self::Fixed(size) | Self::Even(size, _) => *size,
            Self::Weighted(choices) => choices.iter().map(|c| c.0).min().expect("not empty"),
        }
    }

    pub(crate) fn max(&self) -> u64 {
        match self {
            Self::Fixed(size) | Self::Even(_, size) => *size,
            Self::Weighted(choices) => choices.iter().map(|c| c.0).max().expect("not empty"),
        }
    }

    /// The mean size, rounded down.
    pub(crate) fn mean(&self) -> u64 {
        match self {
            Self::Fixed(size) => *size,
            Self::Even(min, max) => min.midpoint(*max),
            Self::Weighted(choices) => {
                let total: u64 = choices.iter().map(|(_, weight)| weight).sum();
                let weighed = |(size, weight): &(u64, u64)| u128::from(*size) * u128::from(*weight);
                let sum: u128 = choices.iter().map(weighed).sum();
                u64::try_from(sum / u128::from(total)).expect("between the least and the largest")
            }
        }
    }
}

/// splitmix64's finish: neighbouring seeds get unrelated numbers.
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl FromStr for Sizes {
    type Err = String;

    /// `1KiB`, `100..2000`, or `128:90,4096:10`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((min, max)) = text.split_once("..") {
            let (min, max) = (bytes(min)?, bytes(max)?);
            if min > max {
                return Err(format!("{min} to {max} is no rising range"));
            }
            return Ok(Self::Even(min, max));
        }
        if !text.contains(':') {
            return bytes(text).map(Self::Fixed);
        }
        let mut choices = Vec::new();
        for choice in text.split(',') {
            let Some((size, weight)) = choice.split_once(':') else {
                return Err(format!("{choice:?} is not a SIZE:WEIGHT"));
            };
            let weight: u64 = weight
                .parse()
                .ok()
                .filter(|weight| (1..=WEIGHT_MAX).contains(weight))
                .ok_or_else(|| format!("{weight:?} is no weight: 1 to {WEIGHT_MAX}"))?;
            choices.push((bytes(size)?, weight));
        }
        if choices.len() > CHOICES_MAX {
            return Err(format!("at most {CHOICES_MAX} sizes can be weighed"));
        }
        Ok(Self::Weighted(choices))
    }
}

impl TryFrom<String> for Sizes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Sizes> for String {
    fn from(sizes: Sizes) -> Self {
        sizes.to_string()
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Even(min, max) => write!(f, "{min}..{max}"),
            Self::Weighted(choices) => {
                for (index, (size, weight)) in choices.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    write!(f, "{comma}{size}:{weight}")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_shown_alike() {
        for (text, min, mean, max) in [
            ("1024", 1024, 1024, 1024),
            ("100..2000", 100, 1050, 2000),
            ("128:90,4096:10", 128, 524, 4096),
        ] {
            let sizes: Sizes = text.parse().expect("well formed");
            assert_eq!(sizes.to_string(), text);
            assert_eq!((sizes.min(), sizes.mean(), sizes.max()), (min, mean, max));
        }
        assert_eq!("1KiB".parse(), Ok(Sizes::Fixed(1024)));
    }

    #[test]
    fn wrong_sizes_are_named() {
        for (text, reason) in [
            ("9..3", "9 to 3 is no rising range"),
            ("1:2,3", "\"3\" is not a SIZE:WEIGHT"),
            ("64:0", "\"0\" is no weight: 1 to 1000000"),
        ] {
            assert_eq!(text.parse::<Sizes>(), Err(reason.to_owned()));
        }
        assert!("big".parse::<Sizes>().is_err());
    }

    #[test]
    fn draws_follow_their_distribution_and_can_be_repeated() {
        let weighted: Sizes = "128:90,4096:10".parse().expect("well formed");
        let large = (0..10_000).filter(|n| weighted.draw(*n) == 4096).count();
        assert!((900..1_100).contains(&large), "{large}");
        let even = Sizes::Even(100, 2_000);
        let sum: u64 = (0..10_000).map(|seed| even.draw(seed)).sum();
        assert!((1_030..1_070).contains(&(sum / 10_000)), "{sum}");
        assert!((0..1_000).all(|seed| (100..=2_000).contains(&even.draw(seed))));
        assert_eq!(even.draw(7), even.draw(7));
    }
}
