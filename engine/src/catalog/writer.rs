//! The catalog's one writer, on shard 0.
//!
//! A request is judged, its change appended to shard 0's log, and only once durable applied there
//! and sent to every other shard. It is answered when every shard has it, so a client that got its
//! answer finds the change whichever shard it asks next. One change is under way at a time: it is
//! judged against a catalog that holds all the earlier ones.

use std::collections::VecDeque;
use std::sync::Arc;

use millrace_storage::units::ShardId;
use rand_core::SeedableRng;
use rand_pcg::Pcg64Mcg;

use super::change::{CatalogChange, Operation};
use super::judge::judge;
use super::{Catalog, CatalogEpoch};
use crate::command::{CatalogRequest, RequestId};
use crate::event::{CatalogAnswer, Refusal};
use crate::limits::{EngineConfig, PRODUCER_ID_BLOCK};

/// What the writer is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// A client's change.
    Write(RequestId, CatalogRequest),
    /// A shard's next block of producer ids.
    ProducerIds(ShardId),
}

/// What the writer tells whoever asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The change is durable and every shard has it.
    Written(RequestId, Vec<Result<CatalogAnswer, Refusal>>),
    /// Ids from `first`, [`PRODUCER_ID_BLOCK`] of them, are the shard's alone.
    ProducerIds { to: ShardId, first: i64 },
}

/// The writer's state.
#[derive(Debug)]
pub(crate) struct CatalogWriter {
    /// Not judged yet. At most `catalog_queue_max`.
    queue: VecDeque<Demand>,
    /// The one change under way.
    under_way: Option<UnderWay>,
    /// Answers in order, each waiting for every shard to have its epoch.
    spreading: VecDeque<(CatalogEpoch, Answer)>,
    /// The epoch that each shard has, by shard number. Monotone.
    held: Vec<CatalogEpoch>,
    random: Pcg64Mcg,
}

#[derive(Debug)]
struct UnderWay {
    change: Arc<CatalogChange>,
    answer: Answer,
    /// Whether the log has taken it: until then it is offered again.
    appended: bool,
}

impl CatalogWriter {
    /// A writer for `shards` shards that all have `epoch`.
    pub(crate) fn new(epoch: CatalogEpoch, shards: u16, seed: u64) -> Self {
        assert!(shards > 0, "a broker has a shard");
        Self {
            queue: VecDeque::new(),
            under_way: None,
            spreading: VecDeque::new(),
            held: vec![epoch; usize::from(shards)],
            // The epoch goes in so that a later life with the same seed draws other numbers.
            random: Pcg64Mcg::seed_from_u64(seed ^ epoch.0.rotate_left(32)),
        }
    }

    /// Takes a demand into the queue.
    pub(crate) fn demand(&mut self, demand: Demand, queue_max: usize) -> Result<(), Refusal> {
        // Blocks of producer ids are asked for once a shard at most, so they need no bound.
        let bounded = matches!(demand, Demand::Write(..));
        if bounded && self.queue.len() >= queue_max {
            return Err(Refusal::Busy("limits.catalog_queue_max"));
        }
        self.queue.push_back(demand);
        Ok(())
    }

    /// The change to append next, if one is ready and none is under way. Offered again until
    /// [`Self::note_appended`].
    pub(crate) fn poll_append(
        &mut self,
        catalog: &Catalog,
        config: &EngineConfig,
    ) -> Option<Arc<CatalogChange>> {
        while self.under_way.is_none() {
            let demand = self.queue.pop_front()?;
            self.start(demand, catalog, config);
        }
        let offered = self.under_way.as_ref().filter(|change| !change.appended)?;
        Some(Arc::clone(&offered.change))
    }

    fn start(&mut self, demand: Demand, catalog: &Catalog, config: &EngineConfig) {
        let (operations, answer) = match demand {
            Demand::Write(request, asked) => {
                let shards = u16::try_from(self.held.len()).expect("shards are numbered by u16");
                let decision = judge(catalog, config, shards, &mut self.random, &asked);
                let answer = Answer::Written(request, decision.answers);
                (decision.operations, answer)
            }
            Demand::ProducerIds(to) => {
                let first = catalog.next_producer();
                let next = first + PRODUCER_ID_BLOCK;
                let reserve = vec![Operation::ProducerIdsReserved { next }];
                (reserve, Answer::ProducerIds { to, first })
            }
        };
        if operations.is_empty() {
            // Judged against this epoch: whoever hears of it may look for it in any shard.
            self.spreading.push_back((catalog.epoch(), answer));
            return;
        }
        let change = CatalogChange {
            epoch: CatalogEpoch(catalog.epoch().0 + 1),
            operations,
        };
        self.under_way = Some(UnderWay {
            change: Arc::new(change),
            answer,
            appended: false,
        });
    }

    /// The log has taken the change that was offered.
    pub(crate) fn note_appended(&mut self) {
        let change = self.under_way.as_mut().expect("a change was offered");
        assert!(!change.appended, "a change is appended once");
        change.appended = true;
    }

    /// The log will never take the change that was offered: ends it with `refusal`.
    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        let refused = self.under_way.take().expect("a change was offered");
        assert!(!refused.appended, "what was appended cannot be refused");
        let Answer::Written(request, mut answers) = refused.answer else {
            unreachable!("a block of producer ids fits any log");
        };
        for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
            *answer = Err(refusal.clone());
        }
        let before = CatalogEpoch(refused.change.epoch.0 - 1);
        let answer = Answer::Written(request, answers);
        self.spreading.push_back((before, answer));
    }

    /// The change under way is durable: apply it and send it to every other shard.
    pub(crate) fn note_durable(&mut self) -> Arc<CatalogChange> {
        let done = self.under_way.take().expect("a change was under way");
        assert!(done.appended, "only what was appended becomes durable");
        self.spreading.push_back((done.change.epoch, done.answer));
        done.change
    }

    /// `shard` has every change up to `epoch`.
    pub(crate) fn note_held(&mut self, shard: ShardId, epoch: CatalogEpoch) {
        let held = &mut self.held[usize::from(shard.0)];
        assert!(*held <= epoch, "catalog epochs rise");
        *held = epoch;
    }

    /// The next answer that may go out.
    pub(crate) fn poll_answer(&mut self) -> Option<Answer> {
        let everywhere = *self.held.iter().min().expect("a broker has a shard");
        let (epoch, _) = self.spreading.front()?;
        if *epoch > everywhere {
            return None;
        }
        self.spreading.pop_front().map(|(_, answer)| answer)
    }

    /// The change that is in the log but not in any catalog yet: a snapshot must carry it.
    pub(crate) fn appended(&self) -> Option<&CatalogChange> {
        let change = self.under_way.as_ref().filter(|change| change.appended)?;
        Some(&change.change)
    }

    /// Ends everything: the log is poisoned. Returns the requests that now have no answer.
    pub(crate) fn abandon(&mut self) -> Vec<RequestId> {
        let waiting = self.queue.drain(..).filter_map(|demand| match demand {
            Demand::Write(request, _) => Some(request),
            Demand::ProducerIds(_) => None,
        });
        let mut requests: Vec<RequestId> = waiting.collect();
        if let Some(change) = self.under_way.take()
            && let Answer::Written(request, _) = change.answer
        {
            requests.push(request);
        }
        requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{ConnectionId, NewTopic};

    fn write(sequence: u64, name: &str) -> Demand {
        let request = RequestId {
            origin: ShardId(0),
            connection: ConnectionId::CONTROL,
            sequence,
        };
        let topics = vec![NewTopic {
            name: name.to_owned(),
            partitions: None,
            homes: Vec::new(),
            config: Vec::new(),
        }];
        let validate_only = false;
        Demand::Write(
            request,
            CatalogRequest::CreateTopics {
                topics,
                validate_only,
            },
        )
    }

    struct Bench {
        catalog: Catalog,
        config: EngineConfig,
        writer: CatalogWriter,
    }

    impl Bench {
        fn new(shards: u16) -> Self {
            Self {
                catalog: Catalog::default(),
                config: EngineConfig::default(),
                writer: CatalogWriter::new(CatalogEpoch(0), shards, 5),
            }
        }

        fn offered(&mut self) -> Option<Arc<CatalogChange>> {
            self.writer.poll_append(&self.catalog, &self.config)
        }

        fn make_durable(&mut self) {
            let change = self.writer.note_durable();
            self.catalog.apply(&change).expect("fits");
            self.writer.note_held(ShardId(0), change.epoch);
        }
    }

    #[test]
    fn an_answer_waits_for_durability_and_for_every_shard() {
        let mut bench = Bench::new(2);
        assert_eq!(bench.writer.demand(write(1, "a"), 9), Ok(()));
        let change = bench.offered().expect("ready");
        assert_eq!(
            bench.offered(),
            Some(Arc::clone(&change)),
            "offered until taken"
        );
        assert!(bench.writer.appended().is_none());
        bench.writer.note_appended();
        assert_eq!(bench.writer.appended(), Some(&*change));
        assert_eq!(bench.offered(), None);
        assert_eq!(bench.writer.poll_answer(), None, "not durable");
        bench.make_durable();
        assert_eq!(bench.writer.poll_answer(), None, "shard 1 does not have it");
        bench.writer.note_held(ShardId(1), CatalogEpoch(1));
        assert!(matches!(
            bench.writer.poll_answer(),
            Some(Answer::Written(request, answers)) if request.sequence == 1 && answers[0].is_ok()
        ));
        assert_eq!(bench.writer.poll_answer(), None);
    }

    #[test]
    fn the_next_request_sees_the_one_before_and_its_refusal_waits_for_it() {
        let mut bench = Bench::new(2);
        for sequence in 1..=2 {
            assert_eq!(bench.writer.demand(write(sequence, "a"), 9), Ok(()));
        }
        bench.offered().expect("ready");
        bench.writer.note_appended();
        bench.make_durable();
        assert_eq!(bench.offered(), None, "the topic exists");
        assert_eq!(bench.writer.poll_answer(), None);
        bench.writer.note_held(ShardId(1), CatalogEpoch(1));
        assert!(bench.writer.poll_answer().is_some());
        assert!(matches!(
            bench.writer.poll_answer(),
            Some(Answer::Written(_, answers)) if answers[0].is_err()
        ));
    }

    #[test]
    fn blocks_of_producer_ids_do_not_overlap() {
        let mut bench = Bench::new(1);
        let mut firsts = Vec::new();
        for to in [ShardId(0), ShardId(3)] {
            assert_eq!(bench.writer.demand(Demand::ProducerIds(to), 0), Ok(()));
            bench.offered().expect("ready");
            bench.writer.note_appended();
            bench.make_durable();
            match bench.writer.poll_answer() {
                Some(Answer::ProducerIds {
                    to: answered,
                    first,
                }) if answered == to => {
                    firsts.push(first);
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        assert_eq!(firsts, [0, PRODUCER_ID_BLOCK]);
    }

    #[test]
    fn the_queue_is_bounded_and_abandoned_whole() {
        let mut bench = Bench::new(1);
        assert_eq!(bench.writer.demand(write(1, "a"), 1), Ok(()));
        assert_eq!(
            bench.writer.demand(write(2, "b"), 1),
            Err(Refusal::Busy("limits.catalog_queue_max"))
        );
        bench.offered().expect("ready");
        assert_eq!(bench.writer.demand(write(3, "c"), 1), Ok(()));
        let abandoned = bench.writer.abandon();
        assert_eq!(abandoned.len(), 2);
        assert_eq!(bench.offered(), None);
    }
}
