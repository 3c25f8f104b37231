//! The `exec` and `attach` subresources of a pod: a command in one of its containers, or its own output, over a
//! WebSocket in Kubernetes' channels.

use std::time::Duration;

use axum::http::HeaderMap;
use axum::response::Response;
use futures::{Sink, SinkExt as _, Stream, StreamExt as _};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::containers::{Command, Containers, LogOptions, Output, Outputs, Place, Session, door, meant};
use super::params::Params;
use super::request::Request;
use super::routes::Part;
use super::status::Refusal;
use super::upgrade;
use crate::api::failure::Failure;
use crate::api::websocket::{self, Message, Role};

/// Length of the queue to a slow client; when it is full, the command waits.
const WAITING: usize = 16;
/// Poll interval for the exit code after the output has ended: the engine reports it a moment later.
const GLANCE: Duration = Duration::from_millis(20);
/// Number of polls for the exit code.
const GLANCES: u32 = 100;

/// Starts the command, or attaches to the output of the container, and switches to the WebSocket.
pub async fn serve(mut request: Request<'_>) -> Result<Response, Refusal> {
    let attach = request.target.part == Part::Attach;
    let command = if attach { None } else { Some(command(&request.params)?) };
    if attach && (request.params.flag("stdin")? || request.params.flag("tty")?) {
        return Err(Refusal::bad_request(
            "the containers of pods have no stdin and no terminal; attach without -i and -t shows their output, and \
             exec -it starts a shell",
        ));
    }
    let protocol = handshake(&request.headers, if attach { "attach" } else { "exec" })?;
    let meant = meant(&request).await?;
    let containers = door(&request)?.clone();
    let upgrade = request.upgrade.take().ok_or_else(|| Refusal::bad_request("this connection cannot be upgraded"))?;
    let session = match command {
        Some(command) => containers.exec(&meant.place, &command).await,
        None => attached(&*containers, &meant.place).await,
    };
    let session = session.map_err(|failure| meant.refused(&failure))?;
    let end = request.ended();
    tokio::spawn(async move {
        let connection = match upgrade.await {
            Ok(connection) => connection,
            Err(error) => return tracing::debug!(%error, "an exec was not taken up"),
        };
        let (sink, stream) = websocket::talk(TokioIo::new(connection), Role::Server).await.split();
        let talk = converse(&*containers, &meant.place, session, sink, stream);
        tokio::select! {
            () = end => {}
            () = talk => {}
        }
    });
    Ok(upgrade::to_websocket(&request.headers, protocol))
}

/// The output of the container from now on.
async fn attached(containers: &dyn Containers, place: &Place) -> Result<Session, Failure> {
    let options = LogOptions { follow: true, tail: Some(0), ..LogOptions::default() };
    let output = containers.logs(place, options).await?;
    Ok(Session { id: String::new(), output, input: Box::pin(tokio::io::sink()) })
}

fn command(params: &Params) -> Result<Command, Refusal> {
    let words: Vec<String> = params.all("command").map(str::to_owned).collect();
    if words.is_empty() {
        return Err(Refusal::bad_request("you must specify at least one command for the container"));
    }
    Ok(Command { words, stdin: params.flag("stdin")?, tty: params.flag("tty")? })
}

/// The subprotocol of a client that requests a WebSocket; `verb` is what it wants.
fn handshake(headers: &HeaderMap, verb: &str) -> Result<&'static str, Refusal> {
    if !upgrade::asks_for(headers, "websocket") {
        return Err(Refusal::bad_request(format!(
            "{verb} speaks WebSocket here, and not SPDY: kubectl 1.31 and newer do by themselves, 1.29 and 1.30 with \
             KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true, and `evenkeel exec` always"
        )));
    }
    upgrade::subprotocol(headers, &[websocket::V5, websocket::V4])
        .ok_or_else(|| Refusal::bad_request(format!("{verb} speaks v5.channel.k8s.io and v4.channel.k8s.io")))
}

/// Forwards data in both directions until the command has ended or the client has disconnected.
async fn converse(
    containers: &dyn Containers,
    place: &Place,
    session: Session,
    sink: impl Sink<Message, Error = websocket::Error>,
    stream: impl Stream<Item = Result<Message, websocket::Error>>,
) {
    let Session { id, output, input } = session;
    let (to_client, from_here) = mpsc::channel(WAITING);
    let listening = listen(containers, place, &id, input, stream);
    let speaking = speak(containers, place, &id, output, to_client);
    let sending = send(from_here, sink);
    tokio::pin!(listening, speaking, sending);
    tokio::select! {
        // The client has disconnected; dropping the streams signals that to the command.
        () = &mut listening => return,
        () = &mut sending => return,
        () = &mut speaking => {}
    }
    // The command has ended: send the rest of its output; reading answers the client's pings meanwhile.
    tokio::select! {
        () = &mut listening => {}
        () = &mut sending => {}
    }
}

/// Forwards the client's messages to the command.
async fn listen(
    containers: &dyn Containers,
    place: &Place,
    id: &str,
    input: std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>,
    stream: impl Stream<Item = Result<Message, websocket::Error>>,
) {
    tokio::pin!(stream);
    let mut input = Some(input);
    while let Some(Ok(message)) = stream.next().await {
        match websocket::channel(&message) {
            Some((websocket::STDIN, bytes)) => {
                if let Some(open) = &mut input
                    && (open.write_all(&bytes).await.is_err() || open.flush().await.is_err())
                {
                    input = None; // the command reads no more input; other messages still count
                }
            }
            Some((websocket::CLOSED, channels)) if channels.first() == Some(&websocket::STDIN) => {
                if let Some(mut open) = input.take() {
                    let _ = open.shutdown().await; // the command may have ended
                }
            }
            Some((websocket::RESIZE, bytes)) => {
                if let Some(size) = size(&bytes)
                    && let Err(failure) = containers.resize(place, id, size).await
                {
                    tracing::debug!(%failure, "a terminal was not resized");
                }
            }
            _ if message.is_close() => return,
            _ => {}
        }
    }
}

/// Parses a terminal size: rows and columns.
fn size(bytes: &[u8]) -> Option<(u16, u16)> {
    let size: Value = serde_json::from_slice(bytes).ok()?;
    let side = |name: &str| size[name].as_u64().and_then(|side| u16::try_from(side).ok());
    Some((side("Height")?, side("Width")?))
}

/// Forwards the output and the exit code of the command to the client.
async fn speak(
    containers: &dyn Containers,
    place: &Place,
    id: &str,
    mut output: Outputs,
    to_client: mpsc::Sender<Message>,
) {
    let mut broken = None;
    while let Some(piece) = output.next().await {
        let message = match piece {
            Ok(Output::Stdout(bytes)) => websocket::data(websocket::STDOUT, &bytes),
            Ok(Output::Stderr(bytes)) => websocket::data(websocket::STDERR, &bytes),
            Err(failure) => {
                broken = Some(failure);
                break;
            }
        };
        if to_client.send(message).await.is_err() {
            return;
        }
    }
    let ended = match broken {
        Some(failure) => Err(failure),
        None => code(containers, place, id).await,
    };
    let status = status(ended).to_string();
    let _ = to_client.send(websocket::data(websocket::ENDED, status.as_bytes())).await; // or the client has disconnected
    let _ = to_client.send(websocket::close()).await;
}

async fn code(containers: &dyn Containers, place: &Place, id: &str) -> Result<i64, Failure> {
    if id.is_empty() {
        return Ok(0); // attached: as in Kubernetes, only the output has ended
    }
    for _ in 0..GLANCES {
        if let Some(code) = containers.code(place, id).await? {
            return Ok(code);
        }
        tokio::time::sleep(GLANCE).await;
    }
    Err(Failure::new(
        crate::api::failure::Class::Transient,
        "it closed its output and goes on; how it ends is not waited for",
    ))
}

/// The result of a command as a Status, as clients expect it.
fn status(ended: Result<i64, Failure>) -> Value {
    match ended {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(failure) => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500, "message": failure.message,
        }),
    }
}

async fn send(mut messages: mpsc::Receiver<Message>, sink: impl Sink<Message, Error = websocket::Error>) {
    tokio::pin!(sink);
    while let Some(message) = messages.recv().await {
        let last = message.is_close();
        if sink.send(message).await.is_err() || last {
            break;
        }
    }
    let _ = sink.close().await; // or the client has disconnected
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::http::header;

    use super::*;

    #[test]
    fn only_a_websocket_of_a_known_protocol_is_taken() {
        let check = |upgrade: &str, protocols: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::UPGRADE, upgrade.parse().unwrap());
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocols.parse().unwrap());
            handshake(&headers, "exec").map_err(|refusal| refusal.code.as_u16())
        };
        assert_eq!(check("websocket", "v4.channel.k8s.io, v5.channel.k8s.io"), Ok(websocket::V5));
        assert_eq!(check("WebSocket", "v4.channel.k8s.io"), Ok(websocket::V4));
        assert_eq!(check("websocket", "base64.channel.k8s.io"), Err(400));
        assert_eq!(check("SPDY/3.1", ""), Err(400));
    }

    #[test]
    fn the_exit_status_is_told_as_clients_look_for_it() {
        assert_eq!(status(Ok(0))["status"], "Success");
        let failed = status(Ok(3));
        assert_eq!(
            (&failed["reason"], &failed["details"]["causes"][0]["message"]),
            (&json!("NonZeroExitCode"), &json!("3"))
        );
        assert_eq!(size(br#"{"Width":80,"Height":24}"#), Some((24, 80)));
    }
}
