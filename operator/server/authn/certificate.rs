//! The user of a client certificate: the common name, and the organisations as groups. TLS has verified it. Pure.

use rustls::pki_types::CertificateDer;

use super::user::{User, Via};
use crate::api::x509;

/// Between the groups in one organisation: rcgen writes one only, and no name has this character.
pub const SEPARATOR: &str = "\n";

/// The user that a certificate names; `None` if it names none, or cannot be read.
pub fn user(certificate: &CertificateDer<'_>) -> Option<User> {
    let read = x509::read(certificate)?;
    let name = read.common_name.filter(|name| !name.is_empty())?;
    let groups = read.organisations.iter().flat_map(|groups| groups.split(SEPARATOR)).map(str::to_owned).collect();
    Some(User::new(name, groups, Via::Certificate, Some(read.until)))
}
