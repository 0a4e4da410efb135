//! Asking a running broker: one request over its control socket.

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use super::socket;
use crate::exit::Failure;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Gets `path` from the broker that runs on `directory`: the body of its answer.
///
/// # Errors
/// [`Failure::Unavailable`] says why there is none.
pub fn get(directory: &Path, path: &str) -> Result<String, Failure> {
    ask(directory, path, None)
}

/// Posts JSON to `path` of the broker that runs on `directory`: the body of its answer.
///
/// # Errors
/// [`Failure::Unavailable`] says why there is none.
pub fn post(directory: &Path, path: &str, body: &str) -> Result<String, Failure> {
    ask(directory, path, Some(body))
}

fn ask(directory: &Path, path: &str, body: Option<&str>) -> Result<String, Failure> {
    let shown = socket::path(directory);
    let unavailable = |error: std::io::Error| {
        Failure::Unavailable(format!(
            "no broker answers on {} ({error}); is it running, and is this its --data-dir?",
            shown.display()
        ))
    };
    let answer = exchange(directory, path, body).map_err(unavailable)?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return Err(Failure::Unavailable(format!(
            "{}: the answer breaks off",
            shown.display()
        )));
    };
    if head.split(' ').nth(1) != Some("200") {
        let status = head.lines().next().unwrap_or_default();
        return Err(Failure::Unavailable(format!("{path}: {status}: {body}")));
    }
    Ok(body.to_owned())
}

fn exchange(directory: &Path, path: &str, body: Option<&str>) -> std::io::Result<String> {
    let mut stream = socket::connect(directory)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let (method, bytes) = match body {
        Some(body) => ("POST", body.len()),
        None => ("GET", 0),
    };
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nhost: millrace\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {bytes}\r\n\r\n{}",
        body.unwrap_or_default()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_a_broker_is_named() {
        let refusal = get(Path::new("no-such-directory"), "/status").unwrap_err();
        let text = refusal.to_string();
        assert!(text.contains("no-such-directory/control.sock"), "{text}");
        assert!(text.contains("is it running"), "{text}");
    }
}
