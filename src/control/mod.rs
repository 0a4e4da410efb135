//! The control thread: HTTP and JSON on a Unix socket in the data directory, for the owner only.
//!
//! It reaches shards by commands through [`gate`] and shares no memory with them.

mod api;
pub mod client;
mod gate;
mod groups;
mod socket;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::net::UnixListener;
use tokio::sync::oneshot;

pub use api::{PartitionStatus, SettingStatus, ShardStatus, Status, TopicStatus};
pub(crate) use gate::{Gate, Inbox, Replies};
pub use groups::{
    GroupStatus, MemberStatus, OffsetStatus, ResetAsk, ResetPartition, ResetTo, ResetTopic,
};
pub(crate) use socket::ControlSocket;

use crate::config::Resolved;
use crate::exit::Failure;

/// What is known of the broker without asking a shard.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) settings: Resolved,
    pub(crate) data_dir: PathBuf,
    pub(crate) file_system: String,
    pub(crate) acknowledgement: &'static str,
    /// One address a node.
    pub(crate) kafka: Vec<SocketAddr>,
    /// By shard.
    pub(crate) cores: Vec<usize>,
    pub(crate) started: Instant,
}

/// The running thread. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct ControlThread {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Removed when the thread has ended.
    _socket: ControlSocket,
}

impl ControlThread {
    /// Starts the thread on a socket that is bound.
    pub(crate) fn start(
        mut socket: ControlSocket,
        facts: Facts,
        gate: Gate,
    ) -> Result<Self, Failure> {
        let listener = socket.take_listener();
        let (stop, stopped) = oneshot::channel();
        let api = Arc::new(api::Api { facts, gate });
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || run(listener, api, stopped))
            .map_err(Failure::io("control thread"))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
            _socket: socket,
        })
    }
}

impl Drop for ControlThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(
    listener: std::os::unix::net::UnixListener,
    api: Arc<api::Api>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the control thread's runtime starts");
    runtime.block_on(async move {
        let listener = UnixListener::from_std(listener).expect("a listener for this runtime");
        let serve = axum::serve(listener, api::router(api.clone()));
        tokio::select! {
            ended = serve => tracing::error!(?ended, "the control socket ended"),
            () = api.gate.deliver() => {}
            // The handle was dropped: the broker stops.
            _ = stopped => {}
        }
    });
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use millrace_net::control::{ControlAnswer, ControlAsk, ControlReply, WorkerReport};

    use super::*;

    fn facts(data_dir: &Path) -> Facts {
        Facts {
            settings: Resolved::default(),
            data_dir: data_dir.to_owned(),
            file_system: "ext4".to_owned(),
            acknowledgement: "on the disk",
            kafka: vec!["127.0.0.1:9092".parse().unwrap()],
            cores: vec![3],
            started: Instant::now(),
        }
    }

    /// A shard that answers on the asker's thread.
    fn answering(replies: &Replies) -> Inbox {
        let replies = replies.clone();
        Box::new(move |request| {
            let answer = match request.ask {
                ControlAsk::Catalog => ControlAnswer::Catalog(Box::default()),
                _ => ControlAnswer::Report(Box::new(WorkerReport {
                    counters: vec![("connections_now", 7)],
                    ..WorkerReport::default()
                })),
            };
            replies.push(ControlReply {
                token: request.token,
                answer,
            });
            Ok(())
        })
    }

    #[test]
    fn verbs_are_answered_over_a_private_socket() {
        let name = format!("millrace-control-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let replies = Replies::new();
        let gate = Gate::new(vec![answering(&replies)], replies);
        let socket = ControlSocket::bind(&directory).unwrap();
        let thread = ControlThread::start(socket, facts(&directory), gate).unwrap();
        let status: Status =
            serde_json::from_str(&client::get(&directory, "/status").unwrap()).unwrap();
        assert_eq!((status.shards[0].core, status.kafka.len()), (3, 1));
        assert_eq!(status.shards[0].counters["connections_now"], 7);
        let settings: Vec<SettingStatus> =
            serde_json::from_str(&client::get(&directory, "/config").unwrap()).unwrap();
        assert!(
            settings
                .iter()
                .any(|s| s.name == "wal.files" && s.set_by == "default")
        );
        assert_eq!(client::get(&directory, "/topics").unwrap(), "[]");
        assert!(
            client::get(&directory, "/metrics.json")
                .unwrap()
                .contains("shard-0")
        );
        assert!(client::get(&directory, "/nothing").is_err());

        drop(thread);
        assert!(client::get(&directory, "/status").is_err());
        fs::remove_dir_all(&directory).unwrap();
    }
}
