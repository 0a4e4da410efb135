//! Outcomes on their way from the shard to those who asked.
//!
//! A question is read while there is room for answers, but how long its answer is only its home
//! knows, and many may be out at that time. So a list that comes while sessions hold as much as
//! they may waits here, before its reply is made of it: what it shares with its group costs nothing
//! yet.

use std::collections::VecDeque;

use millrace_engine::command::{ConnectionId, RequestId};
use millrace_engine::event::{Event, Outcome, Refusal};
use millrace_storage::units::Now;

use super::Worker;
use crate::control::{ControlAnswer, ControlReply, WorkerReport};

/// Lists that wait until sessions hold less.
#[derive(Debug, Default)]
pub(super) struct Postponed {
    /// In the order in which they came. Some may be of connections that are gone.
    events: VecDeque<Event>,
    /// Of all of them.
    bytes: usize,
}

impl Postponed {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    fn push(&mut self, event: Event) {
        self.bytes += list_bytes(&event);
        self.events.push_back(event);
    }

    fn pop(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        self.bytes -= list_bytes(&event);
        Some(event)
    }
}

fn list_bytes(event: &Event) -> usize {
    event.outcome.as_ref().map_or(0, Outcome::list_bytes)
}

impl Worker {
    /// Carries the shard's events to those who asked; whether there were any.
    pub(super) fn deliver(&mut self, now: Now) -> bool {
        let mut is_any = false;
        while let Some(Event { request, outcome }) = self.next_event() {
            is_any = true;
            let RequestId {
                origin,
                connection,
                sequence,
            } = request;
            assert_eq!(origin, self.shard.id());
            if connection == ConnectionId::CONTROL {
                self.answer_control(sequence, outcome);
            } else {
                self.with(connection, |open, around| {
                    open.handle_outcome(now, sequence, outcome, around);
                });
            }
        }
        is_any
    }

    /// The next event for which there is room.
    fn next_event(&mut self) -> Option<Event> {
        loop {
            let has_room = self.held.reply_bytes < self.shard.answer_bytes_max();
            if has_room && let Some(event) = self.postponed.pop() {
                self.note_held();
                if self.is_there(event.request.connection) {
                    self.answers_awaited_since = None;
                    return Some(event);
                }
                continue;
            }
            let event = self.shard.poll_event()?;
            let is_asked_by_peer = event.request.connection != ConnectionId::CONTROL;
            if has_room || !is_asked_by_peer || list_bytes(&event) == 0 {
                return Some(event);
            }
            self.postponed.push(event);
            self.note_held();
        }
    }

    /// Whether this life of a slot goes on.
    fn is_there(&self, id: ConnectionId) -> bool {
        let entry = self.table.get(id.slot as usize).and_then(Option::as_ref);
        entry.is_some_and(|entry| entry.connection.id() == id)
    }

    fn answer_control(&mut self, sequence: u64, outcome: Result<Outcome, Refusal>) {
        let token = self.control.asked.remove(&sequence);
        let token = token.expect("it was asked for");
        let answer = match outcome {
            Ok(Outcome::Reported(mut shard)) => {
                let of_shard = std::mem::take(&mut shard.stages);
                ControlAnswer::Report(Box::new(WorkerReport {
                    shard: *shard,
                    counters: self.counters().to_vec(),
                    stages: self.stages.report(of_shard),
                }))
            }
            other => ControlAnswer::Ended(Box::new(other)),
        };
        self.control
            .replies
            .push_back(ControlReply { token, answer });
    }
}
