//! Three real members of etcd on loopback, started by the first test that needs them; they end with the tests. Needs
//! EVENKEEL_TEST_DOCKER=1 and an etcd (`scripts/ensure-etcd.sh`). Each test has a prefix of its own.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use etcd_client::Client;
use evenkeel::runtime::SystemClock;
use evenkeel::store::etcd::{EtcdConfig, EtcdTls};
use evenkeel::store::{EtcdStore, Seal, Store as _};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

pub(crate) const MEMBERS: usize = 3;

static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::start);
/// Tests that disturb the members run alone.
static TURN: RwLock<()> = RwLock::const_new(());
static PREFIXES: AtomicUsize = AtomicUsize::new(0);

/// The turn of one test.
pub(crate) struct Bench {
    _turn: Turn,
    prefix: String,
}

enum Turn {
    Shared(#[allow(dead_code)] RwLockReadGuard<'static, ()>),
    Alone(#[allow(dead_code)] RwLockWriteGuard<'static, ()>),
}

/// The members for a test that leaves them in peace. `None`, and a line that says so, without EVENKEEL_TEST_DOCKER=1.
pub(crate) async fn shared(test: &str) -> Option<Bench> {
    wanted(test).then_some(())?;
    Some(Bench::new(Turn::Shared(TURN.read().await)).await)
}

/// The members for a test that disturbs them; no other test uses them then.
pub(crate) async fn alone(test: &str) -> Option<Bench> {
    wanted(test).then_some(())?;
    Some(Bench::new(Turn::Alone(TURN.write().await)).await)
}

pub(crate) fn wanted(test: &str) -> bool {
    let wanted = std::env::var("EVENKEEL_TEST_DOCKER").as_deref() == Ok("1");
    if !wanted {
        println!("{test}: skipped, EVENKEEL_TEST_DOCKER=1 is not set");
    }
    wanted
}

/// Polls until it is so; for a minute at most.
pub(crate) async fn until(mut so: impl AsyncFnMut() -> bool) {
    let poll = async {
        while !so().await {
            tokio::task::spawn_blocking(crate::poll::pause).await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), poll).await.expect("it is so within a minute");
}

/// A key that is the same each time.
pub(crate) fn seal() -> Seal {
    Seal::parse("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap()
}

impl Bench {
    async fn new(turn: Turn) -> Self {
        let prefix = format!("/test{}", PREFIXES.fetch_add(1, Ordering::Relaxed));
        let bench = Self { _turn: turn, prefix };
        bench.heal().await;
        bench
    }

    /// Starts what the test before has stopped, and waits for a leader that all members know.
    pub(crate) async fn heal(&self) {
        tokio::task::spawn_blocking(|| CLUSTER.members.iter().for_each(Member::run)).await.unwrap();
        for at in 0..MEMBERS {
            until(async || self.status(at).await.is_some_and(|(_, leader)| leader != 0)).await;
        }
    }

    /// How to reach these members, the given ones first.
    pub(crate) fn config(&self, first: usize) -> EtcdConfig {
        let endpoints = (0..MEMBERS).map(|at| CLUSTER.members[(first + at) % MEMBERS].url());
        EtcdConfig { endpoints: endpoints.collect(), prefix: self.prefix.clone(), tls: None, managed: false }
    }

    /// A store that asks this member first.
    pub(crate) async fn store_at(&self, first: usize) -> EtcdStore {
        EtcdStore::open(&self.config(first), seal(), Arc::new(SystemClock)).await.unwrap()
    }

    pub(crate) async fn store(&self) -> EtcdStore {
        self.store_at(0).await
    }

    /// A client of etcd itself, of one member.
    pub(crate) async fn raw(&self, at: usize) -> Client {
        Client::connect([CLUSTER.members[at].url()], None).await.unwrap()
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The id of a member and of the leader that it knows (0: none); `None`: it does not answer.
    async fn status(&self, at: usize) -> Option<(u64, u64)> {
        let ask = async {
            let status = self.raw(at).await.status().await.ok()?;
            Some((status.header()?.member_id(), status.leader()))
        };
        tokio::time::timeout(Duration::from_secs(1), ask).await.ok()?
    }

    /// The leader of the members.
    pub(crate) async fn leader(&self) -> usize {
        for at in 0..MEMBERS {
            if self.status(at).await.is_some_and(|(id, leader)| id == leader) {
                return at;
            }
        }
        panic!("the members have no leader");
    }

    /// Kills a member, as kill -9 does.
    pub(crate) fn kill(&self, at: usize) {
        CLUSTER.members[at].kill();
    }

    /// Stops a member in the middle of what it does; its connections stay. [`Bench::heal`] wakes it.
    pub(crate) fn freeze(&self, at: usize) {
        CLUSTER.members[at].signal(Signal::SIGSTOP);
    }
}

/// A member of a cluster of its own; it ends when this is dropped.
pub(crate) struct Solo {
    member: Member,
    _folder: tempfile::TempDir,
}

impl Solo {
    /// Starts it with these arguments. `None`, and a line that says so, without EVENKEEL_TEST_DOCKER=1.
    pub(crate) fn start(test: &str, scheme: &'static str, more: Vec<String>) -> Option<Self> {
        wanted(test).then_some(())?;
        let folder = tempfile::tempdir().unwrap();
        let (client, peer) = (port(), port());
        let everyone = format!("m=http://127.0.0.1:{peer}");
        let running = Mutex::default();
        let member =
            Member { folder: folder.path().join("m"), name: "m".into(), scheme, client, peer, everyone, more, running };
        member.run();
        Some(Self { member, _folder: folder })
    }

    pub(crate) fn url(&self) -> String {
        self.member.url()
    }

    /// Kills it and starts it again.
    pub(crate) fn restart(&self) {
        self.member.kill();
        self.member.run();
    }

    /// A store in it, as soon as it answers.
    pub(crate) async fn store(&self, tls: Option<EtcdTls>) -> EtcdStore {
        let config =
            EtcdConfig { endpoints: vec![self.url()], prefix: EtcdConfig::PREFIX.to_owned(), tls, managed: false };
        let mut opened = None;
        until(async || {
            opened = EtcdStore::open(&config, seal(), Arc::new(SystemClock)).await.ok();
            match &opened {
                Some(store) => store.revision().await.is_ok(),
                None => false,
            }
        })
        .await;
        opened.unwrap()
    }
}

impl Drop for Solo {
    fn drop(&mut self) {
        self.member.kill();
    }
}

struct Cluster {
    members: Vec<Member>,
    /// Its end tells a shell to remove the folder.
    _folder: Child,
}

struct Member {
    name: String,
    /// Of its clients.
    scheme: &'static str,
    client: u16,
    peer: u16,
    everyone: String,
    /// Further arguments.
    more: Vec<String>,
    folder: PathBuf,
    running: Mutex<Option<Running>>,
}

struct Running {
    shell: Child,
    /// When this is closed, also because this process ends, the shell kills the member.
    life: ChildStdin,
    pid: Pid,
}

impl Cluster {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap().keep();
        let remove = "read -r _; sleep 1; rm -rf \"$1\"";
        let shell = Command::new("sh").args(["-c", remove, "sh"]).arg(&folder).stdin(Stdio::piped()).spawn().unwrap();
        let ports: Vec<(u16, u16)> = (0..MEMBERS).map(|_| (port(), port())).collect();
        let everyone = ports.iter().enumerate().map(|(at, (_, peer))| format!("m{at}=http://127.0.0.1:{peer}"));
        let everyone = everyone.collect::<Vec<_>>().join(",");
        let member = |(at, (client, peer)): (usize, (u16, u16))| {
            let name = format!("m{at}");
            Member {
                folder: folder.join(&name),
                name,
                scheme: "http",
                client,
                peer,
                everyone: everyone.clone(),
                more: Vec::new(),
                running: Mutex::default(),
            }
        };
        Self { members: ports.into_iter().enumerate().map(member).collect(), _folder: shell }
    }
}

impl Member {
    fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.client)
    }

    /// Starts the member if it does not run, and wakes it if it is frozen.
    fn run(&self) {
        let mut running = self.running.lock().unwrap();
        if let Some(running) = &*running {
            kill(running.pid, Signal::SIGCONT).unwrap();
            return;
        }
        let script = "log=$1; shift; \"$@\" >>\"$log\" 2>&1 & echo $!; read -r _; kill -9 $!; wait";
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer));
        let mut shell = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(self.folder.with_extension("log"))
            .args(["etcd", "--name", &self.name, "--data-dir", &self.folder.display().to_string()])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.everyone, "--logger", "zap"])
            .args(&self.more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        assert!(is_installed("etcd"), "there is no etcd: run scripts/ensure-etcd.sh");
        let mut pid = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        let life = shell.stdin.take().unwrap();
        *running = Some(Running { shell, life, pid: Pid::from_raw(pid.trim().parse().unwrap()) });
    }

    fn kill(&self) {
        let Some(Running { mut shell, life, .. }) = self.running.lock().unwrap().take() else { return };
        drop(life);
        shell.wait().unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill(self.running.lock().unwrap().as_ref().unwrap().pid, signal).unwrap();
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| Path::new(&folder).join(program).exists())
}

pub(crate) fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
