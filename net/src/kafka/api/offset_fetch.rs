//! OffsetFetch, versions 1 to 10: how far a group came; since 8 of several groups at once. 10 names
//! topics by id.
//!
//! A partition without a committed offset, and one that does not exist, are told alike: offset -1.
//! Only an id that no topic has is an error.

use std::collections::{BTreeMap, HashSet};

use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{GroupId, OffsetFetchRequest, OffsetFetchResponse};
use millrace_engine::catalog::Catalog;
use millrace_engine::event::{Outcome, Refusal};
use millrace_engine::group::{CommittedOffset, GroupAnswer, GroupAsk};
use millrace_storage::units::PartitionId;

use super::groups::{GroupTopic, answer, ask, read_text};
use super::partitions::Partitions;
use super::{Call, Handled, Reply, ReplyTo, Work, decode, decode_with, text};
use crate::kafka::errors::{ErrorCode, group_error_code};
use crate::kafka::frame::Request;
use crate::kafka::wire::{DecodeError, Reader};
use crate::session::ProtocolViolation;

/// First version in which null asks for everything, and with a code for the group.
const VERSION_ALL_MIN: i16 = 2;
/// First version with leader epochs.
const VERSION_EPOCHS_MIN: i16 = 5;
/// First version that asks for several groups.
const VERSION_GROUPS_MIN: i16 = 8;
/// First version that names topics by id.
const VERSION_IDS_MIN: i16 = 10;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let has_ids = request.version >= VERSION_IDS_MIN;
    let body: OffsetFetchRequest = if has_ids {
        decode_with(call, request, read)?
    } else {
        decode(call, request)?
    };
    let mut groups: Vec<(GroupId, Option<Vec<OffsetFetchRequestTopics>>)> = Vec::new();
    if request.version >= VERSION_GROUPS_MIN {
        let asked = body.groups.into_iter();
        groups.extend(asked.map(|group| (group.group_id, group.topics)));
    } else {
        let topics = body.topics.map(|topics| {
            let topics = topics.into_iter().map(|topic| {
                OffsetFetchRequestTopics::default()
                    .with_name(topic.name)
                    .with_partition_indexes(topic.partition_indexes)
            });
            topics.collect()
        });
        if topics.is_none() && request.version < VERSION_ALL_MIN {
            return Err(request.malformed("null topics"));
        }
        groups.push((body.group_id, topics));
    }
    // Named again: all that a group has may be much, and is told once.
    let mut whole = HashSet::new();
    groups.retain(|(group, topics)| topics.is_some() || whole.insert(group.clone()));
    let mut pending = Pending {
        reply_to: ReplyTo::new(call.config, request),
        groups: Vec::with_capacity(groups.len()),
    };
    for (position, (group, topics)) in groups.into_iter().enumerate() {
        let wanted = topics.map(|topics| resolve(call.sink.catalog(), has_ids, topics));
        let ids = wanted
            .as_ref()
            .map(|wanted| wanted.good().copied().collect());
        ask(call, position, &group, GroupAsk::FetchOffsets(ids));
        pending.groups.push(Asked {
            group,
            wanted,
            found: Ok(Vec::new()),
        });
    }
    if pending.groups.is_empty() {
        return Ok(Handled::Reply(pending.finish(call)?));
    }
    Ok(Handled::Wait(Work::OffsetFetch(pending)))
}

/// Reads a body of version 10.
fn read(reader: &mut Reader<'_>) -> Result<OffsetFetchRequest, DecodeError> {
    let mut body = OffsetFetchRequest::default();
    for _ in 0..reader.count()? {
        let mut group = OffsetFetchRequestGroup::default()
            .with_group_id(GroupId(read_text(reader)?))
            .with_member_id(reader.nullable_text()?.map(text))
            .with_member_epoch(reader.i32()?)
            .with_topics(None);
        if let Some(count) = reader.nullable_count()? {
            let topics = (0..count).map(|_| read_topic(reader));
            group.topics = Some(topics.collect::<Result<_, _>>()?);
        }
        reader.tags()?;
        body.groups.push(group);
    }
    body.require_stable = reader.i8()? != 0;
    reader.tags()?;
    Ok(body)
}

fn read_topic(reader: &mut Reader<'_>) -> Result<OffsetFetchRequestTopics, DecodeError> {
    let mut topic = OffsetFetchRequestTopics::default().with_topic_id(reader.uuid()?);
    for _ in 0..reader.count()? {
        topic.partition_indexes.push(reader.i32()?);
    }
    reader.tags()?;
    Ok(topic)
}

fn resolve(catalog: &Catalog, has_ids: bool, topics: Vec<OffsetFetchRequestTopics>) -> Wanted {
    let mut partitions = Partitions::default();
    for topic in topics {
        let key = if has_ids {
            GroupTopic::Id(topic.topic_id)
        } else {
            GroupTopic::named(topic.name)
        };
        partitions.begin_topic(key.clone());
        for index in topic.partition_indexes {
            let partition = key.partition(catalog, index);
            partitions.push(index, partition);
        }
    }
    partitions
}

/// A request whose offsets are being looked for.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    groups: Vec<Asked>,
}

/// One group that was asked for.
#[derive(Debug)]
struct Asked {
    group: GroupId,
    /// `None`: everything that it has.
    wanted: Option<Wanted>,
    found: Result<Vec<(PartitionId, Option<CommittedOffset>)>, ErrorCode>,
}

/// Partitions that were asked for, where there are such.
type Wanted = Partitions<GroupTopic, Result<PartitionId, ErrorCode>>;
/// Partitions' offsets by index, if there are any.
type TopicOffsets = Vec<(i32, Result<Option<CommittedOffset>, ErrorCode>)>;
/// Topics with their partitions' offsets.
type Offsets = Vec<(GroupTopic, TopicOffsets)>;

impl Pending {
    pub(super) fn take(&mut self, position: usize, outcome: Result<Outcome, Refusal>) {
        self.groups[position].found = match answer(outcome) {
            Ok(GroupAnswer::Offsets(found)) => Ok(found),
            Ok(other) => panic!("a search for offsets ended with {other:?}"),
            Err(refusal) => Err(group_error_code(&refusal)),
        };
    }

    pub(super) fn finish(self, call: &Call<'_>) -> Result<Reply, ProtocolViolation> {
        self.reply_to.check_bytes(self.words_bytes())?;
        let catalog = call.sink.catalog();
        let version = self.reply_to.version;
        let mut response = OffsetFetchResponse::default();
        for asked in self.groups {
            let code = asked.found.as_ref().err().copied();
            let group = asked.group.clone();
            let topics = asked.into_topics(catalog, version);
            if version >= VERSION_GROUPS_MIN {
                response.groups.push(describe_group(group, code, topics));
            } else {
                response.topics = describe_topics(version, code, topics);
                if version >= VERSION_ALL_MIN {
                    response.error_code = code.unwrap_or(ErrorCode::None).code();
                }
            }
        }
        self.reply_to.frame(&response)
    }

    /// What members said with their offsets: each may say much, and is told as often as asked.
    fn words_bytes(&self) -> usize {
        let found = self
            .groups
            .iter()
            .filter_map(|asked| asked.found.as_ref().ok());
        let offsets = found.flatten().filter_map(|(_, offset)| offset.as_ref());
        offsets.map(|offset| offset.commit.metadata.len()).sum()
    }
}

impl Asked {
    fn into_topics(self, catalog: &Catalog, version: i16) -> Offsets {
        let mut found = self.found.unwrap_or_default().into_iter();
        let Some(wanted) = self.wanted else {
            return by_topic(catalog, version, found);
        };
        let topics = wanted.into_topics(|index, partition| {
            let offset = match partition {
                Ok(_) => Ok(found.next().and_then(|(_, found)| found)),
                Err(ErrorCode::UnknownTopicOrPartition) => Ok(None),
                Err(code) => Err(code),
            };
            (index, offset)
        });
        topics.collect()
    }
}

/// Everything found, under the names that it has by now.
fn by_topic(
    catalog: &Catalog,
    version: i16,
    found: impl Iterator<Item = (PartitionId, Option<CommittedOffset>)>,
) -> Offsets {
    let mut topics: BTreeMap<&str, TopicOffsets> = BTreeMap::new();
    for (partition, offset) in found {
        if let Some(place) = catalog.place(partition) {
            let index = i32::try_from(place.index).expect("bounded");
            topics
                .entry(&place.topic)
                .or_default()
                .push((index, Ok(offset)));
        }
    }
    let topics = topics.into_iter().filter_map(|(name, partitions)| {
        let key = if version >= VERSION_IDS_MIN {
            GroupTopic::Id(catalog.topic(name)?.id)
        } else {
            GroupTopic::Name(text(name))
        };
        Some((key, partitions))
    });
    topics.collect()
}

/// Offset, leader epoch and words of a partition as Kafka tells them.
fn told(found: Option<CommittedOffset>) -> (i64, i32, String) {
    match found {
        None => (-1, -1, String::new()),
        Some(found) => {
            let offset = found.commit.offset.0.cast_signed();
            let epoch = found.commit.leader_epoch.map_or(-1, |epoch| epoch.0);
            (offset, epoch, found.commit.metadata.to_string())
        }
    }
}

fn describe_group(
    group: GroupId,
    code: Option<ErrorCode>,
    topics: Offsets,
) -> OffsetFetchResponseGroup {
    let described = OffsetFetchResponseGroup::default().with_group_id(group);
    if let Some(code) = code {
        return described.with_error_code(code.code());
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        let partitions = partitions.into_iter().map(|(index, found)| {
            let code = found.as_ref().err().copied().unwrap_or(ErrorCode::None);
            let (offset, epoch, words) = told(found.ok().flatten());
            OffsetFetchResponsePartitions::default()
                .with_partition_index(index)
                .with_committed_offset(offset)
                .with_committed_leader_epoch(epoch)
                .with_metadata(Some(text(words)))
                .with_error_code(code.code())
        });
        let (name, id) = topic.into_fields();
        OffsetFetchResponseTopics::default()
            .with_name(name)
            .with_topic_id(id)
            .with_partitions(partitions.collect())
    });
    described.with_topics(topics.collect())
}

fn describe_topics(
    version: i16,
    code: Option<ErrorCode>,
    topics: Offsets,
) -> Vec<OffsetFetchResponseTopic> {
    let code = code.unwrap_or(ErrorCode::None).code();
    let topics = topics.into_iter().map(|(topic, partitions)| {
        let partitions = partitions.into_iter().map(|(index, found)| {
            let (offset, epoch, words) = told(found.ok().flatten());
            let described = OffsetFetchResponsePartition::default()
                .with_partition_index(index)
                .with_committed_offset(offset)
                .with_metadata(Some(text(words)))
                .with_error_code(code);
            if version >= VERSION_EPOCHS_MIN {
                described.with_committed_leader_epoch(epoch)
            } else {
                described
            }
        });
        OffsetFetchResponseTopic::default()
            .with_name(topic.into_fields().0)
            .with_partitions(partitions.collect())
    });
    topics.collect()
}
