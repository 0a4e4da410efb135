//! Asking a running broker: one request over its control socket.

use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::time::Duration;

use super::socket;
use crate::exit::Failure;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Gets `path` from the broker that runs on `directory`: the body of its answer.
///
/// # Errors
/// As [`post`].
pub fn get(directory: &Path, path: &str) -> Result<String, Failure> {
    ask(directory, path, None, ANSWER_TIMEOUT)
}

/// Posts JSON to `path` of the broker that runs on `directory`: the body of its answer.
///
/// # Errors
/// [`Failure::Unavailable`]: no broker, or one that begins or ends. [`Failure::Refused`] has its
/// reason. [`Failure::Unanswered`]: it takes too long.
pub fn post(directory: &Path, path: &str, body: &str) -> Result<String, Failure> {
    ask(directory, path, Some(body), ANSWER_TIMEOUT)
}

fn ask(
    directory: &Path,
    path: &str,
    body: Option<&str>,
    patience: Duration,
) -> Result<String, Failure> {
    let socket = socket::path(directory);
    let socket = socket.display();
    let answer = exchange(directory, path, body, patience).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Failure::Unanswered(format!(
            "the broker on {socket} has not answered for {} s{}",
            patience.as_secs(),
            match body {
                Some(_) => "; it may still do what it was asked",
                None => "",
            }
        )),
        _ => Failure::Unavailable(format!(
            "no broker answers on {socket} ({error}); is it running, and is this its --data-dir?"
        )),
    })?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        let words = format!("{socket}: the answer breaks off");
        return Err(Failure::Unavailable(words));
    };
    let status = head.lines().next().unwrap_or_default();
    let said = if body.is_empty() { status } else { body };
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        Some("503") => Err(Failure::Unavailable(format!("{socket}: {said}"))),
        Some("504") => Err(Failure::Unanswered(format!("{socket}: {said}"))),
        _ => Err(Failure::Refused(said.to_owned())),
    }
}

fn exchange(
    directory: &Path,
    path: &str,
    body: Option<&str>,
    patience: Duration,
) -> std::io::Result<String> {
    let mut stream = socket::connect(directory)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let (method, bytes) = match body {
        Some(body) => ("POST", body.len()),
        None => ("GET", 0),
    };
    let request = format!(
        "{method} {path} HTTP/1.0\r\nhost: millrace\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {bytes}\r\n\r\n{}",
        body.unwrap_or_default()
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::thread;

    use super::*;
    use crate::exit::ExitCode;

    #[test]
    fn a_directory_without_a_broker_is_named() {
        let refusal = get(Path::new("no-such-directory"), "/status").unwrap_err();
        let text = refusal.to_string();
        assert!(text.contains("no-such-directory/control.sock"), "{text}");
        assert!(text.contains("is it running"), "{text}");
    }

    /// A broker that says the same to everyone; it keeps silent until its client has gone if it has
    /// nothing to say.
    fn saying(name: &str, answer: &'static str) -> PathBuf {
        let name = format!("millrace-client-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let listener = UnixListener::bind(socket::path(&directory)).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            if answer.is_empty() {
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
        directory
    }

    #[test]
    fn refusals_and_silence_have_words_and_codes_of_their_own() {
        let members = "HTTP/1.0 409 Conflict\r\na: b\r\n\r\ngroup g has 2 members";
        let stops = "HTTP/1.0 503 Service Unavailable\r\n\r\nthe broker stops";
        let late = "HTTP/1.0 504 Gateway Timeout\r\n\r\nshard 0 does not answer";
        let cases = [
            (
                "refused",
                members,
                ExitCode::Refused,
                "refused: group g has 2 members",
            ),
            (
                "bare",
                "HTTP/1.0 404 Not Found\r\n\r\n",
                ExitCode::Refused,
                "404 Not Found",
            ),
            ("stops", stops, ExitCode::Unavailable, "the broker stops"),
            (
                "late",
                late,
                ExitCode::Unanswered,
                "shard 0 does not answer",
            ),
            (
                "cut",
                "HTTP/1.0 200 OK\r\n",
                ExitCode::Unavailable,
                "breaks off",
            ),
            (
                "silent",
                "",
                ExitCode::Unanswered,
                "may still do what it was asked",
            ),
        ];
        for (name, answer, code, words) in cases {
            let directory = saying(name, answer);
            let patience = match answer {
                "" => Duration::from_millis(200),
                _ => ANSWER_TIMEOUT,
            };
            let failure = ask(&directory, "/groups/reset", Some("{}"), patience).unwrap_err();
            assert_eq!(failure.code(), code, "{name}: {failure}");
            assert!(failure.to_string().contains(words), "{name}: {failure}");
            fs::remove_dir_all(&directory).unwrap();
        }
    }
}
