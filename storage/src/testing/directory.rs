//! One simulated directory: names as the running machine sees them, and as a power cut leaves them.

use std::collections::BTreeMap;

use super::inode::{ChangeId, Survives};
use crate::disk::FileName;

/// Names a file's content; several names may share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct InodeId(pub(super) u64);

/// A shard's directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Directory {
    /// What listings and opens see.
    current: BTreeMap<FileName, InodeId>,
    /// What certainly survives a power cut.
    durable: BTreeMap<FileName, InodeId>,
    /// Changes since the last directory sync, oldest first. Each survives whole or not at all.
    pending: Vec<(ChangeId, Edit)>,
}

/// New values of names; `None` unlinks. More than one only for a rename.
pub(super) type Edit = Vec<(FileName, Option<InodeId>)>;

impl Directory {
    pub(super) fn get(&self, file: FileName) -> Option<InodeId> {
        self.current.get(&file).copied()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = (FileName, InodeId)> {
        self.current.iter().map(|(file, inode)| (*file, *inode))
    }

    /// Changes names for the running machine; durable after [`Directory::sync`].
    pub(super) fn change(&mut self, change: ChangeId, edit: Edit) {
        apply(&mut self.current, &edit);
        self.pending.push((change, edit));
    }

    /// fsync of the directory.
    pub(super) fn sync(&mut self) {
        for (_, edit) in self.pending.drain(..) {
            apply(&mut self.durable, &edit);
        }
    }

    /// Every content that some future of this directory can name.
    pub(super) fn reachable(&self) -> impl Iterator<Item = InodeId> {
        let pending = self.pending.iter().flat_map(|(_, edit)| edit);
        let pending = pending.filter_map(|(_, inode)| *inode);
        let named = self.current.values().chain(self.durable.values());
        named.copied().chain(pending)
    }

    /// The directory after a power cut.
    pub(super) fn after_power_cut(&self, survives: &mut Survives<'_>) -> Self {
        let mut durable = self.durable.clone();
        for (change, edit) in &self.pending {
            if survives(*change) {
                apply(&mut durable, edit);
            }
        }
        Self {
            current: durable.clone(),
            durable,
            pending: Vec::new(),
        }
    }
}

fn apply(names: &mut BTreeMap<FileName, InodeId>, edit: &Edit) {
    for (file, inode) in edit {
        match inode {
            Some(inode) => names.insert(*file, *inode),
            None => names.remove(file),
        };
    }
}
