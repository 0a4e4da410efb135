//! What the APIs of groups have in common.

use std::sync::Arc;

use kafka_protocol::messages::{GroupId, TopicName};
use kafka_protocol::protocol::StrBytes;
use millrace_engine::catalog::Catalog;
use millrace_engine::command::Command;
use millrace_engine::event::{Outcome, Refusal};
use millrace_engine::group::{GroupAnswer, GroupAsk, GroupRequest, GroupStanding};
use millrace_storage::units::PartitionId;
use uuid::Uuid;

use super::{Call, text};
use crate::kafka::errors::ErrorCode;
use crate::kafka::topic_key::{TopicKey, partition_at};
use crate::kafka::wire::{DecodeError, Reader};

/// Submits a request to a group under `position`.
pub(super) fn ask(call: &mut Call<'_>, position: usize, group: &GroupId, ask: GroupAsk) {
    let group = Arc::from(group.as_str());
    let request = GroupRequest { group, ask };
    call.submit(position, Command::Group(request));
}

/// The answer to it.
pub(super) fn answer(outcome: Result<Outcome, Refusal>) -> Result<GroupAnswer, Refusal> {
    match outcome {
        Ok(Outcome::Group(answer)) => Ok(answer),
        Ok(other) => panic!("a group's request ended with {other:?}"),
        Err(refusal) => Err(refusal),
    }
}

/// Text that the client may leave out.
pub(super) fn some(text: Option<&StrBytes>) -> Option<String> {
    text.map(ToString::to_string)
}

/// Kafka's word for where a group stands.
pub(super) fn standing(standing: GroupStanding) -> &'static str {
    match standing {
        GroupStanding::Empty => "Empty",
        GroupStanding::PreparingRebalance => "PreparingRebalance",
        GroupStanding::CompletingRebalance => "CompletingRebalance",
        GroupStanding::Stable => "Stable",
    }
}

/// Shared text as the message crate wants it.
pub(super) fn shared(shared: &Arc<str>) -> StrBytes {
    text(&**shared)
}

/// A topic as requests of groups name it.
pub(super) type GroupTopic = TopicKey<StrBytes>;

impl GroupTopic {
    /// A topic by its name.
    pub(super) fn named(name: TopicName) -> Self {
        Self::Name(name.0)
    }

    /// Name and id as an answer's fields want them: one of them is in its version.
    pub(super) fn into_fields(self) -> (TopicName, Uuid) {
        match self {
            Self::Name(name) => (TopicName(name), Uuid::nil()),
            Self::Id(id) => (TopicName::default(), id),
        }
    }

    /// Its partition of that index, whatever the leader epoch.
    pub(super) fn partition(
        &self,
        catalog: &Catalog,
        index: i32,
    ) -> Result<PartitionId, ErrorCode> {
        partition_at(self.find(catalog)?, index)
    }
}

/// Reads a text that the message crate is to keep.
pub(super) fn read_text(reader: &mut Reader<'_>) -> Result<StrBytes, DecodeError> {
    reader.text().map(text)
}
