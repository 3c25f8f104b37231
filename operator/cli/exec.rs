//! `evenkeel exec`: runs a command in a container of a pod, forwards its streams, and exits with its exit code.

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::error::Error;
use super::session::Session;
use super::targets;
use super::terminal::{self, Raw};
use crate::api::websocket::{self, Message, Role};

/// Runs a command in a container.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// POD, or KIND/NAME for the first pod of an object
    #[arg(value_name = "POD")]
    target: String,
    /// The container [default: the first]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Pass standard input to the command
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Allocate a terminal for the command
    #[arg(short, long)]
    tty: bool,
    /// Program and arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let (resource, found) = targets::meant(&args.target, session).await?;
    let Some(pod) = found.first() else { return Err(Error::NotFound(format!("{} has no pods", args.target))) };
    let (container, word) = targets::container(pod, args.container.as_deref());
    if let Some(word) = word {
        writeln!(session.err, "{word}")?;
    }
    let flags = [("stdin", args.stdin), ("tty", args.tty), ("stdout", true), ("stderr", !args.tty)];
    let mut query = vec![("container", container.as_str())];
    query.extend(flags.iter().filter(|(_, on)| *on).map(|(name, _)| (*name, "true")));
    query.extend(args.command.iter().map(|word| ("command", word.as_str())));
    let path = format!("{}/exec", resource.path(Some(&session.namespace), Some(targets::name(pod))));
    let key = websocket::generate_key();
    let headers = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", &key),
        ("Sec-WebSocket-Protocol", websocket::V5),
    ];
    let connection = session.client.upgrade(&path, &query, &headers).await?;
    converse(&args, connection, session).await
}

/// Forwards data in both directions until the command has ended.
async fn converse(args: &Args, connection: reqwest::Upgraded, session: &mut Session<'_>) -> Result<(), Error> {
    let io = |doing: &str| {
        let doing = doing.to_owned();
        move |source| Error::Io { doing, source }
    };
    let (mut sink, mut stream) = websocket::talk(connection, Role::Client).await.split();
    let _raw = if args.tty && args.stdin { Raw::enter().map_err(io("use the terminal"))? } else { None };
    let mut resized = signal(SignalKind::window_change()).map_err(io("listen for signals"))?;
    if args.tty
        && let Some(size) = size()
    {
        let _ = sink.send(size).await; // if the connection is lost, reading says so
    }
    let mut input = args.stdin.then(terminal::input);
    loop {
        tokio::select! {
            message = stream.next() => {
                let lost = || Error::Failed("the connection was lost; the exit code is unknown".to_owned());
                let message = message.and_then(Result::ok).filter(|message| !message.is_close()).ok_or_else(lost)?;
                match websocket::channel(&message) {
                    Some((websocket::STDOUT, bytes)) => {
                        session.out.write_all(&bytes)?;
                        session.out.flush()?;
                    }
                    Some((websocket::STDERR, bytes)) => session.err.write_all(&bytes)?,
                    Some((websocket::ENDED, bytes)) => return ended(&bytes),
                    _ => {}
                }
            }
            piece = read(&mut input) => {
                let message = match piece {
                    Some(piece) => websocket::data(websocket::STDIN, &piece),
                    None => {
                        input = None;
                        websocket::data(websocket::CLOSED, &[websocket::STDIN])
                    }
                };
                // A command that has ended reads no more input; its exit code follows.
                let _ = sink.send(message).await;
            }
            _ = resized.recv(), if args.tty => {
                if let Some(size) = size() {
                    let _ = sink.send(size).await;
                }
            }
        }
    }
}

/// The next piece of input; never returns if there is no input.
async fn read(input: &mut Option<tokio::sync::mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

fn size() -> Option<Message> {
    let (width, height) = terminal::size()?;
    let size = json!({"Width": width, "Height": height}).to_string();
    Some(websocket::data(websocket::RESIZE, size.as_bytes()))
}

/// The result of the command, from the Status that the server sends last.
fn ended(status: &[u8]) -> Result<(), Error> {
    let status: Value = serde_json::from_slice(status).unwrap_or_default();
    if status["status"] == "Success" {
        return Ok(());
    }
    let message = status["message"].as_str().unwrap_or("the command failed").to_owned();
    let causes = status["details"]["causes"].as_array();
    let code = causes.into_iter().flatten().find(|cause| cause["reason"] == "ExitCode");
    match code.and_then(|cause| cause["message"].as_str()?.parse().ok()) {
        Some(code) => Err(Error::Ended { code, message }),
        None => Err(Error::Failed(message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_end_as_the_command_ended() {
        let end = |status: Value| ended(status.to_string().as_bytes()).map_err(|error| error.exit_code());
        assert_eq!(end(json!({"status": "Success"})), Ok(()));
        let causes = json!({"causes": [{"reason": "ExitCode", "message": "42"}]});
        assert_eq!(end(json!({"status": "Failure", "details": causes})), Err(42));
        assert_eq!(end(json!({"status": "Failure", "message": "gone"})), Err(1));
    }
}
