//! Which leader epoch a partition was in when: how a reader learns that its offsets changed.
//!
//! An epoch begins only when an operator accepts a loss, so most partitions have the epoch 0 alone.

use millrace_storage::units::{LeaderEpoch, Offset};

use crate::codec::{CodecError, Decoder, Encoder};
use crate::event::Refusal;

/// The epochs of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EpochHistory {
    /// Each epoch with its first offset. Never empty; epochs strictly rise, offsets never fall.
    starts: Vec<(LeaderEpoch, Offset)>,
}

impl EpochHistory {
    /// A partition's first epoch.
    pub(crate) fn new() -> Self {
        Self {
            starts: vec![(LeaderEpoch(0), Offset(0))],
        }
    }

    /// The epoch of the next append.
    pub(crate) fn current(&self) -> LeaderEpoch {
        self.last().0
    }

    /// The epoch of the record at `offset`, or of the first that is remembered if that is later.
    pub(crate) fn of(&self, offset: Offset) -> LeaderEpoch {
        let above = self.starts.partition_point(|(_, start)| *start <= offset);
        self.starts[above.saturating_sub(1)].0
    }

    fn last(&self) -> (LeaderEpoch, Offset) {
        *self.starts.last().expect("a partition has an epoch")
    }

    /// Begins the next epoch at `start`.
    pub(crate) fn raise(&mut self, start: Offset) {
        let (epoch, before) = self.last();
        assert!(before <= start, "offsets never fall from epoch to epoch");
        self.starts.push((LeaderEpoch(epoch.0 + 1), start));
    }

    /// Notes a batch found in the log; its epoch may be one that only batches tell of.
    pub(crate) fn observe(&mut self, epoch: LeaderEpoch, base_offset: Offset) {
        if epoch > self.current() {
            self.starts.push((epoch, base_offset));
        }
    }

    /// Forgets the epochs that ended at or before `log_start`.
    pub(crate) fn trim(&mut self, log_start: Offset) {
        let ended = |pair: &[(LeaderEpoch, Offset)]| pair[1].1 <= log_start;
        let count = self
            .starts
            .windows(2)
            .take_while(|pair| ended(pair))
            .count();
        self.starts.drain(..count);
    }

    /// The largest epoch at or below `asked`, and the offset after its last record. An epoch below
    /// all that are remembered ended where the first of those begins; of one that has not begun
    /// nothing is known.
    pub(crate) fn end_of(
        &self,
        asked: LeaderEpoch,
        log_end: Offset,
    ) -> Option<(LeaderEpoch, Offset)> {
        if asked > self.current() {
            return None;
        }
        let above = self.starts.partition_point(|(epoch, _)| *epoch <= asked);
        let end = self.starts.get(above).map_or(log_end, |(_, start)| *start);
        let epoch = above.checked_sub(1).map_or(asked, |at| self.starts[at].0);
        Some((epoch, end))
    }

    /// Refuses a reader that believes in another epoch than the current one.
    pub(crate) fn check_reader(&self, believed: Option<LeaderEpoch>) -> Result<(), Refusal> {
        let current = self.current();
        match believed {
            Some(epoch) if epoch < current => Err(Refusal::FencedLeaderEpoch { current }),
            Some(epoch) if epoch > current => Err(Refusal::UnknownLeaderEpoch { current }),
            _ => Ok(()),
        }
    }

    pub(crate) fn encode(&self, out: &mut Encoder) {
        out.count(self.starts.len());
        for (epoch, start) in &self.starts {
            out.i32(epoch.0);
            out.u64(start.0);
        }
    }

    pub(crate) fn decode(input: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let count = input.count(12, "leader epochs")?;
        let starts: Vec<(LeaderEpoch, Offset)> = (0..count)
            .map(|_| {
                let epoch = LeaderEpoch(input.i32("a leader epoch")?);
                Ok((epoch, Offset(input.u64("an epoch's start")?)))
            })
            .collect::<Result<_, CodecError>>()?;
        let rising = starts.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1);
        if starts.is_empty() || !rising {
            return Err(CodecError::Invalid("leader epochs do not rise".into()));
        }
        Ok(Self { starts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> EpochHistory {
        let mut history = EpochHistory::new();
        history.raise(Offset(10));
        history.observe(LeaderEpoch(1), Offset(12));
        history.observe(LeaderEpoch(4), Offset(20));
        history
    }

    #[test]
    fn an_epoch_ends_where_the_next_begins() {
        let history = history();
        let end = |epoch| history.end_of(LeaderEpoch(epoch), Offset(30));
        assert_eq!(end(0), Some((LeaderEpoch(0), Offset(10))));
        assert_eq!(end(1), Some((LeaderEpoch(1), Offset(20))));
        assert_eq!(end(3), Some((LeaderEpoch(1), Offset(20))));
        assert_eq!(end(4), Some((LeaderEpoch(4), Offset(30))));
        assert_eq!(end(5), None);
    }

    #[test]
    fn a_record_is_of_the_epoch_that_began_last_before_it() {
        let mut history = history();
        for (offset, epoch) in [(0, 0), (9, 0), (10, 1), (19, 1), (20, 4), (99, 4)] {
            assert_eq!(history.of(Offset(offset)), LeaderEpoch(epoch), "{offset}");
        }
        history.trim(Offset(12));
        assert_eq!(history.of(Offset(3)), LeaderEpoch(1));
    }

    #[test]
    fn what_the_log_no_longer_holds_is_forgotten() {
        let mut history = history();
        history.trim(Offset(15));
        assert_eq!(
            history.end_of(LeaderEpoch(0), Offset(30)),
            Some((LeaderEpoch(0), Offset(10)))
        );
        history.trim(Offset(100));
        assert_eq!(history.starts, [(LeaderEpoch(4), Offset(20))]);
    }

    #[test]
    fn a_reader_of_another_epoch_is_refused() {
        let history = history();
        let current = LeaderEpoch(4);
        assert_eq!(history.check_reader(None), Ok(()));
        assert_eq!(history.check_reader(Some(current)), Ok(()));
        assert_eq!(
            history.check_reader(Some(LeaderEpoch(3))),
            Err(Refusal::FencedLeaderEpoch { current })
        );
        assert_eq!(
            history.check_reader(Some(LeaderEpoch(5))),
            Err(Refusal::UnknownLeaderEpoch { current })
        );
    }

    #[test]
    fn a_history_survives_a_round_trip_and_nonsense_is_refused() {
        let mut out = Encoder::default();
        history().encode(&mut out);
        let bytes = out.into_bytes();
        assert_eq!(
            EpochHistory::decode(&mut Decoder::new(&bytes)),
            Ok(history())
        );
        assert!(EpochHistory::decode(&mut Decoder::new(&[0; 4])).is_err());
        let mut falling = bytes;
        falling[4] = 9;
        assert!(EpochHistory::decode(&mut Decoder::new(&falling)).is_err());
    }
}
