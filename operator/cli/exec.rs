//! `evenkeel exec`: runs a command in a container of a pod, with its output here, and ends as it ends.

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::codec::Framed;

use super::error::Error;
use super::pods;
use super::render;
use super::session::Session;
use crate::api::websocket::{self, Codec, Message};

/// Bytes of standard input sent at once.
const PIECE: usize = 32 * 1024;

/// Runs a command in a container.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A pod, or KIND/NAME for the first pod of an object that is ready
    #[arg(value_name = "POD|KIND/NAME")]
    target: String,
    /// In this container [default: the first]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Pass standard input on to the command
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Program and arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let (resource, found) = pods::meant(&args.target, session).await?;
    let is_ready = |pod: &&Value| {
        let conditions = pod["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let pod = found.iter().find(is_ready).or(found.first()).cloned().unwrap_or_default();
    let container = args.container.or_else(|| pods::containers(&pod).into_iter().next());
    let name = render::cell(&pod["metadata"]["name"]);
    let path = format!("{}/exec", resource.path(Some(&session.namespace), Some(&name)));
    let container = container.unwrap_or_default();
    let mut query = vec![("stdout", "true"), ("stderr", "true"), ("container", container.as_str())];
    query.extend(args.stdin.then_some(("stdin", "true")));
    query.extend(args.command.iter().map(|word| ("command", word.as_str())));
    let connection = session.client.open_websocket(&path, &query, websocket::V5).await?;
    let (mut sink, mut stream) = Framed::new(connection, Codec::client()).split();
    let (to_command, mut typed) = mpsc::channel(1);
    if args.stdin {
        // A thread of its own: nobody can end a read of standard input, and it must not keep us from ending.
        std::thread::spawn(move || pass_on(&mut std::io::stdin(), &to_command));
    }
    let mut open = args.stdin;
    loop {
        tokio::select! {
            piece = typed.recv(), if open => {
                open = piece.is_some();
                let closed = Message::Data(websocket::CLOSED, Bytes::from_static(&[websocket::STDIN]));
                // If the command has ended, its end is on the way to us.
                let _ = sink.send(piece.map_or(closed, |bytes| Message::Data(websocket::STDIN, bytes))).await;
            }
            message = stream.next() => match message {
                Some(Ok(Message::Data(websocket::STDOUT, bytes))) => {
                    session.out.write_all(&bytes)?;
                    session.out.flush()?;
                }
                Some(Ok(Message::Data(websocket::STDERR, bytes))) => session.err.write_all(&bytes)?,
                Some(Ok(Message::Data(websocket::ENDED, bytes))) => return ended(&bytes),
                Some(Ok(Message::Ping(bytes))) => drop(sink.send(Message::Pong(bytes)).await),
                Some(Ok(Message::Data(..) | Message::Pong(_))) => {}
                Some(Ok(Message::Close) | Err(_)) | None => {
                    return Err(Error::Failed("the connection ended before the command did".to_owned()));
                }
            },
        }
    }
}

/// Reads to the end; the end of the channel is the end of the input.
fn pass_on(input: &mut impl std::io::Read, to_command: &mpsc::Sender<Bytes>) {
    let mut buffer = vec![0; PIECE];
    while let Ok(length @ 1..) = input.read(&mut buffer) {
        if to_command.blocking_send(Bytes::copy_from_slice(&buffer[..length])).is_err() {
            return;
        }
    }
}

/// How the command ended, from its Status.
fn ended(status: &[u8]) -> Result<(), Error> {
    let status: Value = serde_json::from_slice(status).unwrap_or_default();
    if status["status"] == "Success" {
        return Ok(());
    }
    let causes = status["details"]["causes"].as_array();
    let code = causes.into_iter().flatten().find(|cause| cause["reason"] == "ExitCode");
    match code.and_then(|cause| cause["message"].as_str()?.parse().ok()) {
        Some(code) => Err(Error::Exited(code)),
        None => Err(Error::Failed(render::cell(&status["message"]))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn we_end_as_the_command_did() {
        assert!(ended(br#"{"status":"Success"}"#).is_ok());
        let failed = br#"{"status":"Failure","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        assert_eq!(ended(failed).unwrap_err().exit_code(), 3);
        let broken = ended(br#"{"status":"Failure","message":"Docker host local does not answer"}"#).unwrap_err();
        assert_eq!(broken.report(), "error: Docker host local does not answer\n");
    }
}
