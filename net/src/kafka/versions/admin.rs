//! Schemas of what administrators ask.

use super::{BOOLEAN, Field, INT8, INT32, INT64, Kind};

pub(super) const DELETE_RECORDS: &[Field] = &[
    Field::new(Kind::Structures(&[
        Field::new(Kind::Text), // topic
        Field::new(Kind::Structures(&[
            Field::new(INT32), // partition
            Field::new(INT64), // offset
        ])),
    ])),
    Field::new(INT32), // timeout
];

pub(super) const DESCRIBE_ACLS: &[Field] = ACL_FILTER;

pub(super) const CREATE_ACLS: &[Field] = &[Field::new(Kind::Structures(&[
    Field::new(INT8),       // resource type
    Field::new(Kind::Text), // resource
    Field::new(INT8),       // pattern type
    Field::new(Kind::Text), // principal
    Field::new(Kind::Text), // host
    Field::new(INT8),       // operation
    Field::new(INT8),       // permission
]))];

pub(super) const DELETE_ACLS: &[Field] = &[Field::new(Kind::Structures(ACL_FILTER))];

const ACL_FILTER: &[Field] = &[
    Field::new(INT8),       // resource type
    Field::new(Kind::Text), // resource
    Field::new(INT8),       // pattern type
    Field::new(Kind::Text), // principal
    Field::new(Kind::Text), // host
    Field::new(INT8),       // operation
    Field::new(INT8),       // permission
];

pub(super) const DESCRIBE_LOG_DIRS: &[Field] = &[Field::new(Kind::Structures(TOPIC_PARTITIONS))];

pub(super) const ELECT_LEADERS: &[Field] = &[
    Field::since(1, INT8), // election type
    Field::new(Kind::Structures(TOPIC_PARTITIONS)),
    Field::new(INT32), // timeout
];

const TOPIC_PARTITIONS: &[Field] = &[
    Field::new(Kind::Text),           // topic
    Field::new(Kind::Values(&INT32)), // partitions
];

pub(super) const ALTER_PARTITION_REASSIGNMENTS: &[Field] = &[
    Field::new(INT32),        // timeout
    Field::since(1, BOOLEAN), // allow another replication factor
    Field::new(Kind::Structures(&[
        Field::new(Kind::Text), // topic
        Field::new(Kind::Structures(&[
            Field::new(INT32),                // partition
            Field::new(Kind::Values(&INT32)), // brokers
        ])),
    ])),
];

pub(super) const LIST_PARTITION_REASSIGNMENTS: &[Field] = &[
    Field::new(INT32), // timeout
    Field::new(Kind::Structures(TOPIC_PARTITIONS)),
];

pub(super) const DESCRIBE_CLIENT_QUOTAS: &[Field] = &[
    Field::new(Kind::Structures(&[
        Field::new(Kind::Text), // entity type
        Field::new(INT8),       // match type
        Field::new(Kind::Text), // match
    ])),
    Field::new(BOOLEAN), // strict
];

pub(super) const ALTER_CLIENT_QUOTAS: &[Field] = &[
    Field::new(Kind::Structures(&[
        Field::new(Kind::Structures(&[
            Field::new(Kind::Text), // entity type
            Field::new(Kind::Text), // entity
        ])),
        Field::new(Kind::Structures(&[
            Field::new(Kind::Text), // quota
            Field::new(INT64),      // value, a float
            Field::new(BOOLEAN),    // remove
        ])),
    ])),
    Field::new(BOOLEAN), // validate only
];

pub(super) const DESCRIBE_USER_SCRAM_CREDENTIALS: &[Field] = &[Field::new(Kind::Structures(&[
    Field::new(Kind::Text), // user
]))];

pub(super) const ALTER_USER_SCRAM_CREDENTIALS: &[Field] = &[
    Field::new(Kind::Structures(&[
        Field::new(Kind::Text), // user
        Field::new(INT8),       // mechanism
    ])),
    Field::new(Kind::Structures(&[
        Field::new(Kind::Text),  // user
        Field::new(INT8),        // mechanism
        Field::new(INT32),       // iterations
        Field::new(Kind::Bytes), // salt
        Field::new(Kind::Bytes), // salted password
    ])),
];

pub(super) const DESCRIBE_PRODUCERS: &[Field] = &[Field::new(Kind::Structures(TOPIC_PARTITIONS))];

pub(super) const DESCRIBE_TRANSACTIONS: &[Field] = &[
    Field::new(Kind::Values(&Kind::Text)), // transactional ids
];

pub(super) const LIST_TRANSACTIONS: &[Field] = &[
    Field::new(Kind::Values(&Kind::Text)), // states
    Field::new(Kind::Values(&INT64)),      // producer ids
    Field::since(1, INT64),                // duration
    Field::since(2, Kind::Text),           // pattern of transactional ids
];

pub(super) const LIST_CONFIG_RESOURCES: &[Field] = &[
    Field::since(1, Kind::Values(&INT8)), // resource types
];

pub(super) const DESCRIBE_TOPIC_PARTITIONS: &[Field] = &[
    Field::new(Kind::Structures(&[
        Field::new(Kind::Text), // topic
    ])),
    Field::new(INT32), // partitions of a reply
    Field::new(Kind::Optional(&[
        Field::new(Kind::Text), // topic to begin with
        Field::new(INT32),      // partition
    ])),
];
