//! The user of a client certificate: the common name, and an organisation for each group. TLS has verified it. Pure.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustls::pki_types::CertificateDer;

use super::user::{User, Via};

/// The object identifiers of the two attributes.
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const ORGANISATION: &[u8] = &[0x55, 4, 10];
/// Tags of DER.
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The user that a certificate names; `None` if it names none, or cannot be read.
pub fn user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (mut whole, _) = expect(SEQUENCE, certificate)?;
    let mut body = take(SEQUENCE, &mut whole)?;
    if body.first() == Some(&VERSION) {
        next(&mut body)?;
    }
    next(&mut body)?; // serial number
    take(SEQUENCE, &mut body)?; // algorithm
    take(SEQUENCE, &mut body)?; // issuer
    let mut validity = take(SEQUENCE, &mut body)?;
    next(&mut validity)?;
    let expires = time(next(&mut validity)?)?;
    let mut subject = take(SEQUENCE, &mut body)?;
    let (mut name, mut groups) = (None, Vec::new());
    while !subject.is_empty() {
        let mut set = take(SET, &mut subject)?;
        while !set.is_empty() {
            let mut attribute = take(SEQUENCE, &mut set)?;
            let kind = take(OBJECT_IDENTIFIER, &mut attribute)?;
            match next(&mut attribute)? {
                (UTF8 | PRINTABLE, text) if kind == ORGANISATION => groups.push(str::from_utf8(text).ok()?.to_owned()),
                (UTF8 | PRINTABLE, text) if kind == COMMON_NAME => name = Some(str::from_utf8(text).ok()?.to_owned()),
                _ => {}
            }
        }
    }
    let name = name.filter(|name| !name.is_empty())?;
    Some(User::new(name, groups, Via::Certificate, Some(expires)))
}

/// The next value: its tag and its content.
fn next<'a>(from: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (tag, length) = (*from.first()?, usize::from(*from.get(1)?));
    let (at, length) = match length {
        0..=0x7f => (2, length),
        0x81..=0x84 => {
            let bytes = from.get(2..2 + (length & 0x7f))?;
            (2 + bytes.len(), bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
        }
        _ => return None,
    };
    let content = from.get(at..at.checked_add(length)?)?;
    *from = &from[at + length..];
    Some((tag, content))
}

/// The content of the next value, which has this tag.
fn take<'a>(tag: u8, from: &mut &'a [u8]) -> Option<&'a [u8]> {
    next(from).filter(|(found, _)| *found == tag).map(|(_, content)| content)
}

/// The content of the first value, which has this tag, and what follows.
fn expect(tag: u8, mut from: &[u8]) -> Option<(&[u8], &[u8])> {
    take(tag, &mut from).map(|content| (content, from))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn time((tag, text): (u8, &[u8])) -> Option<Timestamp> {
    let text = str::from_utf8(text).ok()?;
    let text = match tag {
        GENERALIZED_TIME => text.to_owned(),
        // RFC 5280: 50 to 99 are of the last century.
        UTC_TIME if text < "50" => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        _ => return None,
    };
    DateTime::strptime("%Y%m%d%H%M%SZ", text).ok()?.to_zoned(TimeZone::UTC).ok().map(|time| time.timestamp())
}
