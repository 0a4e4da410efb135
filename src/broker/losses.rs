//! Losses that the operator accepts: `SHARD:FROM-TO`, as a refusal to start named them.

use millrace_storage::LossRange;
use millrace_storage::units::{Lsn, ShardId};

use crate::exit::Failure;

/// Accepted losses by shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AcceptedLosses(Vec<(ShardId, LossRange)>);

impl AcceptedLosses {
    /// Reads the flags.
    ///
    /// # Errors
    /// [`Failure::Usage`] for what is not `SHARD:FROM-TO`.
    pub fn parse<'a>(flags: impl IntoIterator<Item = &'a str>) -> Result<Self, Failure> {
        let parsed = flags.into_iter().map(|flag| {
            parse(flag).ok_or_else(|| {
                Failure::Usage(format!(
                    "--accept-loss {flag}: expected SHARD:FROM-TO, exactly as the refusal to \
                     start printed it"
                ))
            })
        });
        parsed.collect::<Result<_, _>>().map(Self)
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[(ShardId, LossRange)] {
        &self.0
    }
}

fn parse(flag: &str) -> Option<(ShardId, LossRange)> {
    let (shard, range) = flag.split_once(':')?;
    let (from, to) = range.split_once('-')?;
    let (from, to): (u64, u64) = (from.parse().ok()?, to.parse().ok()?);
    let range = LossRange {
        from: Lsn(from),
        to: Lsn(to),
    };
    (from < to).then_some((ShardId(shard.parse().ok()?), range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_accepted_as_it_was_printed() {
        let losses = AcceptedLosses::parse(["1:4096-8192", "0:0-1"]).unwrap();
        let range = LossRange {
            from: Lsn(4096),
            to: Lsn(8192),
        };
        assert_eq!(losses.all()[0], (ShardId(1), range));
        assert_eq!(losses.all().len(), 2);
        for wrong in ["", "1", "1:5", "1:5-5", "1:9-5", "x:1-2", "1:-1-2"] {
            let refusal = AcceptedLosses::parse([wrong]).unwrap_err();
            assert!(refusal.to_string().contains("SHARD:FROM-TO"), "{wrong}");
        }
    }
}
