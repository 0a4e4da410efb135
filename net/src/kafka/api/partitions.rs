//! Partitions as requests name them: by topic, and by index in it.

use super::groups::GroupTopic;
use crate::kafka::errors::ErrorCode;

/// Partitions of a request by topic, each with what became of it.
#[derive(Debug)]
pub(super) struct Partitions<T> {
    /// Each topic, and where its partitions end in `partitions`.
    topics: Vec<(GroupTopic, usize)>,
    /// Index, and what was found wrong at once.
    partitions: Results<T>,
}

impl<T> Default for Partitions<T> {
    fn default() -> Self {
        Self {
            topics: Vec::new(),
            partitions: Vec::new(),
        }
    }
}

impl<T> Partitions<T> {
    /// Begins with the next topic's partitions, as `push` adds them.
    pub(super) fn begin_topic(&mut self, topic: GroupTopic) {
        let end = self.partitions.len();
        self.topics.push((topic, end));
    }

    /// Adds a partition of the topic that was begun last.
    pub(super) fn push(&mut self, index: i32, result: Result<T, ErrorCode>) {
        self.partitions.push((index, result));
        let topic = self.topics.last_mut().expect("a topic was begun");
        topic.1 = self.partitions.len();
    }

    /// What is not wrong, in order.
    pub(super) fn good(&self) -> impl Iterator<Item = &T> {
        let results = self.partitions.iter();
        results.filter_map(|(_, result)| result.as_ref().ok())
    }

    /// The topics, each with its partitions: what was wrong with them, or what `next` says of the
    /// next one that is good.
    pub(super) fn into_topics<U>(
        self,
        mut next: impl FnMut(T) -> Result<U, ErrorCode>,
    ) -> Vec<(GroupTopic, Results<U>)> {
        let mut partitions = self.partitions.into_iter();
        let mut start = 0;
        let topics = self.topics.into_iter().map(|(topic, end)| {
            let own = partitions.by_ref().take(end - start);
            start = end;
            let own = own.map(|(index, result)| (index, result.and_then(&mut next)));
            (topic, own.collect())
        });
        topics.collect()
    }
}

/// Partitions of one topic by index, each with what became of it.
pub(super) type Results<T> = Vec<(i32, Result<T, ErrorCode>)>;
