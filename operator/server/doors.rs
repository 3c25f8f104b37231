//! The doors of the API: its TCP port and its unix socket. systemd hands them over, or they are opened here. A port that
//! cannot be opened is tried again, and nothing else waits for it.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use listenfd::ListenFd;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use super::audit::Audit;
use super::holder;

/// Time between two tries to open the port.
const AGAIN: Duration = Duration::from_secs(1);

/// The doors of one server.
pub struct Doors {
    /// Address of the port. While it is closed: the wanted one.
    pub address: SocketAddr,
    /// Why the port is closed; `None` if it is open.
    pub closed: Option<String>,
    /// The book of who comes in and what they do there, and the task that writes it.
    pub audit: Option<(Audit, JoinHandle<()>)>,
    /// The open port.
    pub(super) tcp: Option<TcpListener>,
    /// The open unix socket.
    pub(super) unix: Option<UnixListener>,
}

impl Doors {
    /// Opens both doors. `sockets` are the paths for the unix socket; the first usable one counts. Fails only if the system
    /// was asked to choose a port and has none, or if an inherited socket is broken.
    pub async fn open(listen: SocketAddr, sockets: &[PathBuf]) -> io::Result<Self> {
        let (tcp, unix) = inherited()?;
        let unix = unix.or_else(|| sockets.iter().find_map(|path| socket(path)));
        let opened = match tcp {
            Some(listener) => Ok(listener),
            None => TcpListener::bind(listen).await,
        };
        match opened {
            Ok(listener) => {
                Ok(Self { address: listener.local_addr()?, closed: None, audit: None, tcp: Some(listener), unix })
            }
            Err(error) if listen.port() == 0 => Err(error),
            Err(error) => {
                let closed = Some(refused(listen, &error).await);
                Ok(Self { address: listen, closed, audit: None, tcp: None, unix })
            }
        }
    }

    /// Only this open port.
    pub fn only(listener: TcpListener) -> io::Result<Self> {
        Ok(Self { address: listener.local_addr()?, closed: None, audit: None, tcp: Some(listener), unix: None })
    }
}

/// The port, when it can be opened. `tell` gets the reason after the first try and then ever more rarely.
pub async fn opened<F: Future<Output = ()>>(listen: SocketAddr, tell: impl Fn(String) -> F) -> TcpListener {
    for tries in 1_u64.. {
        match TcpListener::bind(listen).await {
            Ok(listener) => return listener,
            Err(error) if tries.is_power_of_two() => tell(refused(listen, &error).await).await,
            Err(_) => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
    std::future::pending().await
}

/// Why the port cannot be opened, and what to do.
async fn refused(listen: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let found = tokio::task::spawn_blocking(move || holder::of(listen.port())).await;
            let who = found.ok().flatten().unwrap_or_else(|| "another process".to_owned());
            format!("{listen} is in use by {who}; stop it, or choose another address with --listen")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("{listen} is no address of this machine; add it, or choose another with --listen")
        }
        _ => format!("cannot listen on {listen}: {error}"),
    }
}

/// The sockets that systemd hands over (`LISTEN_FDS`): a TCP port, a unix socket, or both.
fn inherited() -> io::Result<(Option<TcpListener>, Option<UnixListener>)> {
    let (mut tcp, mut unix) = (None, None);
    let mut handed = ListenFd::from_env();
    for index in 0..handed.len() {
        if let Ok(Some(listener)) = handed.take_tcp_listener(index) {
            listener.set_nonblocking(true)?;
            tcp = Some(TcpListener::from_std(listener)?);
        } else if let Some(listener) = handed.take_unix_listener(index)? {
            listener.set_nonblocking(true)?;
            unix = Some(UnixListener::from_std(listener)?);
        }
    }
    Ok((tcp, unix))
}

/// Opens the unix socket with mode 0600; `None`, and a line in the log, if that cannot be.
fn socket(path: &Path) -> Option<UnixListener> {
    match private_socket(path) {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "no unix socket here");
            None
        }
    }
}

fn private_socket(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        std::fs::DirBuilder::new().mode(0o700).create(folder)?;
    }
    // What is left of an operator that has ended; the lock of the data directory says that none runs.
    let beside = path.with_extension("new");
    for left in [path, &beside] {
        match std::fs::symlink_metadata(left) {
            Ok(file) if file.file_type().is_socket() => std::fs::remove_file(left)?,
            Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket")),
            Err(_) => {}
        }
    }
    // Nobody finds it before it has its mode.
    let listener = UnixListener::bind(&beside)?;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&beside, path)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn the_socket_is_private_and_that_of_a_dead_operator_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/api.sock");
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        for _ in 0..2 {
            let doors = Doors::open(listen, &[file.clone(), path.clone()]).await.unwrap();
            assert!(doors.unix.is_some() && doors.closed.is_none());
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
        }
        assert!(file.is_file(), "what is no socket stays");
    }

    #[tokio::test]
    async fn a_taken_port_is_told_with_its_holder_and_opened_when_it_is_free() {
        let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = holder.local_addr().unwrap();
        let doors = Doors::open(address, &[]).await.unwrap();
        let told = format!("{address} is in use by process {} (", std::process::id());
        assert!(doors.closed.as_ref().is_some_and(|why| why.starts_with(&told)), "{:?}", doors.closed);
        let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let opening = tokio::spawn(opened(address, move |why| {
            let said = said.clone();
            async move { drop(said.send(why)) }
        }));
        assert!(heard.recv().await.unwrap().starts_with(&told));
        drop(holder);
        assert_eq!(opening.await.unwrap().local_addr().unwrap(), address);
    }
}
