//! Groups over the control socket: who reads what, how far behind, and moving their offsets.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use millrace_engine::catalog::Catalog;
use millrace_engine::command::{FetchPartition, FetchRequest, Isolation, OffsetQuery};
use millrace_engine::event::{Outcome, Refusal};
use millrace_engine::group::{
    CommitOffsets, CommittedOffset, GroupAnswer, GroupAsk, GroupRequest, GroupStanding,
    MemberDescription, Membership, NewOffset,
};
use millrace_engine::report::{GroupReport, PartitionReport};
use millrace_net::control::{ControlAnswer, ControlAsk, ControlCommand};
use millrace_net::kafka::consumer_protocol::assigned_partitions;
use millrace_storage::record::BatchHeader;
use millrace_storage::units::{BootTime, Offset, PartitionId};
use serde::{Deserialize, Serialize};

use super::api::{Api, Shared};
use super::gate::Silent;

/// Partitions that are behind of which one request tells the seconds: each takes a read.
const AGES_MAX: usize = 2_000;

/// One group in `GET /groups`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name.
    pub group: String,
    /// Empty, PreparingRebalance, CompletingRebalance or Stable.
    pub state: String,
    /// Rises with each rebalance.
    pub generation: i32,
    /// What the members speak, as "consumer"; empty when none ever joined.
    pub protocol_type: String,
    /// The way of assigning in use; empty while the group rebalances.
    pub protocol: String,
    /// The member that assigns; empty without members.
    pub leader: String,
    /// By id.
    pub members: Vec<MemberStatus>,
    /// Every partition with a committed offset, by topic.
    pub offsets: Vec<OffsetStatus>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its id.
    pub member: String,
    /// A static member's name.
    pub instance: Option<String>,
    /// What its client calls itself.
    pub client: String,
    /// Where it came from.
    pub host: String,
    /// Its share: partitions by topic.
    pub assignment: Vec<(String, Vec<i32>)>,
}

/// How far a group came with one partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OffsetStatus {
    /// The topic.
    pub topic: String,
    /// The partition's index in it.
    pub partition: u32,
    /// The next offset that the group reads.
    pub committed: u64,
    /// First offset not yet readable.
    pub end: u64,
    /// Records that it has yet to read.
    pub lag: u64,
    /// Seconds since the first of them was stamped; 0 when there is none, null when it cannot be
    /// told.
    pub lag_s: Option<f64>,
    /// The consumer's own words.
    pub metadata: String,
}

/// `POST /groups/reset`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetAsk {
    /// The group, which must be empty.
    pub group: String,
    /// What to move.
    pub topics: Vec<ResetTopic>,
    /// Where to.
    pub to: ResetTo,
    /// Do it; otherwise tell only.
    pub execute: bool,
}

/// A topic, or one partition of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetTopic {
    /// The topic.
    pub topic: String,
    /// One partition of it; `None`: all.
    pub partition: Option<u32>,
}

/// Where offsets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResetTo {
    /// The first record held.
    Earliest,
    /// After the last one.
    Latest,
    /// That offset, or the nearest one that the partition has.
    Offset(u64),
    /// The first record of that time or later, milliseconds since the Unix epoch; after the last
    /// one when there is none.
    Time(i64),
}

/// One partition in the answer to `POST /groups/reset`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetPartition {
    /// The topic.
    pub topic: String,
    /// The partition's index in it.
    pub partition: u32,
    /// As committed before.
    pub from: Option<u64>,
    /// As it is, or would be, committed now.
    pub to: u64,
}

/// Why a request about groups is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Declined {
    Silent(Silent),
    Refused(StatusCode, String),
}

impl From<Silent> for Declined {
    fn from(silent: Silent) -> Self {
        Self::Silent(silent)
    }
}

impl From<Refusal> for Declined {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::OutcomeUnknown => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::CONFLICT,
        };
        Self::Refused(code, refusal.to_string())
    }
}

impl IntoResponse for Declined {
    fn into_response(self) -> Response {
        match self {
            Self::Silent(silent) => silent.into_response(),
            Self::Refused(code, words) => (code, words).into_response(),
        }
    }
}

pub(super) async fn list(State(api): Shared) -> Result<Json<Vec<GroupStatus>>, Declined> {
    let catalog = api.catalog().await?;
    let mut groups = Vec::new();
    for shard in 0..api.gate.shards() {
        match api.gate.ask(shard, ControlAsk::Groups).await? {
            ControlAnswer::Groups(found) => groups.extend(found),
            other => unreachable!("groups were asked for: {other:?}"),
        }
    }
    // After the groups: what they committed is below the ends.
    let reports = api.reports().await?;
    let partitions = reports.iter().flat_map(|report| &report.shard.partitions);
    let held = partitions
        .map(|report| (report.partition, report))
        .collect();
    groups.sort_unstable_by(|a: &GroupReport, b| a.group.cmp(&b.group));
    let mut ages_left = AGES_MAX;
    let mut all = Vec::with_capacity(groups.len());
    for group in groups {
        let offsets = offsets(&api, &catalog, &held, &group, &mut ages_left).await?;
        all.push(describe(group, offsets));
    }
    Ok(Json(all))
}

type Held<'a> = HashMap<PartitionId, &'a PartitionReport>;

async fn offsets(
    api: &Api,
    catalog: &Catalog,
    held: &Held<'_>,
    group: &GroupReport,
    ages_left: &mut usize,
) -> Result<Vec<OffsetStatus>, Declined> {
    let mut offsets = Vec::with_capacity(group.offsets.len());
    for (id, committed) in &group.offsets {
        let (Some(place), Some(report)) = (catalog.place(*id), held.get(id)) else {
            continue;
        };
        let Some(next) = committed.commit.position() else {
            continue;
        };
        let end = report.high_watermark;
        let lag = end.0.saturating_sub(next.0.max(report.log_start.0));
        let mut lag_s = (lag == 0).then_some(0.0);
        if lag > 0 && *ages_left > 0 {
            *ages_left -= 1;
            lag_s = api.age_s(*id, next.max(report.log_start)).await?;
        }
        offsets.push(OffsetStatus {
            topic: place.topic.to_string(),
            partition: place.index,
            committed: next.0,
            end: end.0,
            lag,
            lag_s,
            metadata: committed.commit.metadata.to_string(),
        });
    }
    offsets.sort_unstable_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    Ok(offsets)
}

fn describe(group: GroupReport, offsets: Vec<OffsetStatus>) -> GroupStatus {
    let text = |text: Option<Arc<str>>| text.map_or(String::new(), |text| text.to_string());
    let described = group.description;
    GroupStatus {
        group: group.group.to_string(),
        state: format!("{:?}", described.standing),
        generation: described.generation,
        protocol_type: text(described.protocol_type),
        protocol: text(described.protocol),
        leader: text(described.leader),
        members: described.members.into_iter().map(describe_member).collect(),
        offsets,
    }
}

fn describe_member(member: MemberDescription) -> MemberStatus {
    MemberStatus {
        member: member.member.to_string(),
        instance: member.instance.map(|instance| instance.to_string()),
        client: member.client.id,
        host: member.client.host,
        assignment: assigned_partitions(&member.assignment).unwrap_or_default(),
    }
}

pub(super) async fn reset(
    State(api): Shared,
    Json(asked): Json<ResetAsk>,
) -> Result<Json<Vec<ResetPartition>>, Declined> {
    let catalog = api.catalog().await?;
    let targets = targets(&catalog, &asked.topics)?;
    let group: Arc<str> = Arc::from(asked.group.as_str());
    if let GroupAnswer::Described(Some(described)) = api.ask(&group, GroupAsk::Describe).await?
        && described.standing != GroupStanding::Empty
    {
        let words = format!(
            "group {group} has {} members: stop them first",
            described.members.len()
        );
        return Err(Declined::Refused(StatusCode::CONFLICT, words));
    }
    let ids = targets.iter().map(|(id, ..)| *id).collect();
    let GroupAnswer::Offsets(before) = api.ask(&group, GroupAsk::FetchOffsets(Some(ids))).await?
    else {
        unreachable!("offsets were asked for");
    };
    let mut moved = Vec::with_capacity(targets.len());
    let mut offsets = Vec::with_capacity(targets.len());
    for ((id, topic, index), (_, found)) in targets.into_iter().zip(before) {
        let to = api.place_of(id, asked.to).await?;
        let offset = NewOffset {
            offset: to,
            leader_epoch: None,
            metadata: Arc::from(""),
        };
        offsets.push((id, offset));
        moved.push(ResetPartition {
            topic,
            partition: index,
            from: found
                .and_then(|found: CommittedOffset| found.commit.position())
                .map(|position| position.0),
            to: to.0,
        });
    }
    if asked.execute {
        api.commit(&group, offsets).await?;
    }
    Ok(Json(moved))
}

/// The partitions named, each with its topic and index.
fn targets(
    catalog: &Catalog,
    topics: &[ResetTopic],
) -> Result<Vec<(PartitionId, String, u32)>, Declined> {
    let missing = |words: String| Declined::Refused(StatusCode::NOT_FOUND, words);
    let mut targets = Vec::new();
    for named in topics {
        let topic = catalog.topic(&named.topic);
        let topic = topic.ok_or_else(|| missing(format!("there is no topic {}", named.topic)))?;
        let all = (0..).zip(&topic.partitions);
        let wanted = all.filter(|(index, _)| named.partition.is_none_or(|one| one == *index));
        let before = targets.len();
        targets.extend(wanted.map(|(index, home)| (home.id, named.topic.clone(), index)));
        if targets.len() == before {
            let words = format!("topic {} has no such partition", named.topic);
            return Err(missing(words));
        }
    }
    targets.sort_unstable();
    targets.dedup();
    Ok(targets)
}

impl Api {
    async fn command(&self, command: ControlCommand) -> Result<Outcome, Declined> {
        match self
            .gate
            .ask(0, ControlAsk::Command(Box::new(command)))
            .await?
        {
            ControlAnswer::Ended(ended) => Ok((*ended)?),
            other => unreachable!("a command was given: {other:?}"),
        }
    }

    async fn ask(&self, group: &Arc<str>, ask: GroupAsk) -> Result<GroupAnswer, Declined> {
        let group = Arc::clone(group);
        let request = ControlCommand::Group(GroupRequest { group, ask });
        match self.command(request).await? {
            Outcome::Group(answer) => Ok(answer),
            other => unreachable!("a group was asked: {other:?}"),
        }
    }

    async fn find(
        &self,
        partition: PartitionId,
        at: OffsetQuery,
    ) -> Result<Option<Offset>, Declined> {
        match self
            .command(ControlCommand::FindOffset { partition, at })
            .await?
        {
            Outcome::OffsetFound(found) => Ok(found.map(|found| found.offset)),
            other => unreachable!("an offset was asked for: {other:?}"),
        }
    }

    /// Where a partition's offset goes.
    async fn place_of(&self, partition: PartitionId, to: ResetTo) -> Result<Offset, Declined> {
        let first = self.find(partition, OffsetQuery::Earliest).await?;
        let end = self.find(partition, OffsetQuery::Latest).await?;
        let both = "a partition has both its ends";
        let (first, end) = (first.expect(both), end.expect(both));
        Ok(match to {
            ResetTo::Earliest => first,
            ResetTo::Latest => end,
            ResetTo::Offset(offset) => Offset(offset).clamp(first, end),
            ResetTo::Time(time_ms) => {
                let found = self
                    .find(partition, OffsetQuery::AtOrAfter(time_ms))
                    .await?;
                found.unwrap_or(end)
            }
        })
    }

    /// Commits as one who shares partitions with nobody: refused while the group has members.
    async fn commit(
        &self,
        group: &Arc<str>,
        offsets: Vec<(PartitionId, NewOffset)>,
    ) -> Result<(), Declined> {
        let commit = GroupAsk::Commit(CommitOffsets {
            membership: Membership {
                generation: -1,
                member: String::new(),
                instance: None,
            },
            retention_ms: None,
            offsets,
        });
        match self.ask(group, commit).await? {
            GroupAnswer::OffsetsCommitted(results) => {
                let failed = results.into_iter().find_map(Result::err);
                failed.map_or(Ok(()), |refusal| Err(refusal.into()))
            }
            other => unreachable!("a commit was asked for: {other:?}"),
        }
    }

    /// Seconds since the batch that holds the record at `offset` was stamped; `None` when it
    /// cannot be read.
    async fn age_s(&self, partition: PartitionId, offset: Offset) -> Result<Option<f64>, Declined> {
        let fetch = FetchRequest {
            partitions: vec![FetchPartition {
                partition,
                from: offset,
                bytes_max: 1,
                leader_epoch: None,
            }],
            bytes_min: 0,
            bytes_max: 1,
            deadline: BootTime(0),
            isolation: Isolation::Uncommitted,
        };
        let Outcome::Fetched(fetched) = self.command(ControlCommand::Fetch(fetch)).await? else {
            unreachable!("records were asked for");
        };
        let fetched = fetched.into_iter().next().and_then(|one| one.result.ok());
        let batch = fetched.and_then(|fetched| fetched.batches.into_iter().next());
        let header = batch.and_then(|batch| BatchHeader::parse(&batch).ok());
        Ok(header.map(|header| age_s(&header)))
    }
}

fn age_s(header: &BatchHeader) -> f64 {
    let stamped_ms = if header.is_append_time() {
        header.max_timestamp_ms
    } else {
        header.base_timestamp_ms
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_ms = now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
    let age_ms = now_ms.saturating_sub(stamped_ms).max(0);
    std::time::Duration::from_millis(age_ms.unsigned_abs()).as_secs_f64()
}
