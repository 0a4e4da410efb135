//! What is asked of a group and what it answers. The words are Kafka's classic groups without
//! their wire: other protocols' consumers that share partitions say the same ones.

use std::sync::Arc;

use bytes::Bytes;
use millrace_storage::units::{LeaderEpoch, Offset, PartitionId};

use super::GROUP_NAME_BYTES_MAX;
use crate::event::Refusal;

/// A request to one group. It is served at the group's home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRequest {
    /// The group's name.
    pub group: Arc<str>,
    /// What of it.
    pub ask: GroupAsk,
}

impl GroupRequest {
    /// Whether it may wait for members of the group, for as long as they take.
    pub(crate) fn awaits_members(&self) -> bool {
        matches!(self.ask, GroupAsk::Join(_) | GroupAsk::Sync(_))
    }
}

/// What can be asked of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupAsk {
    /// Become a member, or say that one still is while the group rebalances. Ends with `Joined`
    /// when all members have said so.
    Join(JoinGroup),
    /// Hand out assignments, or get one's own. Ends with `Synced` when the leader has done it.
    Sync(SyncGroup),
    /// The member lives. Ends with `Alive`.
    Heartbeat(Membership),
    /// Members go. Ends with `Left`.
    Leave(Vec<LeavingMember>),
    /// Remember offsets. Ends with `OffsetsCommitted` once they are durable.
    Commit(CommitOffsets),
    /// Tell the offsets of these partitions, or of all that have one. Ends with `Offsets`.
    FetchOffsets(Option<Vec<PartitionId>>),
    /// Forget the offsets of these partitions. Ends with `OffsetsDeleted` once that is durable.
    DeleteOffsets(Vec<PartitionId>),
    /// Tell what the group is. Ends with `Described`.
    Describe,
    /// Forget the group, which must be empty. Ends with `Deleted` once that is durable.
    Delete,
}

/// Who somebody claims to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The generation; -1 for one who does not share partitions with others.
    pub generation: i32,
    /// The member's id; empty for none.
    pub member: String,
    /// The name that a static member keeps through its restarts.
    pub instance: Option<String>,
}

/// A wish to be a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinGroup {
    /// The member's id; empty for a new one.
    pub member: String,
    /// The name that a static member keeps through its restarts.
    pub instance: Option<String>,
    /// Who it is to people.
    pub client: ClientIdentity,
    /// Without a sign of life for so long it is dropped, milliseconds.
    pub session_timeout_ms: u64,
    /// So long the others wait for it in a rebalance, milliseconds.
    pub rebalance_timeout_ms: u64,
    /// The kind of protocol that the members speak among themselves, as `consumer`.
    pub protocol_type: Arc<str>,
    /// The protocols of that kind that it speaks, the preferred one first.
    pub protocols: Vec<GroupProtocol>,
    /// Topics that it reads, where that can be told from what the members say to each other.
    pub topics: Option<Vec<Arc<str>>>,
    /// A new member is given an id first, and must join with that.
    pub id_first: bool,
    /// A leader that comes back may be told to leave the assignments alone.
    pub may_skip_assignment: bool,
}

/// A client as people know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientIdentity {
    /// What it calls itself.
    pub id: String,
    /// Where it came from.
    pub host: String,
}

/// A protocol that the members may use among themselves, and what this one has to say in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupProtocol {
    /// Its name, as `range`.
    pub name: Arc<str>,
    /// For the leader alone.
    pub metadata: Bytes,
}

/// A member's report that it knows the generation, with everyone's assignment if it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncGroup {
    /// Who asks.
    pub membership: Membership,
    /// The kind of protocol that it believes in, if it says one.
    pub protocol_type: Option<String>,
    /// The protocol that it believes in, if it says one.
    pub protocol: Option<String>,
    /// By member id. Used of the leader alone.
    pub assignments: Vec<(String, Bytes)>,
}

/// A member that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeavingMember {
    /// Its id; empty where an operator names it by `instance` alone.
    pub member: String,
    /// A static member's name.
    pub instance: Option<String>,
}

/// Offsets to remember.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitOffsets {
    /// Who commits.
    pub membership: Membership,
    /// Forget them after so long, whatever the group does; milliseconds.
    pub retention_ms: Option<u64>,
    /// What to remember.
    pub offsets: Vec<(PartitionId, NewOffset)>,
}

/// An offset to remember.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewOffset {
    /// The next offset to read, or a number that no partition reaches, with which a client means
    /// something of its own: [`NewOffset::position`] tells which.
    pub offset: Offset,
    /// The leader epoch of the last record read, if known.
    pub leader_epoch: Option<LeaderEpoch>,
    /// The consumer's own words.
    pub metadata: Arc<str>,
}

impl NewOffset {
    /// The next offset to read, if the client gave one.
    #[must_use]
    pub fn position(&self) -> Option<Offset> {
        i64::try_from(self.offset.0).is_ok().then_some(self.offset)
    }
}

/// A remembered offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// As it was committed.
    pub commit: NewOffset,
    /// When, milliseconds since the Unix epoch.
    pub committed_ms: i64,
    /// When it is forgotten whatever the group does, milliseconds since the Unix epoch.
    pub expires_ms: Option<i64>,
}

/// A group's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupAnswer {
    /// The member is in a generation.
    Joined(Box<Joined>),
    /// The member's share.
    Synced(Synced),
    /// The member is in a stable generation.
    Alive,
    /// One result a member.
    Left(Vec<Result<(), GroupRefusal>>),
    /// One result an offset, in the order of the request; what succeeded is durable.
    OffsetsCommitted(Vec<Result<(), Refusal>>),
    /// In the order of the request, or by partition.
    Offsets(Vec<(PartitionId, Option<CommittedOffset>)>),
    /// One result a partition; what succeeded is durable.
    OffsetsDeleted(Vec<Result<(), GroupRefusal>>),
    /// What the group is; `None` where there is none of that name.
    Described(Option<Box<GroupDescription>>),
    /// It is gone, durably.
    Deleted,
}

impl GroupAnswer {
    /// Memory of a list, with what its reply says of each entry, about; 0 of everything else.
    pub(crate) fn list_bytes(&self) -> usize {
        match self {
            Self::Offsets(list) => {
                let found = list.iter().filter_map(|(_, offset)| offset.as_ref());
                let words = found.map(|offset| offset.commit.metadata.len());
                size_of_val(list.as_slice()) + words.sum::<usize>()
            }
            Self::Described(Some(group)) => {
                group.members.iter().map(MemberDescription::bytes).sum()
            }
            Self::Described(None)
            | Self::Joined(_)
            | Self::Synced(_)
            | Self::Alive
            | Self::Left(_)
            | Self::OffsetsCommitted(_)
            | Self::OffsetsDeleted(_)
            | Self::Deleted => 0,
        }
    }
}

/// A generation as one of its members sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Rises with each rebalance.
    pub generation: i32,
    /// The kind of protocol in use.
    pub protocol_type: Arc<str>,
    /// The protocol in use.
    pub protocol: Arc<str>,
    /// Who assigns.
    pub leader: Arc<str>,
    /// The member's own id.
    pub member: Arc<str>,
    /// The leader is to leave the assignments alone.
    pub skip_assignment: bool,
    /// Everyone with what they have to say; empty for all but the leader.
    pub members: Vec<JoinedMember>,
}

/// A member as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its id.
    pub member: Arc<str>,
    /// A static member's name.
    pub instance: Option<Arc<str>>,
    /// In the protocol in use.
    pub metadata: Bytes,
}

/// A member's share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// The kind of protocol in use.
    pub protocol_type: Arc<str>,
    /// The protocol in use.
    pub protocol: Arc<str>,
    /// What the leader gave it.
    pub assignment: Bytes,
}

/// Where a group stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupStanding {
    /// It has no members.
    Empty,
    /// It waits for all members to join the next generation.
    PreparingRebalance,
    /// It waits for the leader's assignments.
    CompletingRebalance,
    /// Everyone has a share.
    Stable,
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupListing {
    /// Its name.
    pub group: Arc<str>,
    /// The kind of protocol that its members speak; none ever joined without.
    pub protocol_type: Option<Arc<str>>,
    /// Where it stands.
    pub standing: GroupStanding,
}

impl GroupListing {
    /// Memory with its words.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.group.len()
    }
}

/// A group in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// Where it stands.
    pub standing: GroupStanding,
    /// Rises with each rebalance.
    pub generation: i32,
    /// The kind of protocol that its members speak.
    pub protocol_type: Option<Arc<str>>,
    /// The protocol in use, while there is one.
    pub protocol: Option<Arc<str>>,
    /// Who assigns.
    pub leader: Option<Arc<str>>,
    /// By id.
    pub members: Vec<MemberDescription>,
}

/// A member in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    /// Its id.
    pub member: Arc<str>,
    /// A static member's name.
    pub instance: Option<Arc<str>>,
    /// Who it is to people.
    pub client: ClientIdentity,
    /// What it told the leader in the protocol in use; empty while there is none.
    pub metadata: Bytes,
    /// Its share; empty while the group rebalances.
    pub assignment: Bytes,
}

impl MemberDescription {
    /// Memory with its words, also where the group shares them: a reply repeats them.
    fn bytes(&self) -> usize {
        let instance = self.instance.as_ref().map_or(0, |name| name.len());
        let names = self.member.len() + instance + self.client.id.len() + self.client.host.len();
        size_of::<Self>() + names + self.metadata.len() + self.assignment.len()
    }
}

/// Why a group does not do what it was asked. Each protocol answers every variant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupRefusal {
    /// A name that is not allowed.
    #[error("a group's name must have 1 to {GROUP_NAME_BYTES_MAX} bytes")]
    InvalidName,
    /// There is no group of that name.
    #[error("there is no such group")]
    NotFound,
    /// It has members.
    #[error("the group has members")]
    NotEmpty,
    /// No member of that id, or of that instance name.
    #[error("the group has no such member")]
    UnknownMember,
    /// The new member has an id now, and must join with that.
    #[error("join again as {0}")]
    JoinWithId(Arc<str>),
    /// Another member took the static member's name.
    #[error("another member has taken over that instance name")]
    InstanceFenced,
    /// Another generation than the present one.
    #[error("the group is in generation {current}")]
    IllegalGeneration {
        /// The present one.
        current: i32,
    },
    /// The group waits for its members to join again.
    #[error("the group rebalances")]
    Rebalancing,
    /// No protocol that every member speaks, or another than the one in use.
    #[error("the protocols do not fit those of the group's members")]
    InconsistentProtocol,
    /// Out of the configured range.
    #[error("a session timeout must lie between {min} and {max} ms")]
    InvalidSessionTimeout {
        /// `groups.session_timeout_ms_min`.
        min: u64,
        /// `groups.session_timeout_ms_max`.
        max: u64,
    },
    /// The group has as many members as it may.
    #[error("groups.members_max = {max} is reached")]
    Full {
        /// The limit.
        max: usize,
    },
    /// The words of a commit are too long.
    #[error("an offset's metadata exceeds groups.offset_metadata_bytes_max = {max}")]
    OffsetMetadataTooLarge {
        /// The limit.
        max: usize,
    },
    /// A commit that no entry of the log can hold.
    #[error("a commit of {bytes} bytes exceeds {max}")]
    CommitTooLarge {
        /// Its size in the log.
        bytes: usize,
        /// The largest entry.
        max: usize,
    },
    /// Offsets of a topic that members read.
    #[error("members of the group read that topic")]
    Subscribed,
}
