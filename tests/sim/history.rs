//! What clients saw, and the rules that a Kafka log must keep for them whatever happened.
//!
//! Every record carries the id of the send that brought it, unique in the run. The rules, after
//! Jepsen's log checks: a (partition, offset) has one value for ever; an acknowledged send is
//! there, at the offset that the acknowledgement named; nothing is there that nobody sent; no send
//! is there twice; the sends of one line keep their order; offsets have no gaps; what a client
//! once was told is readable stays readable; who asks by time is told the first record of then.

use std::collections::{BTreeMap, BTreeSet};

use crate::batches::{Seen, WALL_MS_START, batches_of, record_ms};
use crate::churn::Churn;
use crate::coordination::Coordination;
use crate::failure::{Checked, ensure};

/// Names a send in a run; ascending for each client and so in each line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SendId(pub(crate) u64);

/// A sequence of sends whose order the broker keeps: those of one connection, or of one idempotent
/// producer whatever its connections. What two connections carry may overtake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Line {
    pub(crate) client: usize,
    pub(crate) connection: u64,
}

/// What a client did.
#[derive(Clone, Copy, Debug)]
struct Send {
    line: Line,
    partition: i32,
    records: u32,
    /// Time of its first record, milliseconds since the Unix epoch.
    first_ms: i64,
    acknowledged: bool,
}

/// Which record is the first at or after a time?
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) partition: i32,
    pub(crate) time_ms: i64,
    /// [`History::known_end`] when it was asked: everything below was readable.
    pub(crate) known_end: i64,
}

/// One run's clients, as they see it.
#[derive(Debug, Default)]
pub(crate) struct History {
    sends: BTreeMap<SendId, Send>,
    /// The value of each offset that anyone was told about: send and number in it.
    values: BTreeMap<(i32, i64), (SendId, u32)>,
    /// Highest high watermark that anyone was told, by partition.
    readable: BTreeMap<i32, i64>,
    /// What was answered to questions by time: offset and time, if there was a record.
    found: Vec<(Question, Option<(i64, i64)>)>,
    next_id: u64,
    /// The topic that comes and goes.
    pub(crate) churn: Churn,
    /// The groups of consumers.
    pub(crate) groups: Coordination,
    pub(crate) acknowledged: u64,
    pub(crate) failed: u64,
    pub(crate) polled: u64,
    /// Questions by time that were answered with a record.
    pub(crate) sought: u64,
}

impl History {
    /// A client is about to send.
    pub(crate) fn begin(
        &mut self,
        line: Line,
        partition: i32,
        (records, first_ms): (u32, i64),
    ) -> SendId {
        self.next_id += 1;
        let id = SendId(self.next_id);
        let send = Send {
            line,
            partition,
            records,
            first_ms,
            acknowledged: false,
        };
        self.sends.insert(id, send);
        id
    }

    /// About when the next send is made: rising through the run, milliseconds.
    pub(crate) fn time_ms(&self) -> i64 {
        WALL_MS_START + 10 * i64::try_from(self.next_id).expect("small runs")
    }

    /// A send was answered with success.
    pub(crate) fn acknowledge(&mut self, id: SendId, base: i64) -> Checked<()> {
        let send = self.sends.get_mut(&id).expect("begun");
        ensure!(base >= 0, "send {id:?} was acknowledged at offset {base}");
        send.acknowledged = true;
        self.acknowledged += 1;
        let send = *send;
        for number in 0..send.records {
            self.see(send.partition, base + i64::from(number), (id, number))?;
        }
        Ok(())
    }

    /// A send was refused, or its outcome will never be known.
    pub(crate) fn fail(&mut self) {
        self.failed += 1;
    }

    fn see(&mut self, partition: i32, offset: i64, value: (SendId, u32)) -> Checked<()> {
        let before = self.values.insert((partition, offset), value);
        ensure!(
            before.is_none_or(|before| before == value),
            "offset {offset} of partition {partition} was {before:?} and became {value:?}"
        );
        Ok(())
    }

    /// A fetch from `from` brought `records`; returns the offset to go on from.
    pub(crate) fn poll(
        &mut self,
        partition: i32,
        from: i64,
        high_watermark: i64,
        records: &[u8],
    ) -> Checked<i64> {
        let mut next = from;
        for Seen { offset, id, number } in batches_of(records)? {
            // The first batch may begin below: it is sent whole.
            if offset < from {
                continue;
            }
            ensure!(
                offset == next,
                "partition {partition}: offset {offset} came, {next} was due"
            );
            ensure!(
                offset < high_watermark,
                "partition {partition}: {offset} is not readable yet"
            );
            let id = SendId(id);
            let send = self.sends.get(&id);
            ensure!(
                send.is_some_and(|send| send.partition == partition && number < send.records),
                "offset {offset} of partition {partition} holds {id:?}, which nobody sent there"
            );
            self.see(partition, offset, (id, number))?;
            self.polled += 1;
            next = offset + 1;
        }
        let readable = self.readable.entry(partition).or_default();
        *readable = (*readable).max(next);
        Ok(next)
    }

    /// A question by time was answered. It is judged when the whole log is known.
    pub(crate) fn find(&mut self, question: Question, answer: Option<(i64, i64)>) {
        self.sought += u64::from(answer.is_some());
        self.found.push((question, answer));
    }

    /// Nothing before the answer fits, and the answer does.
    fn check_found(&self, partition: i32, log: &[Seen]) -> Checked<()> {
        let time_of = |seen: &Seen| record_ms(self.sends[&SendId(seen.id)].first_ms, seen.number);
        let found = self.found.iter();
        for (question, answer) in found.filter(|(question, _)| question.partition == partition) {
            let first = log.iter().find(|seen| time_of(seen) >= question.time_ms);
            let first = first.map(|seen| (seen.offset, time_of(seen)));
            let is_late = |(offset, _)| offset >= question.known_end;
            ensure!(
                *answer == first || (answer.is_none() && first.is_none_or(is_late)),
                "{question:?} was answered with {answer:?}, and the first is {first:?}"
            );
        }
        Ok(())
    }

    /// The offset after the last one of `partition` that anyone was told about.
    pub(crate) fn known_end(&self, partition: i32) -> i64 {
        let known = self.values.range((partition, 0)..(partition + 1, 0));
        known.last().map_or(0, |((_, offset), _)| offset + 1)
    }

    /// `log` is all that a partition held at some time, as a client reads it from 0 on; everything
    /// below its end must be in it. Only sends without an answer may come later.
    pub(crate) fn check_drained(&self, partition: i32, log: &[Seen]) -> Checked<()> {
        for (at, seen) in log.iter().enumerate() {
            ensure!(
                seen.offset == at as i64,
                "partition {partition} has a gap before {}",
                seen.offset
            );
        }
        self.check_values(partition, log)?;
        self.check_found(partition, log)?;
        self.check_order(partition, log)
    }

    /// Whatever `log` holds, a log's records from 0 on, is what was there before.
    pub(crate) fn check_values(&self, partition: i32, log: &[Seen]) -> Checked<()> {
        let end = i64::try_from(log.len()).expect("small runs");
        for ((_, offset), value) in self.values.range((partition, 0)..(partition, end)) {
            let seen = log[usize::try_from(*offset).expect("not negative")];
            ensure!(
                (SendId(seen.id), seen.number) == *value,
                "offset {offset} of partition {partition} was {value:?} and is {seen:?}"
            );
        }
        Ok(())
    }

    /// Each send at most once, whole, and in its line's order.
    fn check_order(&self, partition: i32, log: &[Seen]) -> Checked<()> {
        let mut last_of_line: BTreeMap<Line, (SendId, u32)> = BTreeMap::new();
        let mut present = BTreeSet::new();
        for seen in log {
            let (id, number) = (SendId(seen.id), seen.number);
            let line = self.sends[&id].line;
            ensure!(
                present.insert((id, number)),
                "{id:?} is twice in partition {partition}"
            );
            let before = last_of_line.insert(line, (id, number));
            ensure!(
                before.is_none_or(|before| before < (id, number)),
                "partition {partition}: {line:?} sent {id:?} before {before:?}"
            );
        }
        for (id, send) in self
            .sends
            .iter()
            .filter(|(_, send)| send.partition == partition)
        {
            let there = (0..send.records).filter(|number| present.contains(&(*id, *number)));
            let there = there.count();
            let whole = there == send.records as usize;
            ensure!(
                whole || (there == 0 && !send.acknowledged),
                "{id:?} is there in part: {there}"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batches::batch;
    use millrace_storage::record::stamp;
    use millrace_storage::units::{LeaderEpoch, Offset};

    fn stored(id: SendId, records: u32, base: u64) -> Vec<u8> {
        let mut bytes = batch(id.0, records, 40, WALL_MS_START);
        stamp(&mut bytes, Offset(base), LeaderEpoch(0), None);
        bytes
    }

    fn drained(parts: &[Vec<u8>]) -> Vec<Seen> {
        batches_of(&parts.concat()).expect("good batches")
    }

    #[test]
    fn each_broken_rule_is_found() {
        let mut history = History::default();
        let line = Line {
            client: 0,
            connection: 0,
        };
        let first = history.begin(line, 0, (2, WALL_MS_START));
        let second = history.begin(line, 0, (1, WALL_MS_START + 10));
        history.acknowledge(first, 0).expect("fits");
        let good = [stored(first, 2, 0), stored(second, 1, 2)];
        history.check_drained(0, &drained(&good)).expect("in order");
        history
            .check_drained(0, &drained(&good[..1]))
            .expect("the second was never answered");
        let wrong: [&[Vec<u8>]; 4] = [
            &[],
            &[stored(second, 1, 0), stored(first, 2, 1)],
            &[stored(first, 2, 0), stored(second, 1, 3)],
            &[stored(first, 2, 0), stored(first, 2, 2)],
        ];
        for wrong in wrong {
            assert!(
                history.check_drained(0, &drained(wrong)).is_err(),
                "{wrong:?}"
            );
        }
        let question = |time_ms| Question {
            partition: 0,
            time_ms: WALL_MS_START + time_ms,
            known_end: 3,
        };
        history.find(question(3), Some((1, WALL_MS_START + 3)));
        history.find(question(11), None);
        history
            .check_drained(0, &drained(&good))
            .expect("good answers");
        assert!(
            history.acknowledge(second, 1).is_err(),
            "offset 1 has a value already"
        );
        let stranger = stored(SendId(99), 1, 0);
        assert!(history.poll(0, 0, 1, &stranger).is_err());
    }

    #[test]
    fn a_wrong_answer_to_a_question_by_time_is_found() {
        let mut history = History::default();
        let line = Line {
            client: 0,
            connection: 0,
        };
        let id = history.begin(line, 0, (2, WALL_MS_START));
        history.acknowledge(id, 0).expect("fits");
        let log = drained(&[stored(id, 2, 0)]);
        for wrong in [None, Some((0, WALL_MS_START)), Some((1, WALL_MS_START))] {
            let question = Question {
                partition: 0,
                time_ms: WALL_MS_START + 1,
                known_end: 2,
            };
            history.found = vec![(question, wrong)];
            assert!(history.check_drained(0, &log).is_err(), "{wrong:?}");
            history.found = vec![(question, Some((1, WALL_MS_START + 3)))];
            history.check_drained(0, &log).expect("the right one");
        }
    }
}
