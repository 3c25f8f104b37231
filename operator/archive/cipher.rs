//! Encryption of what an archive holds: each object is a file of the format age v1 for one key, so that the program `age` opens it.
//! Pure but for the randomness of each file.
//!
//! Identities are private keys. The first one of an archive encrypts, all of them decrypt: that is how keys are changed. The public key
//! is never written anywhere: nobody who has the store alone can make an object that opens.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::iter;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use age::secrecy::ExposeSecret as _;
use age::x25519::{Identity, Recipient};
use age::{DecryptError, Decryptor, Encryptor};
use bytes::Bytes;

use crate::api::hash::short_hash;
use crate::api::sync::lock;
use crate::archive::access::Identities;

/// Digits of a fingerprint.
const FINGERPRINT: usize = 16;
/// Identities at most.
const MOST: usize = 32;
/// Bytes of content in each part of an age file, and of the tag that follows each.
const PART: u64 = 64 << 10;
/// See [`PART`].
const TAG: u64 = 16;
/// The name of the fingerprint in the metadata of an object.
pub const METADATA: &str = "evenkeel-age-fingerprint";
/// How the last line of a header begins.
const END: &[u8] = b"\n---";
/// Bytes of an age file before its content, at most; with one key they are some hundreds.
pub const HEADER: u64 = 4096;

/// The text is no list of identities.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadIdentities {
    /// There is none.
    #[error("it has no line AGE-SECRET-KEY-1..., as age-keygen writes one")]
    None,
    /// There are too many.
    #[error("it has more than {MOST} identities")]
    TooMany,
    /// A line is something else. What it says is not repeated.
    #[error("line {0} is no identity AGE-SECRET-KEY-1..., as age-keygen writes one, and no comment")]
    Line(usize),
}

/// An object cannot be decrypted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// No key fits.
    #[error("it is encrypted for another key than those that were given, which have the fingerprints {}", .0.join(", "))]
    OtherKey(Vec<String>),
    /// It is no age file, or was changed.
    #[error("it cannot be decrypted: {0}")]
    Damaged(String),
}

/// The keys of an archive. A clone costs little; `Debug` shows fingerprints.
#[derive(Clone)]
pub struct Cipher(Arc<Keys>);

struct Keys {
    identities: Vec<Identity>,
    recipient: Recipient,
    fingerprints: Vec<String>,
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cipher({})", self.0.fingerprints.join(", "))
    }
}

impl TryFrom<&Identities> for Cipher {
    type Error = BadIdentities;

    fn try_from(text: &Identities) -> Result<Self, BadIdentities> {
        let mut identities: Vec<Identity> = Vec::new();
        for (number, line) in text.0.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if identities.len() == MOST {
                return Err(BadIdentities::TooMany);
            }
            identities.push(line.parse().map_err(|_| BadIdentities::Line(number + 1))?);
        }
        let recipient = identities.first().ok_or(BadIdentities::None)?.to_public();
        let fingerprints = identities.iter().map(|identity| fingerprint(&identity.to_public())).collect();
        Ok(Self(Arc::new(Keys { identities, recipient, fingerprints })))
    }
}

/// The beginning of the SHA-256 of the public key as text: `age-keygen -y key.txt | tr -d '\n' | sha256sum`.
fn fingerprint(recipient: &Recipient) -> String {
    short_hash(recipient.to_string(), FINGERPRINT)
}

/// Whether it is a fingerprint.
pub fn is_fingerprint(text: &str) -> bool {
    text.len() == FINGERPRINT && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Cipher {
    /// The fingerprint of the key that encrypts.
    pub fn fingerprint(&self) -> &str {
        self.0.fingerprints.first().map_or("", String::as_str)
    }

    /// The fingerprints of all keys.
    pub fn fingerprints(&self) -> &[String] {
        &self.0.fingerprints
    }

    /// The secret texts of the keys, so that no message repeats them.
    pub fn secrets(&self) -> Vec<String> {
        self.0.identities.iter().map(|identity| identity.to_string().expose_secret().to_owned()).collect()
    }

    /// An age file with this content.
    pub fn seal(&self, content: &[u8]) -> io::Result<Vec<u8>> {
        let mut sealing = self.sealing()?;
        let mut sealed = sealing.write(content)?;
        sealed.extend(sealing.finish()?);
        Ok(sealed)
    }

    /// The content of an age file.
    ///
    /// # Errors
    /// No key fits, or it is damaged.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, Closed> {
        // Each recipient of a file costs a key exchange. Ours have one.
        let begin = &sealed[..sealed.len().min(usize::try_from(HEADER).unwrap_or(usize::MAX))];
        if !begin.windows(END.len()).any(|line| line == END) {
            return Err(Closed::Damaged(format!("it does not begin as an age file does, with {HEADER} bytes at most")));
        }
        let mut content = Vec::with_capacity(sealed.len());
        let mut reader = self.decrypt(sealed)?;
        reader.read_to_end(&mut content).map_err(|error| Closed::Damaged(error.to_string()))?;
        Ok(content)
    }

    /// Begins an age file that is written piece by piece.
    pub fn sealing(&self) -> io::Result<Sealing> {
        let recipient: &dyn age::Recipient = &self.0.recipient;
        let encryptor = Encryptor::with_recipients(iter::once(recipient)).map_err(io::Error::other)?;
        let output = Output::default();
        let writer = encryptor.wrap_output(output.clone())?;
        let header = lock(&output.0).len() as u64;
        Ok(Sealing { writer, output, header })
    }

    /// The content at `range` of an age file of which only some parts were read.
    ///
    /// # Errors
    /// As [`Cipher::open`]; also if the parts are not those of [`parts`].
    pub fn open_range(&self, window: Window, range: Range<u64>) -> Result<Vec<u8>, Closed> {
        let damaged = |error: io::Error| Closed::Damaged(error.to_string());
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let mut reader = self.decrypt(window)?;
        // A position at the begin of a part would be compared with the end of the file, which was not read: a part begins one byte
        // after its begin, or where the one before it ends.
        if let Some(before) = range.start.checked_sub(1) {
            let (place, skipped) = if before % PART == 0 && before > 0 { (before - 1, 2) } else { (before, 1) };
            reader.seek(SeekFrom::Start(place)).map_err(damaged)?;
            reader.read_exact(&mut [0, 0][..skipped]).map_err(damaged)?;
        }
        let mut content = Vec::with_capacity(length);
        reader.take(length as u64).read_to_end(&mut content).map_err(damaged)?;
        Ok(content)
    }

    fn decrypt<R: Read>(&self, sealed: R) -> Result<age::stream::StreamReader<R>, Closed> {
        let identities = self.0.identities.iter().map(|identity| identity as &dyn age::Identity);
        let opened = Decryptor::new(sealed).and_then(|decryptor| decryptor.decrypt(identities));
        opened.map_err(|error| match error {
            DecryptError::NoMatchingKeys => Closed::OtherKey(self.0.fingerprints.clone()),
            other => Closed::Damaged(other.to_string()),
        })
    }
}

/// Which bytes of an age file, whose content begins after `header` bytes and has `size` bytes, are needed for this part of its content.
pub fn parts(header: u64, size: u64, range: &Range<u64>) -> Range<u64> {
    let place = |part: u64| header + part * (PART + TAG);
    let end = header + size + size.div_ceil(PART).max(1) * TAG;
    // See [`Cipher::open_range`].
    place(range.start.saturating_sub(2) / PART)..place(range.end.div_ceil(PART)).min(end)
}

/// Some parts of an age file, as if it were all there: its header, and [`parts`].
pub struct Window {
    header: Bytes,
    at: u64,
    parts: Bytes,
    /// Where the next byte is read.
    place: u64,
}

impl Window {
    /// Of a file with this header, and the parts that begin there.
    pub fn new(header: Bytes, at: u64, parts: Bytes) -> Self {
        Self { header, at, parts, place: 0 }
    }
}

impl Read for Window {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (bytes, at) = match self.place {
            place if place < self.header.len() as u64 => (&self.header, 0),
            place if place >= self.at => (&self.parts, self.at),
            _ => return Err(io::Error::other("a part that was not read")),
        };
        let there = usize::try_from(self.place - at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
        let length = there.len().min(buffer.len());
        buffer[..length].copy_from_slice(&there[..length]);
        self.place += length as u64;
        Ok(length)
    }
}

impl Seek for Window {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.place = match to {
            SeekFrom::Start(place) => place,
            SeekFrom::Current(by) => self.place.saturating_add_signed(by),
            SeekFrom::End(_) => return Err(io::Error::other("its end was not read")),
        };
        Ok(self.place)
    }
}

/// An age file that is being written.
pub struct Sealing {
    writer: age::stream::StreamWriter<Output>,
    output: Output,
    header: u64,
}

impl Sealing {
    /// Bytes before its content.
    pub fn header(&self) -> u64 {
        self.header
    }

    /// Adds content; the bytes of the file that are ready.
    pub fn write(&mut self, content: &[u8]) -> io::Result<Vec<u8>> {
        self.writer.write_all(content)?;
        Ok(self.output.take())
    }

    /// The last bytes of the file.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        self.writer.finish()?;
        Ok(self.output.take())
    }
}

/// Where an age file is written to; a clone is the same.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.0))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::archive::tests::{ONE, TWO};

    fn cipher(text: &str) -> Cipher {
        Cipher::try_from(&Identities(text.to_owned())).unwrap()
    }

    fn said(text: &str) -> String {
        Cipher::try_from(&Identities(text.to_owned())).unwrap_err().to_string()
    }

    #[test]
    fn the_file_of_age_keygen_is_read_and_a_fingerprint_is_what_the_docs_say() {
        let file = format!("# created: 2026-11-30T06:20:08Z\r\n# public key: age1...\r\n{ONE}\r\n\r\n{TWO}\r\n");
        // age-keygen -y key.txt | tr -d '\n' | sha256sum | cut -c1-16
        assert_eq!(cipher(&file).fingerprints(), ["ad225781efede36c", "4b0ece846a05cc54"]);
        assert_eq!(format!("{:?}", cipher(ONE)), "Cipher(ad225781efede36c)");
        assert!(is_fingerprint("ad225781efede36c") && !is_fingerprint("AD225781EFEDE36C") && !is_fingerprint("ad22"));
    }

    #[test]
    fn what_is_no_identity_is_told_by_its_line_and_not_repeated() {
        let damaged = ONE.replace("VXCG", "VXCQ");
        let told = [
            said("# nothing\n"),
            said(&format!("{ONE}\nage1qd5fjtjlx8tpzx85dsl80gat28zafu0ruvankxscjryyv03xxp0qytd7tf")),
            said(&format!("\n{damaged}")),
            said(&format!("{ONE}\n").repeat(33)),
        ];
        expect_test::expect![[r#"
            it has no line AGE-SECRET-KEY-1..., as age-keygen writes one
            line 2 is no identity AGE-SECRET-KEY-1..., as age-keygen writes one, and no comment
            line 2 is no identity AGE-SECRET-KEY-1..., as age-keygen writes one, and no comment
            it has more than 32 identities"#]]
        .assert_eq(&told.join("\n"));
    }

    /// The first key encrypts, all decrypt: so keys are changed.
    #[test]
    fn what_one_key_has_written_is_read_with_any_list_that_has_it() {
        let sealed = cipher(ONE).seal(b"a row").unwrap();
        assert!(sealed.starts_with(b"age-encryption.org/v1\n") && !sealed.windows(5).any(|part| part == b"a row"));
        assert_eq!(cipher(&format!("{TWO}\n{ONE}")).open(&sealed).unwrap(), b"a row");
        assert_eq!(
            cipher(TWO).open(&sealed).unwrap_err().to_string(),
            "it is encrypted for another key than those that were given, which have the fingerprints 4b0ece846a05cc54"
        );
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(matches!(cipher(ONE).open(&changed), Err(Closed::Damaged(_))));
        assert!(matches!(cipher(ONE).open(&sealed[..sealed.len() - 1]), Err(Closed::Damaged(_))));
        assert!(matches!(cipher(ONE).open(b"x"), Err(Closed::Damaged(_))));
        assert_ne!(cipher(ONE).seal(b"a row").unwrap(), sealed, "equal contents do not look equal");
        // A store may say anything: nobody tries a million recipients.
        let recipients = b"-> X25519 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n".repeat(100_000);
        let long = [b"age-encryption.org/v1\n", &recipients[..], &sealed[22..]].concat();
        assert_eq!(
            cipher(ONE).open(&long).unwrap_err().to_string(),
            "it cannot be decrypted: it does not begin as an age file does, with 4096 bytes at most"
        );
    }

    /// A file of more than four parts; ranges that begin and end at, before and after the borders of parts, and at the end.
    #[test]
    fn a_part_of_a_file_is_read_from_few_of_its_bytes() {
        let content: Vec<u8> = (0..4 * PART + 1000).map(|at| (at / 7 % 251) as u8).collect();
        for size in [content.len() as u64, 4 * PART] {
            let content = &content[..usize::try_from(size).unwrap()];
            let mut sealing = cipher(ONE).sealing().unwrap();
            let (mut sealed, header) = (Vec::new(), sealing.header());
            for piece in content.chunks(10_007) {
                sealed.extend(sealing.write(piece).unwrap());
            }
            sealed.extend(sealing.finish().unwrap());
            let sealed = Bytes::from(sealed);
            let of = |range: &Range<u64>| usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            let ends = [0, 1, PART - 1, PART, PART + 1, 2 * PART, 3 * PART + 5, 4 * PART - 1, 4 * PART, size];
            for (from, to) in ends.iter().flat_map(|from| ends.iter().map(move |to| (*from, (*to).min(size)))) {
                if from >= to {
                    continue;
                }
                let range = from..to;
                let parts = parts(header, size, &range);
                assert!(
                    parts.end - parts.start <= (to - from).next_multiple_of(PART) + 3 * PART
                        && parts.end <= sealed.len() as u64
                );
                let window = Window::new(
                    sealed.slice(..usize::try_from(header).unwrap()),
                    parts.start,
                    sealed.slice(of(&parts)),
                );
                assert!(cipher(ONE).open_range(window, range.clone()).unwrap() == content[of(&range)], "{range:?}");
            }
            let window = Window::new(sealed.slice(..usize::try_from(header).unwrap()), header, Bytes::new());
            assert!(cipher(ONE).open_range(window, 0..5).is_err(), "parts that were not read");
        }
    }
}
