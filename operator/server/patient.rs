//! A connection whose client must go on reading. Otherwise an answer that nobody takes would stay in memory for ever.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Time after which a client that reads nothing of its answer is gone.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A connection that fails when nothing can be written for [`PATIENCE`], unless it streams.
pub struct Patient<S> {
    stream: S,
    streams: Arc<AtomicBool>,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncWrite + Unpin> Patient<S> {
    /// Wraps a connection; `streams` says whether its client may pause at this moment.
    pub fn new(stream: S, streams: Arc<AtomicBool>) -> Self {
        Self { stream, streams, stalled: None }
    }

    fn watched<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() || self.streams.load(Ordering::Relaxed) {
            self.stalled = None;
            return outcome;
        }
        ready!(self.stalled.get_or_insert_with(|| Box::pin(sleep(PATIENCE))).as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watched(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.watched(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.watched(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watched(cx, outcome)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_stream_may_be_read_as_slowly_as_the_client_likes() {
        let (near, _far) = tokio::io::duplex(4);
        let streams = Arc::new(AtomicBool::new(false));
        let mut connection = Patient::new(near, streams.clone());
        let refused = connection.write_all(b"more than it takes").await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
        streams.store(true, Ordering::Relaxed);
        let waits = tokio::time::timeout(PATIENCE * 10, connection.write_all(b"more"));
        assert!(waits.await.is_err(), "it waits");
    }
}
