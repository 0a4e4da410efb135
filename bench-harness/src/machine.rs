//! What a figure was measured on: kernel, processor, memory, file system and device, and what a
//! process has used of them, read from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// The machine.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) cpu_model: String,
    pub(crate) cpus: usize,
    pub(crate) memory_bytes: u64,
}

impl Machine {
    pub(crate) fn describe() -> Self {
        let uname = rustix::system::uname();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let cpus = thread::available_parallelism().map_or(0, |cpus| cpus.get());
        Self {
            kernel: uname.release().to_string_lossy().into_owned(),
            cpu_model: field(&cpuinfo, "model name")
                .unwrap_or("unknown")
                .to_owned(),
            cpus,
            memory_bytes: kib_field(&meminfo, "MemTotal").unwrap_or(0),
        }
    }
}

/// Time of all cores together, in clock ticks since the machine started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CoreTimes {
    idle: u64,
    all: u64,
    cores: usize,
}

impl CoreTimes {
    /// How many of the cores that this process may use are idle, judged by `time` from now on.
    pub(crate) fn watch_idle(time: Duration) -> Option<f64> {
        let before = Self::read()?;
        thread::sleep(time);
        let after = Self::read()?;
        // The kernel's idle time may step back where a core came or went.
        let idle = after.idle.saturating_sub(before.idle);
        let all = after.all.saturating_sub(before.all);
        let own = thread::available_parallelism().ok()?.get();
        (all > 0).then(|| (idle as f64 / all as f64 * after.cores as f64).min(own as f64))
    }

    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    /// Reads the sum of `/proc/stat`: user, nice, system, idle, iowait and what else took time.
    fn parse(stat: &str) -> Option<Self> {
        let sum = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks = sum.split_ascii_whitespace().map(str::parse);
        let ticks = ticks.collect::<Result<Vec<u64>, _>>().ok()?;
        let names = stat.lines().filter_map(|line| line.strip_prefix("cpu"));
        Some(Self {
            // A core that waits for a disk has time for others.
            idle: ticks.get(3)? + ticks.get(4)?,
            // Guests' time, at the end, is in user's already.
            all: ticks.iter().take(8).sum(),
            cores: names.filter(|name| !name.starts_with(' ')).count(),
        })
    }
}

/// Where a broker keeps its data.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Storage {
    pub(crate) directory: PathBuf,
    pub(crate) file_system: String,
    pub(crate) device: String,
    /// What the kernel knows of the device; absent where there is none behind the file system.
    #[serde(default)]
    pub(crate) device_facts: BTreeMap<String, String>,
    /// False in memory: an acknowledgement there outlives nothing.
    pub(crate) durable: bool,
}

impl Storage {
    /// Finds the mount that holds `directory`, which exists.
    pub(crate) fn of(directory: &Path) -> anyhow::Result<Self> {
        let directory = directory
            .canonicalize()
            .with_context(|| format!("cannot find {}", directory.display()))?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        // The last of equally long mount points covers the earlier ones.
        let mount = mounts
            .lines()
            .filter_map(Mount::parse)
            .filter(|mount| directory.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.as_os_str().len());
        let unknown = || Mount {
            point: PathBuf::new(),
            number: String::new(),
            file_system: "unknown".to_owned(),
            device: "unknown".to_owned(),
        };
        let Mount {
            number,
            file_system,
            device,
            ..
        } = mount.unwrap_or_else(unknown);
        let durable = !matches!(file_system.as_str(), "tmpfs" | "ramfs");
        Ok(Self {
            directory,
            file_system,
            device,
            device_facts: device_facts(&number),
            durable,
        })
    }
}

/// Facts of block device `number`, as `8:1`: of the disk where it is a partition.
fn device_facts(number: &str) -> BTreeMap<String, String> {
    let device = PathBuf::from("/sys/dev/block").join(number);
    let facts = [
        ("model", "device/model"),
        ("write cache", "queue/write_cache"),
        ("rotational", "queue/rotational"),
        ("scheduler", "queue/scheduler"),
    ];
    let read = |file: &str| {
        let own = fs::read_to_string(device.join(file));
        let found = own.or_else(|_| fs::read_to_string(device.join("..").join(file)));
        found.ok().map(|text| text.trim().to_owned())
    };
    let known = facts.into_iter().filter(|_| !number.is_empty());
    known
        .filter_map(|(name, file)| Some((name.to_owned(), read(file)?)))
        .collect()
}

struct Mount {
    point: PathBuf,
    /// Major and minor, as `98:0`.
    number: String,
    file_system: String,
    device: String,
}

impl Mount {
    /// Reads a line of mountinfo: `36 35 98:0 /root /point options - ext4 /dev/sda1 options`.
    fn parse(line: &str) -> Option<Self> {
        let (place, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        Some(Self {
            // The kernel writes a space in a path as \040.
            number: place.split(' ').nth(2)?.to_owned(),
            point: PathBuf::from(place.split(' ').nth(4)?.replace("\\040", " ")),
            file_system: kind.next()?.to_owned(),
            device: kind.next()?.to_owned(),
        })
    }
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Usage {
    pub(crate) cpu_user_s: f64,
    pub(crate) cpu_system_s: f64,
    /// Largest resident size of the process's life.
    pub(crate) memory_peak_bytes: u64,
    /// Bytes that it caused to be written to, and read from, storage.
    pub(crate) storage_written_bytes: u64,
    pub(crate) storage_read_bytes: u64,
}

impl Usage {
    /// Reads the usage of process `pid`, or of this one.
    pub(crate) fn of(pid: Option<u32>) -> anyhow::Result<Self> {
        let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        let read = |file: &str| {
            let path = format!("/proc/{process}/{file}");
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let (cpu_user_s, cpu_system_s) =
            parse_stat(&read("stat")?).context("a stat line of another form")?;
        let status = read("status")?;
        let io = read("io")?;
        Ok(Self {
            cpu_user_s,
            cpu_system_s,
            // A process that has ended and was not waited for has no memory, and no CPU time here.
            memory_peak_bytes: kib_field(&status, "VmHWM").context("the process has ended")?,
            storage_written_bytes: number_field(&io, "write_bytes").unwrap_or(0),
            storage_read_bytes: number_field(&io, "read_bytes").unwrap_or(0),
        })
    }

    /// What was used since `earlier`; the memory peak stays that of the life.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            cpu_user_s: self.cpu_user_s - earlier.cpu_user_s,
            cpu_system_s: self.cpu_system_s - earlier.cpu_system_s,
            memory_peak_bytes: self.memory_peak_bytes,
            storage_written_bytes: self.storage_written_bytes - earlier.storage_written_bytes,
            storage_read_bytes: self.storage_read_bytes - earlier.storage_read_bytes,
        }
    }

    pub(crate) fn cpu_s(&self) -> f64 {
        self.cpu_user_s + self.cpu_system_s
    }
}

/// User and system seconds of `/proc/PID/stat`. The name in parentheses may hold anything.
fn parse_stat(stat: &str) -> Option<(f64, f64)> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let per_s = rustix::param::clock_ticks_per_second() as f64;
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / per_s);
    Some((seconds()?, seconds()?))
}

/// The value after `name` and a colon in a file of such lines.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then(|| value.trim())
    })
}

fn number_field(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.parse().ok()
}

fn kib_field(text: &str, name: &str) -> Option<u64> {
    let kib: u64 = field(text, name)?.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_line_is_read_in_both_halves() {
        let line = "36 35 254:0 / /mnt/a\\040b rw,noatime master:1 - ext4 /dev/vda rw";
        let mount = Mount::parse(line).expect("well formed");
        assert_eq!(mount.point, Path::new("/mnt/a b"));
        assert_eq!(
            [&mount.number, &mount.file_system, &mount.device],
            ["254:0", "ext4", "/dev/vda"]
        );
        assert!(Mount::parse("36 35 254:0 /").is_none());
    }

    #[test]
    fn cpu_time_is_found_behind_any_process_name() {
        let stat = "7 (a) b) R 1 2 3 4 5 6 7 8 9 10 200 50 0 0 20";
        let per_s = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(parse_stat(stat), Some((200.0 / per_s, 50.0 / per_s)));
    }

    #[test]
    fn time_and_number_of_cores_are_read() {
        let stat = "cpu  10 1 5 70 4 1 2 3 9 0\ncpu0 5 0 0 0 0 0 0 0 0 0\ncpu1 5 1 5\nintr 7\n";
        let times = CoreTimes {
            idle: 74,
            all: 96,
            cores: 2,
        };
        assert_eq!(CoreTimes::parse(stat), Some(times));
        assert_eq!(CoreTimes::parse("cpu  1 2 3\n"), None);
        let idle = CoreTimes::watch_idle(Duration::from_millis(50)).expect("Linux tells");
        assert!((0.0..=4096.0).contains(&idle), "{idle}");
    }

    #[test]
    fn fields_are_found_by_whole_name() {
        let text = "VmPeak:\t  10 kB\nVmHWM:\t   3 kB\nwrite_bytes: 42\ncancelled_write_bytes: 1\n";
        assert_eq!(kib_field(text, "VmHWM"), Some(3072));
        assert_eq!(number_field(text, "write_bytes"), Some(42));
        assert_eq!(number_field(text, "absent"), None);
    }

    #[test]
    fn this_process_and_this_directory_can_be_described() {
        let usage = Usage::of(None).expect("own usage");
        assert!(usage.memory_peak_bytes > 0);
        assert!(
            !Storage::of(Path::new("."))
                .expect("the current directory")
                .device
                .is_empty()
        );
        assert!(Machine::describe().cpus > 0);
    }
}
