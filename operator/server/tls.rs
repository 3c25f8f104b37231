//! Connections: TCP with TLS, or the unix socket, and HTTP/1.1 around the router, with limits on the resources of a client
//! without a token.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::patient::Patient;
use super::peer::Peer;
use crate::api::sync::lock;
use crate::runtime::clock::instant;

/// Limit of connections to the port. For a further one, the oldest stranger is closed; if there is none, it waits.
pub const MAX_REMOTE: usize = 992;
/// Limit of connections to the unix socket. No connection to the port takes one of them.
pub const MAX_LOCAL: usize = 32;
/// Limit of the strangers of one origin. A further one must show who it is within [`STRANGER_TIME`].
const CROWD: usize = 64;
/// Time that a stranger has in any case, so that many clients that connect at once do not close each other.
const STRANGER_TIME: Duration = Duration::from_secs(1);
/// Time-out of the TLS handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(3);
/// Time-out of a request header.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Grace for requests under way at shutdown.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// Pause after `accept` failed (for example, out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The strangers: connections that have not yet sent a request of a known user, by age. Anyone can open them.
#[derive(Default)]
struct Strangers {
    count: u64,
    open: BTreeMap<u64, Stranger>,
}

struct Stranger {
    since: Instant,
    origin: Option<IpAddr>,
    close: CancellationToken,
}

/// One connection. Its requests have it as an extension; what goes on after a protocol upgrade keeps it.
pub struct Guest {
    number: u64,
    strangers: Arc<Mutex<Strangers>>,
    /// Whether the client may read as slowly as it likes.
    streams: Arc<AtomicBool>,
    /// What the request under way holds of its user's limits.
    held: Mutex<Option<OwnedSemaphorePermit>>,
    _slot: OwnedSemaphorePermit,
}

impl Guest {
    /// A new stranger, what closes its connection, and whether its origin has too many.
    fn new(
        strangers: &Arc<Mutex<Strangers>>,
        origin: Option<IpAddr>,
        slot: OwnedSemaphorePermit,
    ) -> (Self, CancellationToken, bool) {
        let close = CancellationToken::new();
        let mut all = lock(strangers);
        all.count += 1;
        let number = all.count;
        let crowded = all.open.values().filter(|stranger| stranger.origin == origin).count() >= CROWD;
        all.open.insert(number, Stranger { since: instant(), origin, close: close.clone() });
        let (streams, held) = (Arc::default(), Mutex::default());
        (Self { number, strangers: strangers.clone(), streams, held, _slot: slot }, close, crowded)
    }

    /// The client is known: it is no stranger any more.
    pub fn is_known(&self) {
        lock(&self.strangers).open.remove(&self.number);
    }

    fn is_stranger(&self) -> bool {
        lock(&self.strangers).open.contains_key(&self.number)
    }

    /// The next request begins: what the one before held is free.
    pub fn begins(&self) {
        lock(&self.held).take();
        self.streams.store(false, Ordering::Relaxed);
    }

    /// The request under way is a stream: it holds this until it ends, and its client may pause.
    pub fn streams(&self, held: OwnedSemaphorePermit) {
        *lock(&self.held) = Some(held);
        self.streams.store(true, Ordering::Relaxed);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.is_known();
    }
}

/// A free slot; if there is none, that of the oldest stranger.
async fn free_slot(slots: &Arc<Semaphore>, strangers: &Mutex<Strangers>) -> OwnedSemaphorePermit {
    let acquired = slots.clone().acquire_owned();
    tokio::pin!(acquired);
    let slot = loop {
        tokio::select! {
            biased;
            slot = acquired.as_mut() => break slot,
            closed = close_oldest(strangers) => if closed { break acquired.await },
        }
    };
    slot.expect("the semaphore is never closed")
}

/// Waits until the oldest stranger had its time, and closes it; false if it is no stranger any more.
async fn close_oldest(strangers: &Mutex<Strangers>) -> bool {
    let oldest = lock(strangers).open.first_key_value().map(|(number, stranger)| (*number, stranger.since));
    let Some((number, since)) = oldest else { return std::future::pending().await };
    tokio::time::sleep_until(since + STRANGER_TIME).await;
    let closed = lock(strangers).open.remove(&number);
    if let Some(stranger) = &closed {
        tracing::debug!("too many connections: one that sent no request of a known user is closed");
        stranger.close.cancel();
    }
    closed.is_some()
}

/// An open door.
pub enum Listener {
    /// The port, with TLS.
    Tcp(TcpListener, Arc<rustls::ServerConfig>),
    /// The unix socket, without.
    Unix(UnixListener),
}

/// A new connection.
enum Accepted {
    Tcp(TcpStream, Peer, TlsAcceptor),
    Unix(UnixStream, Peer),
}

impl Listener {
    async fn next(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener, config) => {
                let (stream, address) = listener.accept().await?;
                let peer = Peer::Tcp { address, certificates: [].into() };
                Ok(Accepted::Tcp(stream, peer, config.clone().into()))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred()?.uid();
                Ok(Accepted::Unix(stream, Peer::Unix { uid }))
            }
        }
    }
}

/// Serves at most `limit` connections at once until `shutdown`, then lets open ones finish.
pub async fn accept(limit: usize, listener: Listener, router: Router, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(limit));
    let strangers = Arc::new(Mutex::new(Strangers::default()));
    let connections = TaskTracker::new();
    let abandon = CancellationToken::new();
    loop {
        // The connection is taken first: without one that waits, no stranger has to go.
        let next = async {
            let accepted = listener.next().await;
            (accepted, free_slot(&slots, &strangers).await)
        };
        let (accepted, slot) = tokio::select! {
            () = shutdown.cancelled() => break,
            next = next => next,
        };
        match accepted {
            Ok(accepted) => {
                let origin = match &accepted {
                    Accepted::Tcp(_, peer, _) | Accepted::Unix(_, peer) => peer.origin(),
                };
                let (guest, close, crowded) = Guest::new(&strangers, origin, slot);
                let guest = Arc::new(guest);
                let serve = connection(accepted, guest.clone(), router.clone(), shutdown.clone());
                let abandon = abandon.clone();
                connections.spawn(async move {
                    let hurried = async {
                        tokio::time::sleep(STRANGER_TIME).await;
                        if !(crowded && guest.is_stranger()) {
                            std::future::pending::<()>().await;
                        }
                    };
                    tokio::select! {
                        () = abandon.cancelled() => {}
                        () = close.cancelled() => {}
                        () = hurried => tracing::debug!("too many connections of one address that sent no request"),
                        () = serve => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if timeout(DRAIN_TIME, connections.wait()).await.is_err() {
        abandon.cancel();
        connections.wait().await;
    }
}

async fn connection(accepted: Accepted, guest: Arc<Guest>, router: Router, shutdown: CancellationToken) {
    match accepted {
        Accepted::Tcp(stream, peer, acceptor) => {
            let _ = stream.set_nodelay(true); // send small events at once
            let stream = match timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%error, "no TLS"),
                Err(_) => return tracing::debug!("no TLS handshake in time"),
            };
            let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let certificates = shown.iter().map(|one| one.clone().into_owned()).collect();
            let peer = match peer {
                Peer::Tcp { address, .. } => Peer::Tcp { address, certificates },
                other => other,
            };
            serve(stream, peer, guest, router, shutdown).await;
        }
        Accepted::Unix(stream, peer) => serve(stream, peer, guest, router, shutdown).await,
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    peer: Peer,
    guest: Arc<Guest>,
    router: Router,
    shutdown: CancellationToken,
) {
    let stream = Patient::new(stream, guest.streams.clone());
    let service = router.map_request(move |mut request: hyper::Request<Incoming>| {
        guest.begins();
        request.extensions_mut().insert(guest.clone());
        request.extensions_mut().insert(peer.clone());
        request.map(Body::new)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .with_upgrades();
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended badly");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::server::identity;
    use crate::store::Clock;

    /// Regression 53: connections that sent nothing took all slots, and nobody else was served until they were closed after
    /// 10 s. Now the oldest of those that never showed the token has to go.
    #[tokio::test]
    async fn silent_connections_do_not_keep_others_out() {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let clock: &dyn Clock = &crate::runtime::SystemClock;
        let config = identity::prepare(dir.path(), address, &[], clock).unwrap().tls;
        let stop = CancellationToken::new();
        let serving = tokio::spawn(accept(2, Listener::Tcp(listener, config), Router::new(), stop.clone()));
        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let began = instant();
        assert_eq!(silent[0].read(&mut [0]).await.unwrap_or(0), 0, "the oldest is closed");
        assert!(began.elapsed() < HANDSHAKE_TIME, "before its time for the handshake is over");
        stop.cancel();
        serving.await.unwrap();
    }
}
