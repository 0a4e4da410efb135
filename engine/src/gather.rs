//! A fetch at the shard that it came in on: read everywhere, and if that is too little, wait.
//!
//! A round asks the home of each partition for what it has. If the records found are enough, or
//! more of them are readable than the round brought, or something went wrong with a partition, or
//! time is up, that is the answer. Otherwise each home is asked to tell when more came, and the
//! records at hand are dropped, so that a parked fetch costs no memory but itself; the first to
//! tell, or the deadline, begins another round.

use std::collections::BTreeMap;

use bytes::Bytes;
use millrace_storage::units::{BootTime, Now, Offset, PartitionId, ShardId};

use crate::command::{FetchPartition, FetchRequest, Isolation, RequestId};
use crate::event::{Fetched, FetchedPartition, Refusal};
use crate::shard::{Allowance, READ_BYTES_MIN};

/// A fetch of one shard. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatherId(pub u64);

/// A fetch in progress.
#[derive(Debug)]
pub(crate) struct Gather {
    pub(crate) request: RequestId,
    fetch: FetchRequest,
    /// Places in the request by home, each list ascending.
    homes: BTreeMap<ShardId, Vec<usize>>,
    /// What this round found, by place in the request. Places without a home are filled for good.
    found: Vec<Option<FetchedPartition>>,
    phase: Phase,
    /// Its next round waits until there is room for what it may bring.
    pub(crate) waits_for_room: bool,
    /// Room of the round under way, or of the last one.
    allowance: Allowance,
    /// Nobody wants its answer any more.
    is_given_up: bool,
}

/// Where a fetch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// So many homes have yet to answer; at 0 the round is to be judged.
    Reading { outstanding: usize },
    /// Until a home tells, or the deadline.
    Parked,
}

/// What to do with a fetch next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Other homes have yet to answer.
    Wait,
    /// The answer.
    Answer(Vec<FetchedPartition>),
    /// Ask each home to tell when more comes.
    Park(Vec<WatchOrder>),
    /// Forget it.
    Drop,
}

/// What one home is to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WatchOrder {
    pub(crate) home: ShardId,
    /// Each partition with the offset up to which it was read.
    pub(crate) partitions: Vec<(PartitionId, Offset)>,
    pub(crate) bytes_wanted: usize,
}

impl Gather {
    /// A fetch whose first round is to begin. `home_of` knows the homes of partitions that exist.
    pub(crate) fn new(
        request: RequestId,
        fetch: FetchRequest,
        home_of: impl Fn(PartitionId) -> Option<ShardId>,
    ) -> Self {
        let mut homes: BTreeMap<ShardId, Vec<usize>> = BTreeMap::new();
        let mut found = Vec::with_capacity(fetch.partitions.len());
        for (place, wanted) in fetch.partitions.iter().enumerate() {
            match home_of(wanted.partition) {
                Some(home) => {
                    homes.entry(home).or_default().push(place);
                    found.push(None);
                }
                None => found.push(Some(FetchedPartition {
                    partition: wanted.partition,
                    result: Err(Refusal::UnknownPartition),
                })),
            }
        }
        Self {
            request,
            fetch,
            homes,
            found,
            phase: Phase::Parked,
            waits_for_room: false,
            allowance: Allowance::default(),
            is_given_up: false,
        }
    }

    /// Record bytes that a round may bring from each home.
    pub(crate) fn wanted_bytes(&self) -> usize {
        let wanted = self.fetch.partitions.iter();
        let wanted = wanted.map(|wanted| wanted.bytes_max.max(READ_BYTES_MIN));
        let wanted = wanted.fold(0, usize::saturating_add);
        self.fetch.bytes_max.min(wanted)
    }

    /// Room of the round under way, or of the last one.
    pub(crate) fn allowance(&self) -> Allowance {
        self.allowance
    }

    /// Its answer is no longer wanted.
    pub(crate) fn give_up(&mut self) {
        self.is_given_up = true;
    }

    /// The fetch as it was asked for.
    pub(crate) fn fetch(&self) -> &FetchRequest {
        &self.fetch
    }

    /// The shards that its partitions live on.
    pub(crate) fn homes(&self) -> impl Iterator<Item = ShardId> {
        self.homes.keys().copied()
    }

    /// Begins a round: what to ask of which home. Each answers through `take`.
    pub(crate) fn begin_round(
        &mut self,
        allowance: Allowance,
    ) -> Vec<(ShardId, Vec<FetchPartition>)> {
        assert_eq!(self.phase, Phase::Parked, "one round at a time");
        self.waits_for_room = false;
        self.allowance = allowance;
        self.phase = Phase::Reading {
            outstanding: self.homes.len(),
        };
        let partitions = |places: &Vec<usize>| {
            let wanted = places.iter().map(|place| self.fetch.partitions[*place]);
            wanted.collect()
        };
        let orders = self.homes.iter();
        orders
            .map(|(home, places)| (*home, partitions(places)))
            .collect()
    }

    /// Whether homes have yet to answer.
    pub(crate) fn is_reading(&self) -> bool {
        matches!(self.phase, Phase::Reading { outstanding } if outstanding > 0)
    }

    /// Takes one home's answer, in the order that it was asked.
    pub(crate) fn take(&mut self, home: ShardId, answer: Vec<FetchedPartition>) {
        let Phase::Reading { outstanding } = &mut self.phase else {
            unreachable!("a parked fetch asks nobody");
        };
        *outstanding -= 1;
        let places = &self.homes[&home];
        assert_eq!(places.len(), answer.len(), "a home answers what was asked");
        for (place, partition) in places.iter().zip(answer) {
            self.found[*place] = Some(partition);
        }
    }

    /// Judges the round once every home has answered.
    pub(crate) fn judge(&mut self, now: Now) -> Next {
        if self.phase != (Phase::Reading { outstanding: 0 }) {
            return Next::Wait;
        }
        if self.is_given_up {
            return Next::Drop;
        }
        let found: usize = self.found.iter().flatten().map(bytes_of).sum();
        let failed = self.found.iter().flatten().any(|one| one.result.is_err());
        // A reader that lags goes on with whatever one round brings: what its home has at hand may
        // be less than is asked for at least, and so may the room for the answer.
        let lags = found > 0 && self.found.iter().flatten().any(has_more);
        let enough = found >= self.fetch.bytes_min || lags;
        if enough || failed || now.boot >= self.fetch.deadline || self.homes.is_empty() {
            return Next::Answer(self.answer());
        }
        self.phase = Phase::Parked;
        Next::Park(self.watch_orders(self.fetch.bytes_min - found))
    }

    /// What to watch for until `missing` more bytes are there. They may come to any home, so each
    /// tells after its share of them: then another round counts again.
    fn watch_orders(&mut self, missing: usize) -> Vec<WatchOrder> {
        assert!(missing > 0, "a fetch that has enough does not wait");
        let bytes_wanted = missing.div_ceil(self.homes.len());
        let mut orders = Vec::with_capacity(self.homes.len());
        for (home, places) in &self.homes {
            let partitions = places.iter().map(|place| {
                let found = self.found[*place].take().expect("every home answered");
                let fetched = found.result.expect("a failure is answered, not waited for");
                let read_to = match self.fetch.isolation {
                    Isolation::Uncommitted => fetched.high_watermark,
                    Isolation::Committed => fetched.last_stable,
                };
                (found.partition, read_to)
            });
            orders.push(WatchOrder {
                home: *home,
                partitions: partitions.collect(),
                bytes_wanted,
            });
        }
        orders
    }

    /// What was found, cut to the bytes asked for: the first batch goes whatever its size.
    fn answer(&mut self) -> Vec<FetchedPartition> {
        let mut left = self.fetch.bytes_max.min(self.allowance.bytes);
        let mut first = true;
        let mut answer = Vec::with_capacity(self.found.len());
        for found in &mut self.found {
            let mut partition = found.take().expect("every home answered");
            if let Ok(fetched) = &mut partition.result {
                cut(fetched, &mut left, &mut first);
            }
            answer.push(partition);
        }
        answer
    }

    /// When to answer at the latest.
    pub(crate) fn deadline(&self) -> BootTime {
        self.fetch.deadline
    }
}

fn bytes_of(partition: &FetchedPartition) -> usize {
    let batches = partition.result.as_ref().map(|fetched| &fetched.batches);
    batches.map_or(0, |batches| batches.iter().map(Bytes::len).sum())
}

fn has_more(partition: &FetchedPartition) -> bool {
    let fetched = partition.result.as_ref();
    fetched.is_ok_and(|fetched| fetched.has_more)
}

/// Drops the batches that exceed what is `left`. After the first one that does, nothing more fits.
fn cut(fetched: &mut Fetched, left: &mut usize, first: &mut bool) {
    let keep = fetched.batches.iter().take_while(|batch| {
        let fits = batch.len() <= *left || std::mem::take(first);
        *first = false;
        *left = if fits {
            left.saturating_sub(batch.len())
        } else {
            0
        };
        fits
    });
    let keep = keep.count();
    fetched.batches.truncate(keep);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::ConnectionId;

    const DEADLINE: BootTime = BootTime(1_000);

    fn now(boot: u64) -> Now {
        Now {
            boot: BootTime(boot),
            wall_ms: 0,
        }
    }

    /// A fetch of partitions 0, 1, 2 at homes 0, 1, 0; a partition 9 does not exist.
    fn gather(bytes_min: usize, bytes_max: usize, partitions: &[u32]) -> Gather {
        let request = RequestId {
            origin: ShardId(0),
            connection: ConnectionId::CONTROL,
            sequence: 1,
        };
        let wanted = |partition: &u32| FetchPartition {
            partition: PartitionId(*partition),
            from: Offset(0),
            bytes_max,
            leader_epoch: None,
        };
        let fetch = FetchRequest {
            partitions: partitions.iter().map(wanted).collect(),
            bytes_min,
            bytes_max,
            deadline: DEADLINE,
            isolation: Isolation::Uncommitted,
        };
        Gather::new(request, fetch, |partition| match partition.0 {
            9 => None,
            number => Some(ShardId((number % 2) as u16)),
        })
    }

    /// Room for anything.
    fn room() -> Allowance {
        Allowance {
            home_bytes_max: 1 << 20,
            bytes: 2 << 20,
        }
    }

    fn found(partition: u32, high_watermark: u64, batches: &[usize]) -> FetchedPartition {
        FetchedPartition {
            partition: PartitionId(partition),
            result: Ok(Fetched {
                high_watermark: Offset(high_watermark),
                batches: batches
                    .iter()
                    .map(|len| Bytes::from(vec![0; *len]))
                    .collect(),
                ..Fetched::default()
            }),
        }
    }

    fn sizes(answer: &[FetchedPartition]) -> Vec<(u32, usize)> {
        answer
            .iter()
            .map(|one| (one.partition.0, bytes_of(one)))
            .collect()
    }

    #[test]
    fn the_answer_has_the_order_of_the_request() {
        let mut gather = gather(1, 1_000, &[0, 1, 2]);
        let orders = gather.begin_round(room());
        assert_eq!(orders.len(), 2);
        assert_eq!(orders[0].1.len(), 2);
        gather.take(ShardId(1), vec![found(1, 5, &[10])]);
        assert!(matches!(gather.judge(now(0)), Next::Wait));
        gather.take(ShardId(0), vec![found(0, 5, &[]), found(2, 5, &[20])]);
        match gather.judge(now(0)) {
            Next::Answer(answer) => assert_eq!(sizes(&answer), [(0, 0), (1, 10), (2, 20)]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn too_little_parks_and_each_home_watches_for_its_share() {
        let mut gather = gather(15, 1_000, &[0, 1, 2]);
        gather.begin_round(room());
        gather.take(ShardId(0), vec![found(0, 5, &[4]), found(2, 6, &[])]);
        gather.take(ShardId(1), vec![found(1, 7, &[])]);
        match gather.judge(now(0)) {
            Next::Park(orders) => assert_eq!(
                orders,
                [
                    WatchOrder {
                        home: ShardId(0),
                        partitions: vec![(PartitionId(0), Offset(5)), (PartitionId(2), Offset(6))],
                        bytes_wanted: 6,
                    },
                    WatchOrder {
                        home: ShardId(1),
                        partitions: vec![(PartitionId(1), Offset(7))],
                        bytes_wanted: 6,
                    },
                ]
            ),
            other => panic!("{other:?}"),
        }
        gather.begin_round(room());
        gather.take(ShardId(0), vec![found(0, 5, &[4]), found(2, 6, &[])]);
        gather.take(ShardId(1), vec![found(1, 7, &[])]);
        assert!(
            matches!(gather.judge(now(1_000)), Next::Answer(_)),
            "time is up"
        );
    }

    #[test]
    fn a_reader_that_lags_does_not_wait_for_more_to_come() {
        let mut gather = gather(15, 1_000, &[0, 1]);
        let lagging = |batches: &[usize]| {
            let mut lagging = found(0, 9, batches);
            lagging.result.as_mut().expect("found").has_more = true;
            lagging
        };
        gather.begin_round(room());
        gather.take(ShardId(0), vec![lagging(&[4])]);
        gather.take(ShardId(1), vec![found(1, 5, &[])]);
        match gather.judge(now(0)) {
            Next::Answer(answer) => assert_eq!(sizes(&answer), [(0, 4), (1, 0)]),
            other => panic!("{other:?}"),
        }
        // Who asks for no bytes at all of what there is gets none, and does not ask at once again.
        let mut gather = self::gather(15, 1_000, &[0]);
        gather.begin_round(room());
        gather.take(ShardId(0), vec![lagging(&[])]);
        assert!(matches!(gather.judge(now(0)), Next::Park(_)));
    }

    #[test]
    fn a_round_with_little_room_waits_at_the_end_of_what_is_there() {
        let mut gather = gather(15, 1_000, &[0]);
        let little = Allowance {
            home_bytes_max: 10,
            bytes: 10,
        };
        gather.begin_round(little);
        gather.take(ShardId(0), vec![found(0, 5, &[4])]);
        assert!(matches!(gather.judge(now(0)), Next::Park(_)));
    }

    #[test]
    fn a_failed_partition_is_told_at_once() {
        let mut gather = gather(15, 1_000, &[0, 9]);
        gather.begin_round(room());
        gather.take(ShardId(0), vec![found(0, 5, &[])]);
        match gather.judge(now(0)) {
            Next::Answer(answer) => {
                assert_eq!(
                    answer[1].result.as_ref().err(),
                    Some(&Refusal::UnknownPartition)
                );
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_fetch_of_nothing_is_answered_at_once() {
        let mut gather = gather(1, 10, &[]);
        assert!(gather.begin_round(room()).is_empty());
        assert!(matches!(gather.judge(now(0)), Next::Answer(answer) if answer.is_empty()));
    }

    #[test]
    fn the_answer_is_cut_but_never_to_nothing() {
        let mut gather = gather(1, 25, &[0, 2, 4]);
        gather.begin_round(room());
        let batches = vec![found(0, 5, &[30]), found(2, 5, &[1]), found(4, 5, &[1])];
        gather.take(ShardId(0), batches);
        match gather.judge(now(0)) {
            Next::Answer(answer) => assert_eq!(sizes(&answer), [(0, 30), (2, 0), (4, 0)]),
            other => panic!("{other:?}"),
        }
        let mut gather = self::gather(1, 25, &[0, 2, 4]);
        gather.begin_round(room());
        let batches = vec![
            found(0, 5, &[10, 10]),
            found(2, 5, &[5, 1]),
            found(4, 5, &[1]),
        ];
        gather.take(ShardId(0), batches);
        match gather.judge(now(0)) {
            Next::Answer(answer) => assert_eq!(sizes(&answer), [(0, 20), (2, 5), (4, 0)]),
            other => panic!("{other:?}"),
        }
    }
}
