//! The APIs served, their versions, and what their requests look like.
//!
//! The versions are those of one release of Kafka, [`RELEASE`], so that clients that guess the
//! broker's release from a few of them, as kafka-python does, guess one that exists. Those that ask
//! for every API of a release, as franz-go's `kversion` does, guess one that is far too old: what
//! is not served is not advertised. Produce is advertised from 0, as Kafka does: librdkafka before
//! 2.11.1 looks for Produce 0 before it compresses.

mod admin;

use super::walker::{Field, Kind};

/// The release of Kafka whose versions these are.
pub const RELEASE: &str = "4.3";

/// An API that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i16)]
#[expect(clippy::enum_variant_names, reason = "these are Kafka's names")]
pub(crate) enum Api {
    Produce = 0,
    Fetch = 1,
    ListOffsets = 2,
    Metadata = 3,
    OffsetCommit = 8,
    OffsetFetch = 9,
    FindCoordinator = 10,
    JoinGroup = 11,
    Heartbeat = 12,
    LeaveGroup = 13,
    SyncGroup = 14,
    DescribeGroups = 15,
    ListGroups = 16,
    ApiVersions = 18,
    CreateTopics = 19,
    DeleteTopics = 20,
    DeleteRecords = 21,
    InitProducerId = 22,
    OffsetForLeaderEpoch = 23,
    DescribeAcls = 29,
    CreateAcls = 30,
    DeleteAcls = 31,
    DescribeConfigs = 32,
    AlterConfigs = 33,
    DescribeLogDirs = 35,
    CreatePartitions = 37,
    DeleteGroups = 42,
    ElectLeaders = 43,
    IncrementalAlterConfigs = 44,
    AlterPartitionReassignments = 45,
    ListPartitionReassignments = 46,
    OffsetDelete = 47,
    DescribeClientQuotas = 48,
    AlterClientQuotas = 49,
    DescribeUserScramCredentials = 50,
    AlterUserScramCredentials = 51,
    DescribeCluster = 60,
    DescribeProducers = 61,
    DescribeTransactions = 65,
    ListTransactions = 66,
    ListConfigResources = 74,
    DescribeTopicPartitions = 75,
}

/// Which versions of an API there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Versions {
    /// First version advertised; every version from here on gets an answer in its own format.
    pub(crate) first: i16,
    /// Last version served.
    pub(crate) last: i16,
    /// First version with varint lengths and tagged fields.
    pub(crate) flexible_from: i16,
}

impl Api {
    /// All of them, by key.
    pub(crate) const ALL: [Self; 42] = [
        Self::Produce,
        Self::Fetch,
        Self::ListOffsets,
        Self::Metadata,
        Self::OffsetCommit,
        Self::OffsetFetch,
        Self::FindCoordinator,
        Self::JoinGroup,
        Self::Heartbeat,
        Self::LeaveGroup,
        Self::SyncGroup,
        Self::DescribeGroups,
        Self::ListGroups,
        Self::ApiVersions,
        Self::CreateTopics,
        Self::DeleteTopics,
        Self::DeleteRecords,
        Self::InitProducerId,
        Self::OffsetForLeaderEpoch,
        Self::DescribeAcls,
        Self::CreateAcls,
        Self::DeleteAcls,
        Self::DescribeConfigs,
        Self::AlterConfigs,
        Self::DescribeLogDirs,
        Self::CreatePartitions,
        Self::DeleteGroups,
        Self::ElectLeaders,
        Self::IncrementalAlterConfigs,
        Self::AlterPartitionReassignments,
        Self::ListPartitionReassignments,
        Self::OffsetDelete,
        Self::DescribeClientQuotas,
        Self::AlterClientQuotas,
        Self::DescribeUserScramCredentials,
        Self::AlterUserScramCredentials,
        Self::DescribeCluster,
        Self::DescribeProducers,
        Self::DescribeTransactions,
        Self::ListTransactions,
        Self::ListConfigResources,
        Self::DescribeTopicPartitions,
    ];

    /// The API of that key, if it is served.
    pub(crate) fn from_key(key: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|api| api.key() == key)
    }

    /// Its number on the wire.
    pub(crate) const fn key(self) -> i16 {
        self as i16
    }

    /// The versions served.
    pub(crate) const fn versions(self) -> Versions {
        let (first, last, flexible_from) = match self {
            Self::Produce => (0, 13, 9),
            Self::Fetch => (4, 18, 12),
            Self::ListOffsets => (1, 11, 6),
            Self::Metadata => (0, 13, 9),
            Self::OffsetCommit => (2, 10, 8),
            Self::OffsetFetch => (1, 10, 6),
            Self::FindCoordinator => (0, 6, 3),
            Self::JoinGroup => (0, 9, 6),
            Self::Heartbeat => (0, 4, 4),
            Self::LeaveGroup => (0, 5, 4),
            Self::SyncGroup => (0, 5, 4),
            Self::DescribeGroups => (0, 6, 5),
            Self::ListGroups => (0, 5, 3),
            Self::ApiVersions => (0, 4, 3),
            Self::CreateTopics => (2, 7, 5),
            Self::DeleteTopics => (1, 6, 4),
            Self::DeleteRecords => (0, 2, 2),
            Self::InitProducerId => (0, 5, 2),
            Self::OffsetForLeaderEpoch => (2, 4, 4),
            Self::DescribeAcls => (1, 3, 2),
            Self::CreateAcls => (1, 3, 2),
            Self::DeleteAcls => (1, 3, 2),
            Self::DescribeConfigs => (1, 4, 4),
            Self::AlterConfigs => (0, 2, 2),
            Self::DescribeLogDirs => (1, 5, 2),
            Self::CreatePartitions => (0, 3, 2),
            Self::DeleteGroups => (0, 2, 2),
            Self::ElectLeaders => (0, 2, 2),
            Self::IncrementalAlterConfigs => (0, 1, 1),
            Self::AlterPartitionReassignments => (0, 1, 0),
            Self::ListPartitionReassignments => (0, 0, 0),
            Self::OffsetDelete => (0, 0, i16::MAX),
            Self::DescribeClientQuotas => (0, 1, 1),
            Self::AlterClientQuotas => (0, 1, 1),
            Self::DescribeUserScramCredentials => (0, 0, 0),
            Self::AlterUserScramCredentials => (0, 0, 0),
            Self::DescribeCluster => (0, 2, 0),
            Self::DescribeProducers => (0, 0, 0),
            Self::DescribeTransactions => (0, 0, 0),
            Self::ListTransactions => (0, 2, 0),
            Self::ListConfigResources => (0, 1, 0),
            Self::DescribeTopicPartitions => (0, 0, 0),
        };
        Versions {
            first,
            last,
            flexible_from,
        }
    }

    /// Whether that version has varint lengths and tagged fields.
    pub(crate) const fn is_flexible(self, version: i16) -> bool {
        version >= self.versions().flexible_from
    }

    /// What the walker checks before the message crate sees a body. Produce and Fetch have codecs
    /// of their own that check as they go.
    pub(super) const fn schema(self) -> &'static [Field] {
        match self {
            Self::Produce | Self::Fetch => &[],
            Self::ListOffsets => LIST_OFFSETS,
            Self::Metadata => METADATA,
            Self::OffsetCommit => OFFSET_COMMIT,
            Self::OffsetFetch => OFFSET_FETCH,
            Self::FindCoordinator => FIND_COORDINATOR,
            Self::JoinGroup => JOIN_GROUP,
            Self::Heartbeat => HEARTBEAT,
            Self::LeaveGroup => LEAVE_GROUP,
            Self::SyncGroup => SYNC_GROUP,
            Self::DescribeGroups => DESCRIBE_GROUPS,
            Self::ListGroups => LIST_GROUPS,
            Self::ApiVersions => API_VERSIONS,
            Self::CreateTopics => CREATE_TOPICS,
            Self::DeleteTopics => DELETE_TOPICS,
            Self::DeleteRecords => admin::DELETE_RECORDS,
            Self::InitProducerId => INIT_PRODUCER_ID,
            Self::OffsetForLeaderEpoch => OFFSET_FOR_LEADER_EPOCH,
            Self::DescribeAcls => admin::DESCRIBE_ACLS,
            Self::CreateAcls => admin::CREATE_ACLS,
            Self::DeleteAcls => admin::DELETE_ACLS,
            Self::DescribeConfigs => DESCRIBE_CONFIGS,
            Self::AlterConfigs => ALTER_CONFIGS,
            Self::DescribeLogDirs => admin::DESCRIBE_LOG_DIRS,
            Self::CreatePartitions => CREATE_PARTITIONS,
            Self::DeleteGroups => DELETE_GROUPS,
            Self::ElectLeaders => admin::ELECT_LEADERS,
            Self::IncrementalAlterConfigs => INCREMENTAL_ALTER_CONFIGS,
            Self::AlterPartitionReassignments => admin::ALTER_PARTITION_REASSIGNMENTS,
            Self::ListPartitionReassignments => admin::LIST_PARTITION_REASSIGNMENTS,
            Self::OffsetDelete => OFFSET_DELETE,
            Self::DescribeClientQuotas => admin::DESCRIBE_CLIENT_QUOTAS,
            Self::AlterClientQuotas => admin::ALTER_CLIENT_QUOTAS,
            Self::DescribeUserScramCredentials => admin::DESCRIBE_USER_SCRAM_CREDENTIALS,
            Self::AlterUserScramCredentials => admin::ALTER_USER_SCRAM_CREDENTIALS,
            Self::DescribeCluster => DESCRIBE_CLUSTER,
            Self::DescribeProducers => admin::DESCRIBE_PRODUCERS,
            Self::DescribeTransactions => admin::DESCRIBE_TRANSACTIONS,
            Self::ListTransactions => admin::LIST_TRANSACTIONS,
            Self::ListConfigResources => admin::LIST_CONFIG_RESOURCES,
            Self::DescribeTopicPartitions => admin::DESCRIBE_TOPIC_PARTITIONS,
        }
    }
}

const BOOLEAN: Kind = Kind::Fixed(1);
const INT8: Kind = Kind::Fixed(1);
const INT16: Kind = Kind::Fixed(2);
const INT32: Kind = Kind::Fixed(4);
const INT64: Kind = Kind::Fixed(8);
const UUID: Kind = Kind::Fixed(16);

const LIST_OFFSETS: &[Field] = &[
    Field::new(INT32),     // replica id
    Field::since(2, INT8), // isolation level
    Field::new(Kind::Structures(&[
        Field::new(Kind::Text), // topic
        Field::new(Kind::Structures(&[
            Field::new(INT32),      // partition
            Field::since(4, INT32), // current leader epoch
            Field::new(INT64),      // timestamp
        ])),
    ])),
    Field::since(10, INT32), // timeout
];

const METADATA: &[Field] = &[
    Field::new(Kind::Structures(&[
        Field::since(10, UUID), // topic id
        Field::new(Kind::Text), // topic
    ])),
    Field::since(4, BOOLEAN),       // allow automatic creation
    Field::between(8, 10, BOOLEAN), // include the cluster's authorized operations
    Field::since(8, BOOLEAN),       // include the topics' authorized operations
];

const FIND_COORDINATOR: &[Field] = &[
    Field::between(0, 3, Kind::Text),           // key
    Field::since(1, INT8),                      // key type
    Field::since(4, Kind::Values(&Kind::Text)), // keys
];

const OFFSET_COMMIT: &[Field] = &[
    Field::new(Kind::Text),      // group
    Field::new(INT32),           // generation
    Field::new(Kind::Text),      // member
    Field::since(7, Kind::Text), // instance
    Field::between(2, 4, INT64), // retention
    Field::new(Kind::Structures(&[
        Field::between(0, 9, Kind::Text), // topic
        Field::since(10, UUID),           // topic id
        Field::new(Kind::Structures(&[
            Field::new(INT32),      // partition
            Field::new(INT64),      // offset
            Field::since(6, INT32), // leader epoch
            Field::new(Kind::Text), // metadata
        ])),
    ])),
];

const OFFSET_FETCH: &[Field] = &[
    Field::between(0, 7, Kind::Text), // group
    Field::between(0, 7, Kind::Structures(OFFSET_FETCH_TOPIC)),
    Field::since(
        8,
        Kind::Structures(&[
            Field::new(Kind::Text),      // group
            Field::since(9, Kind::Text), // member
            Field::since(9, INT32),      // member epoch
            Field::new(Kind::Structures(OFFSET_FETCH_TOPIC)),
        ]),
    ),
    Field::since(7, BOOLEAN), // require stable
];

const OFFSET_FETCH_TOPIC: &[Field] = &[
    Field::between(0, 9, Kind::Text), // topic
    Field::since(10, UUID),           // topic id
    Field::new(Kind::Values(&INT32)), // partitions
];

const JOIN_GROUP: &[Field] = &[
    Field::new(Kind::Text),      // group
    Field::new(INT32),           // session timeout
    Field::since(1, INT32),      // rebalance timeout
    Field::new(Kind::Text),      // member
    Field::since(5, Kind::Text), // instance
    Field::new(Kind::Text),      // protocol type
    Field::new(Kind::Structures(&[
        Field::new(Kind::Text),  // protocol
        Field::new(Kind::Bytes), // metadata
    ])),
    Field::since(8, Kind::Text), // reason
];

const HEARTBEAT: &[Field] = &[
    Field::new(Kind::Text),      // group
    Field::new(INT32),           // generation
    Field::new(Kind::Text),      // member
    Field::since(3, Kind::Text), // instance
];

const LEAVE_GROUP: &[Field] = &[
    Field::new(Kind::Text),           // group
    Field::between(0, 2, Kind::Text), // member
    Field::since(
        3,
        Kind::Structures(&[
            Field::new(Kind::Text),      // member
            Field::new(Kind::Text),      // instance
            Field::since(5, Kind::Text), // reason
        ]),
    ),
];

const SYNC_GROUP: &[Field] = &[
    Field::new(Kind::Text),      // group
    Field::new(INT32),           // generation
    Field::new(Kind::Text),      // member
    Field::since(3, Kind::Text), // instance
    Field::since(5, Kind::Text), // protocol type
    Field::since(5, Kind::Text), // protocol
    Field::new(Kind::Structures(&[
        Field::new(Kind::Text),  // member
        Field::new(Kind::Bytes), // assignment
    ])),
];

const DESCRIBE_GROUPS: &[Field] = &[
    Field::new(Kind::Values(&Kind::Text)), // groups
    Field::since(3, BOOLEAN),              // include authorized operations
];

const LIST_GROUPS: &[Field] = &[
    Field::since(4, Kind::Values(&Kind::Text)), // states
    Field::since(5, Kind::Values(&Kind::Text)), // types
];

const API_VERSIONS: &[Field] = &[
    Field::since(3, Kind::Text), // client software's name
    Field::since(3, Kind::Text), // client software's version
];

const CREATE_TOPICS: &[Field] = &[
    Field::new(Kind::Structures(&[
        Field::new(Kind::Text), // topic
        Field::new(INT32),      // partitions
        Field::new(INT16),      // replication factor
        Field::new(Kind::Structures(&[
            Field::new(INT32),                // partition
            Field::new(Kind::Values(&INT32)), // brokers
        ])),
        Field::new(Kind::Structures(&[
            Field::new(Kind::Text), // setting
            Field::new(Kind::Text), // value
        ])),
    ])),
    Field::new(INT32),   // timeout
    Field::new(BOOLEAN), // validate only
];

const DELETE_TOPICS: &[Field] = &[
    Field::since(
        6,
        Kind::Structures(&[
            Field::new(Kind::Text), // topic
            Field::new(UUID),       // topic id
        ]),
    ),
    Field::between(0, 5, Kind::Values(&Kind::Text)), // topics
    Field::new(INT32),                               // timeout
];

const INIT_PRODUCER_ID: &[Field] = &[
    Field::new(Kind::Text), // transactional id
    Field::new(INT32),      // transaction timeout
    Field::since(3, INT64), // producer id
    Field::since(3, INT16), // producer epoch
];

const OFFSET_FOR_LEADER_EPOCH: &[Field] = &[
    Field::since(3, INT32), // replica id
    Field::new(Kind::Structures(&[
        Field::new(Kind::Text), // topic
        Field::new(Kind::Structures(&[
            Field::new(INT32), // partition
            Field::new(INT32), // current leader epoch
            Field::new(INT32), // leader epoch
        ])),
    ])),
];

const DESCRIBE_CONFIGS: &[Field] = &[
    Field::new(Kind::Structures(&[
        Field::new(INT8),                      // resource type
        Field::new(Kind::Text),                // resource
        Field::new(Kind::Values(&Kind::Text)), // settings
    ])),
    Field::new(BOOLEAN),      // include synonyms
    Field::since(3, BOOLEAN), // include documentation
];

const ALTER_CONFIGS: &[Field] = &[
    Field::new(Kind::Structures(&[
        Field::new(INT8),       // resource type
        Field::new(Kind::Text), // resource
        Field::new(Kind::Structures(&[
            Field::new(Kind::Text), // setting
            Field::new(Kind::Text), // value
        ])),
    ])),
    Field::new(BOOLEAN), // validate only
];

const CREATE_PARTITIONS: &[Field] = &[
    Field::new(Kind::Structures(&[
        Field::new(Kind::Text), // topic
        Field::new(INT32),      // count
        Field::new(Kind::Structures(&[
            Field::new(Kind::Values(&INT32)), // brokers
        ])),
    ])),
    Field::new(INT32),   // timeout
    Field::new(BOOLEAN), // validate only
];

const DELETE_GROUPS: &[Field] = &[
    Field::new(Kind::Values(&Kind::Text)), // groups
];

const OFFSET_DELETE: &[Field] = &[
    Field::new(Kind::Text), // group
    Field::new(Kind::Structures(&[
        Field::new(Kind::Text), // topic
        Field::new(Kind::Structures(&[
            Field::new(INT32), // partition
        ])),
    ])),
];

const INCREMENTAL_ALTER_CONFIGS: &[Field] = &[
    Field::new(Kind::Structures(&[
        Field::new(INT8),       // resource type
        Field::new(Kind::Text), // resource
        Field::new(Kind::Structures(&[
            Field::new(Kind::Text), // setting
            Field::new(INT8),       // operation
            Field::new(Kind::Text), // value
        ])),
    ])),
    Field::new(BOOLEAN), // validate only
];

const DESCRIBE_CLUSTER: &[Field] = &[
    Field::new(BOOLEAN),      // include authorized operations
    Field::since(1, INT8),    // endpoint type
    Field::since(2, BOOLEAN), // include fenced brokers
];

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;

    use super::*;

    #[test]
    fn headers_are_flexible_exactly_when_bodies_are() {
        for api in Api::ALL {
            let key = ApiKey::try_from(api.key()).expect("a Kafka API");
            let versions = api.versions();
            for version in versions.first..=versions.last {
                let flexible = key.request_header_version(version) == 2;
                assert_eq!(api.is_flexible(version), flexible, "{api:?} {version}");
                // The one exception in the whole protocol: KIP-511.
                let response = flexible && api != Api::ApiVersions;
                let theirs = key.response_header_version(version) == 1;
                assert_eq!(response, theirs, "{api:?} {version}");
            }
        }
    }

    #[test]
    fn keys_are_in_order_and_found() {
        assert!(Api::ALL.is_sorted());
        for key in -1..100 {
            let found = Api::from_key(key).map(Api::key);
            let there = Api::ALL.iter().any(|api| api.key() == key);
            assert_eq!(found, there.then_some(key));
        }
    }
}
