//! Moves bytes between a thread that blocks on files and a task that waits for the store. At most [`DEPTH`] pieces are on the way.

use std::io::{self, Read, Write};

use tokio::sync::mpsc;

/// Bytes of a piece.
const PIECE: usize = 1 << 20;
/// Pieces on the way.
const DEPTH: usize = 8;

/// The two ends.
pub fn pipe() -> (mpsc::Sender<Vec<u8>>, mpsc::Receiver<Vec<u8>>) {
    mpsc::channel(DEPTH)
}

/// The end of a thread that writes.
pub struct Writer {
    pieces: mpsc::Sender<Vec<u8>>,
    filling: Vec<u8>,
}

impl Writer {
    /// Into these.
    pub fn new(pieces: mpsc::Sender<Vec<u8>>) -> Self {
        Self { pieces, filling: Vec::with_capacity(PIECE) }
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let now = bytes.len().min(PIECE - self.filling.len());
        self.filling.extend_from_slice(&bytes[..now]);
        if self.filling.len() == PIECE {
            self.flush()?;
        }
        Ok(now)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.filling.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.filling, Vec::with_capacity(PIECE));
        self.pieces.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The end of a thread that reads.
pub struct Reader {
    pieces: mpsc::Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Reader {
    /// From these.
    pub fn new(pieces: mpsc::Receiver<Vec<u8>>) -> Self {
        Self { pieces, piece: Vec::new(), at: 0 }
    }
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(piece) => (self.piece, self.at) = (piece, 0),
            }
        }
        let now = out.len().min(self.piece.len() - self.at);
        out[..now].copy_from_slice(&self.piece[self.at..self.at + now]);
        self.at += now;
        Ok(now)
    }
}
