//! What the control socket answers: routes, and the shapes of their JSON.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use millrace_engine::catalog::Catalog;
use millrace_engine::report::PartitionReport;
use millrace_engine::stages::StageReport;
use millrace_net::control::{ControlAnswer, ControlAsk, WorkerReport};
use millrace_storage::units::PartitionId;
use serde::{Deserialize, Serialize};

use super::Facts;
use super::gate::{Gate, Silent};
use super::groups;

/// `GET /status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Of the running broker.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it was ready.
    pub uptime_s: u64,
    /// Its data directory.
    pub data_dir: String,
    /// The file system below it.
    pub file_system: String,
    /// What an acknowledgement means there.
    pub acknowledgement: String,
    /// Addresses that Kafka clients reach, one a node.
    pub kafka: Vec<String>,
    /// Topics that exist.
    pub topics: usize,
    /// One entry a shard.
    pub shards: Vec<ShardStatus>,
}

/// One shard in `GET /status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// Its number.
    pub shard: u16,
    /// The core that it runs on.
    pub core: usize,
    /// The catalog epoch that it has.
    pub catalog_epoch: u64,
    /// Partitions that it is home to.
    pub partitions: usize,
    /// Bytes that they hold.
    pub bytes: u64,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
}

/// One topic in `GET /topics`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicStatus {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Settings that differ from the broker's.
    pub overrides: BTreeMap<String, String>,
    /// By index.
    pub partitions: Vec<PartitionStatus>,
}

/// One partition in `GET /topics`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// Its index in the topic.
    pub index: usize,
    /// Its number in the broker.
    pub id: u32,
    /// The shard that owns it.
    pub home: u16,
    /// First offset held.
    pub log_start: u64,
    /// First offset not yet readable.
    pub high_watermark: u64,
    /// Bytes held.
    pub bytes: u64,
}

/// One setting in `GET /config`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingStatus {
    /// `section.key`.
    pub name: String,
    /// As TOML.
    pub value: String,
    /// Where it was set.
    pub set_by: String,
}

pub(super) struct Api {
    pub(super) facts: Facts,
    pub(super) gate: Gate,
}

pub(super) type Shared = State<Arc<Api>>;

pub(super) fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/config", get(config))
        .route("/metrics.json", get(metrics))
        .route("/topics", get(topics))
        .route("/groups", get(groups::list))
        .route("/groups/reset", post(groups::reset))
        .with_state(api)
}

async fn status(State(api): Shared) -> Result<Json<Status>, Silent> {
    let catalog = api.catalog().await?;
    let reports = api.reports().await?;
    let facts = &api.facts;
    let shards = reports.into_iter().zip(&facts.cores);
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_s: facts.started.elapsed().as_secs(),
        data_dir: facts.data_dir.display().to_string(),
        file_system: facts.file_system.clone(),
        acknowledgement: facts.acknowledgement.to_owned(),
        kafka: facts.kafka.iter().map(ToString::to_string).collect(),
        topics: catalog.topics().count(),
        shards: shards
            .map(|(report, core)| shard_status(&report, *core))
            .collect(),
    }))
}

async fn config(State(api): Shared) -> Json<Vec<SettingStatus>> {
    let settings = api.facts.settings.settings();
    let settings = settings.map(|(name, value, place)| SettingStatus {
        name,
        value,
        set_by: place.to_string(),
    });
    Json(settings.collect())
}

/// One shard in `GET /metrics.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ShardMetrics {
    /// Counters by name.
    #[serde(flatten)]
    pub counters: BTreeMap<String, u64>,
    /// Histograms since start, in the order that work passes the stages.
    pub stages: Vec<StageMetrics>,
}

/// One stage in `GET /metrics.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StageMetrics {
    /// Its name.
    pub name: String,
    /// What its values are: `ns`, `bytes` or `count`.
    pub unit: String,
    /// Pairs of a value and how often it was recorded, ascending.
    pub histogram: Vec<[u64; 2]>,
}

async fn metrics(State(api): Shared) -> Result<Json<BTreeMap<String, ShardMetrics>>, Silent> {
    let reports = api.reports().await?;
    let shards = reports.iter().map(|report| {
        let name = format!("shard-{}", report.shard.shard);
        let metrics = ShardMetrics {
            counters: counters(report),
            stages: report.stages.iter().map(stage).collect(),
        };
        (name, metrics)
    });
    Ok(Json(shards.collect()))
}

fn stage(report: &StageReport) -> StageMetrics {
    StageMetrics {
        name: report.name.to_owned(),
        unit: report.unit.name().to_owned(),
        histogram: report.histogram.clone(),
    }
}

async fn topics(State(api): Shared) -> Result<Json<Vec<TopicStatus>>, Silent> {
    let catalog = api.catalog().await?;
    let reports = api.reports().await?;
    let held: HashMap<PartitionId, &PartitionReport> = reports
        .iter()
        .flat_map(|report| &report.shard.partitions)
        .map(|report| (report.partition, report))
        .collect();
    let topics = catalog.topics().map(|topic| TopicStatus {
        name: topic.name.to_string(),
        id: topic.id.to_string(),
        overrides: topic
            .overrides
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        partitions: topic
            .partitions
            .iter()
            .enumerate()
            .map(|(index, partition)| {
                let report = held.get(&partition.id);
                PartitionStatus {
                    index,
                    id: partition.id.0,
                    home: partition.home.0,
                    log_start: report.map_or(0, |report| report.log_start.0),
                    high_watermark: report.map_or(0, |report| report.high_watermark.0),
                    bytes: report.map_or(0, |report| report.bytes),
                }
            })
            .collect(),
    });
    Ok(Json(topics.collect()))
}

impl Api {
    pub(super) async fn catalog(&self) -> Result<Catalog, Silent> {
        match self.gate.ask(0, ControlAsk::Catalog).await? {
            ControlAnswer::Catalog(catalog) => Ok(*catalog),
            other => unreachable!("a catalog was asked for: {other:?}"),
        }
    }

    pub(super) async fn reports(&self) -> Result<Vec<WorkerReport>, Silent> {
        let mut reports = Vec::with_capacity(self.gate.shards());
        for shard in 0..self.gate.shards() {
            match self.gate.ask(shard, ControlAsk::Report).await? {
                ControlAnswer::Report(report) => reports.push(*report),
                other => unreachable!("a report was asked for: {other:?}"),
            }
        }
        Ok(reports)
    }
}

impl IntoResponse for Silent {
    fn into_response(self) -> Response {
        (StatusCode::GATEWAY_TIMEOUT, self.to_string()).into_response()
    }
}

fn shard_status(report: &WorkerReport, core: usize) -> ShardStatus {
    ShardStatus {
        shard: report.shard.shard.0,
        core,
        catalog_epoch: report.shard.catalog_epoch,
        partitions: report.shard.partitions.len(),
        bytes: report.shard.partitions.iter().map(|held| held.bytes).sum(),
        counters: counters(report),
    }
}

fn counters(report: &WorkerReport) -> BTreeMap<String, u64> {
    let all = report.shard.counters.iter().chain(&report.counters);
    all.map(|(name, value)| ((*name).to_owned(), *value))
        .collect()
}
