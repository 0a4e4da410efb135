//! Workers by hand, on a simulated disk: what many connections may ask of one at the same time.

use std::cell::RefCell;

use millrace_engine::jobs;
use millrace_engine::limits::EngineConfig;
use millrace_engine::start::{ShardDirectory, StartConfig, open_all};
use millrace_storage::StoreConfig;
use millrace_storage::testing::SimDisk;

use super::*;
use crate::session::Node;

/// What sessions may hold in these tests, bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// No reply of these tests is longer, bytes.
const REPLY_BYTES_MAX: usize = 400_000;
const CONNECTIONS: usize = 60;

/// A broker's workers, their disk and their clients.
struct World {
    workers: Vec<Worker>,
    disk: SimDisk,
    now: Now,
    slots: u32,
    /// Sends that clients have not taken, with their worker.
    sends: Vec<(usize, ConnectionId, Vec<u8>)>,
    /// Replies that clients took, and the last one.
    replies: usize,
    last: Vec<u8>,
    /// The most that a worker's sessions held at any time.
    held_most: usize,
}

impl World {
    fn new(shards: u16) -> Self {
        let mut engine = EngineConfig::default();
        engine.limits.answer_bytes_max = ANSWER_BYTES_MAX;
        let start = StartConfig {
            shards,
            engine,
            store: StoreConfig {
                wal_file_bytes: 4 << 20,
                batch_bytes_max: 1 << 20,
                ..StoreConfig::default()
            },
            owner: None,
            accept_loss: Vec::new(),
            seed: 1,
        };
        let now = Now {
            boot: BootTime(1_000_000_000),
            wall_ms: 1_800_000_000_000,
        };
        let mut disk = SimDisk::new(7);
        let lent = &RefCell::new(&mut disk);
        let directories = (0..shards).map(ShardId).map(|shard| ShardDirectory {
            shard,
            disk: Box::new(move |op| lent.borrow_mut().run(shard, op)),
        });
        let opened = open_all(&start, now, directories.collect()).expect("opens");
        let workers = opened.into_iter();
        Self {
            workers: workers.map(|shard| Worker::new(config(), shard)).collect(),
            disk,
            now,
            slots: 0,
            sends: Vec::new(),
            replies: 0,
            last: Vec::new(),
            held_most: 0,
        }
    }

    fn connect(&mut self, shard: usize) -> ConnectionId {
        let connection = ConnectionId {
            slot: self.slots,
            life: 0,
        };
        self.slots += 1;
        let accepted = IoDone::Accepted {
            connection,
            listener: ListenerId(0),
            peer: "127.0.0.1:1".parse().expect("an address"),
            local: "127.0.0.1:2".parse().expect("an address"),
        };
        self.tell(shard, accepted);
        connection
    }

    fn send(&mut self, shard: usize, connection: ConnectionId, bytes: &[u8]) {
        self.tell(shard, IoDone::Received { connection, bytes });
    }

    fn tell(&mut self, shard: usize, done: IoDone<'_>) {
        self.workers[shard].handle_io(self.now, done);
        self.held_most = self.held_most.max(self.workers[shard].held.reply_bytes);
    }

    /// Everything but clients moves until nothing does.
    fn run(&mut self) {
        loop {
            while self.turn() {}
            let Some((shard, done)) = self.disk.complete_one() else {
                return;
            };
            self.tell(usize::from(shard.0), IoDone::Disk(done));
        }
    }

    /// A turn of each worker; whether one had something for another.
    fn turn(&mut self) -> bool {
        let mut is_any = false;
        for at in 0..self.workers.len() {
            self.workers[at].end_turn(self.now);
            self.held_most = self.held_most.max(self.workers[at].held.reply_bytes);
            while let Some(op) = self.workers[at].poll_io() {
                match op {
                    IoOp::Disk(op) => self.disk.submit(ShardId(at as u16), op),
                    IoOp::Job(op) => {
                        is_any = true;
                        self.tell(at, IoDone::Job(jobs::perform(op)));
                    }
                    IoOp::Send { connection, buffer } => self.sends.push((at, connection, buffer)),
                    IoOp::Receive { .. } => {}
                    op => panic!("{op:?}"),
                }
            }
            while let Some((to, message)) = self.workers[at].poll_mesh() {
                is_any = true;
                let from = ShardId(at as u16);
                self.workers[usize::from(to.0)].handle_mesh(self.now, from, message);
            }
        }
        is_any
    }

    /// Clients take what is sent to them; whether there was something.
    fn take(&mut self) -> bool {
        let is_any = !self.sends.is_empty();
        for (shard, connection, buffer) in std::mem::take(&mut self.sends) {
            let length = i32::from_be_bytes(*buffer.first_chunk().expect("a whole reply"));
            assert_eq!(buffer.len(), 4 + length as usize, "one reply");
            assert!(buffer.len() <= REPLY_BYTES_MAX, "{}", buffer.len());
            self.replies += 1;
            self.last.clone_from(&buffer);
            let sent = IoDone::Sent {
                connection,
                buffer,
                result: Ok(()),
            };
            self.tell(shard, sent);
        }
        self.run();
        is_any
    }

    fn pass_ms(&mut self, ms: u64) {
        self.now.boot = self.now.boot.after_ms(ms);
        for worker in &mut self.workers {
            worker.handle_timeout(self.now);
        }
        self.run();
    }

    /// Sends the same from many connections of a shard within one turn; all get their reply, and
    /// sessions never hold more than they may, and one reply.
    fn check_bounded(&mut self, shard: usize, request: &[u8]) {
        let clients: Vec<ConnectionId> = (0..CONNECTIONS).map(|_| self.connect(shard)).collect();
        (self.held_most, self.replies) = (0, 0);
        for client in clients {
            self.send(shard, client, request);
        }
        self.run();
        assert!(self.replies == 0 && self.held_most > ANSWER_BYTES_MAX / 2);
        while self.take() {}
        assert_eq!(self.replies, CONNECTIONS);
        let bound = ANSWER_BYTES_MAX + REPLY_BYTES_MAX;
        assert!(self.held_most <= bound, "{} bytes", self.held_most);
    }
}

fn config() -> WorkerConfig {
    let node = Node {
        id: 1,
        shard: None,
        host: None,
        port: 9092,
    };
    WorkerConfig {
        doors: vec![Door {
            protocol: Protocol::Kafka(Arc::new(KafkaConfig::default())),
            cluster: ClusterView {
                cluster_id: "test".to_owned(),
                nodes: vec![node],
                own: 0,
            },
        }],
        connection: ConnectionLimits::default(),
        connections_max: 1_000,
        connections_per_address_max: 1_000,
        assembly_bytes_max: 64 << 20,
        // The first send uses it up: others wait in their sessions.
        sending_bytes_max: 1,
        remembered_partitions_max: 1_000,
        stop_ms_max: 1_000,
    }
}

/// A request without a client id.
fn frame(key: u8, version: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = u32::try_from(10 + body.len()).expect("short");
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend([0, key, 0, version, 0, 0, 0, 1, 0xff, 0xff]);
    frame.extend(body);
    frame
}

#[test]
fn long_answers_to_short_questions_of_one_turn_stay_within_their_bound() {
    let mut world = World::new(1);
    let client = world.connect(0);
    let wide: &[&[u8]] = &[
        &[0, 0, 0, 1, 0, 4],
        b"wide",
        &5_000i32.to_be_bytes(),
        &[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x75, 0x30, 0],
    ];
    world.send(0, client, &frame(19, 2, wide));
    world.run();
    assert!(world.take());
    let all_topics = frame(3, 1, &[&[0xff; 4]]);
    world.check_bounded(0, &all_topics);
}

/// One of the shards is the group's home: it knows how long the answers are at once. The other
/// asks for all of them before it knows that of the first.
#[test]
fn descriptions_of_a_large_group_stay_within_the_bound_wherever_it_lives() {
    let mut world = World::new(2);
    let client = world.connect(0);
    let metadata = vec![7; 300_000];
    let join: &[&[u8]] = &[
        &[0, 5],
        b"large",
        &600_000i32.to_be_bytes(),
        &600_000i32.to_be_bytes(),
        &[0, 0, 0, 8],
        b"consumer",
        &[0, 0, 0, 1, 0, 5],
        b"range",
        &300_000i32.to_be_bytes(),
        &metadata,
    ];
    // A first request must be small.
    world.send(0, client, &frame(18, 0, &[]));
    world.send(0, client, &frame(11, 2, join));
    world.run();
    assert!(world.take());
    world.pass_ms(3_000);
    assert!(world.take(), "it has joined");
    // Behind the frame, the generation and the protocol's name: the leader, with its length.
    let leader_bytes = usize::from(world.last[26]);
    let leader = world.last[25..27 + leader_bytes].to_vec();
    let sync: &[&[u8]] = &[&[0, 5], b"large", &[0, 0, 0, 1], &leader, &[0; 4]];
    world.send(0, client, &frame(14, 0, sync));
    world.run();
    assert!(world.take(), "it is a stable group");
    let describe = frame(15, 0, &[&[0, 0, 0, 1, 0, 5], b"large"]);
    for shard in 0..2 {
        world.check_bounded(shard, &describe);
    }
}
