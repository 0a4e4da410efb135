//! The control socket's place in the file system: bound, reached and removed.
//!
//! A Unix socket's address has room for 107 bytes of path, which a data directory's may exceed.
//! Then the directory is opened and the socket named below its descriptor, for binder and caller
//! alike.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fchmod, open};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::net::{bind, listen, socket_with};

use crate::exit::Failure;

/// The socket's name in the data directory.
const SOCKET_FILE: &str = "control.sock";

/// Bytes of a path in a socket's address, without the zero that ends it.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Callers that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Descriptors by path.
const DESCRIPTORS: &str = "/proc/self/fd";

/// The bound socket. Dropping it removes its file.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    /// Until somebody serves it.
    listener: Option<UnixListener>,
    path: PathBuf,
}

impl ControlSocket {
    /// Binds where a broker that was killed may have left its socket. The directory's lock is
    /// held, so nobody lives behind it.
    pub(crate) fn bind(data_dir: &Path) -> Result<Self, Failure> {
        let path = path(data_dir);
        let listener = bind_private(data_dir).map_err(Failure::io(&path))?;
        Ok(Self {
            listener: Some(listener),
            path,
        })
    }

    /// The listener, once: whoever serves it.
    pub(super) fn take_listener(&mut self) -> UnixListener {
        self.listener.take().expect("a socket is served once")
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The socket's path, for people.
pub(super) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(SOCKET_FILE)
}

/// Connects to the broker that runs on `data_dir`.
pub(super) fn connect(data_dir: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(Reach::of(data_dir)?.path)
}

fn bind_private(data_dir: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path(data_dir)) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let reach = Reach::of(data_dir)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file is made with the socket's own mode: at no time may others connect.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(&reach.path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

/// A way to the socket that fits an address, for as long as this lives.
struct Reach {
    path: PathBuf,
    _directory: Option<OwnedFd>,
}

impl Reach {
    fn of(data_dir: &Path) -> io::Result<Self> {
        let path = path(data_dir);
        if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
            return Ok(Self {
                path,
                _directory: None,
            });
        }
        if !Path::new(DESCRIPTORS).exists() {
            return Err(io::Error::other(format!(
                "longer than the {SOCKET_PATH_BYTES_MAX} bytes of a socket's address, and there is \
                 no {DESCRIPTORS} to shorten it by: mount /proc, or use a shorter --data-dir"
            )));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(data_dir, flags, Mode::empty())?;
        let below = Path::new(DESCRIPTORS).join(directory.as_raw_fd().to_string());
        Ok(Self {
            path: below.join(SOCKET_FILE),
            _directory: Some(directory),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn directory(name: &str) -> PathBuf {
        let name = format!("millrace-socket-{name}-{}", std::process::id());
        std::env::temp_dir().join(name)
    }

    #[test]
    fn a_path_of_any_length_can_be_bound_reached_and_removed() {
        let top = directory("long");
        for below in ["short".to_owned(), "x".repeat(SOCKET_PATH_BYTES_MAX)] {
            let directory = top.join(below);
            fs::create_dir_all(&directory).unwrap();
            for _ in 0..2 {
                // The second time it finds what a killed broker left.
                let socket = ControlSocket::bind(&directory).unwrap();
                let mode = fs::metadata(&socket.path).unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o600);
                connect(&directory).unwrap();
                std::mem::forget(socket);
            }
            drop(ControlSocket::bind(&directory).unwrap());
            assert!(!path(&directory).exists());
        }
        fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn a_socket_that_cannot_be_bound_is_named() {
        let directory = directory("taken");
        fs::create_dir_all(path(&directory)).unwrap();
        let failure = ControlSocket::bind(&directory).unwrap_err().to_string();
        assert!(failure.contains("control.sock"), "{failure}");
        fs::remove_dir_all(&directory).unwrap();
    }
}
