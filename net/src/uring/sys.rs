//! The system calls that have no place in a ring, each as a safe function with an errno.
//!
//! Files are opened relative to a directory's descriptor and never by a path from outside.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use millrace_storage::disk::{DiskError, DiskSpace};
use millrace_storage::units::{BootTime, Now};

/// The result of a call: its answer, or the errno.
pub type Errno<T> = Result<T, i32>;

/// What an errno means to storage.
#[must_use]
pub fn disk_error(errno: i32) -> DiskError {
    match errno {
        libc::ENOSPC | libc::EDQUOT => DiskError::NoSpace,
        libc::ENOENT => DiskError::NotFound,
        libc::EEXIST => DiskError::AlreadyExists,
        libc::EXDEV => DiskError::OtherFileSystem,
        errno => DiskError::Io { errno },
    }
}

/// The answer of a call that returns -1 and sets errno.
fn checked(answer: i64) -> Errno<u64> {
    u64::try_from(answer).map_err(|_| last_errno())
}

fn last_errno() -> i32 {
    io::Error::last_os_error()
        .raw_os_error()
        .expect("a failed call sets errno")
}

/// Flags of every data file: read and write past the page cache.
pub(super) const OPEN_FLAGS: i32 = libc::O_RDWR | libc::O_DIRECT | libc::O_CLOEXEC;

/// Permissions of what the broker creates.
pub(super) const CREATE_MODE: u32 = 0o600;

/// Opens a file of the directory.
///
/// # Errors
/// The errno.
pub fn open_at(directory: BorrowedFd<'_>, name: &CStr, flags: i32) -> Errno<OwnedFd> {
    // SAFETY: `name` is a C string that lives through the call.
    let answer = unsafe { libc::openat(directory.as_raw_fd(), name.as_ptr(), flags, CREATE_MODE) };
    let raw = checked(i64::from(answer))?;
    // SAFETY: the call returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as RawFd) })
}

/// Preallocates `bytes` from the start of the file and extends it to that size.
///
/// # Errors
/// The errno.
pub fn allocate(file: BorrowedFd<'_>, bytes: u64) -> Errno<()> {
    fallocate(file, 0, 0, bytes)
}

/// Gives a range back to the file system.
///
/// # Errors
/// The errno.
pub fn punch_hole(file: BorrowedFd<'_>, position: u64, bytes: u64) -> Errno<()> {
    fallocate(file, PUNCH_MODE, position, bytes)
}

/// Mode of `fallocate` for [`punch_hole`].
pub(super) const PUNCH_MODE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

fn fallocate(file: BorrowedFd<'_>, mode: i32, position: u64, bytes: u64) -> Errno<()> {
    let (position, bytes) = (file_offset(position)?, file_offset(bytes)?);
    // SAFETY: no memory is passed.
    let answer = unsafe { libc::fallocate(file.as_raw_fd(), mode, position, bytes) };
    checked(i64::from(answer)).map(drop)
}

/// A position as the kernel takes it.
fn file_offset(position: u64) -> Errno<libc::off_t> {
    libc::off_t::try_from(position).map_err(|_| libc::EFBIG)
}

/// Reads once at `position`.
///
/// # Errors
/// The errno.
pub fn read_at(file: BorrowedFd<'_>, buffer: &mut [u8], position: u64) -> Errno<usize> {
    let position = file_offset(position)?;
    // SAFETY: the buffer is writable memory of that length and lives through the call.
    let answer = unsafe {
        libc::pread(
            file.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            position,
        )
    };
    checked(answer as i64).map(|bytes| bytes as usize)
}

/// Writes once at `position`; with `dsync` it returns when the bytes are durable.
///
/// # Errors
/// The errno.
pub fn write_at(file: BorrowedFd<'_>, buffer: &[u8], position: u64, dsync: bool) -> Errno<usize> {
    let position = file_offset(position)?;
    let part = libc::iovec {
        iov_base: buffer.as_ptr().cast_mut().cast(),
        iov_len: buffer.len(),
    };
    let flags = if dsync { libc::RWF_DSYNC } else { 0 };
    // SAFETY: `part` names readable memory of that length, which lives through the call.
    let answer = unsafe { libc::pwritev2(file.as_raw_fd(), &raw const part, 1, position, flags) };
    checked(answer as i64).map(|bytes| bytes as usize)
}

/// fdatasync.
///
/// # Errors
/// The errno.
pub fn sync_data(file: BorrowedFd<'_>) -> Errno<()> {
    // SAFETY: no memory is passed.
    checked(i64::from(unsafe { libc::fdatasync(file.as_raw_fd()) })).map(drop)
}

/// fsync, for directories.
///
/// # Errors
/// The errno.
pub fn sync_all(file: BorrowedFd<'_>) -> Errno<()> {
    // SAFETY: no memory is passed.
    checked(i64::from(unsafe { libc::fsync(file.as_raw_fd()) })).map(drop)
}

/// Renames within a directory, replacing `to`.
///
/// # Errors
/// The errno.
pub fn rename_at(directory: BorrowedFd<'_>, from: &CStr, to: &CStr) -> Errno<()> {
    let fd = directory.as_raw_fd();
    // SAFETY: both names are C strings that live through the call.
    checked(i64::from(unsafe {
        libc::renameat(fd, from.as_ptr(), fd, to.as_ptr())
    }))
    .map(drop)
}

/// Hard-links a file of one directory into another.
///
/// # Errors
/// The errno.
pub fn link_at(
    from_directory: BorrowedFd<'_>,
    from: &CStr,
    directory: BorrowedFd<'_>,
    to: &CStr,
) -> Errno<()> {
    // SAFETY: both names are C strings that live through the call.
    checked(i64::from(unsafe {
        libc::linkat(
            from_directory.as_raw_fd(),
            from.as_ptr(),
            directory.as_raw_fd(),
            to.as_ptr(),
            0,
        )
    }))
    .map(drop)
}

/// Unlinks a file.
///
/// # Errors
/// The errno.
pub fn unlink_at(directory: BorrowedFd<'_>, name: &CStr) -> Errno<()> {
    // SAFETY: the name is a C string that lives through the call.
    checked(i64::from(unsafe {
        libc::unlinkat(directory.as_raw_fd(), name.as_ptr(), 0)
    }))
    .map(drop)
}

/// Space of the file system that holds `directory`.
///
/// # Errors
/// The errno.
pub fn space(directory: BorrowedFd<'_>) -> Errno<DiskSpace> {
    // SAFETY: all-zero bytes are a valid `statvfs`, plain integers.
    let mut status: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `status` is writable and lives through the call.
    let answer = unsafe { libc::fstatvfs(directory.as_raw_fd(), &raw mut status) };
    checked(i64::from(answer))?;
    let block_bytes = status.f_frsize;
    Ok(DiskSpace {
        available_bytes: status.f_bavail.saturating_mul(block_bytes),
        total_bytes: status.f_blocks.saturating_mul(block_bytes),
    })
}

/// Lets a write beyond the process's file size limit fail with an errno, as any other failed write,
/// instead of ending the process by a signal.
pub fn ignore_file_size_signal() {
    // SAFETY: ignoring a signal installs no handler.
    let before = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    assert_ne!(before, libc::SIG_ERR, "the signal exists");
}

/// The two clocks, read together once a turn.
#[must_use]
pub fn now() -> Now {
    let boot = clock(libc::CLOCK_BOOTTIME);
    let wall = clock(libc::CLOCK_REALTIME);
    Now {
        boot: BootTime(boot.tv_sec as u64 * 1_000_000_000 + boot.tv_nsec as u64),
        wall_ms: wall.tv_sec * 1000 + wall.tv_nsec / 1_000_000,
    }
}

fn clock(id: libc::clockid_t) -> libc::timespec {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is writable and lives through the call.
    let answer = unsafe { libc::clock_gettime(id, &raw mut time) };
    assert_eq!(answer, 0, "the kernel has this clock");
    time
}

/// Sets how many connections may wait to be accepted.
///
/// # Errors
/// The errno.
pub fn listen(socket: BorrowedFd<'_>, backlog: i32) -> Errno<()> {
    // SAFETY: no memory is passed.
    checked(i64::from(unsafe {
        libc::listen(socket.as_raw_fd(), backlog)
    }))
    .map(drop)
}

/// Accepts and drops one waiting connection: what is left to do when descriptors ran out.
///
/// # Errors
/// The errno.
pub fn accept_and_drop(listener: BorrowedFd<'_>) -> Errno<()> {
    let (no_address, no_length) = (std::ptr::null_mut(), std::ptr::null_mut());
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: null pointers ask for no address.
    let answer = unsafe { libc::accept4(listener.as_raw_fd(), no_address, no_length, flags) };
    let raw = checked(i64::from(answer))?;
    // SAFETY: the call returned a new descriptor that nothing else owns.
    drop(unsafe { OwnedFd::from_raw_fd(raw as RawFd) });
    Ok(())
}

/// A counter that wakes a ring when it is written.
///
/// # Errors
/// The errno.
pub fn event_counter() -> Errno<OwnedFd> {
    // SAFETY: no memory is passed.
    let raw = checked(i64::from(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) }))?;
    // SAFETY: the call returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as RawFd) })
}

/// Adds one to an event counter. It blocks only past 2^64 - 2 unread events.
///
/// # Errors
/// The errno.
pub fn count_event(counter: BorrowedFd<'_>) -> Errno<()> {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight readable bytes that live through the call.
    let answer = unsafe { libc::write(counter.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    checked(answer as i64).map(drop)
}

/// Descriptors that the process may have open.
///
/// # Errors
/// The errno.
pub fn descriptor_limit() -> Errno<usize> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is writable and lives through the call.
    let answer = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    checked(i64::from(answer))?;
    Ok(usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX))
}
