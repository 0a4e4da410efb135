//! One core's engine: partitions homed here, requests of connections here, and the mesh between.
//!
//! [`Shard`] is a state machine. A turn goes: hand it what happened (`handle_*`, `submit`,
//! `cancel*`), call [`Shard::end_turn`], then take what comes out (`poll_*`). A command for a
//! partition homed elsewhere goes to its home and takes the same path there; its end comes back.
//!
//! [`Shard::complete`] alone ends a request, and a durable write's end comes only from the release
//! of its waiter.

mod answers;
mod appends;
mod catalogs;
mod deletes;
mod fetches;
mod groups;
mod lookups;
mod reports;
mod requests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use millrace_storage::disk::{DiskDone, DiskOp};
use millrace_storage::error::StorageError;
use millrace_storage::units::{BootTime, Now, PartitionId, ShardId};
use millrace_storage::{LogConfig, ReadTicket, Store, StoreEvent};

use crate::catalog::Catalog;
use crate::catalog::config::{TopicDefaults, TopicSettings};
use crate::catalog::writer::CatalogWriter;
use crate::command::{Command, ConnectionId, RequestId};
use crate::event::{Event, Outcome, Refusal};
use crate::gather::{Gather, GatherId};
use crate::group::Groups;
use crate::group::state::GroupStates;
use crate::jobs::{JobDone, JobOp};
use crate::limits::EngineConfig;
use crate::mesh::{MeshMessage, RemoteCommand};
use crate::partition::use_order::UseOrder;
use crate::partition::{Partition, PartitionState};
use crate::stages::Stages;
use crate::waiters::Waiters;
use crate::watches::Watches;
use answers::Answers;
pub(crate) use answers::{Allowance, READ_BYTES_MIN};
use appends::PendingAppends;
use catalogs::ProducerIds;
use fetches::Reads;
use groups::GroupLog;
use lookups::Lookups;
use reports::Counters;
use requests::{Asked, Request, Requests};

/// One shard.
#[derive(Debug)]
pub struct Shard {
    id: ShardId,
    /// How many shards the broker has.
    shards: u16,
    config: EngineConfig,
    store: Store,
    /// This shard's copy; durable changes only.
    catalog: Catalog,
    /// On shard 0 alone.
    writer: Option<CatalogWriter>,
    /// Partitions homed here: exactly those of the catalog's that are.
    partitions: BTreeMap<PartitionId, Partition>,
    waiters: Waiters,
    pending: PendingAppends,
    watches: Watches,
    /// Reads for fetches of any shard.
    reads: Reads,
    lookups: Lookups,
    /// Fetches of this shard's connections.
    gathers: BTreeMap<GatherId, Gather>,
    /// Partitions of `gathers`. At most `fetched_partitions_max`.
    fetched_partitions: usize,
    answers: Answers,
    /// When each of `gathers` is answered at the latest.
    deadlines: BTreeSet<(BootTime, GatherId)>,
    next_gather: GatherId,
    next_ticket: ReadTicket,
    /// Of this shard's connections, without an end.
    requests: Requests,
    /// Other shards that may still ask something of this one: it must not end before them.
    askers: BTreeSet<ShardId>,
    /// Whether a clean stop told the others that this one asks no more.
    asks_no_more: bool,
    producer_ids: ProducerIds,
    /// The idempotent producers of `partitions`. At most `producers_max`.
    producers: UseOrder,
    /// Homed here.
    groups: Groups,
    /// Requests that wait in `groups` and were cancelled in this turn.
    withdrawn: Vec<RequestId>,
    group_log: GroupLog,
    /// The failure after which nothing more is acknowledged.
    poisoned: Option<StorageError>,
    events: VecDeque<Event>,
    mesh: VecDeque<(ShardId, MeshMessage)>,
    jobs: VecDeque<JobOp>,
    counters: Counters,
    stages: Stages,
}

/// What a shard is made of when it begins to serve.
pub(crate) struct ShardParts {
    pub(crate) id: ShardId,
    pub(crate) shards: u16,
    pub(crate) config: EngineConfig,
    pub(crate) store: Store,
    pub(crate) catalog: Catalog,
    /// What is known of partitions; those homed here and not in it are empty.
    pub(crate) states: BTreeMap<PartitionId, PartitionState>,
    /// When it begins: idle periods of producers begin with it.
    pub(crate) now: Now,
    /// Groups homed here.
    pub(crate) groups: GroupStates,
    /// Random.
    pub(crate) seed: u64,
}

impl Shard {
    /// A shard that begins to serve. Everything in its store is durable.
    pub(crate) fn new(parts: ShardParts) -> Self {
        let ShardParts {
            id,
            shards,
            mut config,
            store,
            catalog,
            states,
            now,
            groups,
            seed,
        } = parts;
        assert!(id.0 < shards, "a broker's shards are numbered from 0");
        let writer = (id == ShardId(0)).then(|| CatalogWriter::new(catalog.epoch(), shards, seed));
        config.groups.entry_bytes_max = store.entry_bytes_max();
        let mut shard = Self {
            id,
            shards,
            waiters: Waiters::new(store.durable_lsn()),
            store,
            catalog,
            writer,
            partitions: BTreeMap::new(),
            pending: PendingAppends::default(),
            watches: Watches::default(),
            reads: Reads::default(),
            lookups: Lookups::default(),
            gathers: BTreeMap::new(),
            fetched_partitions: 0,
            answers: Answers::new(config.limits.answer_bytes_max),
            deadlines: BTreeSet::new(),
            next_gather: GatherId(0),
            next_ticket: ReadTicket(0),
            requests: Requests::new(shards),
            askers: (0..shards)
                .map(ShardId)
                .filter(|other| *other != id)
                .collect(),
            asks_no_more: false,
            producer_ids: ProducerIds::default(),
            producers: UseOrder::default(),
            // Another stream of numbers than the catalog's, which draws from the same seed.
            groups: Groups::new(groups, seed.rotate_left(17) ^ 0x6772_6f75_7073),
            withdrawn: Vec::new(),
            group_log: GroupLog::default(),
            poisoned: None,
            events: VecDeque::new(),
            mesh: VecDeque::new(),
            jobs: VecDeque::new(),
            counters: Counters::default(),
            stages: Stages::new(),
            config,
        };
        shard.begin(now, states);
        shard
    }

    fn begin(&mut self, now: Now, mut states: BTreeMap<PartitionId, PartitionState>) {
        let own: Vec<PartitionId> = self.catalog.homed(self.id).collect();
        for partition in own {
            let state = states.remove(&partition);
            self.open_partition(partition, state.unwrap_or_else(PartitionState::new));
        }
        let partitions = self.partitions.iter_mut();
        let producers = partitions.map(|(id, found)| (*id, &mut found.state.producers));
        self.producers.adopt(producers, now.boot);
        self.forget_producers(now);
    }

    /// Begins to serve a partition of the catalog's that is homed here.
    fn open_partition(&mut self, id: PartitionId, mut state: PartitionState) {
        let settings = self.settings_of(id);
        self.store.create_log(id, log_config(&settings));
        let log = self.store.log(id).expect("just created");
        state.reach(log.end);
        let partition = Partition::new(settings, state, log.start);
        let before = self.partitions.insert(id, partition);
        assert!(before.is_none(), "a partition is opened once");
    }

    fn settings_of(&self, partition: PartitionId) -> TopicSettings {
        let place = self.catalog.place(partition).expect("in the catalog");
        let topic = self
            .catalog
            .topic(&place.topic)
            .expect("places name topics");
        TopicSettings::resolve(&topic.overrides, &self.config.topic_defaults)
    }

    /// Which shard this is.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// This shard's copy of the catalog.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// What topics default to.
    #[must_use]
    pub fn topic_defaults(&self) -> &TopicDefaults {
        &self.config.topic_defaults
    }

    /// Whether producers may be read: the log takes batches, and half of each bound on what is
    /// under way is left, so that one more request of many batches finds room. While not, leave
    /// producers' bytes where they are; ask again after completions.
    #[must_use]
    pub fn accepts_appends(&self) -> bool {
        let limits = &self.config.limits;
        self.pending.is_empty()
            && self.store.accepts_appends()
            && self.waiters.len() <= limits.waiters_max / 2
            && self.requests.are_half_free(limits)
    }

    /// Sessions, and what is between them and here, hold `bytes` of answers just now.
    pub fn note_answers_held(&mut self, bytes: usize) {
        self.answers.note_held(bytes);
    }

    /// The outcome of every event is in what [`Shard::note_answers_held`] was told.
    pub fn note_answers_taken(&mut self) {
        self.answers.note_taken();
    }

    /// What answers may take, bytes.
    #[must_use]
    pub fn answer_bytes_max(&self) -> usize {
        self.config.limits.answer_bytes_max
    }

    /// Bytes of answers that are being read, were read, or are held by sessions.
    #[must_use]
    pub fn answer_bytes(&self) -> usize {
        self.answers.used()
    }

    /// Whether questions may be read: there is room for their answers. Fetches wait here instead,
    /// and appends have short answers.
    #[must_use]
    pub fn accepts_questions(&self) -> bool {
        !self.answers.are_spent()
    }

    /// Since when the fetch at the front waits for room for its answer.
    #[must_use]
    pub fn fetch_waits_since(&self) -> Option<BootTime> {
        let waiting = self.answers.first_waiting();
        waiting.map(|(_, since)| since)
    }

    /// The failure after which nothing more is acknowledged: the process must end.
    #[must_use]
    pub fn poisoned(&self) -> Option<&StorageError> {
        self.poisoned.as_ref()
    }

    // In.

    /// Begins a request of one of this shard's connections. It ends with one [`Event`], unless it
    /// is cancelled.
    pub fn submit(&mut self, now: Now, request: RequestId, command: Command<'_>) {
        assert_eq!(request.origin, self.id, "a request begins at its origin");
        self.counters.requests += 1;
        self.stages.begin_turn(now);
        let begun = Request::new(now.boot, &command);
        let begun = self.requests.begin(request, begun, &self.config.limits);
        if let Err(limit) = begun {
            self.complete(request, Err(Refusal::Busy(limit)));
            return;
        }
        self.begin_command(now, request, command);
    }

    fn begin_command(&mut self, now: Now, request: RequestId, command: Command<'_>) {
        match command {
            Command::Append { partition, batch } => match self.home(partition) {
                Ok(home) if home == self.id => self.append(now, request, partition, batch),
                Ok(home) => {
                    let batch = Bytes::copy_from_slice(batch);
                    self.ask(home, request, RemoteCommand::Append { partition, batch });
                }
                Err(refusal) => self.complete(request, Err(refusal)),
            },
            Command::Fetch(fetch) => self.start_fetch(now, request, fetch),
            Command::FindOffset {
                partition,
                at,
                isolation,
            } => {
                let command = RemoteCommand::FindOffset {
                    partition,
                    at,
                    isolation,
                };
                self.route(now, request, self.home(partition), command);
            }
            Command::FindEpochEnd { partition, epoch } => {
                let command = RemoteCommand::FindEpochEnd { partition, epoch };
                self.route(now, request, self.home(partition), command);
            }
            Command::DeleteRecords {
                partition,
                keep_from,
            } => {
                let command = RemoteCommand::DeleteRecords {
                    partition,
                    keep_from,
                };
                self.route(now, request, self.home(partition), command);
            }
            Command::ListProducers { partition } => {
                let command = RemoteCommand::ListProducers { partition };
                self.route(now, request, self.home(partition), command);
            }
            Command::MeasureLogs { home } if home.0 >= self.shards => {
                self.complete(request, Err(Refusal::UnknownPartition));
            }
            Command::MeasureLogs { home } => {
                self.route(now, request, Ok(home), RemoteCommand::MeasureLogs);
            }
            Command::WriteCatalog(change) => {
                let command = RemoteCommand::WriteCatalog(change);
                self.route(now, request, Ok(ShardId(0)), command);
            }
            Command::AllocateProducerId => self.allocate_producer_id(request),
            Command::Group(asked) => {
                let home = self.catalog.group_home(&asked.group);
                self.route(now, request, Ok(home), RemoteCommand::Group(asked));
            }
            Command::ListGroups { home } if home.0 >= self.shards => {
                self.complete(request, Ok(Outcome::GroupsListed(Vec::new())));
            }
            Command::ListGroups { home } => {
                self.route(now, request, Ok(home), RemoteCommand::ListGroups);
            }
            Command::Report => {
                let report = self.report();
                self.complete(request, Ok(Outcome::Reported(Box::new(report))));
            }
        }
    }

    /// Withdraws a request of one of this shard's connections: no event follows. What it did so
    /// far stays done.
    pub fn cancel(&mut self, request: RequestId) {
        match self.requests.asked(request) {
            Some(Asked::There {
                home,
                awaits_members,
                wanted,
                ..
            }) => {
                let (home, is_told) = (*home, *awaits_members && *wanted);
                *wanted = false;
                if is_told {
                    self.send(home, MeshMessage::Withdrawn { request });
                }
            }
            Some(Asked::Fetch(gather)) => {
                let gather = *gather;
                self.drop_fetch(gather);
                self.requests.remove(request);
            }
            Some(Asked::Here) => {
                self.lookups.forget(request);
                self.requests.remove(request);
                if self.groups.holds(request) {
                    self.withdrawn.push(request);
                }
            }
            None => {}
        }
    }

    /// Withdraws every request of a connection.
    pub fn cancel_connection(&mut self, connection: ConnectionId) {
        let requests = self.requests.of_connection(self.id, connection);
        for request in requests {
            self.cancel(request);
        }
    }

    /// Takes a disk operation's completion.
    pub fn handle_disk(&mut self, now: Now, done: DiskDone) {
        self.stages.note_disk(now);
        self.store.handle_disk(now, done);
    }

    /// Takes a job's result.
    pub fn handle_job(&mut self, _now: Now, done: JobDone) {
        self.finish_search(done);
    }

    /// Takes a message from another shard.
    pub fn handle_mesh(&mut self, now: Now, from: ShardId, message: MeshMessage) {
        assert_ne!(from, self.id, "no shard sends to itself");
        self.stages.begin_turn(now);
        self.counters.mesh_received += 1;
        match message {
            MeshMessage::Request { request, command } => {
                assert_eq!(request.origin, from, "a request is sent by its origin");
                self.execute(now, request, command);
            }
            MeshMessage::Withdrawn { request } => self.withdraw_from_group(now, request),
            MeshMessage::Ended { request, outcome } => {
                self.requests.note_answered(from, request);
                self.complete(request, outcome);
            }
            MeshMessage::Read {
                gather,
                partitions,
                bytes_max,
                isolation,
            } => self.read_for(now, (from, gather), partitions, (bytes_max, isolation)),
            MeshMessage::ReadDone { gather, partitions } => {
                self.take_read(now, from, gather, partitions);
            }
            MeshMessage::Watch {
                gather,
                partitions,
                bytes_wanted,
                isolation,
            } => self.watch_for((from, gather), partitions, (bytes_wanted, isolation)),
            MeshMessage::Woken { gather } => self.wake_fetch(now, gather),
            MeshMessage::Unwatch { gather } => self.unwatch_for(from, gather),
            MeshMessage::ReserveProducerIds => self.reserve_producer_ids(from),
            MeshMessage::ProducerIds { first } => self.take_producer_ids(first),
            MeshMessage::CatalogChanged(change) => {
                self.install(&change);
                self.send(from, MeshMessage::CatalogHeld(change.epoch));
            }
            MeshMessage::CatalogHeld(epoch) => self.note_held(from, epoch),
            MeshMessage::AsksNoMore => drop(self.askers.remove(&from)),
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.stages.begin_turn(now);
        self.store.handle_timeout(now);
        self.start_searches(now);
        self.expire_fetches(now);
        self.forget_producers(now);
        self.expire_groups(now);
    }

    /// Ends a turn: acts on what completed, and closes the commit group. May be called again in
    /// the same turn when its events led to more requests.
    pub fn end_turn(&mut self, now: Now) {
        self.stages.begin_turn(now);
        while let Some(group) = self.store.poll_group() {
            self.stages.note_group(&group);
        }
        // First what is durable: retention may drop it as soon as it is.
        self.release();
        while let Some(event) = self.store.poll_event() {
            self.handle_store(now, event);
        }
        while let Some((ticket, result)) = self.store.poll_read() {
            self.finish_read(now, ticket, result);
        }
        self.start_searches(now);
        self.retry_appends(now);
        self.run_waiting_fetches(now);
        for request in std::mem::take(&mut self.withdrawn) {
            self.withdraw_from_group(now, request);
        }
        self.log_groups(now);
        self.advance_catalog(now);
        while let Some(watcher) = self.watches.poll_fired() {
            if watcher.origin == self.id {
                self.wake_fetch(now, watcher.gather);
            } else {
                let gather = watcher.gather;
                self.send(watcher.origin, MeshMessage::Woken { gather });
            }
        }
        self.store.close_group(now);
    }

    /// A clean stop begins: nothing is submitted any more. Call once a turn after
    /// [`Self::end_turn`], carrying operations and completions, until [`Self::is_quiet`].
    ///
    /// Requests that wait for members of groups elsewhere are withdrawn: those members' clients are
    /// heard no more, here or there, and the home answers a withdrawal at once.
    pub fn close(&mut self, now: Now) {
        self.store.close(now);
        if self.asks_no_more {
            return;
        }
        for request in self.requests.awaiting_members() {
            self.cancel(request);
        }
        if !self.awaits_others() {
            self.asks_no_more = true;
            let id = self.id;
            for other in (0..self.shards).map(ShardId).filter(|other| *other != id) {
                self.send(other, MeshMessage::AsksNoMore);
            }
        }
    }

    /// Whether requests of this shard's connections wait for other shards.
    #[must_use]
    pub fn awaits_others(&self) -> bool {
        self.requests.are_elsewhere() || self.awaits_producer_ids()
    }

    /// Whether other shards may still ask something of this one, which ends after they said that
    /// they do not.
    #[must_use]
    pub fn is_asked_by_others(&self) -> bool {
        !self.askers.is_empty()
    }

    /// Whether everything appended is durable and nothing is on its way to the disk.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.store.is_quiet() && self.waiters.len() == 0
    }

    // Out.

    /// The next end of a request.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next operation for the disk.
    pub fn poll_disk(&mut self) -> Option<DiskOp> {
        self.store.poll_disk()
    }

    /// The next job for the pool.
    pub fn poll_job(&mut self) -> Option<JobOp> {
        self.jobs.pop_front()
    }

    /// The next message for another shard.
    pub fn poll_mesh(&mut self) -> Option<(ShardId, MeshMessage)> {
        self.mesh.pop_front()
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let (producers, groups) = (self.producers_due(), self.groups.due());
        let searches = self.lookups.due(self.room_for_lookups());
        let times = [
            self.store.poll_timeout(),
            deadline,
            producers,
            groups,
            searches,
        ];
        times.into_iter().flatten().min()
    }

    // Between.

    /// Ends a request: an event here, or a message to the shard it came from. The only place.
    fn complete(&mut self, request: RequestId, outcome: Result<Outcome, Refusal>) {
        if request.origin != self.id {
            self.send(request.origin, MeshMessage::Ended { request, outcome });
            return;
        }
        let Some(ended) = self.requests.remove(request) else {
            return; // It was cancelled.
        };
        let is_wanted = match ended.asked {
            Asked::Here | Asked::Fetch(_) => true,
            Asked::There { wanted, .. } => {
                self.stages.note_mesh(ended.begun);
                wanted
            }
        };
        if is_wanted {
            self.stages.note_end(ended.passage, ended.begun);
            self.counters.refusals += u64::from(outcome.is_err());
            self.answers
                .note_brought(outcome.as_ref().map_or(0, Outcome::list_bytes));
            self.events.push_back(Event { request, outcome });
        } // Else it was cancelled.
    }

    fn send(&mut self, to: ShardId, message: MeshMessage) {
        assert_ne!(to, self.id, "no shard sends to itself");
        self.counters.mesh_sent += 1;
        self.mesh.push_back((to, message));
    }

    /// The shard that owns a partition.
    fn home(&self, partition: PartitionId) -> Result<ShardId, Refusal> {
        let place = self.catalog.place(partition);
        place
            .map(|place| place.home)
            .ok_or(Refusal::UnknownPartition)
    }

    /// Brings a command to its home, here or elsewhere.
    fn route(
        &mut self,
        now: Now,
        request: RequestId,
        home: Result<ShardId, Refusal>,
        command: RemoteCommand,
    ) {
        match home {
            Ok(home) if home == self.id => self.execute(now, request, command),
            Ok(home) => self.ask(home, request, command),
            Err(refusal) => self.complete(request, Err(refusal)),
        }
    }

    /// Sends a command to its home.
    fn ask(&mut self, home: ShardId, request: RequestId, command: RemoteCommand) {
        let bytes = match &command {
            RemoteCommand::Append { batch, .. } => batch.len(),
            _ => 0,
        };
        let limits = &self.config.limits;
        if let Err(limit) = self.requests.send(request, home, bytes, limits) {
            self.complete(request, Err(Refusal::Busy(limit)));
            return;
        }
        self.send(home, MeshMessage::Request { request, command });
    }

    /// Executes a command at its home, wherever it came from.
    fn execute(&mut self, now: Now, request: RequestId, command: RemoteCommand) {
        match command {
            RemoteCommand::Append { partition, batch } => {
                self.append(now, request, partition, &batch);
            }
            RemoteCommand::FindOffset {
                partition,
                at,
                isolation,
            } => self.find_offset(now, request, partition, (at, isolation)),
            RemoteCommand::FindEpochEnd { partition, epoch } => {
                let found = self.partition(partition).map(|found| {
                    let end = found.high_watermark();
                    Outcome::EpochEnd(found.state.epochs.end_of(epoch, end))
                });
                self.complete(request, found);
            }
            RemoteCommand::DeleteRecords {
                partition,
                keep_from,
            } => self.delete_records(now, request, partition, keep_from),
            RemoteCommand::ListProducers { partition } => {
                let found = self.partition(partition).map(|found| {
                    let listed = found.state.producers.list();
                    Outcome::ProducersListed(listed.collect())
                });
                self.complete(request, found);
            }
            RemoteCommand::MeasureLogs => {
                let sizes = self.log_sizes();
                self.complete(request, Ok(Outcome::LogsMeasured(sizes)));
            }
            RemoteCommand::WriteCatalog(change) => self.write_catalog(request, change),
            RemoteCommand::Group(asked) => self.serve_group(now, request, asked),
            RemoteCommand::ListGroups => {
                let groups = self.groups.list();
                self.complete(request, Ok(Outcome::GroupsListed(groups)));
            }
        }
    }

    /// A partition homed here.
    fn partition(&self, partition: PartitionId) -> Result<&Partition, Refusal> {
        self.partitions
            .get(&partition)
            .ok_or(Refusal::UnknownPartition)
    }

    fn handle_store(&mut self, now: Now, event: StoreEvent) {
        match event {
            StoreEvent::WantsSnapshot => {
                let bytes = self.snapshot();
                self.store.provide_snapshot(now, bytes);
            }
            StoreEvent::LogStartMoved { partition, offset } => {
                if let Some(found) = self.partitions.get_mut(&partition) {
                    found.raise_log_start(offset);
                }
            }
            StoreEvent::Poisoned(error) => self.poison(error),
            StoreEvent::DiskFull(full) => {
                self.counters.disk_full_now = full;
                let shard = self.id.0;
                if full {
                    tracing::warn!(
                        shard,
                        "the disk is nearly full: producers are refused until there is room \
                         (disk.low_bytes, disk.reserve_bytes); delete topics, or free space"
                    );
                } else {
                    tracing::info!(shard, "the disk has room again: producers are served");
                }
            }
            StoreEvent::Settled { settled_lsn } => {
                tracing::debug!(shard = self.id.0, lsn = settled_lsn.0, "settled");
            }
            StoreEvent::Damaged { partition, error } => {
                self.counters.damaged_reads += 1;
                tracing::error!(shard = self.id.0, partition = partition.0, %error, "damaged");
            }
        }
    }

    /// The log failed: whatever waits for it ends as unknown, and nothing new is taken.
    fn poison(&mut self, error: StorageError) {
        tracing::error!(shard = self.id.0, %error, "poisoned");
        self.poisoned = Some(error);
        let mut unknown: Vec<RequestId> = Vec::new();
        while let Some(promise) = self.waiters.abandon() {
            unknown.extend(promise.request());
        }
        unknown.extend(self.pending.abandon());
        unknown.extend(self.groups.abandon());
        unknown.extend(self.group_log.abandon());
        if let Some(writer) = &mut self.writer {
            unknown.extend(writer.abandon());
        }
        for request in unknown {
            self.complete(request, Err(Refusal::OutcomeUnknown));
        }
    }
}

/// What the store needs to know of a topic's settings.
fn log_config(settings: &TopicSettings) -> LogConfig {
    LogConfig {
        retention_ms: settings.retention_ms,
        retention_bytes: settings.retention_bytes,
        segment_bytes: Some(settings.segment_bytes),
    }
}
