//! Whole workers in one simulated world: connections, shards, stores, mesh, disks, clients.
//!
//! One random stream decides who goes next. Everything that a worker asks for is done by the
//! world, in an order of its choosing: completions, arrivals, messages between shards, jobs and
//! timers. The machine loses power, or the process is killed, at any of these points.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use millrace_engine::command::ConnectionId;
use millrace_engine::jobs::{self, JobOp};
use millrace_engine::mesh::{Lane, MeshMessage};
use millrace_engine::start::{OpenError, ShardDirectory, StartConfig, open_all};
use millrace_net::io::{IoDone, IoOp};
use millrace_net::worker::{Worker, WorkerConfig};
use millrace_storage::testing::{Dice, SimDisk};
use millrace_storage::units::{BootTime, Now, ShardId};

use crate::clients::Client;
use crate::failure::{Checked, Failure};
use crate::history::History;
use crate::network::{NetDone, Network};

/// One core.
struct Node {
    worker: Worker,
    network: Network,
    jobs: VecDeque<JobOp>,
}

/// A client and its connection, if it has one.
struct Seat {
    client: Client,
    connection: Option<(usize, ConnectionId)>,
}

/// Random streams, one a concern.
pub(crate) struct Streams {
    pub(crate) schedule: Dice,
    pub(crate) network: Dice,
    pub(crate) workload: Dice,
}

/// A machine that runs, its clients, and the network between them.
pub(crate) struct World {
    pub(crate) disk: SimDisk,
    nodes: Vec<Node>,
    /// Messages on their way, in order for each pair of shards and lane.
    mesh: BTreeMap<(ShardId, ShardId, bool), VecDeque<MeshMessage>>,
    seats: Vec<Seat>,
    pub(crate) history: History,
    pub(crate) now: Now,
    pub(crate) streams: Streams,
    /// Messages between shards that were delivered.
    pub(crate) delivered: u64,
}

/// What a stopped machine leaves to the next one.
pub(crate) struct Remains {
    pub(crate) disk: SimDisk,
    seats: Vec<Seat>,
    pub(crate) history: History,
    pub(crate) now: Now,
    streams: Streams,
    pub(crate) delivered: u64,
}

impl Remains {
    /// Before the first machine.
    pub(crate) fn new(disk: SimDisk, clients: Vec<Client>, now: Now, streams: Streams) -> Self {
        let seat = |client| Seat {
            client,
            connection: None,
        };
        Self {
            disk,
            seats: clients.into_iter().map(seat).collect(),
            history: History::default(),
            now,
            streams,
            delivered: 0,
        }
    }

    /// Starts a machine over `directories` shard directories.
    pub(crate) fn start(
        self,
        config: &StartConfig,
        worker: &WorkerConfig,
        directories: u16,
    ) -> Result<World, Box<(Self, OpenError)>> {
        let disk = RefCell::new(self.disk);
        let files = &disk;
        let open = (0..directories).map(ShardId).map(|shard| ShardDirectory {
            shard,
            disk: Box::new(move |op| files.borrow_mut().run(shard, op)),
        });
        let opened = open_all(config, self.now, open.collect());
        let disk = disk.into_inner();
        match opened {
            Err(error) => Err(Box::new((Self { disk, ..self }, error))),
            Ok(shards) => {
                let node = |shard| Node {
                    worker: Worker::new(worker.clone(), shard),
                    network: Network::default(),
                    jobs: VecDeque::new(),
                };
                let mut world = World {
                    disk,
                    nodes: shards.into_iter().map(node).collect(),
                    mesh: BTreeMap::new(),
                    seats: self.seats,
                    history: self.history,
                    now: self.now,
                    streams: self.streams,
                    delivered: self.delivered,
                };
                for node in 0..world.nodes.len() {
                    world.end_turn(node);
                }
                Ok(world)
            }
        }
    }
}

impl World {
    /// The process is gone, and every connection with it.
    pub(crate) fn stop(mut self) -> Remains {
        for seat in &mut self.seats {
            seat.connection = None;
            seat.client.disconnected(&mut self.history);
        }
        Remains {
            disk: self.disk,
            seats: self.seats,
            history: self.history,
            now: self.now,
            streams: self.streams,
            delivered: self.delivered,
        }
    }

    /// A shard's log failed: the process must end.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.nodes
            .iter()
            .any(|node| node.worker.poisoned().is_some())
    }

    /// Every client has its answers.
    pub(crate) fn is_done(&self) -> bool {
        self.seats.iter().all(|seat| seat.client.is_done())
    }

    /// The clients that wait, for the report of a failure.
    pub(crate) fn waiting(&self) -> String {
        let waiting = self.seats.iter().filter(|seat| !seat.client.is_done());
        let waiting = waiting.map(|seat| format!("{:?} on {:?}\n", seat.client, seat.connection));
        let nodes = self.nodes.iter().map(|node| {
            let shard = node.worker.shard();
            let appends = if shard.accepts_appends() {
                "takes"
            } else {
                "refuses"
            };
            format!("shard {} {appends} appends\n", shard.id())
        });
        waiting.chain(nodes).collect()
    }

    /// Lets one thing happen.
    pub(crate) fn step(&mut self) -> Checked<()> {
        match self.streams.schedule.below(100) {
            0..30 => {
                let seat = self.streams.schedule.index(self.seats.len());
                self.act(seat)?;
            }
            30..60 => self.move_bytes(),
            60..80 => self.complete_disk(),
            80..92 => self.deliver_message(),
            92..94 => self.do_job(),
            _ => self.pass_time(),
        }
        Ok(())
    }

    /// A client connects, sends, receives or goes away.
    fn act(&mut self, seat: usize) -> Checked<()> {
        let Some((node, connection)) = self.seats[seat].connection else {
            let node = self.streams.schedule.index(self.nodes.len());
            self.seats[seat].connection = Some((node, self.connect(node)));
            return Ok(());
        };
        if !self.nodes[node].network.is_open(connection) {
            self.drop_connection(seat);
            return Ok(());
        }
        match self.streams.workload.below(200) {
            0 => {
                let reset = self.streams.workload.coin();
                self.nodes[node].network.hang_up(connection, reset);
                self.drop_connection(seat);
            }
            1..80 => {
                let dice = &mut self.streams.workload;
                let request = self.seats[seat]
                    .client
                    .next_request(dice, &mut self.history);
                if let Some(request) = request {
                    self.nodes[node].network.send(connection, &request);
                }
            }
            _ => {
                let bytes = self.nodes[node]
                    .network
                    .receive(connection, &mut self.streams.network);
                if !self.seats[seat].client.receive(&bytes, &mut self.history)? {
                    self.nodes[node].network.hang_up(connection, false);
                    self.drop_connection(seat);
                }
            }
        }
        Ok(())
    }

    fn connect(&mut self, node: usize) -> ConnectionId {
        let (connection, accepted) = self.nodes[node].network.connect();
        self.tell(node, accepted);
        connection
    }

    fn drop_connection(&mut self, seat: usize) {
        self.seats[seat].connection = None;
        self.seats[seat].client.disconnected(&mut self.history);
    }

    fn tell(&mut self, node: usize, done: NetDone) {
        let now = self.now;
        let worker = &mut self.nodes[node].worker;
        done.lend(|done| worker.handle_io(now, done));
        self.end_turn(node);
    }

    fn move_bytes(&mut self) {
        let node = self.streams.schedule.index(self.nodes.len());
        let connections = self.nodes[node].network.connections();
        if connections.is_empty() {
            return;
        }
        let connection = *self.streams.schedule.pick(&connections);
        let dice = &mut self.streams.network;
        if let Some(done) = self.nodes[node].network.step(connection, dice) {
            self.tell(node, done);
        }
    }

    fn complete_disk(&mut self) {
        // Several completions of one turn reach their shard together.
        for _ in 0..self.streams.schedule.between(1, 3) {
            let Some((shard, done)) = self.disk.complete_one() else {
                return;
            };
            let node = usize::from(shard.0);
            self.nodes[node]
                .worker
                .handle_io(self.now, IoDone::Disk(done));
            self.end_turn(node);
        }
    }

    fn deliver_message(&mut self) {
        let waiting: Vec<_> = self
            .mesh
            .iter()
            .filter(|(_, queue)| !queue.is_empty())
            .collect();
        if waiting.is_empty() {
            return;
        }
        let (from, to, lane) = *self.streams.schedule.pick(&waiting).0;
        let queue = self.mesh.get_mut(&(from, to, lane)).expect("seen just now");
        let message = queue.pop_front().expect("not empty");
        let node = usize::from(to.0);
        self.delivered += 1;
        self.nodes[node].worker.handle_mesh(self.now, from, message);
        self.end_turn(node);
    }

    fn do_job(&mut self) {
        for node in 0..self.nodes.len() {
            if let Some(job) = self.nodes[node].jobs.pop_front() {
                let done = jobs::perform(job);
                self.nodes[node]
                    .worker
                    .handle_io(self.now, IoDone::Job(done));
                self.end_turn(node);
            }
        }
    }

    fn pass_time(&mut self) {
        let dice = &mut self.streams.schedule;
        let nanoseconds = if dice.one_in(40) {
            dice.between(100_000_000, 3_000_000_000)
        } else {
            dice.between(1_000, 2_000_000)
        };
        self.now.boot = BootTime(self.now.boot.0 + nanoseconds);
        self.now.wall_ms += i64::try_from(nanoseconds / 1_000_000).expect("small steps");
        for node in 0..self.nodes.len() {
            let due = self.nodes[node].worker.poll_timeout();
            if due.is_some_and(|due| due <= self.now.boot) {
                self.nodes[node].worker.handle_timeout(self.now);
                self.end_turn(node);
            }
        }
    }

    /// Ends a worker's turn and takes what it wants done.
    fn end_turn(&mut self, node: usize) {
        let shard = ShardId(u16::try_from(node).expect("few nodes"));
        let Node {
            worker,
            network,
            jobs,
        } = &mut self.nodes[node];
        worker.end_turn(self.now);
        while let Some(op) = worker.poll_io() {
            match op {
                IoOp::Disk(op) => self.disk.submit(shard, op),
                IoOp::Job(op) => jobs.push_back(op),
                op => network.handle(op),
            }
        }
        while let Some((to, message)) = worker.poll_mesh() {
            let is_reply = message.lane() == Lane::Replies;
            self.mesh
                .entry((shard, to, is_reply))
                .or_default()
                .push_back(message);
        }
    }

    /// Sends one request on a connection of its own and steps until its reply is there.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Checked<Vec<u8>> {
        let node = self.streams.schedule.index(self.nodes.len());
        let connection = self.connect(node);
        self.nodes[node].network.send(connection, request);
        let mut inbox = Vec::new();
        for _ in 0..STEPS_MAX {
            self.step()?;
            let network = &mut self.nodes[node].network;
            inbox.extend(network.receive(connection, &mut self.streams.network));
            if let Some((_, body)) = crate::kafka::take_frame(&mut inbox) {
                network.hang_up(connection, false);
                return Ok(body);
            }
        }
        Err(Failure(format!("no reply came in {STEPS_MAX} steps")))
    }
}

/// Steps within which a request must be answered when nothing fails.
const STEPS_MAX: u64 = 60_000;
