//! A peer that speaks just enough Kafka to be written to, and forgets everything: `--target sink`
//! shows what the generator itself can do. It can also stall, keep what it gets, and keep it badly
//! on purpose, which is how the generator's own accuracy is tested.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::kafka::RequestKind;
use crate::client::kafka::wire::{
    FRAME_BYTES_MAX, Reader, WireError, begin_frame, end_frame, put_count, put_i8, put_i16,
    put_i32, put_i64, put_string,
};

/// Where a batch keeps its record count.
const BATCH_RECORDS_AT: usize = 57;
/// Highest version of every request that the handshake admits to.
const VERSION_MAX: i16 = 20;
const READ_BYTES: usize = 256 << 10;
/// Which append of each partition a sink that keeps badly keeps badly.
const BADLY_TREATED_APPEND: u32 = 3;
/// Most of one partition in a fetch's reply: small, so that a test's fetches are many.
const FETCHED_BYTES_MAX: usize = 64 << 10;
/// What a fetch that finds nothing waits before it says so.
const FETCH_PAUSE: Duration = Duration::from_millis(2);
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const UNSUPPORTED_VERSION: i16 = 35;
const TOPIC_ALREADY_EXISTS: i16 = 36;

/// A stop of the whole sink, once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stall {
    /// Counted from the first produce request.
    pub(crate) after: Duration,
    pub(crate) lasts: Duration,
}

/// What happens to batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "only tests want messages back, or badly kept")
)]
pub(crate) enum Keeping {
    /// Counted and forgotten.
    #[default]
    Nothing,
    /// Kept in memory.
    Everything,
    /// Kept, but one batch of each partition is acknowledged and forgotten.
    AllButOne,
    /// Kept, but one batch of each partition twice.
    OneTwice,
    /// Kept, every batch twice.
    EachTwice,
    /// Kept, but one batch of each partition after its successor.
    OneLate,
}

/// How a sink treats its clients.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Behaviour {
    pub(crate) stall: Option<Stall>,
    /// What each produce request takes; those of one connection one after the other.
    pub(crate) service: Duration,
    pub(crate) keeping: Keeping,
}

/// A listening sink; its threads end with the process.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
}

/// What all connections of a sink share.
struct Shared {
    behaviour: Behaviour,
    state: Mutex<State>,
    port: u16,
}

#[derive(Default)]
struct State {
    first_produce: Option<Instant>,
    /// Partitions by topic.
    topics: BTreeMap<String, i32>,
    /// By topic and partition.
    logs: BTreeMap<(String, i32), Log>,
}

/// One partition.
#[derive(Default)]
struct Log {
    next_offset: i64,
    /// Appends so far.
    appends: u32,
    /// Batches with the offset after each.
    kept: Vec<(i64, Vec<u8>)>,
    /// A batch that is to come too late.
    late: Option<Vec<u8>>,
}

impl Log {
    /// Takes a batch; returns the offset to acknowledge.
    fn append(&mut self, batch: &[u8], keeping: Keeping) -> Result<i64, WireError> {
        let base_offset = self.next_offset;
        self.appends += 1;
        let is_treated_badly = self.appends == BADLY_TREATED_APPEND;
        match keeping {
            Keeping::Nothing => self.next_offset += records(batch)?,
            Keeping::AllButOne if is_treated_badly => {}
            Keeping::OneLate if is_treated_badly => self.late = Some(batch.to_owned()),
            Keeping::OneTwice if is_treated_badly => {
                self.keep(batch)?;
                self.keep(batch)?;
            }
            Keeping::EachTwice => {
                self.keep(batch)?;
                self.keep(batch)?;
            }
            _ => self.keep(batch)?,
        }
        if !is_treated_badly && let Some(late) = self.late.take() {
            self.keep(&late)?;
        }
        Ok(base_offset)
    }

    fn keep(&mut self, batch: &[u8]) -> Result<(), WireError> {
        let mut batch = batch.to_owned();
        let base_offset = batch.get_mut(..8).ok_or(WireError::Short { missing: 8 })?;
        base_offset.copy_from_slice(&self.next_offset.to_be_bytes());
        self.next_offset += records(&batch)?;
        self.kept.push((self.next_offset, batch));
        Ok(())
    }

    /// The kept batches from the one that holds `offset` on, `bytes_max` and one batch at most.
    fn read(&self, offset: i64, bytes_max: usize) -> Vec<u8> {
        let from = self
            .kept
            .partition_point(|(end_offset, _)| *end_offset <= offset);
        let mut out = Vec::new();
        for (_, batch) in &self.kept[from..] {
            if !out.is_empty() && out.len() + batch.len() > bytes_max {
                break;
            }
            out.extend_from_slice(batch);
        }
        out
    }
}

fn records(batch: &[u8]) -> Result<i64, WireError> {
    let at = batch.get(BATCH_RECORDS_AT..).unwrap_or_default();
    Reader::new(at).i32().map(i64::from)
}

impl Sink {
    /// Starts a sink on a free loopback port.
    pub(crate) fn start(behaviour: Behaviour) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            behaviour,
            state: Mutex::default(),
            port: address.port(),
        });
        thread::Builder::new().name("sink".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                // The generator sees a connection that ends; there is nobody else to tell.
                thread::spawn(move || serve(&shared, stream));
            }
        })?;
        Ok(Self { address })
    }
}

fn serve(shared: &Shared, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BufReader::with_capacity(READ_BYTES, stream.try_clone()?);
    let mut output = stream;
    let (mut body, mut reply) = (Vec::new(), Vec::new());
    loop {
        let mut prefix = [0; 4];
        input.read_exact(&mut prefix)?;
        let body_bytes = u32::from_be_bytes(prefix);
        let body_bytes = usize::try_from(body_bytes).expect("32 bits fit");
        if body_bytes > FRAME_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        body.resize(body_bytes, 0);
        input.read_exact(&mut body)?;
        shared.answer(&body, &mut reply).map_err(io::Error::other)?;
        // Replies of requests that came together leave together.
        if input.buffer().is_empty() && !reply.is_empty() {
            output.write_all(&reply)?;
            reply.clear();
        }
    }
}

impl Shared {
    /// Appends the reply to one request, if it has one.
    fn answer(&self, body: &[u8], out: &mut Vec<u8>) -> Result<(), WireError> {
        let mut request = Reader::new(body);
        let (key, version) = (request.i16()?, request.i16()?);
        let correlation = request.i32()?;
        request.nullable_string()?; // client id
        let kind = RequestKind::ALL
            .into_iter()
            .find(|kind| kind.key() == key && kind.version() == version);
        let start = begin_frame(out);
        put_i32(out, correlation);
        let answered = match kind {
            Some(RequestKind::Produce) => self.produce(&mut request, out)?,
            Some(RequestKind::Metadata) => self.metadata(&mut request, out)?,
            Some(RequestKind::CreateTopics) => self.create_topics(&mut request, out)?,
            Some(RequestKind::ListOffsets) => self.list_offsets(&mut request, out)?,
            Some(RequestKind::ApiVersions) => api_versions(out),
            Some(RequestKind::Fetch) => self.fetch(&mut request, out)?,
            None
            | Some(
                RequestKind::FindCoordinator
                | RequestKind::JoinGroup
                | RequestKind::SyncGroup
                | RequestKind::InitProducerId,
            ) => {
                put_i16(out, UNSUPPORTED_VERSION);
                true
            }
        };
        if answered {
            end_frame(out, start);
        } else {
            out.truncate(start);
        }
        Ok(())
    }

    fn produce(&self, request: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<bool, WireError> {
        self.stall_if_due();
        if !self.behaviour.service.is_zero() {
            thread::sleep(self.behaviour.service);
        }
        request.nullable_string()?; // transactional id
        let acks = request.i16()?;
        request.i32()?; // timeout
        let mut state = self.state.lock().expect("no holder panics");
        let topics = request.count()?;
        put_count(out, topics);
        for _ in 0..topics {
            let topic = request.string()?;
            put_string(out, topic);
            let partitions = request.count()?;
            put_count(out, partitions);
            for _ in 0..partitions {
                let partition = request.i32()?;
                let batch = request.nullable_bytes()?.unwrap_or_default();
                let log = state.logs.entry((topic.to_owned(), partition)).or_default();
                let base_offset = log.append(batch, self.behaviour.keeping)?;
                put_i32(out, partition);
                put_i16(out, 0);
                put_i64(out, base_offset);
                put_i64(out, -1); // append time
                put_i64(out, 0); // log start
            }
        }
        put_i32(out, 0); // throttle time
        Ok(acks != 0)
    }

    /// Holds every connection back while the stall lasts.
    fn stall_if_due(&self) {
        let Some(stall) = self.behaviour.stall else {
            return;
        };
        let mut state = self.state.lock().expect("no holder panics");
        let since = state
            .first_produce
            .get_or_insert_with(Instant::now)
            .elapsed();
        if let Some(left) = (stall.after + stall.lasts).checked_sub(since)
            && since >= stall.after
        {
            thread::sleep(left);
        }
    }

    fn create_topics(
        &self,
        request: &mut Reader<'_>,
        out: &mut Vec<u8>,
    ) -> Result<bool, WireError> {
        put_i32(out, 0); // throttle time
        let topics = request.count()?;
        put_count(out, topics);
        for _ in 0..topics {
            let topic = request.string()?;
            let partitions = request.i32()?;
            request.i16()?; // replication factor
            let (assignments, configs) = (request.count()?, request.count()?);
            if assignments + configs > 0 {
                return Err(WireError::NegativeLength(-1));
            }
            let mut state = self.state.lock().expect("no holder panics");
            let known = state.topics.contains_key(topic);
            state.topics.entry(topic.into()).or_insert(partitions);
            put_string(out, topic);
            put_i16(out, if known { TOPIC_ALREADY_EXISTS } else { 0 });
            put_i16(out, -1); // no message
        }
        Ok(true)
    }

    fn metadata(&self, request: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<bool, WireError> {
        put_i32(out, 0); // throttle time
        put_count(out, 1);
        put_i32(out, 1); // node id
        put_string(out, "127.0.0.1");
        put_i32(out, self.port.into());
        put_i16(out, -1); // no rack
        put_i16(out, -1); // no cluster id
        put_i32(out, 1); // controller
        let topics = request.count()?;
        put_count(out, topics);
        for _ in 0..topics {
            let topic = request.string()?;
            let state = self.state.lock().expect("no holder panics");
            let partitions = state.topics.get(topic).copied();
            put_i16(
                out,
                if partitions.is_some() {
                    0
                } else {
                    UNKNOWN_TOPIC_OR_PARTITION
                },
            );
            put_string(out, topic);
            put_i8(out, 0); // not internal
            put_i32(out, partitions.unwrap_or(0));
            for partition in 0..partitions.unwrap_or(0) {
                put_i16(out, 0);
                put_i32(out, partition);
                put_i32(out, 1); // leader
                for _replicas_then_in_sync in 0..2 {
                    put_count(out, 1);
                    put_i32(out, 1);
                }
            }
        }
        Ok(true)
    }

    /// The offset after the last message of a partition.
    fn end(&self, topic: &str, partition: i32) -> i64 {
        let state = self.state.lock().expect("no holder panics");
        state
            .logs
            .get(&(topic.to_owned(), partition))
            .map_or(0, |log| log.next_offset)
    }

    fn fetch(&self, request: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<bool, WireError> {
        request.take(4 + 4 + 4 + 4 + 1 + 4 + 4)?; // replica to session epoch
        put_i32(out, 0); // throttle time
        put_i16(out, 0);
        put_i32(out, 0); // session
        let topics = request.count()?;
        put_count(out, topics);
        let mut found = false;
        for _ in 0..topics {
            let topic = request.string()?;
            put_string(out, topic);
            let partitions = request.count()?;
            put_count(out, partitions);
            for _ in 0..partitions {
                let partition = request.i32()?;
                request.i32()?; // leader epoch
                let offset = request.i64()?;
                request.take(8 + 4)?; // log start, most bytes
                let state = self.state.lock().expect("no holder panics");
                let log = state.logs.get(&(topic.to_owned(), partition));
                let bytes = log.map_or(Vec::new(), |log| log.read(offset, FETCHED_BYTES_MAX));
                let end = log.map_or(0, |log| log.next_offset);
                found |= !bytes.is_empty();
                put_i32(out, partition);
                put_i16(out, 0);
                put_i64(out, end); // high watermark
                put_i64(out, end); // last stable offset
                put_i64(out, 0); // log start
                put_i32(out, -1); // no aborted transactions
                put_i32(out, -1); // no preferred replica
                put_count(out, bytes.len());
                out.extend_from_slice(&bytes);
            }
        }
        if !found {
            thread::sleep(FETCH_PAUSE);
        }
        Ok(true)
    }

    fn list_offsets(&self, request: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<bool, WireError> {
        request.i32()?; // replica
        let topics = request.count()?;
        put_count(out, topics);
        for _ in 0..topics {
            let topic = request.string()?;
            put_string(out, topic);
            let partitions = request.count()?;
            put_count(out, partitions);
            for _ in 0..partitions {
                let partition = request.i32()?;
                request.i64()?; // timestamp
                put_i32(out, partition);
                put_i16(out, 0);
                put_i64(out, -1);
                put_i64(out, self.end(topic, partition));
            }
        }
        Ok(true)
    }
}

fn api_versions(out: &mut Vec<u8>) -> bool {
    put_i16(out, 0);
    put_count(out, RequestKind::ALL.len());
    for kind in RequestKind::ALL {
        put_i16(out, kind.key());
        put_i16(out, 0);
        put_i16(out, VERSION_MAX);
    }
    true
}
