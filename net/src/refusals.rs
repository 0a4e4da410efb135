//! Says in the log what is refused, and not every time.

use millrace_storage::units::{BootTime, Now};

use crate::session::Refused;

/// Refusals of one kind.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// Since the last line.
    count: u64,
    /// When the next line may be written.
    next: Option<BootTime>,
}

/// Between two lines, milliseconds.
const LINE_MS: u64 = 1_000;

impl Refusals {
    /// Notes one. How many to tell of, if it is time for a line.
    pub(crate) fn note(&mut self, now: Now) -> Option<u64> {
        self.count += 1;
        if self.next.is_some_and(|at| now.boot < at) {
            return None;
        }
        self.next = Some(now.boot.after_ms(LINE_MS));
        Some(std::mem::take(&mut self.count))
    }
}

/// What sessions refuse, by kind.
#[derive(Debug, Default)]
pub(crate) struct RequestRefusals([Refusals; Refused::COUNT]);

impl RequestRefusals {
    /// As [`Refusals::note`], of that kind.
    pub(crate) fn note(&mut self, now: Now, what: Refused) -> Option<u64> {
        self.0[what as usize].note(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_kind_keeps_another_out_of_the_log() {
        let mut refusals = RequestRefusals::default();
        let now = Now {
            boot: BootTime(5),
            wall_ms: 0,
        };
        assert_eq!(refusals.note(now, Refused::Creation), Some(1));
        assert_eq!(refusals.note(now, Refused::Creation), None);
        assert_eq!(refusals.note(now, Refused::Placement), Some(1));
    }

    #[test]
    fn the_first_is_told_at_once_and_the_others_by_their_number() {
        let mut refusals = Refusals::default();
        let mut now = Now {
            boot: BootTime(5),
            wall_ms: 0,
        };
        assert_eq!(refusals.note(now), Some(1));
        assert_eq!(refusals.note(now), None);
        assert_eq!(refusals.note(now), None);
        now.boot = now.boot.after_ms(LINE_MS);
        assert_eq!(refusals.note(now), Some(3));
    }
}
