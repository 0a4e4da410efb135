//! What Kafka calls the broker's setting behind each setting of a topic.

/// Setting of a topic and of the broker, sorted. Where one of Kafka's has several names, as
/// `log.retention.ms` and `log.retention.hours`, the one with the same unit.
const NAMES: [(&str, &str); 24] = [
    ("cleanup.policy", "log.cleanup.policy"),
    ("compression.type", "compression.type"),
    ("delete.retention.ms", "log.cleaner.delete.retention.ms"),
    ("file.delete.delay.ms", "log.segment.delete.delay.ms"),
    ("flush.messages", "log.flush.interval.messages"),
    ("flush.ms", "log.flush.interval.ms"),
    ("index.interval.bytes", "log.index.interval.bytes"),
    ("max.compaction.lag.ms", "log.cleaner.max.compaction.lag.ms"),
    ("max.message.bytes", "message.max.bytes"),
    (
        "message.timestamp.after.max.ms",
        "log.message.timestamp.after.max.ms",
    ),
    (
        "message.timestamp.before.max.ms",
        "log.message.timestamp.before.max.ms",
    ),
    ("message.timestamp.type", "log.message.timestamp.type"),
    (
        "min.cleanable.dirty.ratio",
        "log.cleaner.min.cleanable.ratio",
    ),
    ("min.compaction.lag.ms", "log.cleaner.min.compaction.lag.ms"),
    ("min.insync.replicas", "min.insync.replicas"),
    ("preallocate", "log.preallocate"),
    // Kafka's brokers have no setting behind this one.
    ("remote.storage.enable", "remote.storage.enable"),
    ("retention.bytes", "log.retention.bytes"),
    ("retention.ms", "log.retention.ms"),
    ("segment.bytes", "log.segment.bytes"),
    ("segment.index.bytes", "log.index.size.max.bytes"),
    ("segment.jitter.ms", "log.roll.jitter.ms"),
    ("segment.ms", "log.roll.ms"),
    (
        "unclean.leader.election.enable",
        "unclean.leader.election.enable",
    ),
];

/// The broker's name of a topic's setting.
pub(super) fn of_broker(name: &'static str) -> &'static str {
    let found = NAMES.binary_search_by_key(&name, |(topic, _)| topic);
    found.map_or(name, |at| NAMES[at].1)
}

#[cfg(test)]
mod tests {
    use millrace_engine::catalog::settings::SETTINGS;

    use super::*;

    #[test]
    fn every_setting_of_a_topic_has_the_brokers_behind_it() {
        let topics = SETTINGS.iter().map(|setting| setting.name);
        assert!(topics.eq(NAMES.iter().map(|(topic, _)| *topic)));
        assert_eq!(of_broker("retention.ms"), "log.retention.ms");
    }
}
