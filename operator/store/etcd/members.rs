//! The members of the etcd cluster: connections to each, calls with a deadline, and the choice of the member that is asked.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use etcd_client::{
    Certificate, Client, ClusterClient, ConnectOptions, GetOptions, Identity, KvClient, LeaseClient, MaintenanceClient,
    TlsOptions, WatchClient,
};
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;

use super::failures::{Failure, Kind};
use super::versions::{self, Verdict};
use crate::api::sync::lock;
use crate::store::Error;

/// Limit of a call, with the question afterwards why it failed: 2 s together.
const ANSWER: Duration = Duration::from_millis(1600);
/// Limit of the question why a call failed.
const DIAGNOSIS: Duration = Duration::from_millis(300);
/// Limit of one member's answer to a read; then another one is asked.
const ATTEMPT: Duration = Duration::from_millis(700);
/// Pause between two attempts at the same cluster.
const PAUSE: Duration = Duration::from_millis(50);
/// Limit of making a connection.
const CONNECT: Duration = Duration::from_millis(600);
/// HTTP/2 pings while a stream is open. A server of etcd ends connections with more than one ping in 5 s.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(2));
/// Interval of the probe of the member that has the watches, and the limit of its answer.
const PROBE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(2));
/// Largest message from etcd: a page of a list, or the changes of a watch with the objects before them.
const MESSAGE: usize = 64 << 20;

/// Files of a connection with mutual TLS, as PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdTls {
    /// Certificates of the authorities that members are trusted by.
    pub ca: String,
    /// This program's certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl std::fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdTls").finish_non_exhaustive()
    }
}

/// The services of one member over one connection.
#[derive(Clone)]
pub(super) struct Services {
    pub(super) kv: KvClient,
    pub(super) lease: LeaseClient,
    pub(super) watch: WatchClient,
    pub(super) maintenance: MaintenanceClient,
    pub(super) cluster: ClusterClient,
}

/// Two connections: a large list on one must not delay what the other carries.
struct Connections {
    /// For requests with one answer.
    calls: Services,
    /// For watches and for keeping leases.
    streams: Services,
}

struct Member {
    url: String,
    connections: Mutex<Connections>,
}

/// The members, and which of them is asked now. Members come and go while they are used.
pub(super) struct Members {
    known: RwLock<Known>,
    current: AtomicUsize,
    /// Counts how often a member was left; streams over it end then.
    left: watch::Sender<u64>,
}

/// What is known of the members; each answer to a change is a whole new one.
#[derive(Clone)]
struct Known {
    list: Arc<Vec<Arc<Member>>>,
    tls: Option<EtcdTls>,
}

/// Whether a request may reach etcd twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It reads, or its repetition changes nothing.
    Harmless,
    /// Only if the member did nothing for sure.
    IfUnsent,
}

impl Members {
    /// Connects when the first request is made.
    pub(super) async fn new(endpoints: &[String], tls: Option<EtcdTls>) -> Result<Arc<Self>, Error> {
        let list = Arc::new(join_members(endpoints, tls.as_ref(), &[]).await?);
        let known = RwLock::new(Known { list, tls });
        Ok(Arc::new(Self { known, current: AtomicUsize::new(0), left: watch::Sender::new(0) }))
    }

    /// From now on these are the members, reached with these files. Connections to members that stay are kept, unless the
    /// files are others.
    pub(super) async fn renew(&self, endpoints: &[String], tls: Option<EtcdTls>) -> Result<(), Error> {
        let Known { list, tls: before } = self.known();
        let same = before == tls;
        if same && list.iter().map(|member| &member.url).eq(endpoints) {
            return Ok(());
        }
        let kept: &[Arc<Member>] = if same { &list } else { &[] };
        let new = join_members(endpoints, tls.as_ref(), kept).await?;
        let asked = list.get(self.current.load(Ordering::Relaxed)).map(|member| member.url.clone());
        let at = new.iter().position(|member| Some(&member.url) == asked.as_ref());
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Known { list: Arc::new(new), tls };
        self.current.store(at.unwrap_or(0), Ordering::Relaxed);
        if at.is_none() || !same {
            self.left.send_modify(|count| *count += 1);
        }
        Ok(())
    }

    /// The addresses of the members.
    pub(super) fn endpoints(&self) -> Vec<String> {
        self.known().list.iter().map(|member| member.url.clone()).collect()
    }

    /// The files of the connections.
    pub(super) fn tls(&self) -> Option<EtcdTls> {
        self.known().tls
    }

    fn known(&self) -> Known {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The member at this place. Places may change; there is at least one member.
    fn member(&self, at: usize) -> Arc<Member> {
        let list = self.known().list;
        list[at % list.len()].clone()
    }

    /// Asks one member after the other until one answers or the deadline is over.
    pub(super) async fn call<T, F>(
        &self,
        repeat: Repeat,
        request: impl Fn(Services) -> F + Send + Sync,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let attempts = async {
            loop {
                let at = self.current.load(Ordering::Relaxed);
                let services = self.member(at).calls();
                let answer = match repeat {
                    Repeat::Harmless => timeout(ATTEMPT, request(services)).await,
                    // The deadline of the whole call is its limit.
                    Repeat::IfUnsent => Ok(request(services).await),
                };
                let failure = match answer {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(error)) => Failure::from(error),
                    Err(_) => Failure::silence(),
                };
                match failure.kind {
                    Kind::Unsent | Kind::NoLeader => {}
                    Kind::Unknown if repeat == Repeat::Harmless => {}
                    Kind::Unknown => {
                        self.leave(at).await;
                        return Err(failure);
                    }
                    _ => return Err(failure),
                }
                self.leave(at).await;
                tokio::time::sleep(PAUSE).await;
            }
        };
        match timeout(ANSWER, attempts).await {
            Ok(outcome) => outcome,
            Err(_) => {
                self.leave(self.current.load(Ordering::Relaxed)).await;
                Err(Failure::silence())
            }
        }
    }

    /// Asks all members at once and takes the first good answer: for a read of what one member has. It leaves the choice of
    /// the member alone, which turns from one to the next as long as there is no quorum.
    pub(super) async fn any<T, F>(&self, request: impl Fn(Services) -> F + Send + Sync) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let list = self.known().list;
        let mut asked: FuturesUnordered<_> =
            list.iter().map(|member| timeout(ANSWER, request(member.calls()))).collect();
        let mut failed = Failure::silence();
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => failed = failed.or(error.into()),
                Err(_) => {}
            }
        }
        Err(failed)
    }

    /// The failure of a call as an error; one that a missing quorum explains says so.
    pub(super) async fn explained(&self, doing: &'static str, failure: Failure) -> Error {
        if failure.is_of_the_request() {
            return failure.error(doing);
        }
        let list = self.known().list;
        let asked = join_all(list.iter().map(|member| member.knows_leader())).await;
        let answers = asked.iter().filter(|answer| answer.is_ok()).count();
        let told = if let (0, Some(Err(why))) = (answers, asked.first()) {
            let urls: Vec<&str> = list.iter().map(|member| member.url.as_str()).collect();
            format!("no member of etcd answers here ({}): {}", urls.join(", "), why.cause)
        } else if !asked.iter().any(|answer| matches!(answer, Ok(true))) {
            format!("{answers} of {} members of etcd can be reached, and no leader is known there", list.len())
        } else {
            return failure.error(doing);
        };
        Error::NoQuorum { doing, told }
    }

    /// The member that streams go to, a connection to it, and what is told when it is left.
    pub(super) fn streams(&self) -> (usize, Services, watch::Receiver<u64>) {
        let left = self.left.subscribe();
        let at = self.current.load(Ordering::Relaxed);
        (at, lock(&self.member(at).connections).streams.clone(), left)
    }

    /// Turns from this member to the next one, with new connections: the old ones may be dead without knowing it.
    pub(super) async fn leave(&self, at: usize) {
        let known = self.known();
        let next = (at + 1) % known.list.len();
        if self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let member = &known.list[at % known.list.len()];
        tracing::debug!(member = %member.url, "a member of etcd gives no good answer; the next one is asked");
        if let Ok(connections) = connect(&member.url, known.tls.as_ref()).await {
            *lock(&member.connections) = connections;
        }
        self.left.send_modify(|count| *count += 1);
    }

    /// Asks each member for its version. Refuses the cluster if one loses writes, or if none answers.
    pub(super) async fn check_versions(&self) -> Result<(), Error> {
        let list = self.known().list;
        let asked = join_all(list.iter().map(|member| async move {
            let mut services = member.calls();
            let status = timeout(ANSWER, services.maintenance.status()).await.ok()?.ok()?;
            Some((member, status.version().to_owned()))
        }));
        let known: Vec<_> = asked.await.into_iter().flatten().collect();
        for (member, version) in &known {
            match versions::judge(version) {
                Verdict::Good => {}
                Verdict::Doubtful(why) => tracing::warn!(member = %member.url, version, "this version of etcd: {why}"),
                Verdict::Refused(why) => {
                    return Err(Error::Setup { problem: format!("{} has etcd {version}: {why}", member.url) });
                }
            }
        }
        if known.is_empty() {
            return Err(self.explained("asking for the version of etcd", Failure::silence()).await);
        }
        Ok(())
    }

    /// Leaves a member that has the watches and does not answer. Ends when nobody uses the members any more.
    pub(super) async fn probe(members: Weak<Self>, key: Vec<u8>) {
        loop {
            tokio::time::sleep(PROBE.0).await;
            let Some(members) = members.upgrade() else { return };
            let (at, mut services, _) = members.streams();
            // Answered only by a member that is connected with a majority of the others.
            let read = services.kv.get(key.clone(), Some(GetOptions::new().with_keys_only()));
            if !matches!(timeout(PROBE.1, read).await, Ok(Ok(_))) {
                members.leave(at).await;
            }
        }
    }
}

impl Member {
    fn calls(&self) -> Services {
        lock(&self.connections).calls.clone()
    }

    /// Whether it knows a leader.
    async fn knows_leader(&self) -> Result<bool, Failure> {
        let mut services = self.calls();
        match timeout(DIAGNOSIS, services.maintenance.status()).await {
            Ok(status) => Ok(status?.leader() != 0),
            Err(_) => Err(Failure::silence()),
        }
    }
}

/// The members at these addresses; those that are kept have their connections.
async fn join_members(
    endpoints: &[String],
    tls: Option<&EtcdTls>,
    kept: &[Arc<Member>],
) -> Result<Vec<Arc<Member>>, Error> {
    if endpoints.is_empty() {
        return Err(Error::Setup { problem: "no address of etcd is given".to_owned() });
    }
    let mut list = Vec::new();
    for url in endpoints {
        if let Some(member) = kept.iter().find(|member| member.url == *url) {
            list.push(member.clone());
            continue;
        }
        let connections = connect(url, tls).await;
        let connections = connections
            .map_err(|failure| Error::Setup { problem: format!("{url} cannot be used: {}", failure.cause) })?;
        list.push(Arc::new(Member { url: url.clone(), connections: Mutex::new(connections) }));
    }
    Ok(list)
}

/// The services of the member at this address, beside those in use.
pub(super) async fn services_of(url: &str, tls: Option<&EtcdTls>) -> Result<Services, Failure> {
    Ok(connect(url, tls).await?.calls)
}

/// Connections to one member.
async fn connect(url: &str, tls: Option<&EtcdTls>) -> Result<Connections, Failure> {
    let mut options = ConnectOptions::new().with_connect_timeout(CONNECT).with_keep_alive_while_idle(false);
    options = options.with_keep_alive(PING.0, PING.1);
    if let Some(tls) = tls {
        let identity = Identity::from_pem(&tls.certificate, &tls.key);
        let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.ca)).identity(identity);
        options = options.with_tls(tls);
    }
    let calls = Client::connect([url], Some(options.clone())).await?;
    let streams = Client::connect([url], Some(options.with_require_leader(true))).await?;
    Ok(Connections { calls: services(&calls), streams: services(&streams) })
}

fn services(client: &Client) -> Services {
    Services {
        kv: client.kv_client().max_decoding_message_size(MESSAGE),
        lease: client.lease_client(),
        watch: client.watch_client().max_decoding_message_size(MESSAGE),
        maintenance: client.maintenance_client(),
        cluster: client.cluster_client(),
    }
}
