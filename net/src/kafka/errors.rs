//! Kafka's error codes, and which of them answers which refusal.

use millrace_engine::event::Refusal;
use millrace_engine::group::GroupRefusal;
use millrace_storage::record::BatchError;

/// Words of one failure, bytes.
const MESSAGE_BYTES_MAX: usize = 1024;

/// The error codes that we answer with. Source: the Kafka protocol guide, "Error Codes".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub(crate) enum ErrorCode {
    None = 0,
    OffsetOutOfRange = 1,
    CorruptMessage = 2,
    UnknownTopicOrPartition = 3,
    LeaderNotAvailable = 5,
    NotLeaderOrFollower = 6,
    RequestTimedOut = 7,
    MessageTooLarge = 10,
    OffsetMetadataTooLarge = 12,
    CoordinatorLoadInProgress = 14,
    CoordinatorNotAvailable = 15,
    InvalidTopic = 17,
    InvalidRequiredAcks = 21,
    IllegalGeneration = 22,
    InconsistentGroupProtocol = 23,
    InvalidGroupId = 24,
    UnknownMemberId = 25,
    InvalidSessionTimeout = 26,
    RebalanceInProgress = 27,
    InvalidCommitOffsetSize = 28,
    TopicAuthorizationFailed = 29,
    InvalidTimestamp = 32,
    UnsupportedSaslMechanism = 33,
    UnsupportedVersion = 35,
    TopicAlreadyExists = 36,
    InvalidPartitions = 37,
    InvalidReplicationFactor = 38,
    InvalidReplicaAssignment = 39,
    InvalidConfig = 40,
    InvalidRequest = 42,
    PolicyViolation = 44,
    OutOfOrderSequence = 45,
    DuplicateSequence = 46,
    InvalidProducerEpoch = 47,
    InvalidTransactionState = 48,
    TransactionalIdAuthorizationFailed = 53,
    SecurityDisabled = 54,
    StorageError = 56,
    UnknownProducerId = 59,
    NonEmptyGroup = 68,
    GroupIdNotFound = 69,
    FetchSessionIdNotFound = 70,
    InvalidFetchSessionEpoch = 71,
    FencedLeaderEpoch = 74,
    UnknownLeaderEpoch = 75,
    UnsupportedCompressionType = 76,
    MemberIdRequired = 79,
    GroupMaxSizeReached = 81,
    FencedInstanceId = 82,
    ElectionNotNeeded = 84,
    NoReassignmentInProgress = 85,
    GroupSubscribedToTopic = 86,
    InvalidRecord = 87,
    ResourceNotFound = 91,
    DuplicateResource = 92,
    UnknownTopicId = 100,
    TransactionalIdNotFound = 105,
    FetchSessionTopicIdError = 106,
    MismatchedEndpointType = 114,
    UnsupportedEndpointType = 115,
}

impl ErrorCode {
    /// The number on the wire.
    pub(crate) const fn code(self) -> i16 {
        self as i16
    }
}

/// What a client is told: a code, and words where the API has room for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: ErrorCode,
    pub(crate) message: Option<String>,
}

impl Failure {
    /// A code that says it all.
    pub(crate) const fn bare(code: ErrorCode) -> Self {
        Self {
            code,
            message: None,
        }
    }

    /// A code with words. They may quote the client, so they are cut to what a string can hold.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        Self {
            code,
            message: Some(message),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(error_code(&refusal), refusal.to_string())
    }
}

/// The code for a refusal, in every API where nothing else is said.
pub(crate) fn error_code(refusal: &Refusal) -> ErrorCode {
    match refusal {
        Refusal::UnknownTopic | Refusal::UnknownPartition => ErrorCode::UnknownTopicOrPartition,
        Refusal::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        Refusal::FencedLeaderEpoch { .. } => ErrorCode::FencedLeaderEpoch,
        Refusal::UnknownLeaderEpoch { .. } => ErrorCode::UnknownLeaderEpoch,
        Refusal::BadBatch(error) => bad_batch(*error),
        Refusal::UnknownCodec(_) => ErrorCode::UnsupportedCompressionType,
        Refusal::BatchTooLarge { .. } => ErrorCode::MessageTooLarge,
        Refusal::InvalidTimestamp => ErrorCode::InvalidTimestamp,
        Refusal::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequence,
        Refusal::UnknownProducer { .. } => ErrorCode::UnknownProducerId,
        Refusal::DuplicateSequence => ErrorCode::DuplicateSequence,
        Refusal::ProducerFenced { .. } => ErrorCode::InvalidProducerEpoch,
        Refusal::NoTransaction => ErrorCode::InvalidTransactionState,
        Refusal::DiskFull | Refusal::Damaged(_) => ErrorCode::StorageError,
        // Both are worth a retry. Clients take this code for "possibly stored", which is what an
        // unknown outcome is, and for a busy broker no harm is done by the doubt.
        Refusal::Busy(_) | Refusal::OutcomeUnknown => ErrorCode::RequestTimedOut,
        Refusal::TopicExists(_) => ErrorCode::TopicAlreadyExists,
        Refusal::InvalidTopicName(_) => ErrorCode::InvalidTopic,
        Refusal::InvalidPartitions(_) => ErrorCode::InvalidPartitions,
        Refusal::InvalidPlacement(_) => ErrorCode::InvalidReplicaAssignment,
        Refusal::InvalidConfig(_) => ErrorCode::InvalidConfig,
        Refusal::Duplicate(_) => ErrorCode::InvalidRequest,
        Refusal::LimitReached { .. } => ErrorCode::PolicyViolation,
        Refusal::Group(refusal) => group_refusal_code(refusal),
        Refusal::Denied(_) => ErrorCode::TopicAuthorizationFailed,
    }
}

/// The code for a group's own reasons.
pub(crate) fn group_refusal_code(refusal: &GroupRefusal) -> ErrorCode {
    match refusal {
        GroupRefusal::InvalidName => ErrorCode::InvalidGroupId,
        GroupRefusal::NotFound => ErrorCode::GroupIdNotFound,
        GroupRefusal::NotEmpty => ErrorCode::NonEmptyGroup,
        GroupRefusal::UnknownMember => ErrorCode::UnknownMemberId,
        GroupRefusal::JoinWithId(_) => ErrorCode::MemberIdRequired,
        GroupRefusal::InstanceFenced => ErrorCode::FencedInstanceId,
        GroupRefusal::IllegalGeneration { .. } => ErrorCode::IllegalGeneration,
        GroupRefusal::Rebalancing => ErrorCode::RebalanceInProgress,
        GroupRefusal::InconsistentProtocol => ErrorCode::InconsistentGroupProtocol,
        GroupRefusal::InvalidSessionTimeout { .. } => ErrorCode::InvalidSessionTimeout,
        GroupRefusal::Full { .. } => ErrorCode::GroupMaxSizeReached,
        GroupRefusal::OffsetMetadataTooLarge { .. } => ErrorCode::OffsetMetadataTooLarge,
        GroupRefusal::CommitTooLarge { .. } => ErrorCode::InvalidCommitOffsetSize,
        GroupRefusal::Subscribed => ErrorCode::GroupSubscribedToTopic,
    }
}

/// The code for a refusal of anything about groups. What is worth a retry is told as a coordinator
/// that cannot be had: that is what clients of groups retry, whatever they asked.
pub(crate) fn group_error_code(refusal: &Refusal) -> ErrorCode {
    match refusal {
        Refusal::Busy(_) | Refusal::OutcomeUnknown => ErrorCode::CoordinatorNotAvailable,
        other => error_code(other),
    }
}

fn bad_batch(error: BatchError) -> ErrorCode {
    match error {
        // Damaged on the way: clients send it again.
        BatchError::Short | BatchError::Checksum => ErrorCode::CorruptMessage,
        // Sending it again would not help.
        BatchError::Trailing | BatchError::Magic(_) | BatchError::Counts => {
            ErrorCode::InvalidRecord
        }
    }
}

/// The code for a refused read: consumers skip or stop at damage, where a storage error would make
/// them try again for ever without a word.
pub(crate) fn fetch_error_code(refusal: &Refusal) -> ErrorCode {
    match refusal {
        Refusal::Damaged(_) => ErrorCode::CorruptMessage,
        // The one code that every client takes for "ask for the leader, and again, a little later".
        // Java's consumer throws at what Kafka's brokers never say to a fetch, a timeout included.
        Refusal::Busy(_) | Refusal::OutcomeUnknown => ErrorCode::NotLeaderOrFollower,
        other => error_code(other),
    }
}

/// The code for a producer id that cannot be had. What is worth a retry is told as a coordinator
/// that is just starting: Java's older producers retry that, and are finished by a timeout.
pub(crate) fn producer_id_error_code(refusal: &Refusal) -> ErrorCode {
    match refusal {
        Refusal::Busy(_) | Refusal::OutcomeUnknown => ErrorCode::CoordinatorLoadInProgress,
        other => error_code(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_broker_is_told_in_a_code_that_is_retried() {
        for refusal in [
            Refusal::Busy("limits.requests_max"),
            Refusal::OutcomeUnknown,
        ] {
            assert_eq!(fetch_error_code(&refusal).code(), 6);
            assert_eq!(producer_id_error_code(&refusal).code(), 14);
            assert_eq!(group_error_code(&refusal).code(), 15);
            assert_eq!(error_code(&refusal).code(), 7);
        }
    }
}
