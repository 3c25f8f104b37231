//! Connections to a process in a container: an exec of our own binary that forwards its stdin and stdout to a
//! socket there.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bollard::models::ExecConfig;
use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::super::bridge::CONNECTED;
use super::super::{BINARY, Conversation, Error, ExecSession, Output};
use super::{ANSWER, DockerEngine};

/// Limit of the error text that is kept from the bridge's stderr, in bytes.
const WORDS: usize = 4096;

impl DockerEngine {
    pub(super) async fn dialed(&self, container: &str, address: &str) -> Result<Box<dyn Conversation>, Error> {
        let doing = format!("dialing {address} in container {container}");
        let exec = ExecConfig {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(false),
            // Sockets in a container may be accessible only to their owner.
            user: Some("0".to_owned()),
            cmd: Some(vec![BINARY.to_owned(), "dial".to_owned(), address.to_owned()]),
            ..Default::default()
        };
        let mut stream = ExecStream::new(self.exec_started(container, exec, &doing).await?);
        let mut first = [0];
        match tokio::time::timeout(ANSWER, stream.read(&mut first)).await {
            Ok(Ok(1)) if first == [CONNECTED] => Ok(Box::new(stream)),
            Ok(Ok(0)) => {
                Err(Error::refused(&self.host, doing, "the exec ended without a word; has the container just stopped?"))
            }
            // Docker reports an exec that cannot start in the output stream.
            Ok(Ok(_)) => Err(Error::refused(&self.host, doing, stream.rest_in_words(first[0]).await)),
            Ok(Err(error)) => Err(Error::refused(&self.host, doing, error.to_string())),
            Err(_) => Err(Error::refused(
                &self.host,
                doing,
                format!("nothing in the container answered within {} s", ANSWER.as_secs()),
            )),
        }
    }
}

/// The exec's stdout and stdin as one stream. Dropping it closes the connection; then Docker closes the exec's
/// stdin, and the bridge ends.
struct ExecStream {
    exec: ExecSession,
    /// Received on stdout and not yet read.
    pending: Bytes,
    heard: bool,
    stderr: String,
}

impl ExecStream {
    fn new(exec: ExecSession) -> Self {
        Self { exec, pending: Bytes::new(), heard: false, stderr: String::new() }
    }

    fn complaint(&mut self, message: &[u8]) {
        let text = String::from_utf8_lossy(message);
        for line in text.lines() {
            tracing::debug!("dial: {line}");
        }
        if self.stderr.len() < WORDS {
            self.stderr.extend(text.chars().take(WORDS));
        }
    }

    /// The text that came instead of [`CONNECTED`].
    async fn rest_in_words(mut self, first: u8) -> String {
        let mut said = vec![first];
        let mut rest = (&mut self).take(WORDS as u64);
        // If the stream fails meanwhile, the text so far is enough.
        let _ = tokio::time::timeout(ANSWER, rest.read_to_end(&mut said)).await;
        String::from_utf8_lossy(&said).trim().to_owned()
    }
}

impl AsyncRead for ExecStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.pending.is_empty() {
            match ready!(self.exec.output.as_mut().poll_next(cx)) {
                Some(Ok(Output::Stderr(message))) => self.complaint(&message),
                Some(Ok(Output::Stdout(message))) => {
                    self.heard = true;
                    self.pending = message;
                }
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None if !self.heard && !self.stderr.is_empty() => {
                    return Poll::Ready(Err(io::Error::other(self.stderr.trim().to_owned())));
                }
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.pending.len().min(buffer.remaining());
        buffer.put_slice(&self.pending[..length]);
        self.pending.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ExecStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.exec.input.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.exec.input.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.exec.input.as_mut().poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::stream;

    use super::*;

    fn exec_that_says(frames: Vec<Output>) -> ExecStream {
        ExecStream::new(ExecSession {
            id: String::new(),
            output: Box::pin(stream::iter(frames.into_iter().map(Ok))),
            input: Box::pin(tokio::io::sink()),
        })
    }

    fn out(text: &'static str) -> Output {
        Output::Stdout(Bytes::from_static(text.as_bytes()))
    }

    fn err(text: &'static str) -> Output {
        Output::Stderr(Bytes::from_static(text.as_bytes()))
    }

    async fn heard(frames: Vec<Output>) -> String {
        let mut text = String::new();
        match exec_that_says(frames).read_to_string(&mut text).await {
            Ok(_) => text,
            Err(error) => format!("error: {error}"),
        }
    }

    #[tokio::test]
    async fn stdout_is_the_stream_and_stderr_the_reason_of_an_early_end() {
        assert_eq!(heard(vec![out("ab"), err("noise\n"), out(""), out("cd")]).await, "abcd");
        assert_eq!(
            heard(vec![err("cannot connect to unix:/x: "), err("No such file\n")]).await,
            "error: cannot connect to unix:/x: No such file"
        );
        assert_eq!(heard(vec![out("done"), err("bye\n")]).await, "done");
        assert_eq!(heard(vec![]).await, "");
    }

    #[tokio::test]
    async fn a_frame_larger_than_the_readers_buffer_is_read_in_pieces() {
        let mut stream = exec_that_says(vec![out("abcdef"), out("g")]);
        let mut buffer = [0; 4];
        let mut lengths = vec![];
        loop {
            match stream.read(&mut buffer).await.unwrap() {
                0 => break,
                length => lengths.push(length),
            }
        }
        assert_eq!(lengths, [4, 2, 1]);
    }
}
