//! The socket where the programs that PostgreSQL runs for WAL files ask: one question a connection, one answer.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::archive::names::WalFile;
use crate::supervisor::archiving::ask::NOT_NOW;
use crate::supervisor::archiving::decide::Answer;
use crate::supervisor::archiving::{Door, Question};
use crate::supervisor::control;
use crate::supervisor::place::Place;

/// Most bytes of a question.
const QUESTION: u64 = 512;
/// Limit of concurrent questions: an archiver asks one at a time, a recovery too. Further ones wait.
const QUESTIONS: usize = 32;
/// Time to ask it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Binds the socket; besides root only the server's user may connect.
pub fn bind(path: &Path, place: &Place) -> std::io::Result<UnixListener> {
    let listener = control::bind(path)?;
    place.hand_over(path)?;
    Ok(listener)
}

/// Answers for ever.
pub async fn serve(listener: UnixListener, door: Door) {
    control::accept_all(listener, QUESTIONS, |stream| {
        let door = door.clone();
        async move {
            if let Err(error) = answer(stream, door).await {
                tracing::debug!(%error, "a question about a WAL file was not answered");
            }
        }
    })
    .await;
}

async fn answer(stream: UnixStream, door: Door) -> std::io::Result<()> {
    let (input, mut output) = stream.into_split();
    let mut line = String::new();
    let mut input = BufReader::new(input.take(QUESTION));
    tokio::time::timeout(PATIENCE, input.read_line(&mut line)).await??;
    let (code, content) = match parse(&line) {
        Some(Question::Push(file)) => match door.pushed(&file).await {
            Answer::Done => (0, Bytes::new()),
            Answer::Stopping | Answer::Wait | Answer::Briefly => (NOT_NOW, Bytes::new()),
        },
        Some(Question::Fetch(file)) => door.fetched(file).await,
        None => (NOT_NOW, Bytes::new()),
    };
    output.write_all(format!("{code} {}\n", content.len()).as_bytes()).await?;
    output.write_all(&content).await
}

fn parse(line: &str) -> Option<Question> {
    let (verb, file) = line.trim_end().split_once(' ')?;
    let known = file.parse::<WalFile>().ok()?;
    match verb {
        "push" => Some(Question::Push(file.to_owned())),
        "fetch" => Some(Question::Fetch(known)),
        _ => None,
    }
}
