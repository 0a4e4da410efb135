//! Requests of members of groups, and what is answered to them.

use super::{Frame, Reply};

const OFFSET_COMMIT: i16 = 8;
const OFFSET_FETCH: i16 = 9;
const JOIN_GROUP: i16 = 11;
const HEARTBEAT: i16 = 12;
const LEAVE_GROUP: i16 = 13;
const SYNC_GROUP: i16 = 14;

/// COORDINATOR_NOT_AVAILABLE: nothing is known of the outcome.
pub(crate) const NOT_AVAILABLE: i16 = 15;
/// ILLEGAL_GENERATION.
pub(crate) const ILLEGAL_GENERATION: i16 = 22;
/// UNKNOWN_MEMBER_ID.
pub(crate) const UNKNOWN_MEMBER: i16 = 25;
/// REBALANCE_IN_PROGRESS.
pub(crate) const REBALANCING: i16 = 27;
/// MEMBER_ID_REQUIRED: join with the id that comes with it.
pub(crate) const ID_REQUIRED: i16 = 79;
/// FENCED_INSTANCE_ID.
pub(crate) const FENCED: i16 = 82;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) group: &'a str,
    pub(crate) generation: i32,
    pub(crate) id: &'a str,
    pub(crate) instance: Option<&'a str>,
}

/// A member in the answer to its leader's join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RollMember {
    pub(crate) id: String,
    pub(crate) instance: Option<String>,
    pub(crate) words: Vec<u8>,
}

/// The answer to a join.
#[derive(Clone, Debug)]
pub(crate) struct JoinedGroup {
    pub(crate) error: i16,
    pub(crate) generation: i32,
    pub(crate) leader: String,
    pub(crate) id: String,
    /// For the leader alone.
    pub(crate) roll: Vec<RollMember>,
}

impl Frame {
    fn nullable(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.string(text),
            None => self.i16(-1),
        }
    }

    fn caller(&mut self, caller: Caller<'_>) {
        self.string(caller.group);
        self.i32(caller.generation);
        self.string(caller.id);
        self.nullable(caller.instance);
    }
}

/// JoinGroup 5: one protocol of the kind `consumer`, with session and rebalance timeouts in
/// milliseconds.
pub(crate) fn join(
    correlation: i32,
    caller: Caller<'_>,
    (session_ms, rebalance_ms): (i32, i32),
    words: &[u8],
) -> Vec<u8> {
    let mut frame = Frame::request(JOIN_GROUP, 5, correlation);
    frame.string(caller.group);
    frame.i32(session_ms);
    frame.i32(rebalance_ms);
    frame.string(caller.id);
    frame.nullable(caller.instance);
    frame.string("consumer");
    frame.i32(1);
    frame.string("sim");
    frame.bytes(words);
    frame.finish()
}

/// SyncGroup 3, with everyone's share if the caller leads.
pub(crate) fn sync(correlation: i32, caller: Caller<'_>, shares: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut frame = Frame::request(SYNC_GROUP, 3, correlation);
    frame.caller(caller);
    frame.i32(i32::try_from(shares.len()).expect("few members"));
    for (id, share) in shares {
        frame.string(id);
        frame.bytes(share);
    }
    frame.finish()
}

/// Heartbeat 3.
pub(crate) fn heartbeat(correlation: i32, caller: Caller<'_>) -> Vec<u8> {
    let mut frame = Frame::request(HEARTBEAT, 3, correlation);
    frame.caller(caller);
    frame.finish()
}

/// LeaveGroup 3: the caller alone.
pub(crate) fn leave(correlation: i32, caller: Caller<'_>) -> Vec<u8> {
    let mut frame = Frame::request(LEAVE_GROUP, 3, correlation);
    frame.string(caller.group);
    frame.i32(1);
    frame.string(caller.id);
    frame.nullable(caller.instance);
    frame.finish()
}

/// OffsetCommit 7: one partition.
pub(crate) fn commit(
    correlation: i32,
    caller: Caller<'_>,
    (topic, partition): (&str, i32),
    offset: i64,
) -> Vec<u8> {
    let mut frame = Frame::request(OFFSET_COMMIT, 7, correlation);
    frame.caller(caller);
    frame.i32(1);
    frame.string(topic);
    frame.i32(1);
    frame.i32(partition);
    frame.i64(offset);
    frame.i32(-1);
    frame.nullable(None);
    frame.finish()
}

/// OffsetFetch 5: one partition.
pub(crate) fn committed(correlation: i32, group: &str, (topic, partition): (&str, i32)) -> Vec<u8> {
    let mut frame = Frame::request(OFFSET_FETCH, 5, correlation);
    frame.string(group);
    frame.i32(1);
    frame.string(topic);
    frame.i32(1);
    frame.i32(partition);
    frame.finish()
}

impl Reply<'_> {
    fn text(&mut self) -> Option<String> {
        Some(String::from_utf8_lossy(self.string()?).into_owned())
    }

    fn nullable_text(&mut self) -> Option<Option<String>> {
        let is_null = self.0.first_chunk::<2>()? == &[0xff, 0xff];
        let text = self.text()?;
        Some((!is_null).then_some(text))
    }

    /// JoinGroup.
    pub(crate) fn joined_group(&mut self) -> Option<JoinedGroup> {
        self.i32()?;
        let error = self.i16()?;
        let generation = self.i32()?;
        self.string()?;
        let (leader, id) = (self.text()?, self.text()?);
        let mut roll = Vec::new();
        for _ in 0..self.i32()? {
            roll.push(RollMember {
                id: self.text()?,
                instance: self.nullable_text()?,
                words: self.bytes()?.to_vec(),
            });
        }
        Some(JoinedGroup {
            error,
            generation,
            leader,
            id,
            roll,
        })
    }

    /// SyncGroup: error code and share.
    pub(crate) fn synced_group(&mut self) -> Option<(i16, Vec<u8>)> {
        self.i32()?;
        Some((self.i16()?, self.bytes()?.to_vec()))
    }

    /// Heartbeat and LeaveGroup: the error code of all.
    pub(crate) fn heard(&mut self) -> Option<i16> {
        self.i32()?;
        self.i16()
    }

    /// OffsetCommit: the partition's error code.
    pub(crate) fn offset_committed(&mut self) -> Option<i16> {
        self.i32()?;
        self.i32()?;
        self.string()?;
        self.i32()?;
        self.i32()?;
        self.i16()
    }

    /// OffsetFetch: error code, and the partition's offset, if there is one.
    pub(crate) fn offset_told(&mut self) -> Option<(i16, Option<i64>)> {
        self.i32()?;
        self.i32()?;
        self.string()?;
        self.i32()?;
        self.i32()?;
        let offset = self.i64()?;
        self.i32()?;
        self.string()?;
        let error = self.i16()?;
        let all = self.i16()?;
        let error = if error == 0 { all } else { error };
        Some((error, (offset >= 0).then_some(offset)))
    }
}
