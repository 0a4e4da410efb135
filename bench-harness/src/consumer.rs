//! One consuming connection: it fetches its partitions one request after the other, and checks
//! every message. The next request leaves before the messages of the last reply are checked, as
//! clients that prefetch do.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::watch;

use crate::client::{Client, Cursor, Decoded, FetchLimits, FetchedPartition, Refusal, Reply};
use crate::connection::Connection;
use crate::payload::{self, Checked};
use crate::transport::{ReadBuffer, Stream};
use crate::worker::{Desk, Stage};

/// Pause after a refused fetch, so that a broker which says no is not hammered.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);
/// So many refused fetches in a row end the run.
const REFUSALS_MAX: u32 = 200;

/// One consumer of a phase.
pub(crate) struct ConsumerPlan {
    pub(crate) topic: String,
    pub(crate) run: u32,
    pub(crate) address: SocketAddr,
    /// Partitions to read and where to begin; not empty.
    pub(crate) cursors: Vec<Cursor>,
    pub(crate) limits: FetchLimits,
    /// Which of the phase's groups it reads for: every group reads everything.
    pub(crate) group: usize,
}

/// A connected consumer.
pub(crate) struct Consumer {
    plan: ConsumerPlan,
    connection: Connection,
}

impl Consumer {
    pub(crate) async fn connect(plan: ConsumerPlan) -> anyhow::Result<Self> {
        assert!(!plan.cursors.is_empty(), "a consumer has something to read");
        let client = Client::kafka(&plan.topic, -1);
        let connection = Connection::open(plan.address, client).await?;
        Ok(Self { plan, connection })
    }

    /// Reads until the stage says that it is enough.
    pub(crate) async fn run(
        self,
        desk: Rc<Desk>,
        mut stage: watch::Receiver<Stage>,
    ) -> anyhow::Result<()> {
        let Self { plan, connection } = self;
        let Connection {
            stream,
            client,
            buffer,
            ..
        } = connection;
        let address = plan.address;
        let mut reading = Reading {
            plan,
            desk,
            client,
            refusals_in_row: 0,
        };
        let outcome = tokio::select! {
            biased;
            _ = stage.wait_for(|stage| *stage == Stage::Finish) => Ok(()),
            outcome = reading.read(&stream, buffer) => outcome,
        };
        stream.close();
        outcome.with_context(|| format!("consuming from {address}"))
    }
}

struct Reading {
    plan: ConsumerPlan,
    desk: Rc<Desk>,
    client: Client,
    refusals_in_row: u32,
}

impl Reading {
    async fn read(&mut self, stream: &Stream, mut buffer: ReadBuffer) -> anyhow::Result<()> {
        let mut out = self.ask(stream, Vec::new()).await?;
        let mut asked_ns = self.desk.clock.now_ns();
        loop {
            let (reply, reply_bytes) = match self.client.decode(buffer.bytes())? {
                Decoded::Complete { value, bytes } => (value, bytes),
                Decoded::Incomplete { need_bytes } => {
                    buffer.need(need_bytes);
                    let received = stream.read(&mut buffer).await.context("receiving failed")?;
                    if received == 0 {
                        bail!("the broker closed the connection");
                    }
                    continue;
                }
            };
            let Reply::Fetched(fetched) = reply else {
                bail!("a reply to something else than a fetch")
            };
            let now_ns = self.desk.clock.now_ns();
            let waited_ns = now_ns - asked_ns;
            let arrived = self.advance(fetched)?;
            if self.refusals_in_row > 0 {
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
            out = self.ask(stream, out).await?;
            asked_ns = self.desk.clock.now_ns();
            self.take_messages(&arrived, now_ns, waited_ns)?;
            buffer.take(reply_bytes);
        }
    }

    async fn ask(&mut self, stream: &Stream, mut out: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        // A reply is filled from the front of the request: every partition comes first in turn.
        self.plan.cursors.rotate_left(1);
        self.client
            .fetch(&mut out, &self.plan.cursors, self.plan.limits);
        stream.write(out).await.context("sending failed")
    }

    /// Moves the cursors past what came; returns what came with where it was asked from.
    fn advance<'a>(
        &mut self,
        fetched: Result<Vec<FetchedPartition<'a>>, Refusal>,
    ) -> anyhow::Result<Vec<(Cursor, &'a [u8])>> {
        let partitions = match fetched {
            Ok(partitions) => partitions,
            Err(refusal) => {
                self.refuse(refusal)?;
                return Ok(Vec::new());
            }
        };
        let mut arrived = Vec::new();
        let mut refusal = None;
        // Partitions come back in the order of the request, so each is found where the last was.
        let mut position = 0;
        for fetched in partitions {
            if let Err(reason) = fetched.readable_end {
                refusal = Some(reason);
            }
            let Some(next_offset) = self.client.next_offset(fetched.bytes) else {
                continue;
            };
            let (before, after) = self.plan.cursors.split_at_mut(position);
            let mut cursors = after.iter_mut().chain(before).enumerate();
            let found = cursors.find(|(_, cursor)| cursor.partition == fetched.partition);
            let Some((distance, cursor)) = found else {
                bail!("partition {} was not asked for", fetched.partition);
            };
            arrived.push((*cursor, fetched.bytes));
            cursor.next_offset = cursor.next_offset.max(next_offset);
            position = (position + distance) % self.plan.cursors.len();
        }
        match refusal {
            Some(refusal) => self.refuse(refusal)?,
            None => self.refusals_in_row = 0,
        }
        Ok(arrived)
    }

    fn refuse(&mut self, refusal: Refusal) -> anyhow::Result<()> {
        self.desk.recorder.borrow_mut().refuse("fetch", refusal, 1);
        self.desk.live.refused.add(1);
        self.refusals_in_row += 1;
        if self.refusals_in_row >= REFUSALS_MAX {
            bail!("{REFUSALS_MAX} fetches in a row were refused: {refusal}");
        }
        Ok(())
    }

    fn take_messages(
        &self,
        arrived: &[(Cursor, &[u8])],
        now_ns: u64,
        waited_ns: u64,
    ) -> anyhow::Result<()> {
        let mut recorder = self.desk.recorder.borrow_mut();
        let mut sightings = self.desk.sightings.borrow_mut();
        let sighting = &mut sightings[self.plan.group];
        let live = &self.desk.live;
        if !arrived.is_empty() && self.desk.window.contains(now_ns) {
            recorder.fetch.record(waited_ns, 1);
        }
        let mut fresh = 0;
        for (cursor, bytes) in arrived {
            self.client
                .for_each_message(bytes, cursor.next_offset, |_, value| {
                    match value.map_or(Checked::Foreign, |v| payload::check(v, self.plan.run)) {
                        Checked::Foreign => sighting.foreign += 1,
                        Checked::Damaged => sighting.damaged += 1,
                        Checked::Ours(stamp) => {
                            let value_bytes = value.map_or(0, <[u8]>::len);
                            fresh += u64::from(sighting.see(cursor.partition, stamp));
                            if self.desk.window.contains(stamp.due_ns) {
                                let latency_ns = now_ns.saturating_sub(stamp.due_ns);
                                recorder.delivery.record(latency_ns, 1);
                                live.delivery.record(latency_ns, 1);
                            }
                            if self.desk.window.contains(now_ns) {
                                let bytes =
                                    u64::try_from(value_bytes).expect("64-bit targets only");
                                recorder.delivered.add(1, bytes, now_ns);
                            }
                        }
                    }
                })?;
        }
        live.delivered.add(fresh);
        Ok(())
    }
}
