//! Partitions as requests name them: by topic, and by index in it. Answers tell them in the same
//! order.

use std::collections::HashMap;

use millrace_engine::command::Command;

use super::Call;

/// Partitions of a request by topic, each with what is known of it.
#[derive(Debug)]
pub(super) struct Partitions<Topic, Known> {
    /// Each topic as the request names it, and where its partitions end in `partitions`.
    topics: Vec<(Topic, usize)>,
    /// Index, and what is known.
    partitions: Vec<(i32, Known)>,
}

impl<Topic, Known> Default for Partitions<Topic, Known> {
    fn default() -> Self {
        Self {
            topics: Vec::new(),
            partitions: Vec::new(),
        }
    }
}

impl<Topic, Known> Partitions<Topic, Known> {
    /// Begins with the next topic's partitions, as `push` adds them.
    pub(super) fn begin_topic(&mut self, topic: Topic) {
        let end = self.partitions.len();
        self.topics.push((topic, end));
    }

    /// Adds a partition of the topic that was begun last.
    pub(super) fn push(&mut self, index: i32, known: Known) {
        self.partitions.push((index, known));
        let topic = self.topics.last_mut().expect("a topic was begun");
        topic.1 = self.partitions.len();
    }

    /// What is known of each, in order.
    pub(super) fn known(&self) -> impl Iterator<Item = &Known> {
        self.partitions.iter().map(|(_, known)| known)
    }

    /// The topics, each with what `describe` makes of its partitions. They are described in order.
    pub(super) fn into_topics<Described>(
        self,
        mut describe: impl FnMut(i32, Known) -> Described,
    ) -> impl Iterator<Item = (Topic, Vec<Described>)> {
        let mut partitions = self.partitions.into_iter();
        let mut start = 0;
        self.topics.into_iter().map(move |(topic, end)| {
            let own = partitions.by_ref().take(end - start);
            start = end;
            let described = own.map(|(index, known)| describe(index, known));
            (topic, described.collect())
        })
    }
}

/// Partitions some of which were found wrong at once.
impl<Topic, T, E> Partitions<Topic, Result<T, E>> {
    /// What is not wrong, in order.
    pub(super) fn good(&self) -> impl Iterator<Item = &T> {
        self.known().filter_map(|result| result.as_ref().ok())
    }
}

/// Partitions that are asked about with a command each; `None` while it is under way.
impl<Topic, Answer> Partitions<Topic, Option<Answer>> {
    /// Adds a partition, and submits what is asked about it.
    pub(super) fn ask(&mut self, call: &mut Call<'_>, index: i32, command: Command<'_>) {
        call.submit(self.partitions.len(), command);
        self.push(index, None);
    }

    /// Adds a partition about which nothing needs to be asked.
    pub(super) fn tell(&mut self, index: i32, answer: Answer) {
        self.push(index, Some(answer));
    }

    /// Takes the answer to the command at `position`.
    pub(super) fn take(&mut self, position: usize, answer: Answer) {
        let known = &mut self.partitions[position].1;
        assert!(known.is_none(), "one command has one answer");
        *known = Some(answer);
    }

    /// As [`Self::into_topics`], once every answer was taken.
    pub(super) fn into_answers<Described>(
        self,
        mut describe: impl FnMut(i32, Answer) -> Described,
    ) -> impl Iterator<Item = (Topic, Vec<Described>)> {
        self.into_topics(move |index, answer| {
            describe(index, answer.expect("every command has ended"))
        })
    }
}

/// How often a request names each partition, by topic and index.
#[derive(Debug)]
pub(super) struct Mentions<'a>(HashMap<(&'a str, i32), u32>);

/// What a mention of a partition calls for, where Kafka refuses one that is named again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mention {
    /// The only one: an answer.
    Only,
    /// The first of several: to be refused.
    Repeated,
    /// Another of several: it was answered.
    Again,
}

impl<'a> Mentions<'a> {
    /// Counts `named`: all that a request names.
    pub(super) fn count(named: impl Iterator<Item = (&'a str, i32)>) -> Self {
        let mut counts = HashMap::new();
        for partition in named {
            *counts.entry(partition).or_default() += 1;
        }
        Self(counts)
    }

    /// Comes to the next mention of a partition, which was counted.
    pub(super) fn next(&mut self, topic: &'a str, index: i32) -> Mention {
        let count = self.0.get_mut(&(topic, index)).expect("it was counted");
        match std::mem::take(count) {
            0 => Mention::Again,
            1 => Mention::Only,
            _ => Mention::Repeated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_topic_keeps_its_own_partitions_in_order() {
        let mut partitions = Partitions::default();
        for (topic, indexes) in [("a", 0..2), ("none", 0..0), ("a", 5..6)] {
            partitions.begin_topic(topic);
            for index in indexes {
                partitions.tell(index, 10 * index);
            }
        }
        partitions.push(7, None);
        partitions.take(3, 70);
        let topics: Vec<_> = partitions
            .into_answers(|index, answer| (index, answer))
            .collect();
        let expected = [
            ("a", vec![(0, 0), (1, 10)]),
            ("none", vec![]),
            ("a", vec![(5, 50), (7, 70)]),
        ];
        assert_eq!(topics, expected);
    }

    #[test]
    fn a_partition_that_is_named_again_is_refused_once() {
        let named = [("a", 0), ("a", 1), ("b", 0), ("a", 0), ("a", 0)];
        let mut mentions = Mentions::count(named.into_iter());
        let met = named.map(|(topic, index)| mentions.next(topic, index));
        use Mention::{Again, Only, Repeated};
        assert_eq!(met, [Repeated, Only, Only, Again, Again]);
    }

    #[test]
    fn what_is_wrong_is_told_and_not_good() {
        let mut partitions = Partitions::default();
        partitions.begin_topic(());
        partitions.push(0, Ok(1));
        partitions.push(1, Err("wrong"));
        partitions.push(2, Ok(3));
        assert_eq!(partitions.good().collect::<Vec<_>>(), [&1, &3]);
        let topics: Vec<_> = partitions
            .into_topics(|_, result| result.is_err())
            .collect();
        assert_eq!(topics, [((), vec![false, true, false])]);
    }
}
