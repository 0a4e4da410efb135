//! Runs of the world: produce and consume through power cuts, kills, failed disks and changing
//! numbers of cores; at the end every partition is read from its start and the history judged.

use std::sync::Arc;

use millrace_engine::limits::EngineConfig;
use millrace_engine::start::{OpenError, StartConfig};
use millrace_net::connection::ConnectionLimits;
use millrace_net::kafka::KafkaConfig;
use millrace_net::session::{ClusterView, Node};
use millrace_net::worker::{Door, Protocol, WorkerConfig};
use millrace_storage::StoreConfig;
use millrace_storage::disk::{DiskError, FileName};
use millrace_storage::error::StorageError;
use millrace_storage::testing::{Dice, Fault, Lasting, PlannedFault, SimDisk, Stream, Survival};
use millrace_storage::units::{BootTime, Now, ShardId};

use crate::batches::WALL_MS_START;
use crate::churn::CHURNED_PARTITIONS;
use crate::churners::{Admin, Churner};
use crate::clients::{Client, Consumer, Producer, Role, Seeker, TOPIC};
use crate::failure::{Checked, Failure, ensure};
use crate::kafka::{self, Reply};
use crate::node::NodeCounts;
use crate::questions::{Damage, check_churned, drain, probe};
use crate::seeds::each_seed;
use crate::setup::Setup;
use crate::world::{Remains, Streams, World};

/// Machines before the last one.
const LIVES: u64 = 4;
/// Steps of one machine, unless a run says otherwise.
const STEPS_MAX: u64 = 2_500;
/// Steps in which everything that is left must end.
pub(crate) const LAST_STEPS_MAX: u64 = 400_000;
/// The reserve, and the low-water mark: what all that a run writes on a full disk fits into.
const RESERVE_BYTES: u64 = 2 << 20;
/// How often retention is applied: within every run.
const RETENTION_CHECK_MS: u64 = 200;
/// Batches offered until a healed machine must have taken one.
const PROBES_MAX: u64 = 300;

/// What can go wrong with one operation of a machine that goes on or poisons its log.
const FAULTS: [Fault; 5] = [
    Fault::Error,
    Fault::NoSpace,
    Fault::ShortWrite,
    Fault::SyncInVain,
    Fault::TornWrite,
];

#[test]
fn what_clients_were_told_stays_true_whatever_fails() {
    let mut total = Worth::default();
    let seeds = each_seed("world", 200, |seed| {
        let worth = Run::draw(seed).live(None)?;
        total.add(&worth);
        Ok(())
    });
    if seeds > 1 {
        let enough = total.acknowledged > 20 * seeds
            && total.polled > 20 * seeds
            && total.sought > seeds
            && total.nodes.jobs > seeds
            && total.nodes.delivered > seeds
            && total.nodes.sleeps > seeds
            && total.nodes.wakes > seeds
            && total.nodes.crowded > seeds
            && total.deletions > seeds
            && total.dropped > 0
            && total.out_of_space > 0
            && total.stops > seeds
            && total.failed < total.acknowledged + total.polled;
        println!("{total:?} over {seeds} seeds");
        assert!(enough, "too little happened, or too much failed: {total:?}");
    }
}

#[test]
fn data_written_with_two_four_and_one_cores_is_read_with_the_same_offsets() {
    each_seed("cores", 40, |seed| {
        Run::draw(seed).live(Some(&[1, 2, 4, 1])).map(|_| ())
    });
}

#[test]
fn one_seed_replays_a_run_exactly() {
    each_seed("replay", 3, |seed| {
        let first = Run::draw(seed).live(None)?;
        let second = Run::draw(seed).live(None)?;
        ensure!(first == second, "one seed gave {first:?} and {second:?}");
        Ok(())
    });
}

/// What a run did: a run in which nothing happened proves nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Worth {
    acknowledged: u64,
    polled: u64,
    sought: u64,
    failed: u64,
    /// Deletions of a topic.
    deletions: u64,
    /// Partitions of which retention dropped something.
    dropped: u64,
    nodes: NodeCounts,
    out_of_space: u64,
    stops: u64,
    /// The disk's last operations: equal only for equal runs.
    trace: String,
}

impl Worth {
    fn add(&mut self, run: &Self) {
        self.acknowledged += run.acknowledged;
        self.polled += run.polled;
        self.sought += run.sought;
        self.failed += run.failed;
        self.deletions += run.deletions;
        self.dropped += run.dropped;
        self.nodes.add(&run.nodes);
        self.out_of_space += run.out_of_space;
        self.stops += run.stops;
        self.trace.clear();
    }
}

/// One case.
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) partitions: i32,
    pub(crate) store: StoreConfig,
    pub(crate) engine: EngineConfig,
    /// Sends of each producer, fewest and most.
    pub(crate) sends: (u64, u64),
    /// Times that a topic is deleted.
    pub(crate) deletions: u32,
    /// Steps of one machine, at most.
    pub(crate) steps_max: u64,
    /// In the second half of a machine's steps the disk is slow, and the machine ends as soon as a
    /// member hears that a commit stands: what was told too early is lost just then.
    pub(crate) ends_at_commit: bool,
    worker: WorkerConfig,
    /// Decides when and how machines stop.
    fate: Dice,
    /// Directories that exist.
    directories: u16,
    /// Cores that the directories are set up for: none when a start was cut short.
    set_up_for: Option<u16>,
    lives: u64,
}

impl Run {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut config = Dice::new(seed, Stream::Config);
        Self {
            seed,
            partitions: i32::try_from(config.between(1, 6)).expect("few"),
            store: StoreConfig {
                reserve_bytes: RESERVE_BYTES,
                disk_low_bytes: RESERVE_BYTES,
                retention_check_ms: RETENTION_CHECK_MS,
                ..Setup::draw(seed).config
            },
            engine: EngineConfig::default(),
            sends: (20, 60),
            deletions: 3,
            steps_max: STEPS_MAX,
            ends_at_commit: false,
            worker: worker_config(&mut config),
            fate: Dice::new(seed, Stream::PowerCut),
            directories: 0,
            set_up_for: None,
            lives: 0,
        }
    }

    /// Lives through several machines and judges what is left. `cores` of each machine in turn, or
    /// drawn.
    fn live(mut self, cores: Option<&[u16]>) -> Checked<Worth> {
        let mut remains = self.first_remains();
        let lives = cores.map_or(LIVES, |cores| cores.len() as u64 - 1);
        for life in 0..lives {
            let shards = self.cores_of(life, cores);
            remains = self.one_life(remains, life, shards)?;
        }
        let shards = self.cores_of(lives, cores);
        let mut world = self.start(remains, shards)?;
        world.disk.heal();
        self.finish(&mut world)?;
        Ok(Worth {
            acknowledged: world.history.acknowledged,
            polled: world.history.polled,
            sought: world.history.sought,
            failed: world.history.failed,
            deletions: world.history.churn.deletions(),
            dropped: world.history.churn.dropped,
            nodes: world.counts(),
            out_of_space: world.disk.fault_counts().out_of_space,
            stops: world.disk.fault_counts().stops,
            trace: world.disk.trace(),
        })
    }

    pub(crate) fn cores_of(&mut self, life: u64, cores: Option<&[u16]>) -> u16 {
        let drawn = u16::try_from(self.fate.between(1, 4)).expect("few");
        cores.map_or(drawn, |cores| {
            cores[usize::try_from(life).expect("few lives")]
        })
    }

    pub(crate) fn first_remains(&self) -> Remains {
        let mut dice = Dice::new(self.seed, Stream::Workload);
        let clients = (0..6).map(|number| {
            let sends = dice.between(self.sends.0, self.sends.1);
            let sends = u32::try_from(sends).expect("few");
            let role = match number % 3 {
                0 => Role::Producer(Producer::new(sends)),
                1 => Role::Idempotent(Producer::new(sends)),
                _ => Role::Consumer(Consumer::default()),
            };
            Client::new(number, role, self.partitions)
        });
        let mut clients: Vec<Client> = clients.collect();
        let seeker = Role::Seeker(Seeker::default());
        let admin = Role::Admin(Admin::new(self.deletions));
        let churner = || Role::Churner(Churner::new(u32::try_from(self.sends.0).expect("few")));
        for role in [seeker, admin, churner(), churner()] {
            clients.push(Client::new(clients.len(), role, self.partitions));
        }
        self.remains_of(clients, dice)
    }

    /// The world before its first machine, with these clients; `dice` go on with their workload.
    pub(crate) fn remains_of(&self, clients: Vec<Client>, dice: Dice) -> Remains {
        let now = Now {
            boot: BootTime(1_000_000_000),
            wall_ms: WALL_MS_START,
        };
        let streams = Streams {
            schedule: Dice::new(self.seed, Stream::Schedule),
            network: Dice::new(self.seed, Stream::Network),
            workload: dice,
        };
        Remains::new(SimDisk::new(self.seed), clients, now, streams)
    }

    /// One machine, from its start to its sudden end.
    pub(crate) fn one_life(
        &mut self,
        remains: Remains,
        life: u64,
        shards: u16,
    ) -> Checked<Remains> {
        let remains = if life > 0 {
            self.start_and_fall(remains, shards)?
        } else {
            remains
        };
        let mut world = self.start(remains, shards)?;
        if life == 0 {
            self.create_topic(&mut world)?;
        }
        self.work_on_a_failing_disk(&mut world)?;
        if self.fate.coin() && !world.is_poisoned() {
            world.disk.heal();
            self.prove_alive(&mut world)?;
        }
        Ok(self.cut(world.stop()))
    }

    /// Lets a machine work. One operation may fail, and the disk may run full: what it is short
    /// of comes back when somebody heals it.
    fn work_on_a_failing_disk(&mut self, world: &mut World) -> Checked<()> {
        if self.fate.one_in(3) {
            let op = world.disk.ops_started() + self.fate.below(300);
            world.disk.plan(PlannedFault {
                op,
                fault: *self.fate.pick(&FAULTS),
                lasting: Lasting::Once,
            });
        }
        let steps = self.fate.between(100, self.steps_max);
        let full_from = self.fate.below(3 * steps);
        for step in 0..steps {
            if step == full_from && self.has_reserves(world) {
                let room_bytes = self.fate.below(256 << 10);
                let used_bytes = world.disk.used_bytes();
                world.disk.set_capacity(used_bytes + room_bytes);
            }
            world.is_disk_slow = self.ends_at_commit && step > steps / 2;
            let committed = world.history.groups.committed;
            world.step()?;
            let is_told = world.history.groups.committed > committed;
            if world.is_poisoned() || world.is_disk_slow && is_told {
                break;
            }
        }
        world.is_disk_slow = false;
        Ok(())
    }

    /// Whether every directory has its reserve. Without one nothing is promised on a full disk.
    fn has_reserves(&self, world: &World) -> bool {
        (0..self.directories).map(ShardId).all(|shard| {
            let files = world.disk.files(shard);
            files.contains(&FileName::Reserve)
        })
    }

    /// Nothing fails any more: every partition takes a batch again, unless the log failed before.
    pub(crate) fn prove_alive(&self, world: &mut World) -> Checked<()> {
        for partition in 0..self.partitions {
            let mut tries = 0..PROBES_MAX;
            while !probe(world, partition)? {
                if world.is_poisoned() {
                    return Ok(());
                }
                ensure!(
                    tries.next().is_some(),
                    "partition {partition} takes nothing although nothing fails any more: {}",
                    world.waiting()
                );
            }
        }
        Ok(())
    }

    /// A start that is stopped at some operation, perhaps in the middle of a move.
    fn start_and_fall(&mut self, mut remains: Remains, shards: u16) -> Checked<Remains> {
        if self.fate.coin() {
            return Ok(remains);
        }
        self.set_up_for = None;
        remains.disk.power_off_at(self.fate.below(120));
        let config = self.start_config(shards);
        let remains = match remains.start(&config, &self.worker, self.directories) {
            Ok(world) => world.stop(),
            Err(refused) => {
                let (remains, error) = *refused;
                ensure!(
                    remains.disk.is_off() || wants_room(&error),
                    "no start: {error}\n{}",
                    remains.disk.trace()
                );
                remains
            }
        };
        Ok(self.cut(remains))
    }

    /// The power goes, or only the process.
    pub(crate) fn cut(&mut self, mut remains: Remains) -> Remains {
        let seed = self.fate.bits();
        let survivals = [
            Survival::Nothing,
            Survival::Everything,
            Survival::Prefix,
            Survival::Random,
        ];
        if self.fate.one_in(3) && !remains.disk.is_off() {
            remains.disk = remains.disk.after_kill(seed);
        } else {
            let survival = *self.fate.pick(&survivals);
            remains.disk = remains.disk.after_power_cut(survival, seed);
            // The boot clock begins anew, and the wall clock may be anywhere near.
            remains.now.boot = BootTime(1_000_000_000);
            remains.now.wall_ms += i64::try_from(self.fate.below(20_000)).expect("small") - 10_000;
        }
        remains
    }

    pub(crate) fn start(&mut self, remains: Remains, shards: u16) -> Checked<World> {
        let changes_cores = self.set_up_for != Some(shards);
        let started = match self.try_start(remains, shards) {
            // New directories and moves take space. The same cores start on a full disk.
            Err(refused) if changes_cores && wants_room(&refused.1) => {
                let (mut remains, _) = *refused;
                remains.disk.heal();
                self.try_start(remains, shards)
            }
            started => started,
        };
        self.set_up_for = Some(shards);
        started.map_err(|refused| {
            let (remains, error) = *refused;
            Failure(format!(
                "{shards} shards do not start: {error}\n{}",
                remains.disk.trace()
            ))
        })
    }

    /// A start that may be refused.
    pub(crate) fn try_start(
        &mut self,
        remains: Remains,
        shards: u16,
    ) -> Result<World, Box<(Remains, OpenError)>> {
        let config = self.start_config(shards);
        remains.start(&config, &self.worker, self.directories)
    }

    fn start_config(&mut self, shards: u16) -> StartConfig {
        self.directories = self.directories.max(shards);
        self.lives += 1;
        StartConfig {
            shards,
            engine: self.engine.clone(),
            store: self.store.clone(),
            owner: None,
            accept_loss: Vec::new(),
            seed: Dice::new(self.seed ^ self.lives << 32, Stream::Product).bits(),
        }
    }

    pub(crate) fn create_topic(&self, world: &mut World) -> Checked<()> {
        let body = world.ask(&kafka::create_topic(1, TOPIC, self.partitions, &[]))?;
        let error = Reply(&body).topic_created();
        ensure!(error == Some(0), "creating the topic gave {error:?}");
        let body = world.ask(&kafka::metadata(2, TOPIC))?;
        let described = Reply(&body).described();
        let expected = Some((0, vec![0; self.partitions.unsigned_abs() as usize]));
        ensure!(
            described == expected,
            "the topic is described as {described:?}"
        );
        Ok(())
    }

    /// Nothing fails any more: every client gets its answers, and everything is read back.
    pub(crate) fn finish(&mut self, world: &mut World) -> Checked<()> {
        for _ in 0..LAST_STEPS_MAX {
            if world.is_done() {
                break;
            }
            world.step()?;
            ensure!(
                !world.is_poisoned(),
                "the log is poisoned although nothing failed"
            );
        }
        ensure!(
            world.is_done(),
            "clients still wait after {LAST_STEPS_MAX} steps: {}",
            world.waiting()
        );
        for partition in 0..self.partitions {
            let log = drain(world, partition, Damage::Never)?;
            world.history.check_drained(partition, &log)?;
        }
        for partition in 0..CHURNED_PARTITIONS {
            check_churned(world, partition)?;
        }
        Ok(())
    }
}

/// Whether a start was refused because the disk is full.
fn wants_room(error: &OpenError) -> bool {
    match error {
        OpenError::NoRoom { .. } => true,
        OpenError::Storage(StorageError::Io { error, .. }) => *error == DiskError::NoSpace,
        OpenError::Storage(_)
        | OpenError::State { .. }
        | OpenError::Quarantine { .. }
        | OpenError::Lost { .. }
        | OpenError::Foreign { .. } => false,
    }
}

fn worker_config(dice: &mut Dice) -> WorkerConfig {
    let kafka = KafkaConfig::default();
    let node = Node {
        id: 1,
        shard: None,
        host: None,
        port: 9_092,
    };
    let cluster = ClusterView {
        cluster_id: "sim".to_owned(),
        nodes: vec![node],
        own: 0,
    };
    WorkerConfig {
        doors: vec![Door {
            protocol: Protocol::Kafka(Arc::new(kafka)),
            cluster,
        }],
        connection: ConnectionLimits {
            // Smaller than some requests: they need a window of their own.
            shared_buffer_bytes: *dice.pick(&[4 << 10, 16 << 10]),
            ..ConnectionLimits::default()
        },
        connections_max: 1_000,
        connections_per_address_max: 1_000,
        assembly_bytes_max: 64 << 20,
        sending_bytes_max: 64 << 20,
        remembered_partitions_max: 10_000,
        stop_ms_max: 5_000,
    }
}
