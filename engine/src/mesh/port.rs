//! The rings between shards: one per ordered pair and lane, each with one sender and one receiver.
//!
//! A full ring delays, it never drops: what does not fit waits in the sender's own queue, in order,
//! and goes out by [`MeshPort::flush`]. That queue is bounded by what its shard may have under way.

use std::collections::VecDeque;
use std::sync::Arc;

use millrace_storage::units::ShardId;
use rtrb::{Consumer, Producer, PushError, RingBuffer};

use super::sleep::SleepFlag;
use super::{Lane, MeshMessage};

/// One shard's end of the mesh.
#[derive(Debug)]
pub struct MeshPort {
    shard: ShardId,
    /// By shard number; none for the shard itself.
    peers: Vec<Option<Peer>>,
    /// This shard's.
    sleep: Arc<SleepFlag>,
    /// Where `receive` looks next: no peer is heard twice before the others.
    next_peer: usize,
}

#[derive(Debug)]
struct Peer {
    requests: Outgoing,
    replies: Outgoing,
    requests_in: Consumer<MeshMessage>,
    replies_in: Consumer<MeshMessage>,
    /// The peer's.
    sleep: Arc<SleepFlag>,
    /// Something was pushed since the peer's flag was last looked at.
    pushed: bool,
}

#[derive(Debug)]
struct Outgoing {
    ring: Producer<MeshMessage>,
    /// What the ring had no room for, in order. Non-empty only while the ring was found full.
    waiting: VecDeque<MeshMessage>,
}

impl Outgoing {
    fn new(ring: Producer<MeshMessage>) -> Self {
        Self {
            ring,
            waiting: VecDeque::new(),
        }
    }

    /// Sends or keeps; whether anything entered the ring.
    fn send(&mut self, message: MeshMessage) -> bool {
        if !self.waiting.is_empty() {
            self.waiting.push_back(message);
            return false;
        }
        match self.ring.push(message) {
            Ok(()) => true,
            Err(PushError::Full(message)) => {
                self.waiting.push_back(message);
                false
            }
        }
    }

    /// Sends what was kept, as far as there is room; whether anything entered the ring.
    fn retry(&mut self) -> bool {
        let before = self.waiting.len();
        while let Some(message) = self.waiting.pop_front() {
            if let Err(PushError::Full(message)) = self.ring.push(message) {
                self.waiting.push_front(message);
                break;
            }
        }
        self.waiting.len() < before
    }
}

/// The ends of a mesh between `shards` shards, in shard order. Each ring has `ring_slots` slots.
#[must_use]
pub fn mesh(shards: u16, ring_slots: usize) -> Vec<MeshPort> {
    assert!(shards > 0 && ring_slots > 0);
    let sleeps: Vec<Arc<SleepFlag>> = (0..shards).map(|_| Arc::new(SleepFlag::new())).collect();
    let mut ports: Vec<MeshPort> = (0..shards)
        .map(|shard| MeshPort {
            shard: ShardId(shard),
            peers: (0..shards).map(|_| None).collect(),
            sleep: Arc::clone(&sleeps[usize::from(shard)]),
            next_peer: 0,
        })
        .collect();
    for a in 0..usize::from(shards) {
        for b in a + 1..usize::from(shards) {
            let (to_b, to_a) = pair(ring_slots, &sleeps[a], &sleeps[b]);
            ports[a].peers[b] = Some(to_b);
            ports[b].peers[a] = Some(to_a);
        }
    }
    ports
}

/// The two ends between shards A and B: A's view of B, and B's of A.
fn pair(ring_slots: usize, a: &Arc<SleepFlag>, b: &Arc<SleepFlag>) -> (Peer, Peer) {
    let ring = || RingBuffer::new(ring_slots);
    let (a_requests, b_requests_in) = ring();
    let (a_replies, b_replies_in) = ring();
    let (b_requests, a_requests_in) = ring();
    let (b_replies, a_replies_in) = ring();
    let to_b = Peer {
        requests: Outgoing::new(a_requests),
        replies: Outgoing::new(a_replies),
        requests_in: a_requests_in,
        replies_in: a_replies_in,
        sleep: Arc::clone(b),
        pushed: false,
    };
    let to_a = Peer {
        requests: Outgoing::new(b_requests),
        replies: Outgoing::new(b_replies),
        requests_in: b_requests_in,
        replies_in: b_replies_in,
        sleep: Arc::clone(a),
        pushed: false,
    };
    (to_b, to_a)
}

impl MeshPort {
    /// The shard whose end this is.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The shard's sleep flag, for those who bring it work by other ways than the mesh.
    #[must_use]
    pub fn sleep_flag(&self) -> Arc<SleepFlag> {
        Arc::clone(&self.sleep)
    }

    /// Whether a message waits for this shard.
    #[must_use]
    pub fn has_received(&self) -> bool {
        let mut peers = self.peers.iter().flatten();
        peers.any(|peer| !peer.requests_in.is_empty() || !peer.replies_in.is_empty())
    }

    /// Sends `message` to another shard; messages of one lane arrive in order.
    pub fn send(&mut self, to: ShardId, message: MeshMessage) {
        let peer = self.peers[usize::from(to.0)].as_mut();
        let peer = peer.expect("no shard sends to itself");
        let lane = match message.lane() {
            Lane::Requests => &mut peer.requests,
            Lane::Replies => &mut peer.replies,
        };
        peer.pushed |= lane.send(message);
    }

    /// Ends a turn's sending: retries what found no room, and calls `wake` for each shard that
    /// sleeps and has something to receive. Call once a turn, and before parking.
    pub fn flush(&mut self, mut wake: impl FnMut(ShardId)) {
        for (shard, peer) in (0..).zip(&mut self.peers) {
            let Some(peer) = peer else { continue };
            peer.pushed |= peer.replies.retry();
            peer.pushed |= peer.requests.retry();
            if std::mem::take(&mut peer.pushed) && peer.sleep.must_wake() {
                wake(ShardId(shard));
            }
        }
    }

    /// The next message for this shard and its sender: replies before requests, shards in turn.
    pub fn receive(&mut self) -> Option<(ShardId, MeshMessage)> {
        self.receive_lane(Lane::Replies)
            .or_else(|| self.receive_lane(Lane::Requests))
    }

    fn receive_lane(&mut self, lane: Lane) -> Option<(ShardId, MeshMessage)> {
        let count = self.peers.len();
        for step in 0..count {
            let at = (self.next_peer + step) % count;
            let Some(peer) = &mut self.peers[at] else {
                continue;
            };
            let ring = match lane {
                Lane::Requests => &mut peer.requests_in,
                Lane::Replies => &mut peer.replies_in,
            };
            if let Ok(message) = ring.pop() {
                self.next_peer = at + 1;
                let shard = u16::try_from(at).expect("shards are numbered by u16");
                return Some((ShardId(shard), message));
            }
        }
        None
    }

    /// Prepares to park: whether the shard may. Afterwards every sender wakes it; call
    /// [`Self::wake_up`] when it runs again. A shard that still has something to send stays awake:
    /// its receiver is busy and makes room soon.
    #[must_use]
    pub fn prepare_sleep(&self) -> bool {
        let sending = |lane: &Outgoing| !lane.waiting.is_empty();
        let peers = || self.peers.iter().flatten();
        if peers().any(|peer| sending(&peer.requests) || sending(&peer.replies)) {
            return false;
        }
        self.sleep.prepare(|| {
            peers().all(|peer| peer.requests_in.is_empty() && peer.replies_in.is_empty())
        })
    }

    /// The shard runs again.
    pub fn wake_up(&self) {
        self.sleep.wake_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::CatalogEpoch;
    use crate::gather::GatherId;

    fn request(number: u64) -> MeshMessage {
        MeshMessage::Unwatch {
            gather: GatherId(number),
        }
    }

    fn reply(number: u64) -> MeshMessage {
        MeshMessage::CatalogHeld(CatalogEpoch(number))
    }

    fn number(message: &MeshMessage) -> u64 {
        match message {
            MeshMessage::Unwatch { gather } => gather.0,
            MeshMessage::CatalogHeld(epoch) => epoch.0,
            other => panic!("not sent: {other:?}"),
        }
    }

    fn received(port: &mut MeshPort) -> Vec<(u16, u64)> {
        std::iter::from_fn(|| port.receive())
            .map(|(from, message)| (from.0, number(&message)))
            .collect()
    }

    #[test]
    fn nothing_is_lost_or_reordered_when_a_ring_is_full() {
        let mut ports = mesh(2, 2);
        for at in 0..7 {
            ports[0].send(ShardId(1), request(at));
        }
        assert!(!ports[0].prepare_sleep(), "it has something to send");
        let mut arrived = Vec::new();
        while arrived.len() < 7 {
            arrived.extend(received(&mut ports[1]));
            ports[0].flush(|_| ());
        }
        assert_eq!(arrived, (0..7).map(|at| (0, at)).collect::<Vec<_>>());
        assert!(ports[0].prepare_sleep());
    }

    #[test]
    fn replies_pass_a_full_ring_of_requests() {
        let mut ports = mesh(2, 1);
        for at in 0..3 {
            ports[0].send(ShardId(1), request(at));
        }
        ports[0].send(ShardId(1), reply(9));
        assert_eq!(received(&mut ports[1]), [(0, 9), (0, 0)]);
    }

    #[test]
    fn shards_are_heard_in_turn() {
        let mut ports = mesh(3, 8);
        for from in &mut ports[1..] {
            for at in 0..2 {
                from.send(ShardId(0), request(at));
            }
        }
        let order: Vec<u16> = received(&mut ports[0])
            .iter()
            .map(|(from, _)| *from)
            .collect();
        assert_eq!(order, [1, 2, 1, 2]);
    }

    #[test]
    fn only_a_sleeping_shard_is_woken_and_only_once() {
        let mut ports = mesh(2, 8);
        let mut woken = Vec::new();
        ports[0].send(ShardId(1), request(1));
        ports[0].flush(|shard| woken.push(shard));
        assert!(woken.is_empty());
        assert!(!ports[1].prepare_sleep(), "a message is there");
        received(&mut ports[1]);
        assert!(ports[1].prepare_sleep());
        ports[0].flush(|shard| woken.push(shard));
        assert!(woken.is_empty(), "nothing was sent");
        for at in 2..4 {
            ports[0].send(ShardId(1), request(at));
            ports[0].flush(|shard| woken.push(shard));
        }
        assert_eq!(woken, [ShardId(1)]);
        ports[1].wake_up();
        assert_eq!(received(&mut ports[1]).len(), 2);
    }

    #[test]
    fn messages_cross_threads_in_order() {
        const COUNT: u64 = 10_000;
        let mut ports = mesh(2, 4);
        let mut second = ports.pop().expect("two ports");
        let mut first = ports.pop().expect("two ports");
        let sender = std::thread::spawn(move || {
            for at in 0..COUNT {
                first.send(ShardId(1), request(at));
                first.flush(|_| ());
            }
            while !first.prepare_sleep() {
                first.flush(|_| ());
                std::thread::yield_now();
            }
        });
        let mut expected = 0;
        while expected < COUNT {
            match second.receive() {
                Some((_, message)) => {
                    assert_eq!(number(&message), expected);
                    expected += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        sender.join().expect("the sender ran");
    }
}
