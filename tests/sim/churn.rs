//! What may be seen of a topic that is deleted and created again, and that drops its oldest
//! records.
//!
//! Deletions are numbered. A record that was acknowledged before a deletion was asked for is gone
//! once that deletion was answered, for whoever asks after that; one that was begun and
//! acknowledged between two of them stays until the second, unless retention dropped it. Each
//! record is at one offset, and a read has no gaps.

use std::collections::BTreeMap;

use crate::batches::{Seen, batches_of};
use crate::failure::{Checked, ensure};

/// The topic's name.
pub(crate) const CHURNED: &str = "churned";
/// Its partitions.
pub(crate) const CHURNED_PARTITIONS: i32 = 2;

/// One run's knowledge of the topic.
#[derive(Debug, Default)]
pub(crate) struct Churn {
    /// By id, which is unique among this topic's sends.
    sends: BTreeMap<u64, Sent>,
    /// Where each record was seen: send and number in it.
    places: BTreeMap<(u64, u32), i64>,
    /// Deletions that anyone asked for.
    asked: u64,
    /// Deletions that were answered. Equal to `asked`, or one less.
    done: u64,
    /// The topic was created since the last deletion.
    is_created: bool,
    /// A deletion was abandoned while this machine runs: it may still come.
    is_loose: bool,
    next_id: u64,
    /// Final logs that begin above 0.
    pub(crate) dropped: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    partition: i32,
    records: u32,
    /// Deletions done when it was begun.
    begun: u64,
    acknowledged: Option<Acknowledged>,
}

#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    base: i64,
    /// Deletions asked for by then.
    asked: u64,
    /// No abandoned deletion can have hit it.
    is_certain: bool,
}

/// Names a time at which the topic was there for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Presence(u64);

impl Churn {
    /// Somebody begins to ask for a deletion; asking for it again is the same one.
    pub(crate) fn ask_deletion(&mut self) {
        self.asked += 1;
        self.is_created = false;
    }

    pub(crate) fn deleted(&mut self) {
        self.done = self.asked;
    }

    pub(crate) fn created(&mut self) {
        self.is_created = true;
    }

    /// The connection that a deletion was asked for on is gone.
    pub(crate) fn abandon_deletion(&mut self) {
        self.is_loose = true;
    }

    /// The machine is gone, and what it was asked with it. An abandoned deletion may have come.
    pub(crate) fn machine_stopped(&mut self) {
        self.is_created &= !self.is_loose;
        self.is_loose = false;
    }

    /// How many deletions were answered.
    pub(crate) fn deletions(&self) -> u64 {
        self.done
    }

    /// Whether the topic is there for certain. Equal answers: it was there all the time.
    pub(crate) fn presence(&self) -> Option<Presence> {
        (self.is_created && !self.is_loose).then_some(Presence(self.asked))
    }

    /// A client is about to send.
    pub(crate) fn begin(&mut self, partition: i32, records: u32) -> u64 {
        self.next_id += 1;
        let sent = Sent {
            partition,
            records,
            begun: self.done,
            acknowledged: None,
        };
        self.sends.insert(self.next_id, sent);
        self.next_id
    }

    /// A send was answered with success.
    pub(crate) fn acknowledge(&mut self, id: u64, base: i64) -> Checked<()> {
        let (asked, is_certain) = (self.asked, !self.is_loose);
        let sent = self.sends.get_mut(&id).expect("begun");
        sent.acknowledged = Some(Acknowledged {
            base,
            asked,
            is_certain,
        });
        for number in 0..sent.records {
            let place = self.places.insert((id, number), base + i64::from(number));
            ensure!(
                place.is_none_or(|place| place == base + i64::from(number)),
                "record {number} of {id} is acknowledged at {base} and was seen at {place:?}"
            );
        }
        Ok(())
    }

    /// A fetch from `from`, asked when `done` deletions were answered, brought `records`; returns
    /// the offset to go on from.
    pub(crate) fn poll(
        &mut self,
        partition: i32,
        (from, done): (i64, u64),
        records: &[u8],
    ) -> Checked<i64> {
        let mut next = from;
        for seen in batches_of(records)? {
            // The first batch may begin below: it is sent whole.
            if seen.offset < from {
                continue;
            }
            ensure!(
                seen.offset == next,
                "{CHURNED}-{partition}: offset {} came, {next} was due",
                seen.offset
            );
            self.see(partition, done, &seen)?;
            next += 1;
        }
        Ok(next)
    }

    fn see(&mut self, partition: i32, done: u64, seen: &Seen) -> Checked<()> {
        let sent = self.sends.get(&seen.id);
        let sent = sent.filter(|sent| sent.partition == partition && seen.number < sent.records);
        let Some(sent) = sent else {
            ensure!(
                false,
                "{CHURNED}-{partition} holds {seen:?}: nobody sent it"
            );
            return Ok(());
        };
        let gone = sent
            .acknowledged
            .is_some_and(|acknowledged| acknowledged.asked < done);
        ensure!(
            !gone,
            "{CHURNED}-{partition} holds {seen:?}, which deletion {done} took: {sent:?}"
        );
        let place = self.places.insert((seen.id, seen.number), seen.offset);
        ensure!(
            place.is_none_or(|place| place == seen.offset),
            "{CHURNED}-{partition} holds {seen:?}, which was at {place:?}"
        );
        Ok(())
    }

    /// `log` is all that a partition holds at the end, from `start` on.
    pub(crate) fn check_drained(
        &mut self,
        partition: i32,
        (start, end): (i64, i64),
        log: &[Seen],
    ) -> Checked<()> {
        self.dropped += u64::from(start > 0);
        ensure!(
            start < end || end == 0,
            "{CHURNED}-{partition} dropped its newest records before {end}"
        );
        for (offset, seen) in (start..end).zip(log) {
            ensure!(seen.offset == offset, "{seen:?} came at {offset}");
            self.see(partition, self.done, seen)?;
        }
        let held: BTreeMap<(u64, u32), i64> = log
            .iter()
            .map(|seen| ((seen.id, seen.number), seen.offset))
            .collect();
        for (id, sent) in self
            .sends
            .iter()
            .filter(|(_, sent)| sent.partition == partition)
        {
            let Some(acknowledged) = sent.acknowledged else {
                continue;
            };
            let is_kept = acknowledged.is_certain
                && acknowledged.asked == self.asked
                && sent.begun == self.asked
                && acknowledged.base >= start;
            let is_there = (0..sent.records).all(|number| held.contains_key(&(*id, number)));
            ensure!(
                is_there || !is_kept,
                "{CHURNED}-{partition} from {start} to {end} lost send {id}: {sent:?}"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batches::{WALL_MS_START, batch};
    use millrace_storage::record::stamp;
    use millrace_storage::units::{LeaderEpoch, Offset};

    fn stored(id: u64, base: u64) -> Vec<u8> {
        let mut bytes = batch(id, 1, 40, WALL_MS_START);
        stamp(&mut bytes, Offset(base), LeaderEpoch(0), None);
        bytes
    }

    #[test]
    fn what_a_deletion_took_must_not_come_back_and_what_it_did_not_must_stay() {
        let mut churn = Churn::default();
        churn.created();
        let old = churn.begin(0, 1);
        churn.acknowledge(old, 0).expect("fits");
        assert_eq!(churn.poll(0, (0, 0), &stored(old, 0)).ok(), Some(1));
        let before = churn.presence();
        churn.ask_deletion();
        assert_eq!(churn.poll(0, (0, 0), &stored(old, 0)).ok(), Some(1));
        churn.deleted();
        churn.created();
        assert!(before.is_some() && churn.presence() != before);
        assert!(churn.poll(0, (0, 1), &stored(old, 0)).is_err());
        let new = churn.begin(0, 1);
        churn.acknowledge(new, 0).expect("fits");
        assert!(churn.poll(0, (1, 1), &stored(new, 1)).is_err());
        assert!(churn.check_drained(0, (0, 0), &[]).is_err());
        churn.check_drained(0, (1, 2), &[]).expect("dropped");
    }
}
