//! What consumers say to each other through a group: two small messages in bytes that the broker
//! otherwise passes on as they are.
//!
//! | bytes | type | field of a subscription or an assignment                                |
//! |------:|------|-------------------------------------------------------------------------|
//! |     2 | i16  | version                                                                 |
//! |     4 | i32  | count of topics: names, in an assignment each with counted partitions   |
//! |       |      | words of the assignor, and what later versions add                      |
//!
//! Source: Kafka's ConsumerProtocolSubscription and ConsumerProtocolAssignment.

use std::sync::Arc;

use super::wire::{DecodeError, Reader};

/// What members speak that are consumers.
pub(crate) const PROTOCOL_TYPE: &str = "consumer";

/// The topics of a subscription; `None` where it is something else.
pub(crate) fn subscribed_topics(bytes: &[u8], items_max: usize) -> Option<Vec<Arc<str>>> {
    let read = || -> Result<Vec<Arc<str>>, DecodeError> {
        let mut reader = Reader::new(bytes, false, items_max);
        reader.i16()?;
        let count = reader.count()?;
        (0..count).map(|_| reader.text().map(Arc::from)).collect()
    };
    read().ok()
}

/// The partitions of an assignment, by topic; `None` where it is something else.
#[must_use]
pub fn assigned_partitions(bytes: &[u8]) -> Option<Vec<(String, Vec<i32>)>> {
    let read = || -> Result<Vec<(String, Vec<i32>)>, DecodeError> {
        let mut reader = Reader::new(bytes, false, usize::MAX);
        reader.i16()?;
        let count = reader.count()?;
        let topics = (0..count).map(|_| {
            let topic = reader.text()?.to_owned();
            let count = reader.count()?;
            let partitions = (0..count).map(|_| reader.i32());
            Ok((topic, partitions.collect::<Result<_, DecodeError>>()?))
        });
        topics.collect()
    };
    read().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_and_assignments_are_read_and_cuts_are_not() {
        let subscription = [0, 1, 0, 0, 0, 1, 0, 1, b't', 0xff, 0xff, 0xff, 0xff];
        let topics = subscribed_topics(&subscription, 10).expect("good");
        assert_eq!(topics, [Arc::from("t")]);
        let assignment = [
            0, 0, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4,
        ];
        let topics = assigned_partitions(&assignment).expect("good");
        assert_eq!(topics, [("t".to_owned(), vec![3, 4])]);
        for end in 0..assignment.len() {
            assert_eq!(assigned_partitions(&assignment[..end]), None, "{end}");
        }
        for end in 0..9 {
            assert_eq!(subscribed_topics(&subscription[..end], 10), None, "{end}");
        }
        let huge = [0, 0, 0x7f, 0xff, 0xff, 0xff, 0];
        assert_eq!(subscribed_topics(&huge, 10), None);
        assert_eq!(assigned_partitions(&huge), None);
    }
}
