//! From a manifest file's bytes back to the state that they stand for.

use super::ManifestState;
use super::format::{self, Header, Run};
use crate::units::{FilePosition, PAGE_BYTES, ShardId};

/// A manifest file read to its end.
#[derive(Debug)]
pub(super) struct Replayed {
    pub(super) state: ManifestState,
    /// Where the next run goes.
    pub(super) position: u64,
    /// The next run's sequence number.
    pub(super) sequence: u64,
    /// What the next run chains to.
    pub(super) previous_crc: u32,
    /// One copy of something is damaged while its twin is good.
    pub(super) copy_damaged: bool,
    /// The first such copy that no crash can explain: not one of the last run, which may be torn.
    pub(super) damaged_copy: Option<FilePosition>,
}

/// Why a file cannot be read, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) position: FilePosition,
    pub(super) found: &'static str,
}

/// Replays `manifest-number` of `shard` from the whole file's bytes.
pub(super) fn replay(shard: ShardId, number: u64, bytes: &[u8]) -> Result<Replayed, Damage> {
    let at_header = |found| Damage {
        position: FilePosition(0),
        found,
    };
    let page = bytes
        .get(..PAGE_BYTES)
        .ok_or(at_header("the file is shorter than its header"))?;
    let (header, header_damaged) = format::decode_header(page).map_err(at_header)?;
    if header.shard != shard || header.number != number {
        return Err(at_header("the file belongs to another name or shard"));
    }
    let mut scan = Scan::new(bytes, header);
    let first = scan
        .next()?
        .ok_or(scan.damage("the first run is damaged"))?;
    let mut state = format::decode_state(first.edits).map_err(|found| scan.damage(found))?;
    state.check_snapshot().map_err(|found| scan.damage(found))?;
    while let Some(run) = scan.next()? {
        let edits = format::decode_edits(run.edits).map_err(|found| scan.damage(found))?;
        for edit in edits {
            state.apply(edit).map_err(|found| scan.damage(found))?;
        }
    }
    // The first run was synced before its file got a name: it is never torn.
    let is_alone = scan.sequence == header.first_sequence.saturating_add(1);
    let last = scan.last_damaged.filter(|_| is_alone);
    let in_header = header_damaged.then_some(0);
    let damaged = in_header.or(scan.damaged).or(last);
    Ok(Replayed {
        state,
        position: position_of(scan.at).0,
        sequence: scan.sequence,
        previous_crc: scan.previous_crc,
        copy_damaged: damaged.is_some() || scan.last_damaged.is_some(),
        damaged_copy: damaged.map(position_of),
    })
}

/// Walks the chain of runs.
struct Scan<'a> {
    bytes: &'a [u8],
    header: Header,
    /// Where the next run should begin.
    at: usize,
    /// The sequence number it should have.
    sequence: u64,
    /// What it should chain to.
    previous_crc: u32,
    /// The first damaged copy of an accepted run that another run follows.
    damaged: Option<usize>,
    /// The damaged copy of the last accepted run.
    last_damaged: Option<usize>,
}

impl<'a> Scan<'a> {
    fn new(bytes: &'a [u8], header: Header) -> Self {
        Self {
            bytes,
            header,
            at: PAGE_BYTES,
            sequence: header.first_sequence,
            previous_crc: header.crc,
            damaged: None,
            last_damaged: None,
        }
    }

    /// The next run, from whichever of its copies is good. `None` at the end of the chain: what
    /// follows was never reported as written. A later good run behind a gap proves damage.
    fn next(&mut self) -> Result<Option<Run<'a>>, Damage> {
        let mut at = self.at;
        // A damaged first copy hides its length, so the twin is looked for page by page.
        while let Some(rest) = self.bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if let Some(run) = format::decode_run(rest).filter(|run| self.is_ours(run)) {
                if run.identity.sequence == self.sequence {
                    return self.accept(at, run).map(Some);
                }
                if run.identity.sequence > self.sequence {
                    return Err(self.damage("a run is damaged, and later runs follow it"));
                }
            }
            at += PAGE_BYTES;
        }
        Ok(None)
    }

    fn is_ours(&self, run: &Run<'_>) -> bool {
        run.identity.shard == self.header.shard && run.identity.number == self.header.number
    }

    fn accept(&mut self, at: usize, run: Run<'a>) -> Result<Run<'a>, Damage> {
        if run.identity.previous_crc != self.previous_crc {
            return Err(self.damage("a run does not follow the one before it"));
        }
        self.damaged = self.damaged.or(self.last_damaged.take());
        let after_one = at + run.run_bytes;
        if at == self.at {
            let twin = self.bytes.get(after_one..after_one + run.run_bytes);
            let own = self.bytes.get(at..after_one);
            self.last_damaged = (twin != own).then_some(after_one);
            self.at = after_one + run.run_bytes;
        } else {
            self.last_damaged = Some(self.at);
            self.at = after_one;
        }
        self.sequence = self.sequence.saturating_add(1);
        self.previous_crc = run.crc;
        Ok(run)
    }

    fn damage(&self, found: &'static str) -> Damage {
        Damage {
            position: position_of(self.at),
            found,
        }
    }
}

fn position_of(at: usize) -> FilePosition {
    FilePosition(u64::try_from(at).expect("a slice's length fits 64 bits"))
}
