//! The simulated file system: many shard directories on one device.

use std::collections::BTreeMap;

use super::dice::{Dice, Stream};
use super::directory::{Directory, InodeId};
use super::faults::{Fault, FaultCounts, FaultRates, Faults, PlannedFault};
use super::inode::{ChangeId, Inode, SECTOR_BYTES};
use super::trace::{Summary, Trace, TraceEvent};
use crate::buf::AlignedBuf;
use crate::disk::{
    BlockingDisk, DiskDone, DiskError, DiskOp, DiskOutcome, DiskSpace, FileName, Listing, WriteSync,
};
use crate::units::{PAGE_BYTES, ShardId};

const EIO: i32 = 5;
const EMFILE: i32 = 24;
const ECANCELED: i32 = 125;

/// A file system in memory that can fail, lie and lose power.
///
/// Two ways to run it. *Blocking*: [`SimDisk::run`] performs an operation at once, which is how a
/// store opens. *Queued*: [`SimDisk::submit`] takes operations, [`SimDisk::complete_one`] performs
/// one of them, chosen by the seed, whatever the order of submission.
///
/// It asserts what an O_DIRECT driver would demand or could not repair: aligned positions and
/// lengths, tokens unique in flight, no two writes in flight over the same bytes, and no fdatasync
/// submitted while a write that relies on it is in flight.
#[derive(Debug)]
pub struct SimDisk {
    pub(super) directories: BTreeMap<ShardId, Directory>,
    pub(super) inodes: BTreeMap<InodeId, Inode>,
    /// Submitted, not performed; in the order of submission.
    pub(super) in_flight: Vec<InFlight>,
    /// Number of the next operation.
    pub(super) ops_started: u64,
    pub(super) next_inode: u64,
    pub(super) next_change: u64,
    /// The operation at which the machine stops: it is submitted and never completes.
    pub(super) power_off_at: Option<u64>,
    pub(super) is_off: bool,
    pub(super) capacity_bytes: u64,
    pub(super) faults: Faults,
    pub(super) counts: FaultCounts,
    pub(super) order: Dice,
    pub(super) trace: Trace,
}

#[derive(Debug)]
pub(super) struct InFlight {
    number: u64,
    pub(super) shard: ShardId,
    pub(super) op: DiskOp,
    /// The content that `op`'s file named at submission: descriptors stay with their content.
    pub(super) inode: Option<InodeId>,
    fault: Option<Fault>,
    /// Nobody waits for its completion.
    is_unawaited: bool,
}

type Performed = Result<DiskOutcome, DiskError>;

impl SimDisk {
    /// An empty file system without limits or faults.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            directories: BTreeMap::new(),
            inodes: BTreeMap::new(),
            in_flight: Vec::new(),
            ops_started: 0,
            next_inode: 0,
            next_change: 0,
            power_off_at: None,
            is_off: false,
            capacity_bytes: u64::MAX,
            faults: Faults::none(seed),
            counts: FaultCounts::default(),
            order: Dice::new(seed, Stream::DiskOrder),
            trace: Trace::default(),
        }
    }

    /// Lets the file system hold `bytes`, from now on; what it holds already stays.
    pub fn set_capacity(&mut self, bytes: u64) {
        self.capacity_bytes = bytes;
    }

    /// Fails operations at random from now on.
    pub fn set_fault_rates(&mut self, rates: FaultRates) {
        self.faults.rates = rates;
    }

    /// Fails one operation, or all that follow.
    pub fn plan(&mut self, fault: PlannedFault) {
        self.faults.planned.push(fault);
    }

    /// Nothing fails any more, and there is room without limit.
    pub fn heal(&mut self) {
        self.capacity_bytes = u64::MAX;
        self.faults.planned.clear();
        self.faults.rates = FaultRates::default();
    }

    /// Stops the machine while operation number `op` is in flight.
    pub fn power_off_at(&mut self, op: u64) {
        self.power_off_at = Some(op);
    }

    /// Whether the machine has stopped.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.is_off
    }

    /// Operations started in this life of the machine.
    #[must_use]
    pub fn ops_started(&self) -> u64 {
        self.ops_started
    }

    /// Operations submitted and not completed.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Which operations in flight `is_chosen`, as bits of [`super::Survival::InFlight`].
    #[must_use]
    pub fn in_flight_mask(&self, is_chosen: impl Fn(&DiskOp) -> bool) -> u64 {
        let bits = (0..u64::BITS).zip(&self.in_flight);
        let chosen = bits.filter(|(_, in_flight)| is_chosen(&in_flight.op));
        chosen.fold(0, |mask, (bit, _)| mask | 1 << bit)
    }

    /// What went wrong so far, over all lives.
    #[must_use]
    pub fn fault_counts(&self) -> FaultCounts {
        self.counts
    }

    /// The last operations, one a line.
    #[must_use]
    pub fn trace(&self) -> String {
        self.trace.to_string()
    }

    /// Space taken by files that have a name, bytes.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        let named = self.directories.values().flat_map(Directory::names);
        let mut inodes: Vec<InodeId> = named.map(|(_, inode)| inode).collect();
        inodes.sort_unstable();
        inodes.dedup();
        inodes
            .iter()
            .map(|inode| self.inodes[inode].allocated_bytes())
            .sum()
    }

    /// A shard's files in name order.
    #[must_use]
    pub fn files(&self, shard: ShardId) -> Vec<FileName> {
        let directory = self.directories.get(&shard);
        directory.map_or_else(Vec::new, |directory| {
            directory.names().map(|(file, _)| file).collect()
        })
    }

    /// What a file holds.
    #[must_use]
    pub fn contents(&self, shard: ShardId, file: FileName) -> Option<Vec<u8>> {
        let inode = &self.inodes[&self.directories.get(&shard)?.get(file)?];
        let mut bytes = vec![0; usize::try_from(inode.size()).expect("files fit memory")];
        inode.read(0, &mut bytes);
        Some(bytes)
    }

    /// Overwrites what a file holds, behind everyone's back: rot, swapped sectors, stale content.
    pub fn damage(&mut self, shard: ShardId, file: FileName, position: u64, bytes: &[u8]) {
        self.inode_behind(shard, file).damage(position, bytes);
    }

    /// Cuts a file to `bytes`, behind everyone's back.
    pub fn cut(&mut self, shard: ShardId, file: FileName, bytes: u64) {
        self.inode_behind(shard, file).cut(bytes);
    }

    /// Removes a file, behind everyone's back.
    pub fn lose(&mut self, shard: ShardId, file: FileName) {
        let change = self.change();
        let directory = self.directories.entry(shard).or_default();
        directory.change(change, vec![(file, None)]);
        directory.sync();
    }

    fn inode_behind(&mut self, shard: ShardId, file: FileName) -> &mut Inode {
        let directory = self
            .directories
            .get(&shard)
            .expect("damage hits a directory that exists");
        let inode = directory.get(file).expect("damage hits a file that exists");
        self.inodes.get_mut(&inode).expect("named content exists")
    }

    /// `shard`'s directory as the blocking disk of a store that opens.
    pub fn blocking(&mut self, shard: ShardId) -> Box<BlockingDisk<'_>> {
        Box::new(move |op| self.run(shard, op))
    }

    /// Performs `op` at once.
    pub fn run(&mut self, shard: ShardId, op: DiskOp) -> DiskDone {
        let token = op.token();
        let buffer_bytes = match &op {
            DiskOp::Write { buffer, .. } | DiskOp::Read { buffer, .. } => Some(buffer.capacity()),
            _ => None,
        };
        self.submit(shard, op);
        if self.is_off {
            return DiskDone {
                token,
                buffer: buffer_bytes.map(AlignedBuf::zeroed),
                result: Err(DiskError::Crashed),
            };
        }
        let last = self.in_flight.pop().expect("submitted just now");
        self.perform(last)
    }

    /// Takes `op`; a later [`SimDisk::complete_one`] performs it, unless the machine stopped.
    pub fn submit(&mut self, shard: ShardId, op: DiskOp) {
        if self.is_off {
            return;
        }
        let directory = self.directories.entry(shard).or_default();
        let inode = file_of(&op).and_then(|file| directory.get(file));
        self.assert_well_formed(shard, &op, inode);
        let number = self.ops_started;
        self.ops_started += 1;
        if self.power_off_at.is_some_and(|at| number >= at) {
            self.is_off = true;
        }
        let fault = if self.is_off {
            None
        } else {
            self.faults.decide(number, &op)
        };
        self.in_flight.push(InFlight {
            number,
            shard,
            op,
            inode,
            fault,
            is_unawaited: false,
        });
    }

    /// Performs one of the operations in flight, any of them. `None` when there is none, or when
    /// the machine has stopped.
    pub fn complete_one(&mut self) -> Option<(ShardId, DiskDone)> {
        while !self.in_flight.is_empty() && !self.is_off {
            let chosen = self.order.index(self.in_flight.len());
            let in_flight = self.in_flight.remove(chosen);
            let (shard, is_unawaited) = (in_flight.shard, in_flight.is_unawaited);
            let done = self.perform(in_flight);
            if !is_unawaited {
                return Some((shard, done));
            }
        }
        None
    }

    fn assert_well_formed(&self, shard: ShardId, op: &DiskOp, inode: Option<InodeId>) {
        let page = PAGE_BYTES as u64;
        let (position, bytes) = match op {
            DiskOp::Write {
                position, buffer, ..
            }
            | DiskOp::Read {
                position, buffer, ..
            } => (position.0, buffer.len() as u64),
            DiskOp::PunchHole {
                position, bytes, ..
            } => (position.0, *bytes),
            _ => (0, page),
        };
        assert!(
            position.is_multiple_of(page),
            "{op:?}: the position is not aligned"
        );
        assert!(
            bytes > 0 && bytes.is_multiple_of(page),
            "{op:?}: the length is not aligned"
        );
        for other in &self.in_flight {
            if other.shard == shard && !other.is_unawaited {
                assert_ne!(
                    other.op.token(),
                    op.token(),
                    "{op:?}: the token is in flight"
                );
            }
            if inode.is_none() || other.inode != inode {
                continue;
            }
            let DiskOp::Write {
                position: at,
                buffer,
                sync,
                ..
            } = &other.op
            else {
                continue;
            };
            let overlaps = at.0 < position + bytes && position < at.0 + buffer.len() as u64;
            let is_write = matches!(op, DiskOp::Write { .. });
            assert!(
                !(is_write && overlaps),
                "{op:?}: a write over the same bytes is in flight"
            );
            let relies_on_it = matches!(op, DiskOp::Sync { .. }) && *sync == WriteSync::None;
            assert!(
                !relies_on_it,
                "{op:?}: a write of the file is still in flight"
            );
        }
    }

    pub(super) fn change(&mut self) -> ChangeId {
        self.next_change += 1;
        ChangeId(self.next_change)
    }

    fn perform(&mut self, in_flight: InFlight) -> DiskDone {
        let InFlight {
            number,
            shard,
            mut op,
            inode,
            fault,
            is_unawaited: _,
        } = in_flight;
        let summary = Summary::of(&op);
        if let Some(fault) = fault {
            self.counts.count(fault);
        }
        let result = match fault {
            Some(Fault::Error) => Err(DiskError::Io { errno: EIO }),
            Some(Fault::Shortage) => Err(DiskError::Io { errno: EMFILE }),
            Some(Fault::NoSpace) => Err(DiskError::NoSpace),
            _ => self.perform_op(shard, &mut op, inode, fault),
        };
        if result == Ok(DiskOutcome::Done) {
            self.leave_sync_behind(shard, &op, inode);
        }
        let error = result.as_ref().err().copied();
        self.trace.record(TraceEvent {
            number,
            shard,
            op: summary,
            fault,
            error,
        });
        let token = op.token();
        let buffer = match op {
            DiskOp::Write { buffer, .. } | DiskOp::Read { buffer, .. } => Some(buffer),
            _ => None,
        };
        DiskDone {
            token,
            buffer,
            result,
        }
    }

    /// A chain whose end nobody awaits goes on with its fdatasync.
    fn leave_sync_behind(&mut self, shard: ShardId, op: &DiskOp, inode: Option<InodeId>) {
        if let DiskOp::Write {
            token, file, sync, ..
        } = *op
            && sync == WriteSync::LinkedFdatasyncUnawaited
        {
            self.in_flight.push(InFlight {
                number: self.ops_started,
                shard,
                op: DiskOp::Sync { token, file },
                inode,
                fault: None,
                is_unawaited: true,
            });
        }
    }

    fn perform_op(
        &mut self,
        shard: ShardId,
        op: &mut DiskOp,
        inode: Option<InodeId>,
        fault: Option<Fault>,
    ) -> Performed {
        match op {
            DiskOp::Create { file, bytes, .. } => self.create(shard, *file, *bytes),
            DiskOp::Write {
                position,
                buffer,
                sync,
                ..
            } => {
                let inode = inode.ok_or(DiskError::NotFound)?;
                self.write(inode, position.0, buffer, *sync, fault)
            }
            DiskOp::Read {
                position, buffer, ..
            } => {
                let inode = inode.ok_or(DiskError::NotFound)?;
                self.read(inode, position.0, buffer, fault)
            }
            DiskOp::Sync { .. } => {
                let inode = self.inodes.get_mut(&inode.ok_or(DiskError::NotFound)?);
                let inode = inode.expect("open content exists");
                if fault == Some(Fault::SyncInVain) {
                    inode.sync_in_vain();
                    return Err(DiskError::Io { errno: EIO });
                }
                inode.sync();
                Ok(DiskOutcome::Done)
            }
            DiskOp::SyncDirectory { .. } => self.sync_directory(shard, fault),
            DiskOp::Rename { from, to, .. } => self.rename(shard, *from, *to),
            DiskOp::Link {
                from_shard,
                from,
                to,
                ..
            } => self.link(shard, *from_shard, *from, *to),
            DiskOp::Remove { file, .. } => self.remove(shard, *file),
            DiskOp::PunchHole {
                position, bytes, ..
            } => {
                let inode = inode.ok_or(DiskError::NotFound)?;
                let change = self.change();
                let inode = self.inodes.get_mut(&inode).expect("open content exists");
                inode.punch(change, position.0, *bytes);
                Ok(DiskOutcome::Done)
            }
            DiskOp::List { .. } => Ok(DiskOutcome::Listed(self.list(shard))),
            DiskOp::Space { .. } => Ok(DiskOutcome::Space(DiskSpace {
                available_bytes: self.capacity_bytes.saturating_sub(self.used_bytes()),
                total_bytes: self.capacity_bytes,
            })),
        }
    }

    fn take_space(&mut self, bytes: u64) -> Result<(), DiskError> {
        if bytes > 0 && self.used_bytes().saturating_add(bytes) > self.capacity_bytes {
            self.counts.out_of_space += 1;
            return Err(DiskError::NoSpace);
        }
        Ok(())
    }

    fn create(&mut self, shard: ShardId, file: FileName, bytes: u64) -> Performed {
        if self.directory(shard).get(file).is_some() {
            return Err(DiskError::AlreadyExists);
        }
        self.take_space(bytes)?;
        let change = self.change();
        let inode = InodeId(self.next_inode);
        self.next_inode += 1;
        self.inodes
            .insert(inode, Inode::preallocated(change, bytes));
        self.directory(shard)
            .change(change, vec![(file, Some(inode))]);
        Ok(DiskOutcome::Done)
    }

    pub(super) fn directory(&mut self, shard: ShardId) -> &mut Directory {
        self.directories.entry(shard).or_default()
    }

    fn write(
        &mut self,
        id: InodeId,
        position: u64,
        bytes: &[u8],
        sync: WriteSync,
        fault: Option<Fault>,
    ) -> Performed {
        self.take_space(self.inodes[&id].growth_bytes(position, bytes.len() as u64))?;
        let change = self.change();
        let dice = &mut self.faults.dice;
        let inode = self.inodes.get_mut(&id).expect("open content exists");
        let put = |inode: &mut Inode, at: u64, bytes: &[u8]| match sync {
            WriteSync::Dsync => inode.write_durably(at, bytes),
            _ => inode.write(change, at, bytes),
        };
        match fault {
            Some(Fault::LostWrite) => return Ok(DiskOutcome::Done),
            Some(Fault::TornWrite) => {
                for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                    if dice.coin() {
                        put(inode, position + (index * SECTOR_BYTES) as u64, sector);
                    }
                }
                return Err(DiskError::Io { errno: EIO });
            }
            Some(Fault::ShortWrite) => {
                let written = dice.index(bytes.len() / SECTOR_BYTES) * SECTOR_BYTES;
                put(inode, position, &bytes[..written]);
                if sync == WriteSync::LinkedFdatasync && dice.coin() {
                    return Err(DiskError::Io { errno: ECANCELED });
                }
                return Ok(DiskOutcome::Transferred(written));
            }
            Some(Fault::SyncInVain) => {
                inode.write_into_the_void(position, bytes);
                if sync == WriteSync::LinkedFdatasync {
                    inode.sync_in_vain();
                }
                return Err(DiskError::Io { errno: EIO });
            }
            Some(Fault::MisdirectedWrite) => {
                let page = PAGE_BYTES as u64;
                let next = position + page;
                let fits = next + bytes.len() as u64 <= inode.size();
                let elsewhere = if fits {
                    next
                } else {
                    position.saturating_sub(page)
                };
                put(inode, elsewhere, bytes);
            }
            _ => put(inode, position, bytes),
        }
        if sync == WriteSync::LinkedFdatasync {
            inode.sync();
        }
        Ok(DiskOutcome::Done)
    }

    fn read(
        &mut self,
        id: InodeId,
        position: u64,
        buffer: &mut AlignedBuf,
        fault: Option<Fault>,
    ) -> Performed {
        let inode = self.inodes.get_mut(&id).expect("open content exists");
        let mut bytes = inode.read(position, buffer);
        if fault == Some(Fault::BitRot) && bytes > 0 {
            let at = self.faults.dice.index(bytes);
            let flipped = buffer[at] ^ (1 << self.faults.dice.below(8));
            inode.damage(position + at as u64, &[flipped]);
            bytes = inode.read(position, buffer);
        }
        if bytes == buffer.len() {
            return Ok(DiskOutcome::Done);
        }
        Ok(DiskOutcome::Transferred(bytes))
    }

    fn sync_directory(&mut self, shard: ShardId, fault: Option<Fault>) -> Performed {
        if fault == Some(Fault::SyncInVain) {
            // The changes stay pending: file systems journal names, and stop altogether rather
            // than forget one. Only data pages are marked clean and dropped.
            return Err(DiskError::Io { errno: EIO });
        }
        self.directory(shard).sync();
        self.forget_unreachable();
        Ok(DiskOutcome::Done)
    }

    fn rename(&mut self, shard: ShardId, from: FileName, to: FileName) -> Performed {
        let change = self.change();
        let directory = self.directory(shard);
        let inode = directory.get(from).ok_or(DiskError::NotFound)?;
        directory.change(change, vec![(from, None), (to, Some(inode))]);
        Ok(DiskOutcome::Done)
    }

    fn link(&mut self, shard: ShardId, other: ShardId, from: FileName, to: FileName) -> Performed {
        let inode = self.directory(other).get(from).ok_or(DiskError::NotFound)?;
        if self.directory(shard).get(to).is_some() {
            return Err(DiskError::AlreadyExists);
        }
        let change = self.change();
        self.directory(shard)
            .change(change, vec![(to, Some(inode))]);
        Ok(DiskOutcome::Done)
    }

    fn remove(&mut self, shard: ShardId, file: FileName) -> Performed {
        let change = self.change();
        let directory = self.directory(shard);
        directory.get(file).ok_or(DiskError::NotFound)?;
        directory.change(change, vec![(file, None)]);
        Ok(DiskOutcome::Done)
    }

    fn list(&mut self, shard: ShardId) -> Listing {
        let names: Vec<_> = self.directory(shard).names().collect();
        let files = names
            .into_iter()
            .map(|(file, inode)| (file, self.inodes[&inode].size()));
        Listing {
            files: files.collect(),
            foreign: Vec::new(),
        }
    }

    /// Drops contents that no name leads to in any future, and that nothing has open.
    pub(super) fn forget_unreachable(&mut self) {
        let open = self
            .in_flight
            .iter()
            .filter_map(|in_flight| in_flight.inode);
        let named = self.directories.values().flat_map(Directory::reachable);
        let kept: std::collections::BTreeSet<InodeId> = open.chain(named).collect();
        self.inodes.retain(|inode, _| kept.contains(inode));
    }
}

/// The file that an operation opens by name when it is submitted.
fn file_of(op: &DiskOp) -> Option<FileName> {
    match op {
        DiskOp::Write { file, .. }
        | DiskOp::Read { file, .. }
        | DiskOp::Sync { file, .. }
        | DiskOp::PunchHole { file, .. } => Some(*file),
        _ => None,
    }
}
