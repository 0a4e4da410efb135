//! How a request names a topic: by name, or by id in the newest versions of some APIs (KIP-516).
//!
//! A name means whatever topic has it by now. An id means one topic of all times: a topic that is
//! deleted and created again is another one, and who still asks by the old id learns so.

use std::ops::Deref;
use std::sync::Arc;

use millrace_engine::catalog::{Catalog, Topic};
use millrace_storage::units::PartitionId;
use uuid::Uuid;

use super::errors::ErrorCode;
use super::wire::{DecodeError, Reader, Writer};

/// A topic's name or its id, as a request has it and its answer repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TopicKey<Name> {
    Name(Name),
    Id(Uuid),
}

impl<'a> TopicKey<&'a str> {
    /// Reads the id or the name that begins a topic.
    pub(crate) fn read(is_id: bool, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        if is_id {
            reader.uuid().map(Self::Id)
        } else {
            reader.text().map(Self::Name)
        }
    }

    /// What an answer keeps of it; the name is shared with the topic that was found.
    pub(crate) fn shared(self, found: Option<&Topic>) -> TopicKey<Arc<str>> {
        match (self, found) {
            (Self::Id(id), _) => TopicKey::Id(id),
            (Self::Name(_), Some(topic)) => TopicKey::Name(Arc::clone(&topic.name)),
            (Self::Name(name), None) => TopicKey::Name(Arc::from(name)),
        }
    }
}

impl TopicKey<Arc<str>> {
    /// The same, borrowing the name.
    pub(crate) fn borrowed(&self) -> TopicKey<&str> {
        match self {
            Self::Name(name) => TopicKey::Name(name),
            Self::Id(id) => TopicKey::Id(*id),
        }
    }

    /// Writes it as the beginning of a topic.
    pub(crate) fn write(&self, writer: &mut Writer<'_>) {
        match self {
            Self::Name(name) => writer.text(name),
            Self::Id(id) => writer.raw(id.as_bytes()),
        }
    }

    /// Bytes that it takes, without a length.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Name(name) => name.len(),
            Self::Id(id) => id.as_bytes().len(),
        }
    }
}

impl<Name: Deref<Target = str>> TopicKey<Name> {
    /// The topic.
    pub(crate) fn find<'c>(&self, catalog: &'c Catalog) -> Result<&'c Topic, ErrorCode> {
        match self {
            Self::Name(name) => {
                let found = catalog.topic(name);
                found.ok_or(ErrorCode::UnknownTopicOrPartition)
            }
            Self::Id(id) => catalog.topic_by_id(*id).ok_or(ErrorCode::UnknownTopicId),
        }
    }
}

/// The topic's partition of that index, whatever its leader epoch.
pub(crate) fn partition_at(topic: &Topic, index: i32) -> Result<PartitionId, ErrorCode> {
    let index = usize::try_from(index).ok();
    let home = index.and_then(|index| topic.partitions.get(index));
    let home = home.ok_or(ErrorCode::UnknownTopicOrPartition)?;
    Ok(home.id)
}
