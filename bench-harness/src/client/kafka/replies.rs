//! Reply bodies, each in the one version that [`RequestKind::version`] names.

use super::batch::Identity;
use super::wire::{Reader, WireError};
use super::{RequestKind, groups, refusal};
use crate::client::{ClientError, FetchedPartition, Node, Refusal, Reply, Topology};

/// Partitions believed in one reply; more is a broken peer, not a topic.
const PARTITIONS_MAX: usize = 1 << 20;

/// Decodes the body that follows a reply's correlation number.
pub(crate) fn decode<'a>(
    kind: RequestKind,
    mut body: Reader<'a>,
) -> Result<Reply<'a>, ClientError> {
    if kind == RequestKind::ApiVersions {
        return api_versions(&mut body);
    }
    let reply = match kind {
        RequestKind::Produce => produce(&mut body),
        RequestKind::Fetch => fetch(&mut body),
        RequestKind::ListOffsets => list_offsets(&mut body),
        RequestKind::Metadata => metadata(&mut body),
        RequestKind::CreateTopics => create_topics(&mut body),
        RequestKind::FindCoordinator => groups::coordinator(&mut body),
        RequestKind::JoinGroup => groups::joined(&mut body),
        RequestKind::SyncGroup => groups::synced(&mut body),
        RequestKind::ApiVersions | RequestKind::InitProducerId => {
            unreachable!("decoded for themselves")
        }
    };
    reply.map_err(|reason| malformed(kind, reason))
}

fn malformed(kind: RequestKind, reason: WireError) -> ClientError {
    ClientError::Malformed {
        request: kind.name(),
        reason: reason.to_string(),
    }
}

fn api_versions<'a>(body: &mut Reader<'a>) -> Result<Reply<'a>, ClientError> {
    let (error, served) =
        version_ranges(body).map_err(|reason| malformed(RequestKind::ApiVersions, reason))?;
    refusal(error).map_err(|refusal| ClientError::Refused {
        request: RequestKind::ApiVersions.name(),
        refusal,
    })?;
    for kind in RequestKind::ALL {
        let (request, need) = (kind.name(), kind.version());
        match served.iter().find(|range| range.0 == kind.key()) {
            None => return Err(ClientError::Unserved { request }),
            Some(&(_, min, max)) if need < min || need > max => {
                return Err(ClientError::Version {
                    request,
                    need,
                    min,
                    max,
                });
            }
            Some(_) => {}
        }
    }
    Ok(Reply::Ready)
}

type VersionRange = (i16, i16, i16);

fn version_ranges(body: &mut Reader<'_>) -> Result<(i16, Vec<VersionRange>), WireError> {
    let error = body.i16()?;
    let mut served = Vec::new();
    for _ in 0..body.count()? {
        served.push((body.i16()?, body.i16()?, body.i16()?));
    }
    Ok((error, served))
}

fn produce<'a>(body: &mut Reader<'a>) -> Result<Reply<'a>, WireError> {
    let mut outcome = Err(Refusal {
        code: 0,
        name: "NO_PARTITION_IN_THE_REPLY",
    });
    for _ in 0..body.count()? {
        body.string()?;
        for _ in 0..body.count()? {
            body.i32()?;
            let error = body.i16()?;
            let base_offset = body.i64()?;
            body.i64()?; // append time
            body.i64()?; // log start
            outcome = refusal(error).map(|()| base_offset.cast_unsigned());
        }
    }
    body.i32()?; // throttle time
    Ok(Reply::Appended(outcome))
}

fn fetch<'a>(body: &mut Reader<'a>) -> Result<Reply<'a>, WireError> {
    body.i32()?; // throttle time
    let error = body.i16()?;
    body.i32()?; // session
    let mut partitions = Vec::new();
    for _ in 0..body.count()? {
        body.string()?;
        for _ in 0..body.count()? {
            partitions.push(fetched_partition(body)?);
        }
    }
    Ok(Reply::Fetched(refusal(error).map(|()| partitions)))
}

fn fetched_partition<'a>(body: &mut Reader<'a>) -> Result<FetchedPartition<'a>, WireError> {
    let partition = body.i32()?.cast_unsigned();
    let error = body.i16()?;
    let high_watermark = body.i64()?;
    body.i64()?; // last stable offset
    body.i64()?; // log start
    for _ in 0..body.count()? {
        body.i64()?; // aborted: producer id
        body.i64()?; // aborted: first offset
    }
    body.i32()?; // preferred replica
    let bytes = body.nullable_bytes()?.unwrap_or_default();
    let readable_end = refusal(error).map(|()| high_watermark.cast_unsigned());
    Ok(FetchedPartition {
        partition,
        readable_end,
        bytes,
    })
}

/// What InitProducerId gave.
pub(super) fn producer(body: &mut Reader<'_>) -> Result<Result<Identity, Refusal>, ClientError> {
    let mut identity = || {
        body.i32()?; // throttle time
        let error = body.i16()?;
        let first = Identity {
            producer_id: body.i64()?,
            producer_epoch: body.i16()?,
            base_sequence: 0,
        };
        Ok(refusal(error).map(|()| first))
    };
    identity().map_err(|reason| malformed(RequestKind::InitProducerId, reason))
}

fn list_offsets<'a>(body: &mut Reader<'a>) -> Result<Reply<'a>, WireError> {
    let mut ends = Vec::new();
    for _ in 0..body.count()? {
        body.string()?;
        for _ in 0..body.count()? {
            let partition = body.i32()?.cast_unsigned();
            let error = body.i16()?;
            body.i64()?; // timestamp
            let offset = body.i64()?;
            ends.push((partition, refusal(error).map(|()| offset.cast_unsigned())));
        }
    }
    Ok(Reply::Ends(ends))
}

fn metadata<'a>(body: &mut Reader<'a>) -> Result<Reply<'a>, WireError> {
    body.i32()?; // throttle time
    let mut nodes = Vec::new();
    for _ in 0..body.count()? {
        let id = body.i32()?;
        let host = body.string()?.to_owned();
        let port = body.i32()?;
        body.nullable_string()?; // rack
        let port = u16::try_from(port).map_err(|_| WireError::NegativeLength(port.into()))?;
        nodes.push(Node { id, host, port });
    }
    body.nullable_string()?; // cluster id
    body.i32()?; // controller
    let mut topology = Err(Refusal {
        code: 0,
        name: "NO_TOPIC_IN_THE_REPLY",
    });
    for _ in 0..body.count()? {
        let error = body.i16()?;
        body.string()?;
        body.i8()?; // internal
        let leaders = leaders(body)?;
        topology = refusal(error).map(|()| Topology {
            nodes: nodes.clone(),
            leaders,
        });
    }
    Ok(Reply::Topology(topology))
}

/// A topic's partitions, in any order on the wire, by number here.
fn leaders(body: &mut Reader<'_>) -> Result<Vec<Result<i32, Refusal>>, WireError> {
    let count = body.count()?;
    if count > PARTITIONS_MAX {
        return Err(WireError::Short { missing: count });
    }
    let mut leaders = Vec::new();
    for _ in 0..count {
        let error = body.i16()?;
        let partition = body.i32()?;
        let leader = body.i32()?;
        for _ in 0..2 {
            let replicas = body.count()?;
            body.take(replicas.saturating_mul(4))?;
        }
        let index = usize::try_from(partition)
            .ok()
            .filter(|index| *index < count)
            .ok_or(WireError::NegativeLength(partition.into()))?;
        if leaders.len() <= index {
            leaders.resize(
                index + 1,
                Err(Refusal {
                    code: 0,
                    name: "PARTITION_NOT_LISTED",
                }),
            );
        }
        leaders[index] = refusal(error).map(|()| leader);
    }
    Ok(leaders)
}

fn create_topics<'a>(body: &mut Reader<'a>) -> Result<Reply<'a>, WireError> {
    body.i32()?; // throttle time
    let mut outcome = Err(Refusal {
        code: 0,
        name: "NO_TOPIC_IN_THE_REPLY",
    });
    for _ in 0..body.count()? {
        body.string()?;
        outcome = refusal(body.i16()?);
        body.nullable_string()?; // message
    }
    Ok(Reply::Created(outcome))
}
