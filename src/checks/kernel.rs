//! The kernel and the data directory's file system, tried out before recovery writes anything: a
//! start that cannot serve changes nothing.

use std::fs;

use millrace_net::uring::descriptors::DescriptorPlan;
use millrace_net::uring::driver::DriverConfig;
use millrace_net::uring::probe::{self, DirectoryError, RingError};
use rustix::system::uname;

use super::FileSystem;
use crate::exit::Failure;

/// The oldest kernel that has all that is used.
const KERNEL_MIN: (u32, u32) = (6, 1);

/// Who may have a ring: 0 everybody, 1 a group and root, 2 nobody. Newer kernels have it.
const SYSCTL: &str = "/proc/sys/kernel/io_uring_disabled";

/// Tries out the kernel, and descriptors for so many `shards`, each with a ring as `ring` says.
pub(crate) fn look(ring: &DriverConfig, shards: u16) -> Result<(), Failure> {
    check_release(&uname().release().to_string_lossy())?;
    let plan = DescriptorPlan::for_process(usize::from(shards), ring.wal_files);
    plan.map_err(|error| Failure::Kernel(error.to_string()))?;
    probe::try_ring(ring).map_err(no_ring)
}

/// Tries out a file system, in the directory that is on it.
pub(crate) fn look_at_directory(file_system: &FileSystem) -> Result<(), Failure> {
    let directory = &file_system.directory;
    probe::try_directory(directory).map_err(|error| match error {
        DirectoryError::Lacking { .. } => Failure::Kernel(format!(
            "{}: {error}: {}",
            directory.display(),
            directory_advice(&file_system.name)
        )),
        DirectoryError::Failed(error) => Failure::Io {
            path: directory.clone(),
            error,
        },
    })
}

/// What to do about a shard without a ring.
pub(crate) fn no_ring(error: RingError) -> Failure {
    let disabled = fs::read_to_string(SYSCTL).ok();
    let disabled = disabled.and_then(|text| text.trim().parse().ok());
    Failure::Kernel(match ring_advice(&error, disabled) {
        Some(advice) => format!("{error}: {advice}"),
        None => error.to_string(),
    })
}

/// Refuses a kernel that is too old. One that does not say is judged by what it can do.
fn check_release(release: &str) -> Result<(), Failure> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse::<u32>().ok();
    let (Some(major), Some(minor)) = (number(), number()) else {
        return Ok(());
    };
    if (major, minor) >= KERNEL_MIN {
        return Ok(());
    }
    let (least, point) = KERNEL_MIN;
    Err(Failure::Kernel(format!(
        "the kernel is too old: this is Linux {release}, and {least}.{point} or newer is needed"
    )))
}

/// What to do about `error`, unless it says so itself; `disabled` is the sysctl's value.
fn ring_advice(error: &RingError, disabled: Option<u32>) -> Option<String> {
    let error = match error {
        RingError::Descriptors(_) => return None,
        RingError::Lacking(_) => {
            return Some("use a newer kernel, 6.1 at least, with all of io_uring".to_owned());
        }
        RingError::SetUp(error) | RingError::Buffers(error) | RingError::Enter(error) => error,
    };
    let advice = match error.raw_os_error().unwrap_or_default() {
        errno::EPERM | errno::EACCES => return Some(forbidden_advice(disabled)),
        errno::ENOSYS => {
            "the kernel was built without io_uring, or a seccomp profile hides it: in a container, \
             use a profile that allows io_uring_setup, io_uring_enter and io_uring_register"
        }
        errno::EINVAL => "the kernel does not know a flag of it: 6.1 or newer is needed",
        errno::ENOMEM => {
            "not enough memory that may be locked: raise LimitMEMLOCK or ulimit -l, or lower \
             `memory.receive_buffers`"
        }
        errno::EMFILE => "no file descriptor is left: raise LimitNOFILE or ulimit -n",
        errno::ENFILE => "the machine has no file descriptor left: raise the sysctl fs.file-max",
        _ => "see the kernel's log",
    };
    Some(advice.to_owned())
}

fn forbidden_advice(disabled: Option<u32>) -> String {
    match disabled {
        Some(value @ 1..) => format!(
            "io_uring is switched off by the sysctl kernel.io_uring_disabled, which is {value}: \
             set it to 0, or to 1 with the broker's group in kernel.io_uring_group"
        ),
        _ => "io_uring is forbidden to this process: in a container, use a seccomp profile that \
              allows io_uring_setup, io_uring_enter and io_uring_register; elsewhere, look for a \
              rule of SELinux or another security module"
            .to_owned(),
    }
}

fn directory_advice(file_system: &str) -> String {
    format!(
        "the file system is {file_system}, and the log needs O_DIRECT with RWF_DSYNC: put it \
         (--data-dir) on a disk with ext4 or xfs; in a container, on a volume instead of the \
         container's own layers"
    )
}

/// The error numbers with advice; Linux has the same on every architecture that we run on.
mod errno {
    pub(super) const EPERM: i32 = 1;
    pub(super) const ENOMEM: i32 = 12;
    pub(super) const EACCES: i32 = 13;
    pub(super) const EINVAL: i32 = 22;
    pub(super) const ENFILE: i32 = 23;
    pub(super) const EMFILE: i32 = 24;
    pub(super) const ENOSYS: i32 = 38;
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_kernel_is_judged_by_its_release() {
        for good in ["6.1.0-13-amd64", "6.18.5", "7.0", "10.2-rc1", "unknown", ""] {
            check_release(good).unwrap();
        }
        for old in ["6.0.19", "5.15.0-1034-aws", "4.4"] {
            let refusal = check_release(old).unwrap_err();
            assert!(refusal.to_string().contains(old), "{refusal}");
            assert_eq!(refusal.code(), crate::exit::ExitCode::Kernel);
        }
    }

    #[test]
    fn each_refusal_of_a_ring_names_its_cause_and_the_fix() {
        let advice = |number: i32, disabled| {
            let error = io::Error::from_raw_os_error(number);
            ring_advice(&RingError::SetUp(error), disabled).expect("advice")
        };
        for (number, disabled, fix) in [
            (
                errno::EPERM,
                Some(2),
                "kernel.io_uring_disabled, which is 2",
            ),
            (errno::EPERM, Some(1), "kernel.io_uring_group"),
            (errno::EPERM, Some(0), "seccomp"),
            (errno::EACCES, None, "seccomp"),
            (errno::ENOSYS, None, "seccomp"),
            (errno::EINVAL, Some(0), "6.1 or newer"),
            (errno::ENOMEM, Some(0), "LimitMEMLOCK"),
            (errno::EMFILE, Some(0), "LimitNOFILE"),
            (errno::ENFILE, Some(0), "fs.file-max"),
            (5, Some(0), "kernel's log"),
        ] {
            let advice = advice(number, disabled);
            assert!(advice.contains(fix), "{number} with {disabled:?}: {advice}");
        }
        let enter = RingError::Enter(io::Error::from_raw_os_error(errno::EPERM));
        assert!(
            ring_advice(&enter, None)
                .unwrap()
                .contains("io_uring_enter")
        );
        let lacking = ring_advice(&RingError::Lacking("IORING_OP_LINKAT"), None);
        assert!(lacking.unwrap().contains("6.1"));
    }

    #[test]
    fn too_few_descriptors_are_not_blamed_on_the_ring() {
        let limit = io::Error::other("the limit of 64 open files is too low for 2 shards");
        let text = no_ring(RingError::Descriptors(limit)).to_string();
        assert_eq!(text, "the limit of 64 open files is too low for 2 shards");
    }

    #[test]
    fn a_file_system_that_will_not_do_is_named() {
        let advice = directory_advice("overlayfs");
        assert!(
            advice.contains("overlayfs") && advice.contains("--data-dir"),
            "{advice}"
        );
    }
}
