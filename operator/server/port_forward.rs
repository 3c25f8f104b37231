//! The `portforward` subresource of a pod: connections to its ports. kubectl speaks SPDY, by itself or inside a
//! WebSocket; client libraries speak the older channels of a WebSocket.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use axum::http::HeaderName;
use axum::response::Response;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{Sink, SinkExt as _, Stream, StreamExt as _, future};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::codec::{BytesCodec, FramedWrite};
use tokio_util::io::StreamReader;
use tokio_util::sync::CancellationToken;

use super::containers::{Connection, Containers, Place, door, pod};
use super::params::Params;
use super::request::Request;
use super::spdy::{self, Frame, Frames};
use super::status::Refusal;
use super::upgrade;
use crate::api::failure::Failure;
use crate::api::websocket::{self, Message, Role};

/// Subprotocol of a WebSocket that carries SPDY.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Subprotocol inside SPDY.
const STREAMS: &str = "portforward.k8s.io";
const SPDY: &str = "SPDY/3.1";
const SPDY_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// Length of each queue; when it is full, the sender waits.
const WAITING: usize = 16;
/// Limit of the streams of one client. Each connection has two.
const MOST: usize = 1000;
/// Limit of the ports of one client in the older protocol.
const PORTS: usize = 100;
const BUFFER: usize = 16 * 1024;

/// The way to the ports of a pod.
#[derive(Clone)]
struct Pod {
    containers: Arc<dyn Containers>,
    place: Place,
    address: Option<IpAddr>,
}

impl Pod {
    async fn connect(&self, port: u16) -> Result<Connection, Failure> {
        self.containers.connect(&self.place, self.address, port).await
    }
}

/// Switches to the client's protocol.
pub async fn serve(mut request: Request<'_>) -> Result<Response, Refusal> {
    let headers = &request.headers;
    let protocol = upgrade::subprotocol(headers, &[TUNNEL, websocket::V4]);
    let (response, protocol) = if upgrade::asks_for(headers, SPDY) {
        (upgrade::to(SPDY, SPDY_PROTOCOL, STREAMS), SPDY)
    } else if let Some(protocol) = protocol.filter(|_| upgrade::asks_for(headers, "websocket")) {
        (upgrade::to_websocket(headers, protocol), protocol)
    } else {
        return Err(Refusal::bad_request(format!(
            "portforward speaks {SPDY}, and over a WebSocket {TUNNEL} and {}",
            websocket::V4
        )));
    };
    let ports = if protocol == websocket::V4 { ports(&request.params)? } else { Vec::new() };
    let (place, address) = pod(&request).await?;
    let pod = Pod { containers: door(&request)?.clone(), place, address };
    let upgrade = request.upgrade.take().ok_or_else(|| Refusal::bad_request("this connection cannot be upgraded"))?;
    let end = request.ended();
    tokio::spawn(async move {
        let connection = match upgrade.await {
            Ok(connection) => TokioIo::new(connection),
            Err(error) => return tracing::debug!(%error, "a port-forward was not taken up"),
        };
        let talk = async {
            if protocol == SPDY {
                let (read, write) = tokio::io::split(connection);
                return streams(&pod, read, FramedWrite::new(write, BytesCodec::new()), |frame| frame).await;
            }
            let (sink, stream) = websocket::talk(connection, Role::Server).await.split();
            if protocol == TUNNEL {
                streams(&pod, StreamReader::new(bytes(stream).boxed()), sink, Message::Binary).await;
            } else {
                channels(&pod, &ports, stream, sink).await;
            }
        };
        tokio::select! {
            () = end => {}
            () = talk => {}
        }
    });
    Ok(response)
}

/// The ports of a client of the older protocol.
fn ports(params: &Params) -> Result<Vec<u16>, Refusal> {
    let one = |text: &str| match text.trim().parse() {
        Ok(0) | Err(_) => Err(Refusal::bad_request(format!("ports: {text:?} is not a port from 1 to 65535"))),
        Ok(port) => Ok(port),
    };
    let ports = params.all("ports").flat_map(|list| list.split(',')).map(one).collect::<Result<Vec<_>, _>>()?;
    match ports.len() {
        0 => Err(Refusal::bad_request("query parameter \"ports\" is required")),
        1..=PORTS => Ok(ports),
        _ => Err(Refusal::bad_request(format!("ports: no more than {PORTS}"))),
    }
}

/// The bytes in the messages of a WebSocket.
fn bytes(stream: impl Stream<Item = Result<Message, websocket::Error>>) -> impl Stream<Item = io::Result<Bytes>> {
    stream.filter_map(|message| {
        future::ready(match message {
            Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
            Ok(_) => None,
            Err(error) => Some(Err(io::Error::other(error))),
        })
    })
}

/// Sends what waits to the client, until it or the last sender is gone.
async fn send<T, S: Sink<T>>(mut waiting: mpsc::Receiver<Bytes>, sink: S, wrap: fn(Bytes) -> T) {
    tokio::pin!(sink);
    while let Some(bytes) = waiting.recv().await {
        if sink.send(wrap(bytes)).await.is_err() {
            return;
        }
    }
    let _ = sink.close().await; // or the client has disconnected
}

/// A stream of the client that carries data.
struct Input {
    /// To the connection; `None` once the client sends no more.
    bytes: Option<mpsc::Sender<Bytes>>,
    /// The connection ended, or the client gave it up.
    gone: CancellationToken,
}

/// Serves the streams of SPDY until the client disconnects. Each connection has a stream for data and one for an error.
async fn streams<T, S: Sink<T>>(pod: &Pod, connection: impl AsyncRead + Unpin, sink: S, wrap: fn(Bytes) -> T) {
    let (to_client, waiting) = mpsc::channel(WAITING);
    let sending = send(waiting, sink, wrap);
    tokio::select! {
        () = sending => {}
        () = listen(pod, connection, to_client) => {}
    }
}

/// Serves the frames of the client. An error means that the client is gone.
async fn listen(pod: &Pod, connection: impl AsyncRead + Unpin, to_client: mpsc::Sender<Bytes>) {
    let mut frames = Frames::new(connection);
    let mut inputs: HashMap<u32, Input> = HashMap::new();
    // The streams for errors whose streams for data are not open yet, by the number of their request.
    let mut errors: HashMap<String, u32> = HashMap::new();
    let mut first = true;
    // Dropped with the client: then all connections end.
    let mut connections = JoinSet::new();
    while let Ok(frame) = frames.next().await {
        let answer = match frame {
            Frame::Open { stream, headers } => {
                let header = |name: &str| {
                    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str()).unwrap_or_default()
                };
                inputs.retain(|_, input| !input.gone.is_cancelled());
                while connections.try_join_next().is_some() {}
                let request = header("requestid").to_owned();
                let port = header("port").parse().ok().filter(|port| *port != 0);
                let room = inputs.len() + errors.len() < MOST;
                let accepted = match (header("streamtype"), port) {
                    ("error", _) if room => errors.insert(request, stream).is_none(),
                    ("data", Some(port)) if room && !inputs.contains_key(&stream) => {
                        let (bytes, input) = mpsc::channel(WAITING);
                        let gone = CancellationToken::new();
                        inputs.insert(stream, Input { bytes: Some(bytes), gone: gone.clone() });
                        let (pod, error, to_client) = (pod.clone(), errors.remove(&request), to_client.clone());
                        // The connection's first bytes must come after the answer.
                        let answer = spdy::accepted(stream, std::mem::take(&mut first));
                        if to_client.send(answer).await.is_err() {
                            return;
                        }
                        connections.spawn(async move {
                            forward(&pod, port, stream, error, input, &gone, to_client).await;
                            gone.cancel();
                        });
                        continue;
                    }
                    _ => false,
                };
                if accepted { spdy::accepted(stream, std::mem::take(&mut first)) } else { spdy::refused(stream) }
            }
            Frame::Data { stream, bytes, last } => {
                let Some(input) = inputs.get_mut(&stream) else { continue };
                if let Some(to) = input.bytes.as_ref().filter(|_| !bytes.is_empty()) {
                    let _ = to.send(bytes).await; // or the connection has ended
                }
                if last {
                    input.bytes = None;
                }
                continue;
            }
            Frame::Reset(stream) => {
                if let Some(input) = inputs.remove(&stream) {
                    input.gone.cancel();
                }
                continue;
            }
            Frame::Ping(id) => spdy::ping(id),
            Frame::Other => continue,
        };
        if to_client.send(answer).await.is_err() {
            return;
        }
    }
}

/// One connection to a port, until one side ends it; then both of its streams end.
async fn forward(
    pod: &Pod,
    port: u16,
    stream: u32,
    error: Option<u32>,
    input: mpsc::Receiver<Bytes>,
    gone: &CancellationToken,
    to_client: mpsc::Sender<Bytes>,
) {
    let talk =
        async { pump(pod.connect(port).await?, input, &to_client, |bytes| spdy::data(stream, bytes, false)).await };
    let ended = tokio::select! {
        () = gone.cancelled() => Ok(()),
        ended = talk => ended,
    };
    let said = ended.err().map(|failure| failure.message).unwrap_or_default();
    // Fails if the client has disconnected.
    let _ = to_client.send(spdy::data(stream, &[], true)).await;
    if let Some(error) = error {
        let _ = to_client.send(spdy::data(error, said.as_bytes(), true)).await;
    }
}

/// Forwards in both directions until the pod sends no more.
async fn pump(
    connection: Connection,
    mut input: mpsc::Receiver<Bytes>,
    to_client: &mpsc::Sender<Bytes>,
    wrap: impl Fn(&[u8]) -> Bytes,
) -> Result<(), Failure> {
    let Connection { mut read, mut write } = connection;
    let inward = async {
        while let Some(bytes) = input.recv().await {
            if write.write_all(&bytes).await.is_err() || write.flush().await.is_err() {
                break; // the pod reads no more; it may still send
            }
        }
        let _ = write.shutdown().await; // or the pod has closed already
        future::pending::<()>().await;
    };
    let outward = async {
        let mut buffer = vec![0; BUFFER];
        // An error ends the connection as its end does: its cause is the pod.
        while let Ok(length @ 1..) = read.read(&mut buffer).await {
            if to_client.send(wrap(&buffer[..length])).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
    Ok(())
}

/// Serves the channels of the older protocol: of port number n, counted from 0, channel 2n has the data and 2n+1 an error;
/// each begins with the port itself. Ends when all connections have ended.
async fn channels(
    pod: &Pod,
    ports: &[u16],
    stream: impl Stream<Item = Result<Message, websocket::Error>>,
    sink: impl Sink<Message, Error = websocket::Error>,
) {
    let (to_client, waiting) = mpsc::channel(WAITING);
    let sending = send(waiting, sink, Message::Binary);
    let mut inputs = Vec::new();
    let mut connections = JoinSet::new();
    for (channel, port) in (0_u8..).step_by(2).zip(ports.iter().copied()) {
        let (bytes, input) = mpsc::channel(WAITING);
        inputs.push(bytes);
        let (pod, to_client) = (pod.clone(), to_client.clone());
        connections.spawn(async move {
            for channel in [channel, channel + 1] {
                let _ = to_client.send(on(channel, &port.to_le_bytes())).await; // or the client has disconnected
            }
            let talk = async { pump(pod.connect(port).await?, input, &to_client, |bytes| on(channel, bytes)).await };
            if let Err(failure) = talk.await {
                let _ = to_client.send(on(channel + 1, failure.message.as_bytes())).await;
            }
        });
    }
    drop(to_client);
    let listening = async {
        tokio::pin!(stream);
        while let Some(Ok(message)) = stream.next().await {
            if let Some((channel, bytes)) = websocket::channel(&message)
                && channel % 2 == 0
                && let Some(input) = inputs.get(usize::from(channel / 2))
            {
                let _ = input.send(bytes).await; // or the connection has ended
            }
        }
    };
    tokio::select! {
        () = sending => {}
        () = listening => {}
    }
}

/// A message with bytes of a channel.
fn on(channel: u8, bytes: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(1 + bytes.len());
    message.put_u8(channel);
    message.put_slice(bytes);
    message.freeze()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ports_are_read_from_lists_and_repeated_parameters() {
        let of = |query: &str| {
            ports(&Params::parse(&format!("/x?{query}").parse().unwrap()).unwrap()).map_err(|refusal| refusal.code)
        };
        assert_eq!(of("ports=80,443&ports=5432").unwrap(), [80, 443, 5432]);
        for bad in ["", "ports=", "ports=0", "ports=65536", "ports=80,x", &format!("ports={}", ["1"; 101].join(","))] {
            assert_eq!(of(bad).unwrap_err().as_u16(), 400, "{bad}");
        }
    }
}
