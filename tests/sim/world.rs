//! Whole workers in one simulated world: connections, shards, stores, mesh, disks, clients.
//!
//! One random stream decides who goes next. Everything that a worker asks for is done by the
//! world, in an order of its choosing: completions, arrivals, turns that take messages from the
//! mesh, parking, jobs and timers. The machine loses power, or the process is killed, at any of
//! these points.

use std::cell::RefCell;

use millrace_engine::command::ConnectionId;
use millrace_engine::mesh::port::mesh;
use millrace_engine::start::{OpenError, ShardDirectory, StartConfig, open_all};
use millrace_net::io::IoDone;
use millrace_net::worker::{Worker, WorkerConfig};
use millrace_storage::testing::{Dice, SimDisk};
use millrace_storage::units::{BootTime, Now, ShardId};

use crate::clients::Client;
use crate::failure::{Checked, Failure};
use crate::history::History;
use crate::network::NetDone;
use crate::node::{Around, Node, NodeCounts};

/// A slow disk lets so many of its turns pass for each that it takes.
const SLOW_DISK: u32 = 20;

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
    seats: Vec<Seat>,
    pub(crate) history: History,
    pub(crate) now: Now,
    pub(crate) streams: Streams,
    /// What the cores of earlier machines did.
    earlier: NodeCounts,
    /// How many wake-ups are lost from now on: one in so many; 0 for none, as it must be.
    pub(crate) wake_lost_one_in: u32,
    /// No connection breaks, and time goes in small steps.
    pub(crate) is_calm: bool,
    /// Answers that do not wait for the disk overtake it then.
    pub(crate) is_disk_slow: bool,
}

/// What a stopped machine leaves to the next one.
pub(crate) struct Remains {
    pub(crate) disk: SimDisk,
    seats: Vec<Seat>,
    pub(crate) history: History,
    pub(crate) now: Now,
    streams: Streams,
    counts: NodeCounts,
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
            counts: NodeCounts::default(),
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
                let mut streams = self.streams;
                let ports = mesh(config.shards, *streams.schedule.pick(&RING_SLOTS));
                let nodes = shards.into_iter().zip(ports);
                let node = |(shard, port)| Node::new(Worker::new(worker.clone(), shard), port);
                let mut world = World {
                    disk,
                    nodes: nodes.map(node).collect(),
                    seats: self.seats,
                    history: self.history,
                    now: self.now,
                    streams,
                    earlier: self.counts,
                    wake_lost_one_in: 0,
                    is_calm: false,
                    is_disk_slow: false,
                };
                for node in 0..world.nodes.len() {
                    world.run(node, Node::turn);
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
        self.history.churn.machine_stopped();
        self.history.groups.machine_stopped();
        Remains {
            counts: self.counts(),
            disk: self.disk,
            seats: self.seats,
            history: self.history,
            now: self.now,
            streams: self.streams,
        }
    }

    /// What all cores did, those of earlier machines included.
    pub(crate) fn counts(&self) -> NodeCounts {
        let mut counts = self.earlier;
        for node in &self.nodes {
            counts.add(&node.counts);
        }
        counts
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

    /// All clients, for the report of a failure.
    pub(crate) fn all_clients(&self) -> String {
        let seats = self.seats.iter();
        let seats = seats.map(|seat| format!("{:?} on {:?}\n", seat.client, seat.connection));
        seats.collect()
    }

    /// Lets one thing happen.
    pub(crate) fn step(&mut self) -> Checked<()> {
        let stepped = self.do_something();
        stepped.map_err(|failure| Failure(format!("{failure}\n{}", self.disk.trace())))
    }

    fn do_something(&mut self) -> Checked<()> {
        match self.streams.schedule.below(100) {
            0..28 => {
                let seat = self.streams.schedule.index(self.seats.len());
                self.act(seat)?;
            }
            28..58 => self.move_bytes(),
            58..76 if self.is_disk_slow && !self.streams.schedule.one_in(SLOW_DISK) => {}
            58..76 => self.complete_disk(),
            76..86 => self.take_turn(),
            86..92 => {
                let node = self.streams.schedule.index(self.nodes.len());
                self.nodes[node].park();
            }
            92..94 => self.do_job(),
            _ => self.pass_time(),
        }
        self.nodes.iter().try_for_each(Node::check_awake)
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
            0 if !self.is_calm => {
                let reset = self.streams.workload.coin();
                self.nodes[node].network.hang_up(connection, reset);
                self.drop_connection(seat);
            }
            0..80 => {
                let dice = &mut self.streams.workload;
                let request = self.seats[seat]
                    .client
                    .next_request(dice, &mut self.history)?;
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
        self.run(node, |node, around| node.tell(done, around));
    }

    /// Lets a core run, and wakes whom it woke.
    fn run(&mut self, node: usize, turn: impl FnOnce(&mut Node, &mut Around<'_>)) {
        let mut around = Around {
            now: self.now,
            disk: &mut self.disk,
            dice: &mut self.streams.schedule,
            woken: Vec::new(),
        };
        turn(&mut self.nodes[node], &mut around);
        for shard in around.woken {
            if !self.streams.schedule.one_in(self.wake_lost_one_in) {
                self.nodes[usize::from(shard.0)].wake();
            }
        }
    }

    /// A core of those that `may` runs a turn, if there is one.
    fn run_any(&mut self, may: impl Fn(&Node) -> bool, turn: fn(&mut Node, &mut Around<'_>)) {
        let nodes: Vec<usize> = (0..self.nodes.len())
            .filter(|node| may(&self.nodes[*node]))
            .collect();
        if !nodes.is_empty() {
            let node = *self.streams.schedule.pick(&nodes);
            self.run(node, turn);
        }
    }

    fn take_turn(&mut self) {
        self.run_any(Node::is_runnable, Node::turn);
    }

    fn do_job(&mut self) {
        self.run_any(Node::has_jobs, Node::do_job);
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
            self.run(usize::from(shard.0), |node, around| {
                node.handle(IoDone::Disk(done), around);
            });
        }
    }

    fn pass_time(&mut self) {
        let dice = &mut self.streams.schedule;
        let nanoseconds = if self.is_calm {
            dice.between(1_000, CALM_NANOSECONDS_MAX)
        } else if dice.one_in(40) {
            dice.between(100_000_000, 3_000_000_000)
        } else {
            dice.between(1_000, 2_000_000)
        };
        self.now.boot = BootTime(self.now.boot.0 + nanoseconds);
        self.now.wall_ms += i64::try_from(nanoseconds / 1_000_000).expect("small steps");
        for node in 0..self.nodes.len() {
            let due = self.nodes[node].worker.poll_timeout();
            if due.is_some_and(|due| due <= self.now.boot) {
                self.run(node, Node::turn);
            }
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
        Err(Failure(format!(
            "no reply came in {STEPS_MAX} steps\n{}",
            self.disk.trace()
        )))
    }
}

/// Slots of the rings between shards: so few that they fill.
const RING_SLOTS: [usize; 3] = [1, 2, 16];

/// The longest step of time while the world is calm: 10 ms.
const CALM_NANOSECONDS_MAX: u64 = 10_000_000;

/// Steps within which a request must be answered when nothing fails.
const STEPS_MAX: u64 = 60_000;
