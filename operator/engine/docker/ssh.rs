//! The way to a Docker socket on another machine: one `ssh` process per host that forwards it to a socket here.
//!
//! The process is started with the first request, started again when it ends, and ended with its host. Forwarded
//! connections are no sessions of the SSH server, so its `MaxSessions` does not limit them, and one authentication serves
//! all requests.

use std::fmt;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::super::hash::spread;
use super::super::instant::instant;
use super::super::{Error, Trouble};
use super::ssh_words::{Peer, refusal, why};
use crate::api::hash::short_hash;
use crate::api::sync::lock;

/// Hosts that are connected to at the same time: SSH servers drop connections when many begin at once.
static CONNECTING: Semaphore = Semaphore::const_new(8);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A connection that lived this long counts as good: the next attempt is made soon.
const GOOD: Duration = Duration::from_secs(10);
/// Time-out of a connection until it forwards: that of ssh itself, and the authentication.
const CONNECT: Duration = Duration::from_secs(10);
/// Poll interval for the socket that ssh makes when it is authenticated.
const GLANCE: Duration = Duration::from_millis(20);
/// How long the reason of a refused forward may come after the refusal.
const LATER: Duration = Duration::from_millis(100);
/// Longest path of a unix socket that every system takes, in bytes.
const LONGEST_PATH: usize = 100;
/// Most lines of an ssh process that are kept.
const LINES: usize = 20;

/// What ssh needs to reach a host.
#[derive(Clone, PartialEq, Eq)]
pub struct SshKeys {
    /// Our private key, without a passphrase.
    pub private_key: Vec<u8>,
    /// The keys of the host; no other is trusted.
    pub known_hosts: Vec<u8>,
}

impl fmt::Debug for SshKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SshKeys(..)")
    }
}

/// The forwarded socket of one host.
pub(super) struct Forward {
    peer: Peer,
    keys: SshKeys,
    /// Where the files of the process are put.
    run: PathBuf,
    process: Mutex<Process>,
}

/// The process of a forward.
#[derive(Default)]
enum Process {
    /// Not started yet.
    #[default]
    None,
    /// Kept running by a task.
    Kept(Running),
    /// The host was forgotten: it is not started any more.
    Closed,
}

struct Running {
    socket: PathBuf,
    standing: watch::Sender<Standing>,
    task: AbortHandle,
}

/// How the forward is.
#[derive(Clone, Default)]
struct Standing {
    /// It forwards, or why it does not; `None`: it connects for the first time.
    up: Option<Result<(), Trouble>>,
    /// Why the other side refused to open the socket, when last tried.
    refused: Option<Trouble>,
}

impl Forward {
    pub(super) fn new(peer: Peer, keys: SshKeys, run: &Path) -> Self {
        Self { peer, keys, run: run.to_owned(), process: Mutex::default() }
    }

    /// The socket on this machine, as soon as the process forwards it; fails at once while it does not.
    pub(super) async fn ready(&self, doing: &str) -> Result<PathBuf, Error> {
        let (socket, mut standing) = self.start(doing)?;
        let up = standing.wait_for(|standing| standing.up.is_some()).await.map(|standing| standing.up.clone());
        match up {
            Ok(Some(Ok(()))) => Ok(socket),
            Ok(Some(Err(trouble))) => Err(Error::trouble(&self.peer.name, doing, trouble)),
            _ => Err(Error::unreachable(&self.peer.name, doing, "the host is no longer used")),
        }
    }

    /// The error of a request with the reason that the other side gave for it, if it gave one.
    pub(super) async fn explained(&self, doing: &str, error: Error) -> Error {
        let (Error::Unreachable { .. }, Some(mut standing)) = (&error, self.standing()) else { return error };
        let refused = timeout(LATER, standing.wait_for(|standing| standing.refused.is_some())).await;
        let refused = refused.ok().and_then(|standing| standing.ok()?.refused.clone());
        refused.map_or(error, |trouble| Error::trouble(&self.peer.name, doing, trouble))
    }

    /// Notes that the socket works.
    pub(super) fn works(&self) {
        if let Process::Kept(running) = &*lock(&self.process) {
            running.standing.send_if_modified(|standing| standing.refused.take().is_some());
        }
    }

    /// Ends the process and removes its files; it is not started again.
    pub(super) fn close(&self) {
        if let Process::Kept(running) = std::mem::replace(&mut *lock(&self.process), Process::Closed) {
            running.task.abort();
        }
    }

    fn standing(&self) -> Option<watch::Receiver<Standing>> {
        match &*lock(&self.process) {
            Process::Kept(running) => Some(running.standing.subscribe()),
            Process::None | Process::Closed => None,
        }
    }

    fn start(&self, doing: &str) -> Result<(PathBuf, watch::Receiver<Standing>), Error> {
        let failed = |message: String| Error::unreachable(&self.peer.name, doing, message);
        let mut process = lock(&self.process);
        if let Process::None = *process {
            let folder = Folder::make(&self.run, &self.peer.name, &self.keys).map_err(|error| {
                failed(format!("the files for ssh cannot be written below {}: {error}", self.run.display()))
            })?;
            let (socket, standing) = (folder.socket(), watch::Sender::default());
            let task = tokio::spawn(supervise(self.peer.clone(), folder, standing.clone())).abort_handle();
            *process = Process::Kept(Running { socket, standing, task });
        }
        match &*process {
            Process::Kept(running) => Ok((running.socket.clone(), running.standing.subscribe())),
            _ => Err(failed("the host is no longer used".to_owned())),
        }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.close();
    }
}

/// Keeps one process running, for ever.
async fn supervise(peer: Peer, folder: Folder, standing: watch::Sender<Standing>) {
    let mut failures: u32 = 0;
    loop {
        let began = instant();
        let trouble = match session(&peer, &folder, &standing).await {
            Ok(said) => why(&peer, &said),
            Err(error) => Trouble { reason: "Unreachable", message: format!("ssh cannot be started: {error}") },
        };
        tracing::debug!(host = peer.name, reason = trouble.reason, "ssh ended: {trouble}");
        standing.send_replace(Standing { up: Some(Err(trouble)), refused: None });
        failures = if began.elapsed() >= GOOD { 1 } else { failures.saturating_add(1) };
        sleep(pause(&peer.name, failures)).await;
    }
}

/// The wait before the next attempt: it doubles, and hosts that were lost together do not come back together.
fn pause(host: &str, failures: u32) -> Duration {
    let whole = LONGEST_WAIT.min(FIRST_WAIT * 2_u32.saturating_pow(failures.saturating_sub(1).min(16)));
    whole / 2 + whole / 2 * u32::from(spread(&format!("{host} {failures}"))) / 255
}

/// One process until it ends; returns what it said.
async fn session(peer: &Peer, folder: &Folder, standing: &watch::Sender<Standing>) -> io::Result<Vec<String>> {
    let slot = CONNECTING.acquire().await.map_err(io::Error::other)?;
    let socket = folder.socket();
    if let Err(error) = std::fs::remove_file(&socket)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut child = command(peer, folder).spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::other("there is no program `ssh` on the operator's machine; install openssh-client")
        }
        _ => error,
    })?;
    folder.note(&child)?;
    let stderr = child.stderr.take();
    let mut said = Vec::new();
    let listen = async {
        let Some(stderr) = stderr else { return };
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(trouble) = refusal(peer, &line) {
                standing.send_modify(|standing| standing.refused = Some(trouble));
            } else if said.len() < LINES {
                said.push(line);
            }
        }
    };
    let forwards = async {
        let appears = async {
            while !socket.exists() {
                sleep(GLANCE).await;
            }
        };
        if timeout(CONNECT, appears).await.is_ok() {
            standing.send_replace(Standing { up: Some(Ok(())), refused: None });
            drop(slot);
            std::future::pending::<()>().await;
        }
    };
    let ended = async { tokio::join!(child.wait(), listen).0 };
    tokio::select! {
        biased;
        ended = ended => drop(ended?),
        () = forwards => said.push(format!("not connected within {} s", CONNECT.as_secs())),
    }
    Ok(said)
}

/// The process. It reads no configuration and no agent, asks nobody, and trusts only the given known hosts.
fn command(peer: &Peer, folder: &Folder) -> Command {
    let file = |name: &str| folder.0.join(name).display().to_string();
    let mut command = Command::new("ssh");
    command.args(["-N", "-T", "-F", "none", "-i", &file(KEY), "-p", &peer.port.to_string()]);
    let options = [
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "ExitOnForwardFailure=yes",
        "StreamLocalBindUnlink=yes",
        "ServerAliveInterval=2",
        "ServerAliveCountMax=2",
        "ConnectTimeout=5",
        "StrictHostKeyChecking=yes",
        "GlobalKnownHostsFile=none",
        "ControlMaster=no",
        "ControlPath=none",
    ];
    for option in options {
        command.args(["-o", option]);
    }
    command.args(["-o", &format!("UserKnownHostsFile={}", file(KNOWN_HOSTS))]);
    if let Some(user) = &peer.user {
        command.args(["-l", user]);
    }
    command.args(["-L", &format!("{}:{}", folder.socket().display(), peer.socket), "--", peer.address()]);
    let path = std::env::var_os("PATH");
    command.env_clear().envs(path.map(|path| ("PATH", path)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

const KEY: &str = "key";
const KNOWN_HOSTS: &str = "known_hosts";
const PID: &str = "pid";
const SOCKET: &str = "d.sock";
const PREFIX: &str = "ssh-";

/// The files of one process; removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn make(run: &Path, host: &str, keys: &SshKeys) -> io::Result<Self> {
        let name = format!("{PREFIX}{}", short_hash(host, 8));
        let mut path = run.join(&name);
        if path.join(SOCKET).as_os_str().len() > LONGEST_PATH {
            let run = short_hash(run.as_os_str().as_encoded_bytes(), 8);
            path = std::env::temp_dir().join(format!("evenkeel-{run}-{}-{name}", std::process::id()));
        } else {
            DirBuilder::new().recursive(true).mode(0o700).create(run)?;
        }
        // Only a folder that is made here is private for sure.
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        DirBuilder::new().mode(0o700).create(&path)?;
        let folder = Self(path);
        // A key whose last line does not end is refused by ssh.
        folder.write(KEY, &[&keys.private_key, b"\n".as_slice()].concat())?;
        folder.write(KNOWN_HOSTS, &[&keys.known_hosts, b"\n".as_slice()].concat())?;
        Ok(folder)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(self.0.join(name))?;
        file.write_all(bytes)
    }

    fn socket(&self) -> PathBuf {
        self.0.join(SOCKET)
    }

    /// Notes the process, so that the next operator ends it if this one is killed.
    fn note(&self, child: &Child) -> io::Result<()> {
        self.write(PID, child.id().unwrap_or_default().to_string().as_bytes())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, folder = %self.0.display(), "the files of ssh were not removed");
        }
    }
}

/// Ends the processes and removes the files that a killed operator left in this folder.
pub fn sweep(run: &Path) {
    let folders = std::fs::read_dir(run).into_iter().flatten().flatten();
    for path in folders.map(|entry| entry.path()) {
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX)) {
            continue;
        }
        let pid = std::fs::read_to_string(path.join(PID)).ok().and_then(|pid| pid.trim().parse::<i32>().ok());
        // The number may belong to another process by now.
        let ours = |pid: &i32| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&words).contains(&*path.join(SOCKET).to_string_lossy())
        };
        if let Some(pid) = pid.filter(|pid| *pid > 1).filter(ours) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        drop(Folder(path));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn keys() -> SshKeys {
        SshKeys { private_key: b"KEY".to_vec(), known_hosts: b"HOSTS".to_vec() }
    }

    #[test]
    fn the_wait_grows_to_five_seconds_and_differs_between_hosts() {
        let waits = |host: &str| (1..9).map(|failures| pause(host, failures).as_millis()).collect::<Vec<_>>();
        let (one, other) = (waits("one"), waits("other"));
        assert_ne!(one, other);
        for (at, wait) in one.iter().chain(&other).enumerate() {
            let whole = (100 << (at % 8)).min(5000);
            assert!(*wait >= whole / 2 && *wait <= whole, "{wait} of {whole}");
        }
        assert!(pause("one", u32::MAX) <= LONGEST_WAIT);
    }

    #[test]
    fn keys_are_in_private_files_that_go_with_the_host() {
        let run = tempfile::tempdir().unwrap();
        let folder = Folder::make(run.path(), "far", &keys()).unwrap();
        let path = folder.0.clone();
        let mode = |path: &Path| format!("{:o}", path.metadata().unwrap().permissions().mode() & 0o7777);
        assert_eq!([mode(&path), mode(&path.join(KEY)), mode(&path.join(KNOWN_HOSTS))], ["700", "600", "600"]);
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_replaced_by_one_in_the_temporary_folder() {
        let run = tempfile::tempdir().unwrap();
        let folder = Folder::make(&run.path().join("x".repeat(90)), "far", &keys()).unwrap();
        assert!(folder.0.starts_with(std::env::temp_dir()));
        assert!(folder.socket().as_os_str().len() <= LONGEST_PATH);
    }

    #[test]
    fn no_key_is_among_the_arguments() {
        let run = tempfile::tempdir().unwrap();
        let folder = Folder::make(run.path(), "far", &keys()).unwrap();
        let peer = Peer {
            name: "far".into(),
            user: Some("ops".into()),
            host: "[fd00::7]".into(),
            port: 2222,
            socket: "/run/docker.sock".into(),
        };
        let command = command(&peer, &folder);
        let words: Vec<_> = command.as_std().get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let words = words.join(" ").replace(&folder.0.display().to_string(), "RUN");
        expect_test::expect!["-N -T -F none -i RUN/key -p 2222 -o BatchMode=yes -o IdentitiesOnly=yes -o IdentityAgent=none -o ExitOnForwardFailure=yes -o StreamLocalBindUnlink=yes -o ServerAliveInterval=2 -o ServerAliveCountMax=2 -o ConnectTimeout=5 -o StrictHostKeyChecking=yes -o GlobalKnownHostsFile=none -o ControlMaster=no -o ControlPath=none -o UserKnownHostsFile=RUN/known_hosts -l ops -L RUN/d.sock:/run/docker.sock -- fd00::7"].assert_eq(&words);
    }
}
