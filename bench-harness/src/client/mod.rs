//! What the scenarios need of a broker, whatever its protocol: one enum, one arm per protocol.
//!
//! A client is a state machine over bytes. It appends requests to a buffer and decodes replies out
//! of one; sockets, time and waiting belong to the callers. Replies come in the order of requests.

pub(crate) mod kafka;

use std::fmt;

pub(crate) use self::kafka::batch::RecordSlot;
use crate::args::Compression;

/// A codec's answer about the front of a byte string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decoded<T> {
    /// A whole value that took `bytes`.
    Complete { value: T, bytes: usize },
    /// Nothing can be said before `need_bytes` are there in all.
    Incomplete { need_bytes: usize },
}

/// A broker's "no" to one request, by the protocol's own code and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Refusal {
    pub(crate) code: i32,
    pub(crate) name: &'static str,
}

impl Refusal {
    /// Whether a broker that was only just started says so, and soon does not any more.
    pub(crate) fn is_not_ready_yet(&self) -> bool {
        // Names of Kafka's; no other protocol's name means something else.
        matches!(
            self.name,
            "COORDINATOR_LOAD_IN_PROGRESS" | "COORDINATOR_NOT_AVAILABLE" | "NOT_COORDINATOR"
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.code)?;
        // Names of Kafka's; no other protocol's name means something else.
        if self.name.contains("SASL") || self.name.ends_with("AUTHORIZATION_FAILED") {
            f.write_str(": the broker wants a user, and this generator has none to give")?;
        }
        Ok(())
    }
}

/// What a peer can do wrong; the connection is of no use afterwards.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("the peer does not speak {protocol}: its reply begins with {beginning}")]
    WrongProtocol {
        protocol: &'static str,
        beginning: String,
    },
    #[error("malformed reply to {request}: {reason}")]
    Malformed {
        request: &'static str,
        reason: String,
    },
    #[error("a reply numbered {found} where {expected} was due")]
    OutOfTurn { expected: i32, found: i32 },
    #[error("the broker serves {request} {min} to {max}; this client speaks {need}")]
    Version {
        request: &'static str,
        need: i16,
        min: i16,
        max: i16,
    },
    #[error("the broker does not serve {request}")]
    Unserved { request: &'static str },
    #[error("{request} was refused: {refusal}")]
    Refused {
        request: &'static str,
        refusal: Refusal,
    },
}

/// A request to append `count` messages to one partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Append {
    pub(crate) partition: u32,
    pub(crate) count: u32,
    pub(crate) compression: Compression,
    /// Wall time for the records, milliseconds since the Unix epoch.
    pub(crate) now_ms: i64,
}

/// Where a consumer stands in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) partition: u32,
    pub(crate) next_offset: u64,
}

/// What one fetch may bring and how long it may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FetchLimits {
    pub(crate) wait_ms_max: u32,
    pub(crate) bytes_max: u32,
    pub(crate) partition_bytes_max: u32,
}

/// Who speaks in a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupMember<'a> {
    pub(crate) group: &'a str,
    /// What the coordinator called it; empty before it has.
    pub(crate) id: &'a str,
}

/// A member's place in a generation of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) generation: i32,
    pub(crate) id: String,
    /// All members, if this one is to give out the shares; empty otherwise.
    pub(crate) members: Vec<String>,
}

/// A server that leads partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) id: i32,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Who serves what of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topology {
    pub(crate) nodes: Vec<Node>,
    /// Leader's node id by partition, or why there is none.
    pub(crate) leaders: Vec<Result<i32, Refusal>>,
}

/// One partition's part of a fetch reply.
#[derive(Clone, Debug)]
pub(crate) struct FetchedPartition<'a> {
    pub(crate) partition: u32,
    /// First offset after the durable ones, or why nothing came.
    pub(crate) readable_end: Result<u64, Refusal>,
    /// Encoded messages, for [`Client::for_each_message`].
    pub(crate) bytes: &'a [u8],
}

/// A decoded reply.
#[derive(Debug)]
pub(crate) enum Reply<'a> {
    /// The handshake is done; requests may follow.
    Ready,
    /// The topic exists now, or why it could not be made.
    Created(Result<(), Refusal>),
    /// The topic's nodes and leaders, or why they are not known.
    Topology(Result<Topology, Refusal>),
    /// Offset after the last readable message, by partition as asked.
    Ends(Vec<(u32, Result<u64, Refusal>)>),
    /// Offset of an append's first message.
    Appended(Result<u64, Refusal>),
    /// The producer has an identity.
    Identified(Result<(), Refusal>),
    /// Who coordinates the group.
    Coordinator(Result<Node, Refusal>),
    /// The member's generation has begun.
    Joined(Result<Joined, Refusal>),
    /// Whether the member got a share.
    Synced(Result<bool, Refusal>),
    /// Messages.
    Fetched(Result<Vec<FetchedPartition<'a>>, Refusal>),
}

/// A connection's protocol side.
pub(crate) enum Client {
    /// Apache Kafka's protocol.
    Kafka(kafka::KafkaClient),
}

impl Client {
    /// A Kafka client for one topic. `acks` as Kafka has it: 0, 1 or -1.
    pub(crate) fn kafka(topic: &str, acks: i16) -> Self {
        Self::Kafka(kafka::KafkaClient::new(topic, acks))
    }

    /// Appends what a fresh connection says first; answered by [`Reply::Ready`].
    pub(crate) fn handshake(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::Kafka(client) => client.handshake(out),
        }
    }

    pub(crate) fn create_topic(&mut self, out: &mut Vec<u8>, partitions: u32) {
        match self {
            Self::Kafka(client) => client.create_topic(out, partitions),
        }
    }

    pub(crate) fn topology(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::Kafka(client) => client.metadata(out),
        }
    }

    /// Asks for the readable end of each partition.
    pub(crate) fn ends(&mut self, out: &mut Vec<u8>, partitions: &[u32]) {
        match self {
            Self::Kafka(client) => client.list_offsets(out, partitions),
        }
    }

    /// Appends one produce request; `fill` puts the message with the given number into its slot.
    /// Returns the bytes that the broker is asked to keep.
    pub(crate) fn append(
        &mut self,
        out: &mut Vec<u8>,
        append: Append,
        fill: impl FnMut(u32, RecordSlot<'_>),
    ) -> usize {
        match self {
            Self::Kafka(client) => client.produce(out, append, fill),
        }
    }

    pub(crate) fn fetch(&mut self, out: &mut Vec<u8>, cursors: &[Cursor], limits: FetchLimits) {
        match self {
            Self::Kafka(client) => client.fetch(out, cursors, limits),
        }
    }

    /// Asks for an identity, by which the broker knows a producer's batches and their order.
    pub(crate) fn identify(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::Kafka(client) => client.identify(out),
        }
    }

    /// Asks who coordinates `group`.
    pub(crate) fn find_coordinator(&mut self, out: &mut Vec<u8>, group: &str) {
        match self {
            Self::Kafka(client) => client.find_coordinator(out, group),
        }
    }

    /// Joins a group; what it asks for differs from one `round` to the next, so that each begins
    /// a generation.
    pub(crate) fn join_group(&mut self, out: &mut Vec<u8>, member: &GroupMember<'_>, round: u32) {
        match self {
            Self::Kafka(client) => client.join_group(out, member, round),
        }
    }

    /// Asks for the member's share; a leader gives one to each of `members`.
    pub(crate) fn sync_group(
        &mut self,
        out: &mut Vec<u8>,
        member: &GroupMember<'_>,
        generation: i32,
        members: &[String],
    ) {
        match self {
            Self::Kafka(client) => client.sync_group(out, member, generation, members),
        }
    }

    /// Decodes the reply at the front of `bytes`.
    pub(crate) fn decode<'a>(
        &mut self,
        bytes: &'a [u8],
    ) -> Result<Decoded<Reply<'a>>, ClientError> {
        match self {
            Self::Kafka(client) => client.decode(bytes),
        }
    }

    /// Where to go on after the fetched `bytes`; cheap, so that the next request leaves before the
    /// messages of this one are checked.
    pub(crate) fn next_offset(&self, bytes: &[u8]) -> Option<u64> {
        match self {
            Self::Kafka(_) => kafka::batch::next_offset(bytes),
        }
    }

    /// Calls `each` with offset and value of every message in `bytes` at `from_offset` or later;
    /// `None` stands for a message that this generator cannot have written.
    pub(crate) fn for_each_message(
        &self,
        bytes: &[u8],
        from_offset: u64,
        each: impl FnMut(u64, Option<&[u8]>),
    ) -> Result<(), ClientError> {
        match self {
            Self::Kafka(_) => kafka::for_each_message(bytes, from_offset, each),
        }
    }

    /// How many messages of `sizes`, keys included, make an append of about `batch_bytes`; at least
    /// one.
    pub(crate) fn messages_per_batch(
        &self,
        batch_bytes: usize,
        sizes: impl Iterator<Item = usize>,
    ) -> u32 {
        match self {
            Self::Kafka(_) => kafka::batch::records_per_batch(batch_bytes, sizes),
        }
    }

    pub(crate) fn protocol(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "Kafka",
        }
    }
}
