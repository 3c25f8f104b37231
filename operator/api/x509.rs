//! What an X.509 certificate says of its owner and its time (RFC 5280 4.1). It verifies nothing. Pure.

use jiff::Timestamp;
use yasna::models::ObjectIdentifier;
use yasna::tags::{TAG_PRINTABLESTRING, TAG_UTCTIME, TAG_UTF8STRING};
use yasna::{ASN1Error, ASN1ErrorKind, ASN1Result, BERReader, BERReaderSeq, Tag};

/// The object identifiers of the attributes of a name that are read.
const COMMON_NAME: [u64; 4] = [2, 5, 4, 3];
const ORGANISATION: [u64; 4] = [2, 5, 4, 10];

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// It is valid from this time,
    pub from: Timestamp,
    /// until this time.
    pub until: Timestamp,
    /// The common name of its owner.
    pub common_name: Option<String>,
    /// The organisations of its owner.
    pub organisations: Vec<String>,
    /// It names its owner as its maker.
    pub self_issued: bool,
}

/// The fields of a certificate in DER; `None` if they cannot be read.
pub fn read(der: &[u8]) -> Option<Certificate> {
    let read = yasna::parse_der(der, |certificate| {
        certificate.read_sequence(|fields| {
            let read = fields.next().read_sequence(|fields| {
                fields.read_optional(|field| field.read_tagged(Tag::context(0), |version| version.read_u8()))?;
                // serialNumber, signature.
                skip(fields, 2)?;
                let issuer = fields.next().read_der()?;
                let (from, until) =
                    fields.next().read_sequence(|times| Ok((time(times.next())?, time(times.next())?)))?;
                let owner = fields.next().read_der()?;
                let (mut common_name, mut organisations) = (None, Vec::new());
                for (kind, text) in yasna::parse_der(&owner, texts)? {
                    match kind.components().as_slice() {
                        kind if kind == COMMON_NAME => common_name = Some(text),
                        kind if kind == ORGANISATION => organisations.push(text),
                        _ => {}
                    }
                }
                // subjectPublicKeyInfo, and three optional ones.
                skip(fields, 1)?;
                while fields.read_optional(|field| field.read_der())?.is_some() {}
                Ok(Certificate { from, until, common_name, organisations, self_issued: issuer == owner })
            })?;
            // signatureAlgorithm, signatureValue.
            skip(fields, 2)?;
            Ok(read)
        })
    });
    read.ok()
}

fn skip(fields: &mut BERReaderSeq<'_, '_>, count: usize) -> ASN1Result<()> {
    (0..count).try_for_each(|_| fields.next().read_der().map(drop))
}

fn time(field: BERReader<'_, '_>) -> ASN1Result<Timestamp> {
    let second = match field.lookahead_tag()? {
        TAG_UTCTIME => field.read_utctime()?.datetime().unix_timestamp(),
        _ => field.read_generalized_time()?.datetime().unix_timestamp(),
    };
    Timestamp::from_second(second).map_err(|_| ASN1Error::new(ASN1ErrorKind::Invalid))
}

/// The attributes of a name that are text.
fn texts(name: BERReader<'_, '_>) -> ASN1Result<Vec<(ObjectIdentifier, String)>> {
    let mut found = Vec::new();
    name.read_sequence_of(|set| {
        set.read_set_of(|attribute| {
            attribute.read_sequence(|attribute| {
                let (kind, value) = (attribute.next().read_oid()?, attribute.next());
                match value.lookahead_tag()? {
                    TAG_UTF8STRING => found.push((kind, value.read_utf8string()?)),
                    TAG_PRINTABLESTRING => found.push((kind, value.read_printable_string()?)),
                    _ => drop(value.read_der()?),
                }
                Ok(())
            })
        })
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn the_owner_and_the_time_are_read_whatever_form_they_have() {
        let key = KeyPair::generate().unwrap_or_else(|e| panic!("{e}"));
        // The second date is after 2049, so X.509 writes the other kind of time.
        for year in [2027, 2051] {
            let mut params = CertificateParams::default();
            (params.not_before, params.not_after) = (date_time_ymd(2026, 11, 28), date_time_ymd(year, 1, 1));
            params.distinguished_name.push(DnType::CountryName, "CH");
            params.distinguished_name.push(DnType::CommonName, "jané");
            let printable = DnValue::PrintableString("ops".try_into().unwrap_or_else(|e| panic!("{e}")));
            params.distinguished_name.push(DnType::OrganizationName, printable);
            let der = params.self_signed(&key).unwrap_or_else(|e| panic!("{e}")).der().to_vec();
            let at = |text: String| text.parse().unwrap_or_else(|e| panic!("{e}"));
            let expected = Certificate {
                from: at("2026-11-28T00:00:00Z".to_owned()),
                until: at(format!("{year}-01-01T00:00:00Z")),
                common_name: Some("jané".to_owned()),
                organisations: vec!["ops".to_owned()],
                self_issued: true,
            };
            assert_eq!(read(&der), Some(expected));
            for end in 0..der.len() {
                assert_eq!(read(&der[..end]), None, "cut after {end} bytes");
            }
        }
    }
}
