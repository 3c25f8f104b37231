//! The unix socket for the operator's connections: commands in, complete reports out, one JSON document per line.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::codec::{FramedRead, LinesCodec};

use super::fence::{Fence, Hello};
use crate::api::chain::chain;

/// Limit of a command, in bytes.
const LONGEST_COMMAND: usize = 1 << 20;
/// Limit of concurrent connections. Further ones wait.
const CONVERSATIONS: usize = 32;
/// Time-out for writing a report.
const STALLED: Duration = Duration::from_secs(20);

/// Binds the socket; only root may connect.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The mode is narrow from the start: not bound first and restricted afterwards.
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    nix::sys::stat::umask(before);
    listener
}

/// Serves connections for ever.
pub async fn serve<Command: DeserializeOwned + Send + 'static>(
    listener: UnixListener,
    fence: Fence,
    commands: mpsc::Sender<Command>,
    reports: watch::Receiver<Arc<str>>,
) {
    let fence = Arc::new(fence);
    accept_all(listener, CONVERSATIONS, |stream| {
        let (fence, commands, reports) = (fence.clone(), commands.clone(), reports.clone());
        async move { converse(stream, &fence, commands, reports).await }
    })
    .await;
}

/// Accepts connections for ever, and answers so many at the same time. Further ones wait.
pub async fn accept_all<A: Future<Output = ()> + Send + 'static>(
    listener: UnixListener,
    at_once: usize,
    answer: impl Fn(UnixStream) -> A,
) {
    let free = Arc::new(Semaphore::new(at_once));
    loop {
        let Ok(permit) = free.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let answered = answer(stream);
                tokio::spawn(async move {
                    answered.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse<Command: DeserializeOwned>(
    stream: UnixStream,
    fence: &Fence,
    commands: mpsc::Sender<Command>,
    reports: watch::Receiver<Arc<str>>,
) {
    let (input, output) = stream.into_split();
    // The side that ends first ends both.
    tokio::select! {
        () = hear(input, fence, commands) => {}
        result = tell(output, reports) => if let Err(error) = result {
            tracing::debug!(%error, "a conversation ended");
        }
    }
}

async fn hear<Command: DeserializeOwned>(input: OwnedReadHalf, fence: &Fence, commands: mpsc::Sender<Command>) {
    let mut epoch = 0;
    let mut lines = FramedRead::new(input, LinesCodec::new_with_max_length(LONGEST_COMMAND));
    while let Some(line) = lines.next().await {
        if let Ok(Ok(hello)) = line.as_ref().map(|line| serde_json::from_str::<Hello>(line)) {
            epoch = hello.epoch;
            if let Err(refused) = fence.admit(epoch) {
                return tracing::warn!(error = %chain(&refused), "a conversation is ended");
            }
            continue;
        }
        let command = match line.map(|line| serde_json::from_str::<Command>(&line)) {
            Ok(Ok(command)) => command,
            // The line, and serde's error about it, may contain secrets.
            Ok(Err(error)) => {
                let kind = error.classify();
                tracing::warn!(?kind, column = error.column(), "a command that this version does not understand");
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "reading commands");
                return;
            }
        };
        // Nothing that an operator said counts once a later one has spoken.
        if let Err(refused) = fence.check(epoch) {
            return tracing::warn!(%refused, "a conversation is ended");
        }
        if commands.send(command).await.is_err() {
            return;
        }
    }
}

async fn tell(mut output: OwnedWriteHalf, mut reports: watch::Receiver<Arc<str>>) -> io::Result<()> {
    loop {
        let report = reports.borrow_and_update().clone();
        if !report.is_empty() {
            let write = async {
                output.write_all(report.as_bytes()).await?;
                output.flush().await
            };
            tokio::time::timeout(STALLED, write).await??;
        }
        if reports.changed().await.is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::supervisor::wire::Command;
    use std::os::unix::fs::PermissionsExt;
    use tokio::io::{AsyncBufReadExt, BufReader};

    #[tokio::test]
    async fn a_report_goes_out_at_once_and_again_when_it_changes_and_commands_come_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("supervisor.sock");
        let listener = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (reports, seen) = watch::channel(Arc::from("one\n"));
        let (commands, mut heard) = mpsc::channel(4);
        let server = tokio::spawn(serve(listener, Fence::load(folder.path()).unwrap(), commands, seen));
        let (input, mut output) = UnixStream::connect(&path).await.unwrap().into_split();
        let mut lines = BufReader::new(input).lines();
        assert_eq!(lines.next_line().await.unwrap().unwrap(), "one");
        reports.send(Arc::from("two\n")).unwrap();
        assert_eq!(lines.next_line().await.unwrap().unwrap(), "two");
        output.write_all(b"{\"unknown\":{}}\n{\"renew\":{\"term\":3,\"clockMs\":9}}\n").await.unwrap();
        assert_eq!(heard.recv().await, Some(Command::Renew { term: 3, clock_ms: 9 }));
        server.abort();
    }

    /// Regression 472: a deposed operator's commands were obeyed as long as its streams lived: only orders had a number, and
    /// credentials, restarts and confirmations of the leader had none.
    #[tokio::test]
    async fn what_an_operator_says_does_not_count_once_a_later_one_has_spoken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("supervisor.sock");
        let listener = bind(&path).unwrap();
        let (_reports, seen) = watch::channel(Arc::from("one\n"));
        let (commands, mut heard) = mpsc::channel(4);
        let server = tokio::spawn(serve(listener, Fence::load(folder.path()).unwrap(), commands, seen));
        let renew = |term: u64| format!("{{\"renew\":{{\"term\":{term},\"clockMs\":9}}}}\n");
        let (input, mut old) = UnixStream::connect(&path).await.unwrap().into_split();
        let mut old_reports = BufReader::new(input).lines();
        assert_eq!(old_reports.next_line().await.unwrap().unwrap(), "one");
        old.write_all(format!("{{\"epoch\":4}}\n{}", renew(1)).as_bytes()).await.unwrap();
        assert_eq!(heard.recv().await, Some(Command::Renew { term: 1, clock_ms: 9 }));
        let mut new = UnixStream::connect(&path).await.unwrap();
        new.write_all(format!("{{\"epoch\":5}}\n{}", renew(2)).as_bytes()).await.unwrap();
        assert_eq!(heard.recv().await, Some(Command::Renew { term: 2, clock_ms: 9 }));
        old.write_all(renew(3).as_bytes()).await.unwrap();
        // The conversation is ended, and so is that of an operator that says no epoch.
        assert_eq!(old_reports.next_line().await.unwrap(), None);
        let (input, mut none) = UnixStream::connect(&path).await.unwrap().into_split();
        let mut its_reports = BufReader::new(input).lines();
        assert_eq!(its_reports.next_line().await.unwrap().unwrap(), "one");
        none.write_all(renew(4).as_bytes()).await.unwrap();
        assert_eq!(its_reports.next_line().await.unwrap(), None);
        assert!(heard.try_recv().is_err(), "a command of a deposed operator was taken");
        server.abort();
    }
}
