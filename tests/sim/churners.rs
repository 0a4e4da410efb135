//! Clients of the topic that comes and goes: one that creates, alters and deletes it, and others
//! that write and read it meanwhile.

use std::collections::BTreeMap;

use millrace_storage::testing::Dice;

use crate::batches::{batch, compressed};
use crate::churn::{CHURNED, CHURNED_PARTITIONS, Churn, Presence};
use crate::failure::{Checked, Failure, ensure};
use crate::history::History;
use crate::kafka::{self, FetchFrom, Reply};

/// Creates the topic, changes its retention and deletes it, again and again; at last it is there.
#[derive(Debug)]
pub(crate) struct Admin {
    deletions_left: u32,
    /// What is to be done, or being asked for; none when all is done.
    step: Option<Step>,
    /// The request under way.
    waits_for: Option<i32>,
    /// The step was asked for before, with an unknown or a bad outcome.
    is_retry: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Alter,
    Delete,
}

/// `retention.bytes` of the topic when it is created, and after it was altered: little enough
/// that records go.
const RETENTION_BYTES: [&str; 2] = ["30000", "6000"];
/// A position that has to be asked for.
const LOST: i64 = -1;
/// One chance in so many to go on.
const PATIENCE: u32 = 5;

impl Admin {
    pub(crate) fn new(deletions: u32) -> Self {
        Self {
            deletions_left: deletions,
            step: Some(Step::Create),
            waits_for: None,
            is_retry: false,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.step.is_none()
    }

    pub(crate) fn disconnected(&mut self, churn: &mut Churn) {
        if self.waits_for.take().is_some() {
            self.is_retry = true;
            if self.step == Some(Step::Delete) {
                churn.abandon_deletion();
            }
        }
    }

    pub(crate) fn next_request(
        &mut self,
        correlation: i32,
        dice: &mut Dice,
        churn: &mut Churn,
    ) -> Option<Vec<u8>> {
        let step = self.step?;
        if self.waits_for.is_some() || !dice.one_in(PATIENCE) {
            return None;
        }
        self.waits_for = Some(correlation);
        let [first, then] = RETENTION_BYTES;
        Some(match step {
            Step::Create => {
                let settings = [("retention.bytes", first)];
                kafka::create_topic(correlation, CHURNED, CHURNED_PARTITIONS, &settings)
            }
            Step::Alter => kafka::alter_topic(correlation, CHURNED, ("retention.bytes", then)),
            Step::Delete => {
                if !self.is_retry {
                    churn.ask_deletion();
                }
                kafka::delete_topic(correlation, CHURNED)
            }
        })
    }

    pub(crate) fn receive(
        &mut self,
        correlation: i32,
        reply: &mut Reply<'_>,
        churn: &mut Churn,
    ) -> Checked<()> {
        ensure!(
            self.waits_for.take() == Some(correlation),
            "reply {correlation} to no question"
        );
        let step = self.step.expect("something was asked");
        let error = match step {
            Step::Create => reply.topic_created(),
            Step::Alter => reply.topic_altered(),
            Step::Delete => reply.topic_deleted(),
        };
        self.is_retry = true;
        let next = match (step, error) {
            (Step::Create, Some(0 | kafka::TOPIC_EXISTS)) => {
                churn.created();
                Some(Step::Alter)
            }
            (Step::Alter, Some(0)) => {
                churn.created();
                (self.deletions_left > 0).then_some(Step::Delete)
            }
            (Step::Delete, Some(0 | kafka::UNKNOWN_TOPIC)) => {
                churn.deleted();
                self.deletions_left -= 1;
                Some(Step::Create)
            }
            // An abandoned deletion came after the creation.
            (Step::Alter, Some(kafka::UNKNOWN_TOPIC)) if churn.presence().is_none() => {
                Some(Step::Create)
            }
            (_, Some(kafka::UNKNOWN_TOPIC)) => {
                return Err(Failure(
                    "the topic is gone, and nobody deleted it".to_owned(),
                ));
            }
            (_, Some(_)) => return Ok(()),
            (_, None) => return Err(Failure("a reply is cut short".to_owned())),
        };
        (self.step, self.is_retry) = (next, false);
        Ok(())
    }
}

/// Writes and reads the topic, one request after the other.
#[derive(Debug, Default)]
pub(crate) struct Churner {
    sends_left: u32,
    /// Next offset, by partition.
    positions: BTreeMap<i32, i64>,
    /// The request under way, and its correlation id.
    asked: Option<(i32, Asked)>,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Produce {
        id: u64,
        presence: Option<Presence>,
    },
    Fetch {
        partition: i32,
        /// Deletions answered when it was asked.
        done: u64,
    },
    Start {
        partition: i32,
    },
}

impl Churner {
    pub(crate) fn new(sends: u32) -> Self {
        Self {
            sends_left: sends,
            ..Self::default()
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        let sends = matches!(self.asked, Some((_, Asked::Produce { .. })));
        self.sends_left == 0 && !sends
    }

    pub(crate) fn disconnected(&mut self) {
        self.asked = None;
    }

    pub(crate) fn next_request(
        &mut self,
        correlation: i32,
        dice: &mut Dice,
        history: &mut History,
    ) -> Option<Vec<u8>> {
        if self.asked.is_some() {
            return None;
        }
        let partitions = CHURNED_PARTITIONS.unsigned_abs();
        let partition = i32::try_from(dice.below(partitions.into())).ok()?;
        if self.sends_left > 0 && dice.coin() {
            return Some(self.send(correlation, partition, dice, history));
        }
        let offset = *self.positions.entry(partition).or_default();
        if offset == LOST {
            self.asked = Some((correlation, Asked::Start { partition }));
            return Some(kafka::list_offset(correlation, CHURNED, partition, -2));
        }
        let done = history.churn.deletions();
        self.asked = Some((correlation, Asked::Fetch { partition, done }));
        let from = [FetchFrom { partition, offset }];
        Some(kafka::fetch(
            correlation,
            CHURNED,
            &from,
            *dice.pick(&[0, 5]),
        ))
    }

    fn send(
        &mut self,
        correlation: i32,
        partition: i32,
        dice: &mut Dice,
        history: &mut History,
    ) -> Vec<u8> {
        self.sends_left -= 1;
        let records = u32::try_from(dice.between(1, 3)).expect("few");
        let id = history.churn.begin(partition, records);
        let presence = history.churn.presence();
        self.asked = Some((correlation, Asked::Produce { id, presence }));
        let value_bytes = *dice.pick(&[16, 3_000, 9_000]);
        let mut bytes = batch(id, records, value_bytes, history.time_ms());
        if dice.coin() {
            bytes = compressed(&bytes);
        }
        kafka::produce(correlation, CHURNED, partition, &bytes)
    }

    /// Takes a reply. What it leads to is asked next.
    pub(crate) fn receive(
        &mut self,
        correlation: i32,
        reply: &mut Reply<'_>,
        history: &mut History,
    ) -> Checked<()> {
        let asked = self.asked.take().filter(|(asked, _)| *asked == correlation);
        let Some((_, asked)) = asked else {
            return Err(Failure(format!("reply {correlation} to no question")));
        };
        match asked {
            Asked::Produce { id, presence } => match reply.produced() {
                Some((0, base)) => history.churn.acknowledge(id, base),
                Some((kafka::UNKNOWN_TOPIC, _)) => {
                    ensure!(
                        presence.is_none() || history.churn.presence() != presence,
                        "the topic was there all the time, and a produce did not find it"
                    );
                    Ok(())
                }
                Some(_) => {
                    history.fail();
                    Ok(())
                }
                None => Err(Failure("a produce reply is cut short".to_owned())),
            },
            Asked::Fetch { partition, done } => {
                self.take_fetched(partition, done, reply, &mut history.churn)
            }
            Asked::Start { partition } => {
                if let Some((0, start)) = reply.listed_offset() {
                    self.positions.insert(partition, start);
                }
                Ok(())
            }
        }
    }

    fn take_fetched(
        &mut self,
        partition: i32,
        done: u64,
        reply: &mut Reply<'_>,
        churn: &mut Churn,
    ) -> Checked<()> {
        let fetched = reply.fetched();
        let Some([fetched]) = fetched.as_deref() else {
            return Err(Failure(format!("a fetch gave {fetched:?}")));
        };
        let position = self.positions.entry(partition).or_default();
        match fetched.error {
            0 => *position = churn.poll(partition, (*position, done), fetched.records)?,
            // Retention went past it, or it is another topic of that name.
            kafka::OFFSET_OUT_OF_RANGE => *position = LOST,
            _ => {}
        }
        Ok(())
    }
}
