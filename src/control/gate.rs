//! How the control thread reaches the shards: one question at a time, each with a deadline.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use millrace_net::control::{ControlAnswer, ControlAsk, ControlReply, ControlRequest};
use tokio::sync::{Notify, oneshot};

/// How long a shard may take to answer. A turn takes milliseconds at worst.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Replies that may wait for the control thread.
const REPLIES_MAX: usize = 1_024;

/// Puts a request into a worker's inbox and wakes it; gives it back when the inbox is full.
pub(crate) type Inbox = Box<dyn Fn(ControlRequest) -> Result<(), ControlRequest> + Send + Sync>;

/// Where shards leave their replies. Never blocks a shard.
#[derive(Clone, Debug)]
pub(crate) struct Replies {
    queue: Arc<ArrayQueue<ControlReply>>,
    arrived: Arc<Notify>,
}

impl Replies {
    pub(crate) fn new() -> Self {
        Self {
            queue: Arc::new(ArrayQueue::new(REPLIES_MAX)),
            arrived: Arc::new(Notify::new()),
        }
    }

    /// Called on a shard's thread. A reply that finds no room is dropped: its asker gives up by
    /// its deadline.
    pub(crate) fn push(&self, reply: ControlReply) {
        let _ = self.queue.push(reply);
        self.arrived.notify_one();
    }
}

/// The control thread's side.
pub(crate) struct Gate {
    inboxes: Vec<Inbox>,
    replies: Replies,
    /// Only the control thread takes this lock.
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next_token: u64,
    askers: HashMap<u64, oneshot::Sender<ControlAnswer>>,
}

/// Why a shard did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shard {shard} does not answer")]
pub(crate) struct Silent {
    shard: usize,
}

impl Gate {
    /// `inboxes` in shard order.
    pub(crate) fn new(inboxes: Vec<Inbox>, replies: Replies) -> Self {
        Self {
            inboxes,
            replies,
            waiting: Mutex::default(),
        }
    }

    pub(crate) fn shards(&self) -> usize {
        self.inboxes.len()
    }

    /// Asks one shard.
    pub(crate) async fn ask(&self, shard: usize, ask: ControlAsk) -> Result<ControlAnswer, Silent> {
        let (token, answer) = self.expect_answer();
        let sent = (self.inboxes[shard])(ControlRequest { token, ask });
        let answered = match sent {
            Ok(()) => tokio::time::timeout(ANSWER_TIMEOUT, answer).await.ok(),
            Err(_) => None,
        };
        if let Some(Ok(answer)) = answered {
            return Ok(answer);
        }
        self.waiting().askers.remove(&token);
        Err(Silent { shard })
    }

    /// Hands replies to their askers, for ever.
    pub(crate) async fn deliver(&self) {
        loop {
            self.replies.arrived.notified().await;
            while let Some(ControlReply { token, answer }) = self.replies.queue.pop() {
                if let Some(asker) = self.waiting().askers.remove(&token) {
                    // The asker may have given up by now.
                    let _ = asker.send(answer);
                }
            }
        }
    }

    fn expect_answer(&self) -> (u64, oneshot::Receiver<ControlAnswer>) {
        let (asker, answer) = oneshot::channel();
        let mut waiting = self.waiting();
        waiting.next_token += 1;
        let token = waiting.next_token;
        waiting.askers.insert(token, asker);
        (token, answer)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("one thread uses it")
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn run(future: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().start_paused(true).build();
        runtime.unwrap().block_on(future);
    }

    #[test]
    fn an_answer_reaches_its_asker_and_silence_has_a_deadline() {
        let replies = Replies::new();
        let to_gate = replies.clone();
        let answering: Inbox = Box::new(move |request| {
            let answer = ControlAnswer::Report(Box::default());
            to_gate.push(ControlReply {
                token: request.token,
                answer,
            });
            Ok(())
        });
        let gate = Gate::new(
            vec![answering, Box::new(|_| Ok(())), Box::new(Err)],
            replies,
        );
        run(async {
            tokio::select! {
                () = gate.deliver() => unreachable!("it never ends"),
                () = async {
                    assert!(gate.ask(0, ControlAsk::Report).await.is_ok());
                    let silent = gate.ask(1, ControlAsk::Report).await.unwrap_err();
                    assert_eq!(silent, Silent { shard: 1 });
                    assert!(gate.ask(2, ControlAsk::Catalog).await.is_err());
                    assert!(gate.waiting().askers.is_empty());
                } => {}
            }
        });
    }
}
