//! The `serve` verb: logs, the banner, the `ready` line, and how it ends.

use std::io::Write;

use millrace::broker::losses::AcceptedLosses;
use millrace::broker::{Broker, Ended};
use millrace::config::Resolved;
use millrace::exit::{ExitCode, Failure, end};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::cli::ServeArgs;

/// Runs a broker until a signal stops it or it fails.
pub(crate) fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let settings = args.settings.resolve()?;
    let losses = AcceptedLosses::parse(args.accept_loss.iter().map(String::as_str))?;
    log_to_stderr(&settings)?;
    let mut broker = Broker::start_accepting(settings, losses)?;
    let _ = write!(std::io::stderr(), "{}", broker.banner());
    let mut stdout = std::io::stdout();
    let ready = writeln!(stdout, "ready {}", broker.addresses()).and_then(|()| stdout.flush());
    ready.map_err(Failure::io("standard output"))?;

    match run(&mut broker)? {
        Ended::Cleanly => broker.stop(),
        Ended::Failed(failure) => {
            tracing::error!(%failure, "the broker ends");
            Err(failure)
        }
    }
}

/// Waits for the broker's end: its own, or a clean stop after a signal. A second signal does not
/// wait for that: what was acknowledged is on the disk, and the next start recovers it.
fn run(broker: &mut Broker) -> Result<Ended, Failure> {
    let failed = || Failure::io("signal handling");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.map_err(failed())?.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(failed())?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed())?;
        let name = tokio::select! {
            ended = broker.ended() => return Ok(ended),
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!("{name}: stopping");
        broker.begin_stop();
        let name = tokio::select! {
            ended = broker.ended() => return Ok(ended),
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::warn!("{name} again: ending without a clean stop");
        end(ExitCode::Interrupted)
    })
}

fn log_to_stderr(settings: &Resolved) -> Result<(), Failure> {
    let directives = &settings.config.server.log;
    let filter = EnvFilter::builder().parse(directives).map_err(|error| {
        let place = settings.place("server.log");
        Failure::Unfit(format!("{place}: `server.log`: {directives:?}: {error}"))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A line that cannot be written, as to a full disk, is lost: telling so would fail as well,
        // and is a panic.
        .log_internal_errors(false)
        .with_target(false)
        .init();
    Ok(())
}
