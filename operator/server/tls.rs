//! Connections: TCP, TLS and HTTP/1.1 around the router, with limits on the resources of a client without a token.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::peer::Peer;
use crate::api::sync::lock;
use crate::runtime::clock::instant;

/// Limit of open connections. For a further one, the oldest stranger is closed; if there is none, it waits.
const MAX_CONNECTIONS: usize = 1024;
/// Time that a stranger has in any case, so that many clients that connect at once do not close each other.
const STRANGER_TIME: Duration = Duration::from_secs(1);
/// Time-out of the TLS handshake, and of a request header.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Grace for requests under way at shutdown.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// Pause after `accept` failed (for example, out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The strangers: connections that have not yet sent a request with the token, by age. Anyone can open them.
#[derive(Default)]
struct Strangers {
    count: u64,
    open: BTreeMap<u64, (Instant, CancellationToken)>,
}

/// One connection. Its requests have it as an extension.
pub struct Guest {
    number: u64,
    strangers: Arc<Mutex<Strangers>>,
}

impl Guest {
    /// A new stranger, and what closes its connection.
    fn new(strangers: &Arc<Mutex<Strangers>>) -> (Self, CancellationToken) {
        let close = CancellationToken::new();
        let mut all = lock(strangers);
        all.count += 1;
        let number = all.count;
        all.open.insert(number, (instant(), close.clone()));
        (Self { number, strangers: strangers.clone() }, close)
    }

    /// The client has the token: it is no stranger any more.
    pub fn is_known(&self) {
        lock(&self.strangers).open.remove(&self.number);
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
    let oldest = lock(strangers).open.first_key_value().map(|(number, (since, _))| (*number, *since));
    let Some((number, since)) = oldest else { return std::future::pending().await };
    tokio::time::sleep_until(since + STRANGER_TIME).await;
    let closed = lock(strangers).open.remove(&number);
    if let Some((_, close)) = &closed {
        tracing::debug!("too many connections: one that sent no request with the token is closed");
        close.cancel();
    }
    closed.is_some()
}

/// Serves connections until `shutdown`, then lets open ones finish.
pub async fn accept(
    listener: TcpListener,
    config: Arc<rustls::ServerConfig>,
    router: Router,
    shutdown: CancellationToken,
) {
    accept_at_most(MAX_CONNECTIONS, listener, config, router, shutdown).await;
}

async fn accept_at_most(
    limit: usize,
    listener: TcpListener,
    config: Arc<rustls::ServerConfig>,
    router: Router,
    shutdown: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(config);
    let slots = Arc::new(Semaphore::new(limit));
    let strangers = Arc::new(Mutex::new(Strangers::default()));
    let connections = TaskTracker::new();
    let abandon = CancellationToken::new();
    loop {
        // The connection is taken first: without one that waits, no stranger has to go.
        let next = async {
            let accepted = listener.accept().await;
            (accepted, free_slot(&slots, &strangers).await)
        };
        let (accepted, slot) = tokio::select! {
            () = shutdown.cancelled() => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, address)) => {
                let (guest, close) = Guest::new(&strangers);
                let serve =
                    connection(stream, address, Arc::new(guest), acceptor.clone(), router.clone(), shutdown.clone());
                let abandon = abandon.clone();
                connections.spawn(async move {
                    tokio::select! {
                        () = abandon.cancelled() => {}
                        () = close.cancelled() => {}
                        () = serve => {}
                    }
                    drop(slot);
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

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    guest: Arc<Guest>,
    acceptor: TlsAcceptor,
    router: Router,
    shutdown: CancellationToken,
) {
    let _ = stream.set_nodelay(true); // send small events at once
    let stream = match timeout(HEAD_TIME, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "no TLS"),
        Err(_) => return tracing::debug!("no TLS handshake in time"),
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec().into();
    let peer = Peer::Tcp { address, certificates };
    let service = router.map_request(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(guest.clone());
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
        let config = identity::prepare(dir.path(), address, clock).unwrap().tls;
        let stop = CancellationToken::new();
        let serving = tokio::spawn(accept_at_most(2, listener, config, Router::new(), stop.clone()));
        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let began = instant();
        assert_eq!(silent[0].read(&mut [0]).await.unwrap_or(0), 0, "the oldest is closed");
        assert!(began.elapsed() < HEAD_TIME, "before its time for the handshake is over");
        stop.cancel();
        serving.await.unwrap();
    }
}
