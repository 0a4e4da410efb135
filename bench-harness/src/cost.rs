//! What the generator's own work costs a message, for the benchmark beside this crate: its
//! schedule, its batches and its records, without a socket.

use crate::args::Compression;
use crate::client::{Append, Client};
use crate::live::Live;
use crate::payload::{Filler, Stamp, Template};
use crate::recorder::Latency;
use crate::schedule::{SECOND_NS, Schedule};

/// A generator thread's state, driven by a clock of the caller's.
pub struct Generator {
    schedule: Schedule,
    template: Template,
    message_bytes: usize,
    client: Client,
    latency: Latency,
    live: Live,
    now_ns: u64,
    next: u64,
    out: Vec<u8>,
}

impl Generator {
    /// One stream of `rate_per_s` messages of `message_bytes`.
    pub fn new(rate_per_s: u64, message_bytes: usize) -> Self {
        Self {
            schedule: Schedule::new(0, rate_per_s, 1, 0),
            template: Template::new(message_bytes, 1, Filler::Noise),
            message_bytes,
            // Without replies no request is remembered for one.
            client: Client::kafka("t", 0),
            latency: Latency::new(),
            live: Live::new(),
            now_ns: 0,
            next: 0,
            out: Vec::new(),
        }
    }

    /// Lets a second pass in steps of `step_ns`: at each the due messages are built into a batch,
    /// if `builds`, and their latencies recorded, if `records`. Returns the messages.
    pub fn second(&mut self, step_ns: u64, builds: bool, records: bool) -> u64 {
        let (end_ns, first) = (self.now_ns + SECOND_NS, self.next);
        while self.now_ns < end_ns {
            self.now_ns += step_ns;
            let due = self.schedule.due_by(self.now_ns) - self.next;
            let count = u32::try_from(due).expect("a step's messages");
            if count > 0 && builds {
                self.build(count);
            }
            if count > 0 && records {
                self.record(count);
            }
            self.next += due;
        }
        self.next - first
    }

    fn build(&mut self, count: u32) {
        let mut due = self.schedule.due_from(self.next);
        let append = Append {
            partition: 0,
            count,
            compression: Compression::None,
            now_ms: 0,
        };
        self.out.clear();
        self.client.append(&mut self.out, append, |number, slot| {
            let stamp = Stamp {
                run: 1,
                stream: 0,
                sequence: self.next + u64::from(number),
                due_ns: due.next_ns(),
            };
            let (template, bytes) = (&self.template, self.message_bytes);
            slot.put(None, bytes, |out| template.put(out, stamp, bytes));
        });
    }

    /// As if the broker had answered the batch a little more than a millisecond later.
    fn record(&mut self, count: u32) {
        const ANSWERED_AFTER_NS: u64 = 1_234_567;
        let answered_ns = self.now_ns + ANSWERED_AFTER_NS;
        let mut due = self.schedule.due_from(self.next);
        let latencies = (0..count).map(|_| answered_ns - due.next_ns());
        let live = &self.live;
        self.latency.record_runs(latencies, |latency_ns, count| {
            live.ack.record(latency_ns, count)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_its_rate_of_messages_and_records_them_all() {
        let mut generator = Generator::new(50_000, 100);
        let messages = generator.second(500_000, true, true);
        assert_eq!(messages, 50_001, "message 0 is due at once");
        assert_eq!(generator.latency.count(), messages);
        assert_eq!(generator.second(500_000, true, true), 50_000);
    }
}
