//! Which shard a new partition goes to. Where an old one lives is data: see [`Catalog::place`].
//!
//! [`Catalog::place`]: crate::catalog::Catalog::place

use std::collections::BTreeMap;

use millrace_storage::units::ShardId;

/// Homes for `partitions` new ones: each goes to the shard that has the fewest, the lowest number
/// among equals. `held` says how many each shard has; shards not in it have none.
pub(crate) fn homes_for_new(
    held: &BTreeMap<ShardId, u32>,
    shards: u16,
    partitions: u32,
) -> Vec<ShardId> {
    assert!(shards > 0, "a broker has a shard");
    let mut loads: Vec<u64> = (0..shards)
        .map(|shard| u64::from(held.get(&ShardId(shard)).copied().unwrap_or(0)))
        .collect();
    let mut next_home = || {
        let (shard, load) = (0..shards)
            .zip(&mut loads)
            .min_by_key(|(shard, load)| (**load, *shard))
            .expect("a broker has a shard");
        *load += 1;
        ShardId(shard)
    };
    (0..partitions).map(|_| next_home()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_partitions_even_out_what_the_shards_hold() {
        let held = BTreeMap::from([(ShardId(0), 3), (ShardId(2), 1)]);
        let homes = homes_for_new(&held, 3, 5);
        assert_eq!(homes, [1, 1, 2, 1, 2].map(ShardId));
    }

    #[test]
    fn a_shard_that_is_gone_gets_nothing() {
        let held = BTreeMap::from([(ShardId(0), 9), (ShardId(5), 0)]);
        assert_eq!(homes_for_new(&held, 1, 2), [ShardId(0), ShardId(0)]);
    }
}
