//! Asking a child broker: one GET over the control socket in its data directory.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

/// The socket's name in a data directory.
const SOCKET_FILE: &str = "control.sock";
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer believed.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Gets the JSON at `path` from the broker that runs on `directory`.
pub(crate) fn get(directory: &Path, path: &str) -> anyhow::Result<Value> {
    let socket = directory.join(SOCKET_FILE);
    let answer = exchange(&socket, path)
        .with_context(|| format!("no answer to {path} on {}", socket.display()))?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("the answer to {path} breaks off");
    };
    if head.split(' ').nth(1) != Some("200") {
        bail!("{path}: {}", head.lines().next().unwrap_or_default());
    }
    serde_json::from_str(body).with_context(|| format!("{path} is no JSON"))
}

fn exchange(socket: &Path, path: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nhost: broker\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn answer_with(name: &str, answer: &'static str) -> anyhow::Result<Value> {
        let directory = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let listener = UnixListener::bind(directory.join(SOCKET_FILE)).expect("a socket");
        let server = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().expect("one connection");
            let mut request = [0; 256];
            let bytes = peer.read(&mut request).expect("a request");
            peer.write_all(answer.as_bytes()).expect("answered");
            String::from_utf8_lossy(&request[..bytes]).into_owned()
        });
        let value = get(&directory, "/metrics.json");
        let request = server.join().expect("the server ends");
        assert!(
            request.starts_with("GET /metrics.json HTTP/1.0\r\n"),
            "{request}"
        );
        std::fs::remove_dir_all(&directory).expect("removed");
        value
    }

    #[test]
    fn an_answer_is_read_and_a_refusal_named() {
        let value = answer_with("control-ok", "HTTP/1.0 200 OK\r\n\r\n{\"a\": 1}");
        assert_eq!(value.expect("an answer")["a"], 1);
        let refusal = answer_with("control-no", "HTTP/1.0 404 Not Found\r\n\r\n");
        let refusal = refusal.expect_err("refused").to_string();
        assert_eq!(refusal, "/metrics.json: HTTP/1.0 404 Not Found");
        let absent = get(Path::new("no-such-directory"), "/config").expect_err("absent");
        assert!(
            absent
                .to_string()
                .contains("no-such-directory/control.sock")
        );
    }
}
