//! Frames of SPDY/3.1, as far as kubectl's port-forward sends and reads them. Flow control is not used: kubectl has none.

use std::io;

use bytes::{BufMut as _, Bytes, BytesMut};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Limit of a frame, in bytes. kubectl sends 32 KiB at once.
const LIMIT: usize = 1 << 20;
/// Limit of the headers of one stream, in bytes.
const HEADERS: usize = 16 * 1024;
/// The farthest distance in compressed data, in bytes.
const WINDOW: usize = 32 * 1024;
/// The first bytes of compressed headers: zlib with a dictionary, which both sides know.
const PREFIX: [u8; 6] = [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2];
/// The dictionary of SPDY/3, first part: words, each sent with its length.
const WORDS: &str = "options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|accept-language|accept-ranges|\
    age|allow|authorization|cache-control|connection|content-base|content-encoding|content-language|content-length|\
    content-location|content-md5|content-range|content-type|date|etag|expect|expires|from|host|if-match|\
    if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|location|max-forwards|pragma|\
    proxy-authenticate|proxy-authorization|range|referer|retry-after|server|te|trailer|transfer-encoding|upgrade|\
    user-agent|vary|via|warning|www-authenticate|method|get|status|200 OK|version|HTTP/1.1|url|public|set-cookie|\
    keep-alive|origin";
/// Its second part: text.
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
    404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept \
    Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch\
    charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// A frame of the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// It opens a stream.
    Open {
        /// The stream's number.
        stream: u32,
        /// Names in lower case, and values.
        headers: Vec<(String, String)>,
    },
    /// Bytes of a stream.
    Data {
        /// The stream's number.
        stream: u32,
        /// The bytes.
        bytes: Bytes,
        /// The client sends no more on this stream.
        last: bool,
    },
    /// It gives a stream up.
    Reset(u32),
    /// It asks for the same frame as an answer.
    Ping(u32),
    /// Anything else: of no consequence.
    Other,
}

/// Reads the frames of a connection.
pub struct Frames<R> {
    connection: R,
    headers: Headers,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    /// The frames of this connection.
    pub fn new(connection: R) -> Self {
        Self { connection, headers: Headers::default() }
    }

    /// The next frame; an error at the end of the connection, too.
    pub async fn next(&mut self) -> io::Result<Frame> {
        let mut head = [0; 8];
        self.connection.read_exact(&mut head).await?;
        let (first, second) = (number(&head, 0), number(&head, 4));
        let (flags, length) = (second >> 24, (second & 0xff_ffff) as usize);
        if length > LIMIT {
            return Err(io::Error::other("a frame of SPDY is too long"));
        }
        let mut body = BytesMut::zeroed(length);
        self.connection.read_exact(&mut body).await?;
        if first & 1 << 31 == 0 {
            return Ok(Frame::Data { stream: first, bytes: body.freeze(), last: flags & 1 == 1 });
        }
        let (kind, stream) = (first & 0xffff, if length < 4 { 0 } else { number(&body, 0) & !(1 << 31) });
        Ok(match kind {
            1 => Frame::Open { stream, headers: self.headers.read(body.get(10..).unwrap_or_default())? },
            3 => Frame::Reset(stream),
            6 => Frame::Ping(if length < 4 { 0 } else { number(&body, 0) }),
            // More headers: not needed, but later ones refer to them.
            2 | 8 => self.headers.read(body.get(4..).unwrap_or_default()).map(|_| Frame::Other)?,
            _ => Frame::Other,
        })
    }
}

/// The big-endian number at `at`; 0 if there is none.
fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// Unpacks headers: one compressed stream for the whole connection.
struct Headers {
    state: Box<DecompressorOxide>,
    window: Box<[u8]>,
    at: usize,
    begun: bool,
}

impl Default for Headers {
    fn default() -> Self {
        Self { state: Box::default(), window: vec![0; WINDOW].into(), at: 0, begun: false }
    }
}

impl Headers {
    fn read(&mut self, packed: &[u8]) -> io::Result<Vec<(String, String)>> {
        let broken = || io::Error::other("the headers of a stream of SPDY cannot be read");
        let plain = self.unpack(packed).ok_or_else(broken)?;
        let mut rest = plain.as_slice();
        let mut take = |length: usize| -> Option<&[u8]> {
            let (taken, after) = rest.split_at_checked(length)?;
            rest = after;
            Some(taken)
        };
        let count = take(4).map(|bytes| number(bytes, 0)).ok_or_else(broken)?;
        let mut text = || {
            let length = number(take(4)?, 0) as usize;
            String::from_utf8(take(length)?.to_vec()).ok()
        };
        let pairs = (0..count).map(|_| Some((text()?, text()?)));
        pairs.collect::<Option<Vec<_>>>().ok_or_else(broken)
    }

    fn unpack(&mut self, mut packed: &[u8]) -> Option<Vec<u8>> {
        if !self.begun {
            self.begun = true;
            let (prefix, after) = packed.split_at_checked(PREFIX.len())?;
            if prefix[2..] != PREFIX[2..] {
                return None;
            }
            packed = after;
            let known = dictionary();
            self.window[..known.len()].copy_from_slice(&known);
            self.at = known.len();
        }
        let mut plain = Vec::new();
        loop {
            let (window, at) = (&mut self.window, self.at);
            let (status, read, written) = decompress(&mut self.state, packed, window, at, TINFL_FLAG_HAS_MORE_INPUT);
            plain.extend_from_slice(&window[at..at + written]);
            packed = &packed[read..];
            self.at = (at + written) % WINDOW;
            match status {
                TINFLStatus::NeedsMoreInput if plain.len() <= HEADERS => return Some(plain),
                TINFLStatus::HasMoreOutput if plain.len() <= HEADERS => {}
                _ => return None,
            }
        }
    }
}

fn dictionary() -> Vec<u8> {
    let mut all = Vec::new();
    for word in WORDS.split('|') {
        all.extend((word.len() as u32).to_be_bytes());
        all.extend(word.bytes());
    }
    all.extend(TEXT.bytes());
    all
}

fn control(kind: u16, stream: u32, rest: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u16(0x8003);
    frame.put_u16(kind);
    frame.put_u32(4 + rest.len() as u32);
    frame.put_u32(stream);
    frame.put_slice(rest);
    frame.freeze()
}

/// The stream is accepted, without headers. `first`: it is the first answer of the connection.
pub fn accepted(stream: u32, first: bool) -> Bytes {
    // The number 0, not compressed: a block of 4 bytes. The empty block after it makes kubectl read the first.
    let none = [0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    let prefix: &[u8] = if first { &PREFIX } else { &[] };
    control(2, stream, &[prefix, &none].concat())
}

/// The stream is refused.
pub fn refused(stream: u32) -> Bytes {
    control(3, stream, &3_u32.to_be_bytes())
}

/// The answer to a ping.
pub fn ping(id: u32) -> Bytes {
    control(6, id, &[])
}

/// Bytes of a stream; `last`: the server sends no more on it.
pub fn data(stream: u32, bytes: &[u8], last: bool) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + bytes.len());
    frame.put_u32(stream);
    frame.put_u32(u32::from(last) << 24 | bytes.len() as u32);
    frame.put_slice(bytes);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A frame that opens a stream with these compressed headers.
    fn open(stream: u32, packed: &[u8]) -> Bytes {
        control(1, stream, &[&[0; 6], packed].concat())
    }

    async fn read(bytes: &[u8]) -> Vec<Frame> {
        let mut frames = Frames::new(bytes);
        let mut all = Vec::new();
        while let Ok(frame) = frames.next().await {
            all.push(frame);
        }
        all
    }

    #[tokio::test]
    async fn headers_are_unpacked_and_later_ones_refer_to_earlier_ones() {
        // Made by zlib with the dictionary of SPDY/3, level 9.
        let first = [
            0x78, 0xf9, 0xe3, 0xc6, 0xa7, 0xc2, 0x02, 0x25, 0x3a, 0x48, 0xf9, 0x5b, 0x04, 0x4a, 0xab, 0x4c, 0x16, 0x06,
            0x40, 0x92, 0xb3, 0x08, 0x12, 0x5b, 0x99, 0xa0, 0x54, 0xcc, 0x68, 0x00, 0x4e, 0x87, 0x25, 0x45, 0xa9, 0x89,
            0xb9, 0xd0, 0xa2, 0x86, 0x35, 0x15, 0x14, 0x11, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff,
        ];
        let second = [0x22, 0x4b, 0x2b, 0xa8, 0x94, 0x4a, 0x04, 0, 0, 0, 0xff, 0xff];
        let frames = [open(1, &first), open(3, &second), data(3, b"hello", true), ping(7), control(9, 3, &[0; 4])];
        let headers = |kind: &str| {
            [("port", "80"), ("requestid", "0"), ("streamtype", kind)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec()
        };
        let expected = [
            Frame::Open { stream: 1, headers: headers("error") },
            Frame::Open { stream: 3, headers: headers("data") },
            Frame::Data { stream: 3, bytes: "hello".into(), last: true },
            Frame::Ping(7),
            Frame::Other,
        ];
        assert_eq!(read(&frames.concat()).await, expected);
    }

    #[tokio::test]
    async fn what_is_no_spdy_ends_the_connection() {
        let long = [[0, 0, 0, 1], [0, 0xff, 0xff, 0xff]].concat();
        let endless = control(1, 1, &[&[0; 6][..], &PREFIX, &[0, 4, 0, 0xfb, 0xff, 0xff, 0xff, 0xff, 0xff]].concat());
        for bytes in [&long[..], &endless, &open(1, b"no zlib"), &open(1, &[]), b"GET / HTTP/1.1\r\n"] {
            assert_eq!(read(bytes).await, [], "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_has_no_headers() {
        let mut headers = Headers::default();
        assert_eq!(headers.read(&accepted(1, true)[12..]).unwrap(), []);
        assert_eq!(headers.read(&accepted(3, false)[12..]).unwrap(), []);
        assert_eq!(&accepted(3, false)[..12], [0x80, 3, 0, 2, 0, 0, 0, 18, 0, 0, 0, 3]);
    }
}
