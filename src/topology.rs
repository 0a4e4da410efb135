//! The machine's cores: what `/sys` and `/proc` tell of them, and where shards should run.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{CoreList, parse_cpu_list};
use crate::exit::Failure;

/// Shards that "auto" starts at most: beyond it more cores seldom help one broker.
const AUTO_SHARDS_MAX: usize = 32;

/// Interrupts since boot that make a core count as busy with a device.
const INTERRUPTS_BUSY_MIN: u64 = 1_000;

/// A hardware thread, as the kernel numbers them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    /// The kernel's number.
    pub id: usize,
    /// Hardware threads of the same physical core, this one included.
    pub siblings: BTreeSet<usize>,
    /// Its NUMA node.
    pub node: usize,
    /// Devices whose interrupts it took, with how many since boot, most first.
    pub interrupts: Vec<(String, u64)>,
    /// Whether this process may run there.
    pub allowed: bool,
}

/// All cores that are on line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// In ascending order of `id`.
    pub cores: Vec<Core>,
}

impl Topology {
    /// Reads the machine's.
    #[must_use]
    pub fn read() -> Self {
        let allowed: BTreeSet<usize> = core_affinity::get_core_ids()
            .unwrap_or_default()
            .iter()
            .map(|core| core.id)
            .collect();
        Self::read_from(Path::new("/sys"), Path::new("/proc"), &allowed)
    }

    fn read_from(sys: &Path, proc: &Path, allowed: &BTreeSet<usize>) -> Self {
        let interrupts = fs::read_to_string(proc.join("interrupts")).unwrap_or_default();
        let interrupts = interrupts_by_core(&interrupts);
        let online = list(&sys.join("devices/system/cpu/online"));
        let online = online.unwrap_or_else(|| allowed.clone());
        let nodes = nodes(sys);
        let cores = online.into_iter().map(|id| {
            let topology = sys.join(format!("devices/system/cpu/cpu{id}/topology"));
            let siblings = list(&topology.join("thread_siblings_list"));
            let of_core = |(core, device, count): &(usize, String, u64)| {
                (*core == id).then(|| (device.clone(), *count))
            };
            let mut interrupts: Vec<_> = interrupts.iter().filter_map(of_core).collect();
            interrupts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            Core {
                id,
                siblings: siblings.unwrap_or_else(|| BTreeSet::from([id])),
                node: nodes
                    .iter()
                    .position(|cores| cores.contains(&id))
                    .unwrap_or(0),
                interrupts,
                allowed: allowed.is_empty() || allowed.contains(&id),
            }
        });
        Self {
            cores: cores.collect(),
        }
    }

    /// Where shards should run: one thread of each physical core that the process may use, on as
    /// few NUMA nodes as hold them, cores that are busy with interrupts last.
    #[must_use]
    pub fn recommended(&self) -> Vec<usize> {
        let mut taken: BTreeSet<usize> = BTreeSet::new();
        let mut free: Vec<&Core> = Vec::new();
        for core in self.cores.iter().filter(|core| core.allowed) {
            if !taken.contains(&core.id) {
                taken.extend(&core.siblings);
                free.push(core);
            }
        }
        free.sort_by_key(|core| (core.node, core.is_busy(), core.id));
        free.truncate(AUTO_SHARDS_MAX);
        let mut ids: Vec<usize> = free.iter().map(|core| core.id).collect();
        ids.sort_unstable();
        ids
    }

    /// The cores that a configured list means here. Without pinning the numbers of a list only
    /// count the shards.
    ///
    /// # Errors
    /// [`Failure::Unfit`] names a core that does not exist or is not allowed.
    pub fn resolve(&self, list: &CoreList, pin: bool) -> Result<Vec<usize>, Failure> {
        let CoreList::Cores(wanted) = list else {
            let recommended = self.recommended();
            return Ok(if recommended.is_empty() {
                vec![0]
            } else {
                recommended
            });
        };
        for id in wanted.iter().filter(|_| pin) {
            let reason = match self.cores.iter().find(|core| core.id == *id) {
                None => "does not exist, or is off line",
                Some(core) if !core.allowed => "is not allowed to this process (taskset, cpuset)",
                Some(_) => continue,
            };
            return Err(Failure::Unfit(format!(
                "`server.cores`: core {id} {reason}; `millrace cores` shows what there is"
            )));
        }
        Ok(wanted.clone())
    }

    /// The table that `millrace cores` prints.
    #[must_use]
    pub fn table(&self) -> String {
        let recommended = self.recommended();
        let mut out = String::from("core  node  siblings  allowed  shard  interrupts since boot\n");
        for core in &self.cores {
            let siblings = joined(core.siblings.iter().filter(|id| **id != core.id));
            let yes = |flag| if flag { "yes" } else { "no" };
            let interrupts: Vec<String> = core
                .interrupts
                .iter()
                .take(3)
                .map(|(device, count)| format!("{device} {count}"))
                .collect();
            let _ = writeln!(
                out,
                "{:>4}  {:>4}  {siblings:>8}  {:>7}  {:>5}  {}",
                core.id,
                core.node,
                yes(core.allowed),
                yes(recommended.contains(&core.id)),
                interrupts.join(", ")
            );
        }
        let _ = writeln!(out, "\nrecommended: --cores {}", joined(&recommended));
        out
    }
}

impl Core {
    fn is_busy(&self) -> bool {
        let busiest = self.interrupts.first();
        busiest.is_some_and(|(_, count)| *count >= INTERRUPTS_BUSY_MIN)
    }
}

fn joined<'a>(ids: impl IntoIterator<Item = &'a usize>) -> String {
    let ids: Vec<String> = ids.into_iter().map(ToString::to_string).collect();
    ids.join(",")
}

fn list(path: &Path) -> Option<BTreeSet<usize>> {
    let text = fs::read_to_string(path).ok()?;
    Some(parse_cpu_list(&text)?.into_iter().collect())
}

/// The cores of each NUMA node, by node.
fn nodes(sys: &Path) -> Vec<BTreeSet<usize>> {
    let path =
        |node: usize| -> PathBuf { sys.join(format!("devices/system/node/node{node}/cpulist")) };
    (0..).map_while(|node| list(&path(node))).collect()
}

/// Core, device and count of each interrupt of a network or block device.
fn interrupts_by_core(table: &str) -> Vec<(usize, String, u64)> {
    /// What drivers call the interrupts of network cards and disks.
    const DEVICES: [&str; 9] = [
        "eth", "eno", "ens", "enp", "mlx", "nvme", "virtio", "ahci", "ena",
    ];
    let mut lines = table.lines();
    let header = lines.next().unwrap_or_default();
    let cores: Vec<usize> = header
        .split_whitespace()
        .filter_map(|name| name.strip_prefix("CPU")?.parse().ok())
        .collect();
    let mut found = Vec::new();
    for line in lines {
        let mut words = line.split_whitespace().skip(1);
        let counts: Vec<u64> = words
            .by_ref()
            .take(cores.len())
            .map_while(|w| w.parse().ok())
            .collect();
        let Some(device) = line.split_whitespace().last() else {
            continue;
        };
        if !DEVICES.iter().any(|name| device.starts_with(name)) {
            continue;
        }
        let taken = cores.iter().zip(counts).filter(|(_, count)| *count > 0);
        found.extend(taken.map(|(core, count)| (*core, device.to_owned(), count)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core(id: usize, siblings: [usize; 2], node: usize) -> Core {
        Core {
            id,
            siblings: siblings.into(),
            node,
            interrupts: Vec::new(),
            allowed: true,
        }
    }

    #[test]
    fn one_thread_of_each_physical_core_is_recommended() {
        let mut topology = Topology {
            cores: vec![
                core(0, [0, 2], 0),
                core(1, [1, 3], 0),
                core(2, [0, 2], 0),
                core(3, [1, 3], 0),
            ],
        };
        assert_eq!(topology.recommended(), [0, 1]);
        topology.cores[0].allowed = false;
        assert_eq!(topology.recommended(), [1, 2]);
    }

    #[test]
    fn a_core_that_is_not_there_is_refused_by_number() {
        let topology = Topology {
            cores: vec![core(0, [0, 0], 0)],
        };
        assert_eq!(topology.resolve(&CoreList::Auto, true).unwrap(), [0]);
        let refusal = topology
            .resolve(&CoreList::Cores(vec![0, 7]), true)
            .unwrap_err();
        assert!(
            refusal.to_string().contains("core 7 does not exist"),
            "{refusal}"
        );
        let counted = topology.resolve(&CoreList::Cores(vec![0, 7]), false);
        assert_eq!(counted.unwrap(), [0, 7]);
    }

    #[test]
    fn interrupts_are_read_by_device() {
        let table = "           CPU0       CPU1\n  1:        9         0  IO-APIC  1-edge  i8042\n \
                     24:      1500        20  PCI-MSI 65537-edge  virtio0-req.0\nNMI: 0 0 x\n";
        let found = interrupts_by_core(table);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], (0, "virtio0-req.0".to_owned(), 1500));
    }

    #[test]
    fn this_machine_has_cores() {
        let topology = Topology::read();
        assert!(!topology.cores.is_empty());
        assert!(topology.table().contains("recommended: --cores "));
    }
}
