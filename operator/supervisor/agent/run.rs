//! The loop of an agent: reads the kernel's tables, connects to its peers, and reports what has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::api::chain::chain;
use crate::api::reach::Reach;
use crate::supervisor::agent::listeners::occupied;
use crate::supervisor::agent::peers::Ways;
use crate::supervisor::agent::wire::{Command, Listening, Order, Report, SOCKET};
use crate::supervisor::control;
use crate::supervisor::fence::Fence;
use crate::supervisor::run::Identity;

/// Interval of reports when nothing changes.
const REPORT: Duration = Duration::from_secs(1);
/// Reports between two looks at the kernel's tables.
const LOOK: u32 = 5;
/// The tables.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// The kernel's boot id.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Most listeners of a report.
const LISTENERS: usize = 1024;
/// Most peers of an order that are connected to.
const PEERS: usize = 256;
/// Interval of connections to a peer: while it answers, and after a failure.
const PROBE: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(1));
/// Time-out of a connection to a peer: longer than the kernel waits before it sends a lost first packet again.
const CONNECT: Duration = Duration::from_secs(2);
/// Pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs until SIGTERM.
pub async fn run(identity: Identity) -> ExitCode {
    match serve(identity).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %chain(error.as_ref()), "the agent cannot work here");
            ExitCode::FAILURE
        }
    }
}

/// Errors occur only before the loop starts.
async fn serve(identity: Identity) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let own = identity.listen.and_then(|listen| Some(SocketAddrV4::new(listen.address?, listen.port)));
    let own = own.ok_or("`evenkeel agent` needs --listen ADDRESS:PORT")?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (reports, seen) = watch::channel(Arc::from(""));
    let (said, mut commands) = mpsc::channel(8);
    let (results, mut found) = mpsc::channel(PEERS);
    let boot_id = fs::read_to_string(BOOT_ID)?.trim().to_owned();
    let mut agent = Agent::new(own, Report { boot_id, ..Default::default() }, results, reports);
    let mut second = interval(REPORT);
    second.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let listener = control::bind(SOCKET.as_ref())?;
    // The operator connects as root without capabilities. Nobody else is in this container.
    fs::set_permissions(SOCKET, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    tokio::spawn(control::serve(listener, Fence::unkept(), said, seen));
    tracing::info!(%own, "agent begins");
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = second.tick() => agent.second().await,
            Some(Command::Order(order)) = commands.recv() => agent.obey(order),
            Some((peer, at, reach)) = found.recv() => agent.hear(&peer, at, reach),
        }
    }
    tracing::info!("agent ends");
    Ok(())
}

/// The result of one connection: the peer, where it was tried, and what came of it.
type Found = (String, SocketAddrV4, Reach);

struct Agent {
    own: SocketAddrV4,
    order: Order,
    report: Report,
    ways: Ways,
    /// A task for each peer and address.
    probes: BTreeMap<(String, SocketAddrV4), AbortOnDropHandle<()>>,
    results: mpsc::Sender<Found>,
    /// Accepts the connections of peers; `None` while it cannot listen.
    door: Option<AbortOnDropHandle<()>>,
    told: watch::Sender<Arc<str>>,
    seconds: u32,
}

impl Agent {
    fn new(own: SocketAddrV4, report: Report, results: mpsc::Sender<Found>, told: watch::Sender<Arc<str>>) -> Self {
        let (order, ways, probes) = Default::default();
        Self { own, order, report, ways, probes, results, door: None, told, seconds: 0 }
    }

    /// Every second: looks at what no event tells, and reports.
    async fn second(&mut self) {
        if self.door.is_none() {
            self.open().await;
        }
        if self.seconds.is_multiple_of(LOOK) {
            self.look();
        }
        self.seconds = self.seconds.wrapping_add(1);
        self.tell();
    }

    /// Listens for the peers.
    async fn open(&mut self) {
        let bound = TcpListener::bind(self.own).await;
        self.report.listening = match &bound {
            Ok(_) => Listening::Yes,
            Err(error) if error.kind() == ErrorKind::AddrInUse => Listening::Taken,
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => Listening::NotHere,
            Err(_) => Listening::No,
        };
        self.door = bound.ok().map(|listener| AbortOnDropHandle::new(tokio::spawn(accept(listener))));
    }

    fn look(&mut self) {
        match listeners(*self.own.ip(), self.order.ports) {
            Ok(found) => self.report.listeners = found,
            Err(error) => tracing::debug!(%error, "the listening ports cannot be read"),
        }
    }

    fn obey(&mut self, order: Order) {
        let peers: BTreeSet<_> = order.peers.clone().into_iter().take(PEERS).collect();
        self.probes.retain(|one, _| peers.contains(one));
        let probes = &self.probes;
        self.ways.keep(|name| probes.keys().any(|(peer, _)| peer == name));
        for (peer, at) in peers {
            let results = self.results.clone();
            self.probes
                .entry((peer.clone(), at))
                .or_insert_with(|| AbortOnDropHandle::new(tokio::spawn(probe(peer, at, results))));
        }
        self.report.order = order.hash();
        self.order = order;
        self.look();
        self.report.reach = self.ways.known();
        self.tell();
    }

    fn hear(&mut self, peer: &str, at: SocketAddrV4, reach: Reach) {
        // The last word about an address that the peer does not have any more is no news.
        if self.order.peers.get(peer) != Some(&at) {
            return;
        }
        self.ways.hear(peer, reach);
        let known = self.ways.known();
        if known != self.report.reach {
            self.report.reach = known;
            self.tell();
        }
    }

    fn tell(&self) {
        if let Ok(text) = serde_json::to_string(&self.report) {
            self.told.send_replace(Arc::from(text + "\n"));
        }
    }
}

/// Accepts connections for ever and closes them at once: that is all that a peer wants to know.
async fn accept(listener: TcpListener) {
    loop {
        if listener.accept().await.is_err() {
            sleep(PAUSE).await;
        }
    }
}

/// Connects to a peer for ever.
async fn probe(peer: String, at: SocketAddrV4, results: mpsc::Sender<Found>) {
    loop {
        let reach = reach(at).await;
        if results.send((peer.clone(), at, reach)).await.is_err() {
            return;
        }
        sleep(if reach == Reach::Ok { PROBE.0 } else { PROBE.1 }).await;
    }
}

async fn reach(at: SocketAddrV4) -> Reach {
    match timeout(CONNECT, TcpStream::connect(at)).await {
        Ok(Ok(_)) => Reach::Ok,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Reach::Refused,
        Ok(Err(_)) | Err(_) => Reach::Timeout,
    }
}

/// The occupied ports of a range. A table is read by lines: a busy host has many.
fn listeners(own: Ipv4Addr, (first, last): (u16, u16)) -> io::Result<BTreeSet<u16>> {
    let (mut found, mut line) = (BTreeSet::new(), String::new());
    for table in TABLES {
        let mut table = match File::open(table) {
            Ok(file) => BufReader::new(file),
            // A kernel without IPv6.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        while table.read_line(&mut line)? > 0 {
            found.extend(occupied(&line, own).filter(|port| (first..=last).contains(port)));
            line.clear();
        }
    }
    Ok(found.into_iter().take(LISTENERS).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    async fn listener() -> (TcpListener, SocketAddrV4) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let std::net::SocketAddr::V4(at) = listener.local_addr().unwrap() else { panic!("not IPv4") };
        (listener, at)
    }

    #[tokio::test]
    async fn a_listener_of_this_machine_is_found_and_a_peer_that_accepts_is_reached() {
        let (listener, at) = listener().await;
        let range = (at.port(), at.port());
        assert_eq!(listeners(Ipv4Addr::LOCALHOST, range).unwrap(), [at.port()].into());
        assert_eq!(reach(at).await, Reach::Ok);
        drop(listener);
        assert_eq!(listeners(Ipv4Addr::LOCALHOST, range).unwrap(), BTreeSet::new());
        assert_eq!(reach(at).await, Reach::Refused);
    }

    #[tokio::test]
    async fn an_agent_reports_its_peers_and_whether_another_program_has_its_port() {
        let (other, at) = listener().await;
        let (results, mut found) = mpsc::channel(8);
        let (told, seen) = watch::channel(Arc::from(""));
        let mut agent = Agent::new(at, Report { boot_id: "one".into(), ..Default::default() }, results, told);
        let said = || serde_json::from_str::<Report>(&seen.borrow()).unwrap();
        agent.second().await;
        assert_eq!((said().listening, said().order), (Listening::Taken, String::new()));
        let order = Order { ports: (at.port(), at.port()), peers: [("h2".to_owned(), at)].into() };
        agent.obey(order.clone());
        assert_eq!((said().order, said().listeners), (order.hash(), [at.port()].into()));
        let (peer, where_, reach) = found.recv().await.unwrap();
        agent.hear(&peer, where_, reach);
        assert_eq!(said().reach, [("h2".to_owned(), Reach::Ok)].into());
        drop(other);
        agent.obey(Order::default());
        agent.second().await;
        assert_eq!((said().listening, said().reach), (Listening::Yes, BTreeMap::new()));
    }
}
