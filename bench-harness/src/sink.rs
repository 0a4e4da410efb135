//! A peer that speaks just enough Kafka to be written to, and forgets everything: `--target sink`
//! shows what the generator itself can do. It can also stall on purpose, which is how the
//! generator's own accuracy is tested.

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

/// A listening sink; its threads end with the process.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
}

/// What all connections of a sink share.
struct Shared {
    stall: Option<Stall>,
    state: Mutex<State>,
    port: u16,
}

#[derive(Default)]
struct State {
    first_produce: Option<Instant>,
    /// Partitions by topic.
    topics: BTreeMap<String, i32>,
    /// Next offset by topic and partition.
    next_offsets: BTreeMap<(String, i32), i64>,
}

impl Sink {
    /// Starts a sink on a free loopback port.
    pub(crate) fn start(stall: Option<Stall>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            stall,
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
            Some(RequestKind::Fetch) | None => {
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

    /// Takes the batches' counts and nothing else.
    fn produce(&self, request: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<bool, WireError> {
        self.stall_if_due();
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
                let records = match batch.get(BATCH_RECORDS_AT..) {
                    Some(at) => Reader::new(at).i32()?,
                    None => 0,
                };
                let next = state
                    .next_offsets
                    .entry((topic.to_owned(), partition))
                    .or_default();
                put_i32(out, partition);
                put_i16(out, 0);
                put_i64(out, *next);
                put_i64(out, -1); // append time
                put_i64(out, 0); // log start
                *next += i64::from(records);
            }
        }
        put_i32(out, 0); // throttle time
        Ok(acks != 0)
    }

    /// Holds every connection back while the stall lasts.
    fn stall_if_due(&self) {
        let Some(stall) = self.stall else { return };
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
                put_i64(out, 0); // nothing is ever kept
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
