//! A connection's side of Kafka's protocol.
//!
//! Requests are taken one after another and may be under way together; their replies leave in the
//! order of the requests. Five things hold the next request back:
//!
//! * the pipeline is full, in requests, in commands or in bytes of replies that wait to be sent;
//! * a catalog write of this connection is out: what follows must see it;
//! * a list is out whose length nobody knows before it is there;
//! * a fetch is out and the next request is a fetch: a connection has one fetch session, and Kafka
//!   serves one request at a time anyway;
//! * a request that waits for members of a group is out and the next one would too: those may wait
//!   for minutes, so their number is bounded by that of connections.
//!
//! A produce request is also left in the input while the log takes no appends, and others but
//! fetches while there is no memory for answers. `wants_input` stays true then, and
//! `Taken::waits_for` names what is waited for: the worker asks the shard when that is over.

use std::collections::VecDeque;
use std::sync::Arc;

use millrace_engine::event::{Outcome, Refusal};
use millrace_storage::units::{BootTime, Now};

use super::api::{self, Call, Handled, Reply, Submitted, Work};
use super::config::KafkaConfig;
use super::fetch_set::FetchSet;
use super::frame::{self, Front, Request};
use super::versions::Api;
use crate::reply_order::ReplyOrder;
use crate::session::{CommandSink, Gate, Owed, ProtocolSession, ProtocolViolation, Taken};

/// One connection.
#[derive(Debug)]
pub struct Session {
    config: Arc<KafkaConfig>,
    /// Requests not replied to yet, or whose reply waits for an earlier one.
    replies: ReplyOrder<Finished>,
    /// Bytes of `replies` that are there.
    reply_bytes: usize,
    /// Requests whose commands are out. Invariant: sorted by `first`, without overlap.
    under_way: VecDeque<UnderWay>,
    /// Commands submitted and not ended.
    commands_out: usize,
    /// Sequence of the next command.
    next_sequence: u64,
    /// Whether nothing was taken yet.
    is_first: bool,
    catalog_write_out: bool,
    list_out: bool,
    fetch_out: bool,
    /// The next request is a fetch, and one is out.
    fetch_waits: bool,
    group_out: bool,
    /// The next request waits for members of a group, and one that does is out.
    group_waits: bool,
    /// The fetch session between two fetches; a fetch under way holds it.
    fetch_set: Option<FetchSet>,
    /// Partitions of the fetch under way.
    fetch_partitions: usize,
    /// Why the connection must close, found when nothing could be returned.
    failed: Option<ProtocolViolation>,
    /// The first request whose reply could not be made. Its slot is never filled: what the client
    /// gets is whole up to there.
    failed_slot: Option<u64>,
}

/// A request whose commands are out.
#[derive(Debug)]
struct UnderWay {
    /// Sequence of its command at position 0.
    first: u64,
    /// Sequences from `first` on that are its own.
    span: u64,
    /// Commands not ended.
    remaining: usize,
    slot: u64,
    work: Work,
    /// When the last of its batches became durable; `None` before it was, and of other requests.
    durable_at: Option<BootTime>,
}

/// A reply that is there.
#[derive(Debug)]
struct Finished {
    reply: Reply,
    /// As in [`UnderWay`].
    durable_at: Option<BootTime>,
}

impl Session {
    /// A connection on which nothing has happened.
    #[must_use]
    pub fn new(config: Arc<KafkaConfig>) -> Self {
        Self {
            config,
            replies: ReplyOrder::default(),
            reply_bytes: 0,
            under_way: VecDeque::new(),
            commands_out: 0,
            next_sequence: 0,
            is_first: true,
            catalog_write_out: false,
            list_out: false,
            fetch_out: false,
            fetch_waits: false,
            group_out: false,
            group_waits: false,
            fetch_set: None,
            fetch_partitions: 0,
            failed: None,
            failed_slot: None,
        }
    }

    /// Whether a request must stay where it is until another of its connection has ended.
    fn must_wait(&mut self, request: &Request<'_>) -> bool {
        match request.api {
            Api::Fetch => self.fetch_waits = self.fetch_out,
            Api::JoinGroup | Api::SyncGroup => self.group_waits = self.group_out,
            _ => {}
        }
        self.fetch_waits || self.group_waits
    }

    /// What of the shard a request must wait for.
    fn closed_gate(request: &Request<'_>, sink: &dyn CommandSink) -> Option<Gate> {
        let (gate, is_open) = match request.api {
            Api::Produce => (Gate::Appends, sink.accepts_appends()),
            // A fetch waits for room below, and the other's answer is short.
            Api::Fetch | Api::ApiVersions => return None,
            _ => (Gate::Questions, sink.accepts_questions()),
        };
        (!is_open).then_some(gate)
    }

    fn handle_request(
        &mut self,
        now: Now,
        request: &Request<'_>,
        sink: &mut dyn CommandSink,
    ) -> Result<(), ProtocolViolation> {
        let first = self.next_sequence;
        let mut call = Call::new(now, &self.config, sink, &mut self.fetch_set, first);
        let handled = api::handle(&mut call, request)?;
        let submitted = call.submitted();
        self.next_sequence += submitted.span;
        let slot = self.replies.take_slot();
        match handled {
            Handled::Reply(reply) => {
                assert_eq!(
                    submitted.commands, 0,
                    "a reply at once has nothing to wait for"
                );
                self.reply(slot, reply, None);
            }
            Handled::Wait(work) => self.wait(slot, first, submitted, work),
        }
        Ok(())
    }

    fn wait(&mut self, slot: u64, first: u64, submitted: Submitted, work: Work) {
        assert!(
            submitted.commands > 0,
            "what waits has something to wait for"
        );
        self.commands_out += submitted.commands;
        self.catalog_write_out |= work.writes_catalog();
        self.list_out |= work.lists();
        if let Some(partitions) = work.fetch_partitions() {
            self.fetch_out = true;
            self.fetch_partitions = partitions;
        }
        self.group_out |= work.awaits_group();
        self.under_way.push_back(UnderWay {
            first,
            span: submitted.span,
            remaining: submitted.commands,
            slot,
            work,
            durable_at: None,
        });
    }

    fn reply(&mut self, slot: u64, reply: Reply, durable_at: Option<BootTime>) {
        self.reply_bytes += reply.bytes();
        self.replies.fill(slot, Finished { reply, durable_at });
    }

    /// Makes the reply of the request at `index` of `under_way`.
    fn finish(&mut self, now: Now, index: usize, sink: &mut dyn CommandSink) {
        let ended = self.under_way.remove(index).expect("just found");
        if ended.work.writes_catalog() {
            self.catalog_write_out = false;
        }
        if ended.work.lists() {
            self.list_out = false;
        }
        if ended.work.fetch_partitions().is_some() {
            self.fetch_out = false;
            self.fetch_partitions = 0;
            self.fetch_waits = false;
        }
        if ended.work.awaits_group() {
            self.group_out = false;
            self.group_waits = false;
        }
        let mut call = Call::new(
            now,
            &self.config,
            sink,
            &mut self.fetch_set,
            self.next_sequence,
        );
        match ended.work.finish(&mut call) {
            Ok(reply) => self.reply(ended.slot, reply, ended.durable_at),
            Err(violation) => {
                self.failed.get_or_insert(violation);
                let before = self.failed_slot.unwrap_or(u64::MAX);
                self.failed_slot = Some(before.min(ended.slot));
            }
        }
    }
}

impl ProtocolSession for Session {
    fn handle_input(
        &mut self,
        now: Now,
        input: &[u8],
        sink: &mut dyn CommandSink,
    ) -> Result<Taken, ProtocolViolation> {
        if let Some(violation) = &self.failed {
            return Err(violation.clone());
        }
        let mut taken = Taken::default();
        while self.wants_input() {
            match frame::front(&input[taken.bytes..], self.is_first, &self.config)? {
                Front::Incomplete { need_bytes } => {
                    taken.need_bytes = need_bytes;
                    break;
                }
                Front::Whole { request, .. } if self.must_wait(&request) => break,
                Front::Whole { request, bytes } => {
                    taken.waits_for = Self::closed_gate(&request, sink);
                    if taken.waits_for.is_some() {
                        break;
                    }
                    self.handle_request(now, &request, sink)?;
                    taken.bytes += bytes;
                }
                Front::UnknownApiVersions { correlation, bytes } => {
                    let slot = self.replies.take_slot();
                    let reply = api::unknown_version(&self.config, correlation)?;
                    self.reply(slot, reply, None);
                    taken.bytes += bytes;
                }
            }
            self.is_first = false;
        }
        Ok(taken)
    }

    fn handle_outcome(
        &mut self,
        now: Now,
        sequence: u64,
        outcome: Result<Outcome, Refusal>,
        sink: &mut dyn CommandSink,
    ) {
        // Requests are few and the oldest end first, mostly.
        let after = self
            .under_way
            .partition_point(|request| request.first <= sequence);
        let index = after
            .checked_sub(1)
            .expect("an outcome of something submitted");
        let request = &mut self.under_way[index];
        let position = sequence - request.first;
        assert!(position < request.span, "an outcome of something under way");
        let position = usize::try_from(position).expect("a position fits");
        if let Ok(Outcome::Appended(appended)) = &outcome {
            request.durable_at = request.durable_at.max(Some(appended.durable_at));
        }
        request.work.take(position, outcome);
        request.remaining -= 1;
        let is_finished = request.remaining == 0;
        self.commands_out -= 1;
        if is_finished {
            self.finish(now, index, sink);
        }
    }

    fn handle_timeout(&mut self, _now: Now) -> Result<(), ProtocolViolation> {
        match &self.failed {
            Some(violation) => Err(violation.clone()),
            None => Ok(()),
        }
    }

    fn poll_timeout(&self) -> Option<BootTime> {
        self.failed.is_some().then_some(BootTime(0))
    }

    fn poll_output(&mut self, out: &mut Vec<u8>, out_bytes_max: usize) -> Option<BootTime> {
        let mut oldest: Option<BootTime> = None;
        while out.len() < out_bytes_max {
            let Some(Finished { reply, durable_at }) = self.replies.pop_ready() else {
                break;
            };
            self.reply_bytes -= reply.bytes();
            match reply {
                Reply::Silent => continue,
                Reply::Frame(frame) => out.extend_from_slice(&frame),
                Reply::Fetch(reply) => reply.encode(out),
            }
            oldest = oldest.into_iter().chain(durable_at).min();
        }
        oldest
    }

    fn held_bytes(&self) -> usize {
        self.reply_bytes
    }

    fn remembered_partitions(&self) -> usize {
        let between = self.fetch_set.as_ref().map_or(0, FetchSet::len);
        between + self.fetch_partitions
    }

    fn wants_input(&self) -> bool {
        !self.catalog_write_out
            && !self.list_out
            && !self.fetch_waits
            && !self.group_waits
            && self.failed.is_none()
            && self.replies.len() < self.config.pipeline_requests_max
            && self.commands_out < self.config.pipeline_commands_max
            && self.reply_bytes < self.config.pipeline_reply_bytes_max
    }

    fn owed(&self) -> Owed {
        let group = self.under_way.iter().find(|one| one.work.awaits_group());
        let last = [group.map(|one| one.slot), self.failed_slot];
        let end = last.into_iter().flatten().min();
        let end = end.unwrap_or_else(|| self.replies.next_sequence());
        match self.under_way.front().filter(|one| one.slot < end) {
            None => Owed::Nothing,
            Some(one) if one.work.fetch_partitions().is_some() && one.slot + 1 == end => {
                Owed::Records
            }
            Some(_) => Owed::Work,
        }
    }
}
