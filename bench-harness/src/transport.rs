//! The only file that knows `tokio-uring`: one thread, one runtime, its streams, its timers and the
//! file that [`crate::disk`] measures.
//!
//! A stream is read and written by two futures of one task; either may be dropped half-way, and
//! [`Stream::close`] then ends what is still in the kernel.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio_uring::buf::BoundedBuf;
use tokio_uring::buf::fixed::{FixedBuf, FixedBufRegistry};
use tokio_uring::fs::File;
use tokio_uring::net::TcpStream;

thread_local! {
    /// What this thread's ring has completed for somebody, but for the spinner itself; and sleepers
    /// that the spinner woke.
    static COMPLETIONS: Cell<u64> = const { Cell::new(0) };
    /// Whom this thread's spinner wakes, by when and by number; `None` where it has none.
    static SLEEPERS: RefCell<Option<BTreeMap<(Instant, u64), Waker>>> =
        const { RefCell::new(None) };
}

/// Bytes that a fresh receive buffer holds.
const READ_BYTES_MIN: usize = 64 << 10;
/// What a read of a timer returns.
const EXPIRATIONS_BYTES: usize = 8;

/// Runs `future` to its end on a ring of its own, on this thread.
pub(crate) fn run<F: Future>(future: F) -> F::Output {
    tokio_uring::start(future)
}

/// Starts a task on this thread's ring.
pub(crate) fn spawn<T: 'static>(
    task: impl Future<Output = T> + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio_uring::spawn(task)
}

/// Keeps this thread awake: while it spins, the thread asks its ring for what has come instead of
/// sleeping until something does.
pub(crate) struct Spinner {
    is_over: Rc<Cell<bool>>,
    task: tokio::task::JoinHandle<Duration>,
}

impl Spinner {
    pub(crate) fn start() -> Self {
        SLEEPERS.set(Some(BTreeMap::new()));
        let is_over = Rc::new(Cell::new(false));
        Self {
            is_over: is_over.clone(),
            task: spawn(spin(is_over)),
        }
    }

    /// Lets the thread sleep again; returns for how long it spun in vain. Nobody may sleep then.
    pub(crate) async fn stop(self) -> Duration {
        self.is_over.set(true);
        SLEEPERS.set(None);
        self.task.await.expect("a spinning task does not panic")
    }
}

async fn spin(is_over: Rc<Cell<bool>>) -> Duration {
    let mut in_vain = Duration::ZERO;
    let (mut looked_at, mut completed) = (Instant::now(), COMPLETIONS.get());
    while !is_over.get() {
        // The broker's thread, or the kernel's that ends its commit, may want this very core.
        std::thread::yield_now();
        // Completes at once, and not before what the thread has asked of its ring was submitted and
        // what the ring has completed was taken: tokio does neither for a task that only yields.
        tokio_uring::no_op().await.expect("a ring takes a no-op");
        let (now, sum) = (Instant::now(), COMPLETIONS.get());
        if sum == completed {
            in_vain += now - looked_at;
        }
        (looked_at, completed) = (now, sum);
        wake_sleepers(now);
    }
    in_vain
}

fn wake_sleepers(now: Instant) {
    SLEEPERS.with_borrow_mut(|sleepers| {
        let Some(sleepers) = sleepers else { return };
        while let Some(first) = sleepers.first_entry().filter(|first| first.key().0 <= now) {
            note_completion();
            first.remove().wake();
        }
    });
}

/// Waits until the spinner sees that it is time.
async fn sleep_beside_spinner(until: Instant, number: u64) {
    std::future::poll_fn(|context| {
        if Instant::now() >= until {
            return Poll::Ready(());
        }
        SLEEPERS.with_borrow_mut(|sleepers| {
            let sleepers = sleepers
                .as_mut()
                .expect("the spinner outlives its sleepers");
            // One that is given up stays, and wakes its task for nothing once.
            sleepers.insert((until, number), context.waker().clone());
        });
        Poll::Pending
    })
    .await;
}

/// Notes that the ring completed something for somebody.
fn note_completion() {
    COMPLETIONS.set(COMPLETIONS.get() + 1);
}

/// A TCP connection.
pub(crate) struct Stream {
    inner: TcpStream,
}

impl Stream {
    /// Connects, waiting no longer than `timeout` for an answer.
    pub(crate) fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        // A blocking connect: it happens before anything is measured, and it can time out.
        let socket = std::net::TcpStream::connect_timeout(&address, timeout)?;
        socket.set_nodelay(true)?;
        Ok(Self {
            inner: TcpStream::from_std(socket),
        })
    }

    /// Writes all of `bytes` and gives the buffer back, empty.
    pub(crate) async fn write(&self, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let (result, mut bytes) = self.inner.write_all(bytes).await;
        note_completion();
        result?;
        bytes.clear();
        Ok(bytes)
    }

    /// Reads what has come, at most what `buffer` has room for, and returns how much: 0 is the end.
    pub(crate) async fn read(&self, buffer: &mut ReadBuffer) -> io::Result<usize> {
        buffer.make_room();
        let data = std::mem::take(&mut buffer.data);
        let filled = data.len();
        let (result, slice) = self.inner.read(data.slice(filled..)).await;
        note_completion();
        buffer.data = slice.into_inner();
        result
    }

    /// Ends both directions, which completes what the kernel still holds of this stream.
    pub(crate) fn close(&self) {
        // The peer may have closed first; there is nothing more to do then.
        let _ = self.inner.shutdown(std::net::Shutdown::Both);
    }
}

/// Received bytes that no decoder has taken yet.
#[derive(Default)]
pub(crate) struct ReadBuffer {
    /// Everything received since `data` was last compacted.
    data: Vec<u8>,
    /// Bytes of `data` already taken.
    taken: usize,
    /// Bytes that the next decoder call wants to see at once.
    need_bytes: usize,
}

impl ReadBuffer {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.data[self.taken..]
    }

    pub(crate) fn take(&mut self, bytes: usize) {
        self.taken += bytes;
        assert!(
            self.taken <= self.data.len(),
            "only received bytes can be taken"
        );
    }

    /// Says how many bytes must be there before decoding makes sense again.
    pub(crate) fn need(&mut self, bytes: usize) {
        self.need_bytes = bytes;
    }

    fn make_room(&mut self) {
        self.data.drain(..self.taken);
        self.taken = 0;
        let wanted = self.need_bytes.max(READ_BYTES_MIN);
        // Room for the whole value that comes, and never none: a read of 0 would look like the end.
        if self.data.capacity() < wanted || self.data.len() == self.data.capacity() {
            self.data
                .reserve(wanted.saturating_sub(self.data.len()).max(READ_BYTES_MIN));
        }
    }
}

/// Wakes one task at a time of the monotonic clock, to the clock's own precision: the timers of
/// tokio round to milliseconds, which is longer than an acknowledgement takes.
pub(crate) struct Timer {
    /// Different from those of others; the descriptor's own.
    number: u64,
    fd: OwnedFd,
    /// The same timer, as the ring reads it.
    file: File,
    buffer: Cell<Vec<u8>>,
}

impl Timer {
    pub(crate) fn new() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let file = File::from_std(std::fs::File::from(fd.try_clone()?));
        Ok(Self {
            number: u64::try_from(fd.as_raw_fd()).expect("an open descriptor is not negative"),
            fd,
            file,
            buffer: Cell::new(vec![0; EXPIRATIONS_BYTES]),
        })
    }

    /// Returns after `wait_ns`. A sleep that was given up must be the timer's last one: its read
    /// would take the next one's wake-up.
    pub(crate) async fn sleep(&self, wait_ns: u64) -> io::Result<()> {
        if SLEEPERS.with_borrow(Option::is_some) {
            let until = Instant::now() + Duration::from_nanos(wait_ns);
            sleep_beside_spinner(until, self.number).await;
            return Ok(());
        }
        self.set(wait_ns)?;
        let buffer = self.buffer.take();
        assert_eq!(
            buffer.len(),
            EXPIRATIONS_BYTES,
            "the last sleep was not given up"
        );
        let (result, buffer) = self.file.read_at(buffer, 0).await;
        note_completion();
        self.buffer.set(buffer);
        result.map(|_| ())
    }

    fn set(&self, wait_ns: u64) -> io::Result<()> {
        let wait = Duration::from_nanos(wait_ns.max(1));
        let value = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).expect("a wait ends within the run"),
            tv_nsec: wait.subsec_nanos().into(),
        };
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: value,
        };
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // Ends the read of a sleep that was given up; a timer that cannot be set has none.
        let _ = self.set(1);
    }
}

/// Alignment of memory, positions and lengths that direct I/O wants.
pub(crate) const DIRECT_BYTES: usize = 4096;

/// A file written and read past the page cache, from aligned buffers that the kernel knows.
pub(crate) struct DirectFile {
    file: File,
    /// Buffer and where its aligned part begins; `None` while the kernel has it.
    buffers: RefCell<Vec<Option<(FixedBuf, usize)>>>,
    /// Bytes of each buffer's aligned part.
    buffer_bytes: usize,
}

impl DirectFile {
    /// Takes a file opened for direct I/O, with `count` buffers of `buffer_bytes` of noise. A ring
    /// has one such file at a time.
    pub(crate) fn new(file: std::fs::File, count: usize, buffer_bytes: usize) -> io::Result<Self> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut noise = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        let memory: Vec<Vec<u8>> = (0..count)
            .map(|_| (0..buffer_bytes + DIRECT_BYTES).map(|_| noise()).collect())
            .collect();
        // Moving a vector does not move what it holds.
        let aligned: Vec<usize> = memory
            .iter()
            .map(|bytes| bytes.as_ptr().align_offset(DIRECT_BYTES))
            .collect();
        let registry = FixedBufRegistry::new(memory);
        registry.register()?;
        let buffers = aligned.into_iter().enumerate();
        let buffers =
            buffers.map(|(index, at)| registry.check_out(index).map(|buffer| (buffer, at)));
        Ok(Self {
            file: File::from_std(file),
            buffers: RefCell::new(buffers.collect()),
            buffer_bytes,
        })
    }

    /// Writes the whole buffer `slot` at `position`; a short write is an error.
    pub(crate) async fn write(&self, slot: usize, position: u64) -> io::Result<()> {
        let (buffer, at) = self.check_out(slot);
        let slice = buffer.slice(at..at + self.buffer_bytes);
        let (result, slice) = self.file.write_fixed_at(slice, position).await;
        self.put_back(slot, slice.into_inner(), at);
        self.whole(result?)
    }

    /// Reads `position` into the whole buffer `slot`; a short read is an error.
    pub(crate) async fn read(&self, slot: usize, position: u64) -> io::Result<()> {
        let (buffer, at) = self.check_out(slot);
        let slice = buffer.slice(at..at + self.buffer_bytes);
        let (result, slice) = self.file.read_fixed_at(slice, position).await;
        self.put_back(slot, slice.into_inner(), at);
        self.whole(result?)
    }

    /// Fills the whole buffer `slot` from `source`, at once.
    pub(crate) fn fill(&self, slot: usize, source: &mut impl io::Read) -> io::Result<()> {
        let (mut buffer, at) = self.check_out(slot);
        let filled = source.read_exact(&mut buffer[at..at + self.buffer_bytes]);
        self.put_back(slot, buffer, at);
        filled
    }

    fn check_out(&self, slot: usize) -> (FixedBuf, usize) {
        self.buffers.borrow_mut()[slot]
            .take()
            .expect("a slot has one operation at a time")
    }

    fn put_back(&self, slot: usize, buffer: FixedBuf, at: usize) {
        self.buffers.borrow_mut()[slot] = Some((buffer, at));
    }

    fn whole(&self, bytes: usize) -> io::Result<()> {
        if bytes == self.buffer_bytes {
            return Ok(());
        }
        let wanted = self.buffer_bytes;
        Err(io::Error::other(format!(
            "{bytes} of {wanted} bytes went through"
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_is_written_comes_back_and_a_close_ends_a_pending_read() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let echo = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().expect("one connection");
            let mut bytes = vec![0; 300_000];
            peer.read_exact(&mut bytes).expect("all sent");
            peer.write_all(&bytes).expect("all taken");
            peer.read(&mut bytes).expect("the end")
        });
        run(async move {
            let stream = Stream::connect(address, Duration::from_secs(5)).expect("connected");
            let sent: Vec<u8> = (0..300_000u32).map(|i| i.to_le_bytes()[0]).collect();
            assert!(
                stream
                    .write(sent.clone())
                    .await
                    .expect("written")
                    .is_empty()
            );
            let mut buffer = ReadBuffer::default();
            buffer.need(sent.len());
            while buffer.bytes().len() < sent.len() {
                assert_ne!(stream.read(&mut buffer).await.expect("read"), 0);
            }
            assert!(buffer.bytes() == sent);
            buffer.take(sent.len());
            assert!(buffer.bytes().is_empty());
            stream.close();
            assert_eq!(stream.read(&mut buffer).await.expect("closed"), 0);
        });
        assert_eq!(echo.join().expect("the echo ends"), 0);
    }

    #[test]
    fn a_spinning_thread_still_works_and_knows_what_was_in_vain() {
        let spun = run(async {
            let spinner = Spinner::start();
            let timer = Timer::new().expect("a timer");
            for _ in 0..5 {
                let start = Instant::now();
                timer.sleep(2_000_000).await.expect("slept");
                assert!(start.elapsed() >= Duration::from_millis(2), "never early");
            }
            // Work, which no look is.
            let until = Instant::now() + Duration::from_millis(100);
            while Instant::now() < until {}
            timer.sleep(1).await.expect("slept");
            let started = Instant::now();
            let spun = spinner.stop().await;
            assert!(started.elapsed() < Duration::from_secs(1), "it stops");
            spun
        });
        assert!(spun >= Duration::from_millis(5), "{spun:?}");
        assert!(spun < Duration::from_secs(1), "{spun:?}");
    }

    #[test]
    fn a_timer_never_wakes_early_and_can_be_used_again() {
        run(async {
            let timer = Timer::new().expect("a timer");
            for wait_ns in [0, 300_000, 2_000_000] {
                let start = Instant::now();
                timer.sleep(wait_ns).await.expect("slept");
                assert!(start.elapsed() >= Duration::from_nanos(wait_ns));
            }
        });
    }
}
