//! A real SSH server of a test, on a loopback port with its own keys.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use evenkeel::api::docker_host::Endpoint;
use evenkeel::engine::docker::{Keys, SshKeys};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SSHD: &str = "/usr/sbin/sshd";

/// The server and its files. Dropping it ends the server with all its sessions.
pub(crate) struct Sshd {
    folder: tempfile::TempDir,
    pub(crate) port: u16,
    server: Option<Child>,
}

impl Sshd {
    /// A server that lets in the test's user with the right key. `more`: further lines of its configuration.
    pub(crate) fn start(more: &str) -> Self {
        assert!(Path::new(SSHD).exists(), "there is no sshd: run scripts/ensure-sshd.sh");
        // Needed by a server that root starts.
        let _ = fs::create_dir_all("/run/sshd");
        let folder = tempfile::tempdir().unwrap();
        for name in ["host", "user", "other"] {
            make_key(&folder.path().join(name));
        }
        fs::copy(folder.path().join("user.pub"), folder.path().join("authorized_keys")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = folder.path().display();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {dir}/host\nPidFile none\nAuthorizedKeysFile {dir}/authorized_keys\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n{more}\n"
        );
        fs::write(folder.path().join("sshd_config"), config).unwrap();
        let mut server = Self { folder, port, server: None };
        server.run();
        server
    }

    /// Starts the server (again) on its port and waits until it listens.
    pub(crate) fn run(&mut self) {
        let config = self.folder.path().join("sshd_config");
        let log = self.folder.path().join("log");
        let (config, log) = (config.to_str().unwrap(), log.to_str().unwrap());
        let server = Command::new(SSHD).args(["-D", "-f", config, "-E", log]).stdin(Stdio::null()).spawn().unwrap();
        self.server = Some(server);
        for _ in 0..500 {
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            crate::poll::pause();
        }
        panic!("sshd does not listen: {}", self.log());
    }

    /// What the server has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Kills the server and all its sessions.
    pub(crate) fn kill(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        for pid in tree(server.id()) {
            let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL);
        }
        server.wait().unwrap();
    }

    /// The endpoint of this machine's Docker through the server.
    pub(crate) fn endpoint(&self, socket: &str) -> Endpoint {
        let user = Command::new("id").arg("-un").output().unwrap().stdout;
        let user = String::from_utf8(user).unwrap();
        format!("ssh://{}@127.0.0.1:{}{socket}", user.trim(), self.port).parse().unwrap()
    }

    /// What a client needs; `key`: which private key, `host`: whose public key it expects of the server.
    pub(crate) fn keys(&self, key: &str, host: &str) -> Keys {
        let read = |name: &str| fs::read_to_string(self.folder.path().join(name)).unwrap();
        let known_hosts = format!("[127.0.0.1]:{} {}", self.port, read(&format!("{host}.pub")));
        Keys::Ssh(SshKeys { private_key: read(key).into_bytes(), known_hosts: known_hosts.into_bytes() })
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn make_key(path: &Path) {
    let words = ["-q", "-t", "ed25519", "-N", "", "-f", path.to_str().unwrap()];
    assert!(Command::new("ssh-keygen").args(words).status().unwrap().success());
}

/// A process and all that descend from it.
fn tree(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let parent = stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut found = vec![root];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found
}

/// The processes whose arguments have this text.
pub(crate) fn processes_with(text: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap();
    let lines = entries.filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(text)).collect()
}
