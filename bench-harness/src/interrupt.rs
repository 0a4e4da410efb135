//! Ctrl-C and SIGTERM: the first one ends a phase with what it has; a second one, or one that comes
//! while nothing is measured, ends the process. Neither leaves a child broker behind.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// What shells report for a process that Ctrl-C ended.
const INTERRUPTED_EXIT_CODE: i32 = 130;

/// The process's stop signals.
#[derive(Clone)]
pub(crate) struct Interrupts {
    /// How many have come.
    count: watch::Receiver<u32>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Whether somebody measures, who ends with what there is.
    is_measuring: AtomicBool,
    /// A child to stop before the process ends.
    child: Mutex<Option<Pid>>,
}

/// Marks the time in which a stop signal ends the measurement and not the process.
pub(crate) struct Measuring {
    shared: Arc<Shared>,
}

impl Drop for Measuring {
    fn drop(&mut self) {
        self.shared.is_measuring.store(false, Ordering::Relaxed);
    }
}

impl Interrupts {
    /// Takes the stop signals over, until the process ends.
    pub(crate) fn listen() -> io::Result<Self> {
        let (sender, count) = watch::channel(0);
        let shared = Arc::new(Shared::default());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (mut interrupt, mut terminate) = {
            let _guard = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
            )
        };
        let listened = shared.clone();
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                runtime.block_on(async {
                    for number in 1u32.. {
                        tokio::select! {
                            _ = interrupt.recv() => {}
                            _ = terminate.recv() => {}
                        }
                        if number > 1 || !listened.is_measuring.load(Ordering::Relaxed) {
                            listened.end_process();
                        }
                        // A phase that ended meanwhile needs no telling.
                        let _ = sender.send(number);
                    }
                });
            })?;
        Ok(Self { count, shared })
    }

    /// Starts a time in which signals are waited for by [`Self::interrupted`].
    pub(crate) fn measure(&self) -> Measuring {
        self.shared.is_measuring.store(true, Ordering::Relaxed);
        Measuring {
            shared: self.shared.clone(),
        }
    }

    /// Returns once a stop signal has come; never if none can come any more.
    pub(crate) async fn interrupted(&mut self) {
        if self.count.wait_for(|count| *count > 0).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Names the child that must not outlive this process, or none.
    pub(crate) fn guard(&self, child: Option<Pid>) {
        *self.shared.child.lock().expect("no holder panics") = child;
    }
}

impl Shared {
    fn end_process(&self) -> ! {
        if let Some(child) = *self.child.lock().expect("no holder panics") {
            // A child that has ended needs no signal.
            let _ = kill_process(child, Signal::TERM);
        }
        std::process::exit(INTERRUPTED_EXIT_CODE)
    }
}
