//! The certificates of a managed etcd: a CA of its own, which all nodes have, and one certificate a node for its member as a server
//! and a peer and for its operator as a client.

use std::net::IpAddr;
use std::path::Path;

use jiff::Timestamp;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{DAY, Error, Pki, RENEW_DAYS, SERVER_DAYS, ca_params, private_folder, serves, valid};
use crate::api::hash::short_hash;
use crate::api::join::{ETCD_CA, ETCD_CA_KEY};
use crate::store::Clock;
use crate::store::etcd::EtcdTls;

/// The CA of etcd. Nothing else trusts it.
const CA: &str = "evenkeel-etcd-ca";
/// The certificate of this node for etcd.
pub const CERTIFICATE: &str = "etcd.crt";
/// Its key.
pub const KEY: &str = "etcd.key";

/// The files of this node for etcd: its CA and its certificate, made if they are missing, and renewed before they expire. The key
/// stays, so that certificate and key fit at every moment.
pub fn files(dir: &Path, address: IpAddr, clock: &dyn Clock) -> Result<EtcdTls, Error> {
    let pki = Pki { dir: dir.join("pki") };
    private_folder(dir)?;
    private_folder(&pki.dir)?;
    let now = clock.now();
    let ca_key = pki.key(ETCD_CA_KEY)?;
    let ca = pki.ca(CA, &ca_key, now)?;
    let key = pki.key(KEY)?;
    let certificate = match pki.read(CERTIFICATE)? {
        Some(pem) if is_good(&pem, &key, pki.der(&ca)?, address, now) => pem,
        _ => {
            let pem = signed(&key, ca_key, address, now)?;
            pki.write(CERTIFICATE, &pem)?;
            pem
        }
    };
    Ok(EtcdTls { ca, certificate, key: key.serialize_pem() })
}

/// The same for a node that joins, with the CA that it got: nothing is written.
pub fn joining(ca: &str, ca_key: &str, address: IpAddr, now: Timestamp) -> Result<EtcdTls, Error> {
    let key = KeyPair::generate()?;
    let certificate = signed(&key, KeyPair::from_pem(ca_key)?, address, now)?;
    Ok(EtcdTls { ca: ca.to_owned(), certificate, key: key.serialize_pem() })
}

/// Which cluster a CA of etcd is of: a hash of its certificate. `None`: this is no certificate.
pub fn cluster(ca: &str) -> Option<String> {
    let der = CertificateDer::from_pem_slice(ca.as_bytes()).ok()?;
    Some(short_hash(der.as_ref(), 16))
}

/// The CA of etcd of this data directory, if it has one.
pub fn ca(dir: &Path) -> Result<Option<String>, Error> {
    Pki { dir: dir.join("pki") }.read(ETCD_CA)
}

fn is_good(pem: &str, key: &KeyPair, ca: CertificateDer<'static>, address: IpAddr, now: Timestamp) -> bool {
    let names = [SanType::IpAddress(address)];
    CertificateDer::from_pem_slice(pem.as_bytes())
        .is_ok_and(|certificate| serves(&certificate, key, ca, &names, now + DAY * RENEW_DAYS))
}

fn signed(key: &KeyPair, ca_key: KeyPair, address: IpAddr, now: Timestamp) -> Result<String, Error> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress(address)];
    params.distinguished_name.push(DnType::CommonName, "evenkeel-etcd");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, now, SERVER_DAYS);
    Ok(params.signed_by(key, &Issuer::new(ca_params(CA), ca_key))?.pem())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::tests::Home;
    use super::*;

    /// Regression 495, found before its release: the certificate of a member was made once, and after a year no member spoke with
    /// another one. It is renewed within its last month, under the same key; the CA stays, and so does the cluster.
    #[test]
    fn a_members_certificate_is_renewed_in_time_and_its_key_and_ca_stay() {
        let home = Home::new();
        let address: IpAddr = [10, 0, 0, 1].into();
        let files = || files(home.path(), address, &home.clock).unwrap();
        let first = files();
        assert_eq!(files(), first, "a restart finds it as it was");
        home.sleep_days(300);
        assert_eq!(files(), first);
        home.sleep_days(40);
        let renewed = files();
        assert!(renewed.certificate != first.certificate && renewed.key == first.key && renewed.ca == first.ca);
        assert_eq!(cluster(&renewed.ca).unwrap().len(), 16);
        for name in [ETCD_CA, ETCD_CA_KEY, CERTIFICATE, KEY] {
            let mode = std::fs::metadata(home.path().join("pki").join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_node_that_joins_has_a_key_of_its_own_under_the_same_ca() {
        let home = Home::new();
        let first = files(home.path(), [10, 0, 0, 1].into(), &home.clock).unwrap();
        let ca_key = home.read("pki/etcd-ca.key");
        let second: IpAddr = [10, 0, 0, 2].into();
        let joined = joining(&first.ca, &ca_key, second, home.clock.now()).unwrap();
        let (key, ca) =
            (KeyPair::from_pem(&joined.key).unwrap(), CertificateDer::from_pem_slice(first.ca.as_bytes()).unwrap());
        assert!(joined.key != first.key && is_good(&joined.certificate, &key, ca.clone(), second, home.clock.now()));
        assert!(
            !is_good(&joined.certificate, &key, ca, [10, 0, 0, 1].into(), home.clock.now()),
            "of its address alone"
        );
    }
}
