//! The protocol of `exec`: WebSocket frames (RFC 6455), and Kubernetes' channels in them. Bytes to values and back; no
//! I/O.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use sha1::{Digest as _, Sha1};
use tokio_util::codec::{Decoder, Encoder};

/// The newest subprotocol, in which a channel can be closed.
pub const V5: &str = "v5.channel.k8s.io";
/// Its predecessor.
pub const V4: &str = "v4.channel.k8s.io";

/// Channel of the process's stdin.
pub const STDIN: u8 = 0;
/// Channel of its stdout.
pub const STDOUT: u8 = 1;
/// Channel of its stderr.
pub const STDERR: u8 = 2;
/// Channel of the final Status.
pub const ENDED: u8 = 3;
/// Channel of the client's terminal sizes: `{"Width": 80, "Height": 24}`.
pub const RESIZE: u8 = 4;
/// Channel of the numbers of closed channels.
pub const CLOSED: u8 = 255;

/// Limit of a message in bytes.
const LIMIT: usize = 1 << 20;

/// The `Sec-WebSocket-Accept` for a client's `Sec-WebSocket-Key`.
pub fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")))
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Data of a channel.
    Data(u8, Bytes),
    /// A ping; answer with the same data.
    Ping(Bytes),
    /// A pong.
    Pong(Bytes),
    /// The last message.
    Close,
}

/// Encodes and decodes the frames of one side of a connection.
#[derive(Debug, Default)]
pub struct Codec {
    /// Whether this side is the client, which must mask its frames.
    client: bool,
    /// Parts of a message that is not complete yet.
    parts: BytesMut,
}

impl Codec {
    /// The server's side.
    pub fn server() -> Self {
        Self::default()
    }

    /// The client's side.
    pub fn client() -> Self {
        Self { client: true, ..Self::default() }
    }
}

fn malformed(what: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, what)
}

impl Decoder for Codec {
    type Item = Message;
    type Error = std::io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Message>, Self::Error> {
        while let Some((last, kind, payload)) = frame(buffer)? {
            match kind {
                0..=2 => {
                    if self.parts.len() + payload.len() > LIMIT {
                        return Err(malformed("a message is too long"));
                    }
                    self.parts.unsplit(payload);
                    let mut whole = match last {
                        true => std::mem::take(&mut self.parts),
                        false => continue,
                    };
                    if whole.is_empty() {
                        continue; // some clients send an empty frame first
                    }
                    let channel = whole.get_u8();
                    return Ok(Some(Message::Data(channel, whole.freeze())));
                }
                8 => return Ok(Some(Message::Close)),
                9 => return Ok(Some(Message::Ping(payload.freeze()))),
                10 => return Ok(Some(Message::Pong(payload.freeze()))),
                _ => return Err(malformed("a frame is of no known kind")),
            }
        }
        Ok(None)
    }
}

/// Takes one frame from the buffer: whether it ends its message, its opcode, its data.
fn frame(buffer: &mut BytesMut) -> Result<Option<(bool, u8, BytesMut)>, std::io::Error> {
    let [first, second, ..] = **buffer else { return Ok(None) };
    let (wide, masked) = (second & 0x7f, second & 0x80 != 0);
    let more = match wide {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let head = 2 + more + if masked { 4 } else { 0 };
    if buffer.len() < head {
        return Ok(None);
    }
    let length = match more {
        0 => u64::from(wide),
        _ => buffer[2..2 + more].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    };
    let length = usize::try_from(length).ok().filter(|length| *length <= LIMIT);
    let length = length.ok_or_else(|| malformed("a frame is too long"))?;
    if buffer.len() < head + length {
        return Ok(None);
    }
    let head = buffer.split_to(head);
    let mut payload = buffer.split_to(length);
    if masked {
        let mask = &head[head.len() - 4..];
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    }
    Ok(Some((first & 0x80 != 0, first & 0x0f, payload)))
}

impl Encoder<Message> for Codec {
    type Error = std::io::Error;

    fn encode(&mut self, message: Message, buffer: &mut BytesMut) -> Result<(), Self::Error> {
        let (kind, channel, bytes) = match message {
            Message::Data(channel, bytes) => (2, Some(channel), bytes),
            Message::Ping(bytes) => (9, None, bytes),
            Message::Pong(bytes) => (10, None, bytes),
            // With the code 1000: normal closure.
            Message::Close => (8, None, Bytes::from_static(&[3, 232])),
        };
        let length = bytes.len() + usize::from(channel.is_some());
        let masked = if self.client { 0x80 } else { 0 };
        buffer.put_u8(0x80 | kind);
        match length {
            0..126 => buffer.put_u8(masked | length as u8),
            126..0x1_0000 => {
                buffer.put_u8(masked | 126);
                buffer.put_u16(length as u16);
            }
            _ => {
                buffer.put_u8(masked | 127);
                buffer.put_u64(length as u64);
            }
        }
        if self.client {
            // A mask of zeros: masks protect against proxies that read the data, and inside TLS there are none.
            buffer.put_u32(0);
        }
        buffer.extend(channel);
        buffer.extend_from_slice(&bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_key_is_answered_as_the_standard_has_it() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn messages_of_every_length_come_through_in_pieces_and_from_both_sides() {
        for (mut from, mut to) in [(Codec::client(), Codec::server()), (Codec::server(), Codec::client())] {
            for length in [0, 1, 124, 125, 126, 70_000] {
                let sent = Message::Data(STDOUT, vec![7; length].into());
                let (mut wire, mut arrived) = (BytesMut::new(), BytesMut::new());
                from.encode(sent.clone(), &mut wire).unwrap();
                let end = wire.split_off(wire.len() - 1);
                arrived.extend_from_slice(&wire);
                assert_eq!(to.decode(&mut arrived).unwrap(), None);
                arrived.extend_from_slice(&end);
                assert_eq!(to.decode(&mut arrived).unwrap(), Some(sent));
            }
        }
    }

    #[test]
    fn a_masked_message_in_two_frames_with_a_ping_between_is_read() {
        let mut wire = BytesMut::new();
        wire.extend_from_slice(&[0x02, 0x82, 1, 2, 3, 4, 1 ^ 1, b'a' ^ 2]);
        wire.extend_from_slice(&[0x89, 0x00]);
        wire.extend_from_slice(&[0x80, 0x81, 0, 0, 0, 0, b'b']);
        let mut codec = Codec::server();
        assert_eq!(codec.decode(&mut wire).unwrap(), Some(Message::Ping(Bytes::new())));
        assert_eq!(codec.decode(&mut wire).unwrap(), Some(Message::Data(STDOUT, Bytes::from_static(b"ab"))));
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_read() {
        let mut wire = BytesMut::from(&[0x82, 127, 0, 0, 0, 1, 0, 0, 0, 0][..]);
        assert!(Codec::server().decode(&mut wire).is_err());
    }
}
