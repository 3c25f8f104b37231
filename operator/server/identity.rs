//! The identity of the server and of its administrator: CA, server certificate and admin token under `DIR/pki`, and the
//! kubeconfig with them; and the CA that signs the certificates of other users.

pub mod administrator;
pub mod etcd;
pub mod kubeconfig;
pub mod shared;

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use serde_json::{Value, json};

use self::administrator::{Admin, AdminToken};
use self::kubeconfig::{Nodes, Servers};
use super::authn::certificate::SEPARATOR;
use super::authn::tokens::secret;
use crate::api::sync::lock;
use crate::store::{Clock, private_file};

const DAY: SignedDuration = SignedDuration::from_hours(24);
const CA_DAYS: i32 = 3650;
const SERVER_DAYS: i32 = 365;
/// A server certificate is renewed when it expires within this many days.
const RENEW_DAYS: i32 = 30;
/// The file with the hashes of replaced tokens and their ends.
const OLD: &str = "token.old";
/// The file with the operators over the same store, as they were last known.
const NODES: &str = "nodes.json";
/// The CA of the server's certificate, and that of users' certificates. Neither accepts what the other has signed.
const CA: &str = "evenkeel-ca";
const CLIENT_CA: &str = "evenkeel-client-ca";

/// TLS configuration, token and kubeconfig of the server.
pub struct Identity {
    /// TLS configuration with the server certificate.
    pub tls: Arc<rustls::ServerConfig>,
    /// The administrator's tokens, and the end of those that were replaced.
    pub admin: Admin,
    /// What makes credentials.
    pub authority: Authority,
    /// Path of the kubeconfig.
    pub kubeconfig: PathBuf,
}

/// Makes credentials: certificates of users, and new tokens of the administrator.
pub struct Authority {
    pki: Pki,
    kubeconfig: PathBuf,
    listen: SocketAddr,
    advertised: Option<String>,
    ca: String,
    client_key: KeyPair,
    /// The operators over the same store; who writes the kubeconfig holds it.
    nodes: Mutex<Nodes>,
}

impl Authority {
    /// The administrator's token, as the files have it.
    pub fn admin_token(&self) -> Result<AdminToken, Error> {
        let (current, old) = (self.pki.read("token")?, self.pki.read(OLD)?);
        Ok(AdminToken::parse(&current.unwrap_or_default(), &old.unwrap_or_default()))
    }

    /// Replaces the administrator's token, also in the kubeconfig, by what `next` makes of it. `tell` gets it while no other one is
    /// written.
    pub fn replace_admin_token(
        &self,
        next: impl FnOnce(AdminToken) -> AdminToken,
        tell: impl FnOnce(&AdminToken),
    ) -> Result<(), Error> {
        let nodes = lock(&self.nodes);
        let before = self.admin_token()?;
        let token = next(before.clone());
        if token != before {
            // In this order: whatever is interrupted, the token in the kubeconfig is valid unless the old one was revoked.
            self.pki.write(OLD, &token.old())?;
            self.pki.write("token", token.secret())?;
            self.write_kubeconfig(token.secret(), &nodes)?;
        }
        tell(&token);
        Ok(())
    }

    /// From now on these are the operators over this store, also in the kubeconfig. Whether they were others before.
    pub fn set_nodes(&self, nodes: &Nodes) -> Result<bool, Error> {
        let mut known = lock(&self.nodes);
        if *known == *nodes {
            return Ok(false);
        }
        self.pki.write(NODES, &json!(nodes).to_string())?;
        self.write_kubeconfig(self.admin_token()?.secret(), nodes)?;
        known.clone_from(nodes);
        Ok(true)
    }

    /// The operators over this store, as they were last known.
    pub fn nodes(&self) -> Nodes {
        lock(&self.nodes).clone()
    }

    fn write_kubeconfig(&self, token: &str, nodes: &Nodes) -> Result<(), Error> {
        let servers = Servers { ca: &self.ca, listen: self.listen, nodes };
        write_private(&self.kubeconfig, &yaml(&servers.kubeconfig("admin", &json!({"token": token}))))
    }

    /// Where the administrator's kubeconfig is.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The certificate of the CA of servers, DER.
    pub fn ca(&self) -> Result<CertificateDer<'static>, Error> {
        self.pki.der(&self.ca)
    }

    /// Where other machines reach the server, `ADDRESS:PORT`: the advertised address, else that it listens on; `None` on
    /// loopback and where it listens on all addresses and none is advertised.
    pub fn reached(&self) -> Option<String> {
        let (listen, port) = (self.listen.ip(), self.listen.port());
        match &self.advertised {
            Some(name) if name.contains(':') => Some(format!("[{name}]:{port}")),
            Some(name) => Some(format!("{name}:{port}")),
            None => (!listen.is_unspecified() && !listen.is_loopback()).then(|| self.listen.to_string()),
        }
    }

    /// A kubeconfig with a new key and certificate of a user.
    pub fn issue(&self, user: &str, groups: &[String], now: Timestamp, end: Timestamp) -> Result<Value, Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        if !groups.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, groups.join(SEPARATOR));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let date = |time: Timestamp| epoch + Duration::from_secs(time.as_second().unsigned_abs());
        (params.not_before, params.not_after) = (date(now - DAY), date(end));
        let certificate = params.signed_by(&key, &Issuer::new(ca_params(CLIENT_CA), &self.client_key))?;
        let user_of = json!({
            "client-certificate-data": STANDARD.encode(certificate.pem()),
            "client-key-data": STANDARD.encode(key.serialize_pem()),
        });
        // It is for other machines.
        let nodes = self.nodes();
        let servers = Servers { ca: &self.ca, listen: self.listen, nodes: &nodes };
        let mut kubeconfig = servers.kubeconfig(user, &user_of);
        if let Some(address) = self.reached() {
            kubeconfig["clusters"][0]["cluster"]["server"] = format!("https://{address}").into();
        }
        Ok(kubeconfig)
    }
}

/// Why the identity could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// `read`, `write` or `create`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A certificate could not be created.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// A file holds no usable key or certificate.
    #[error("{} is damaged ({problem}); remove the folder {} to create new certificates (distributed kubeconfigs stop working)", path.display(), folder.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The folder it is in.
        folder: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// Reads the identity under `dir`, creates what is missing or about to expire, and writes `dir/kubeconfig`
/// for `listen`. `advertise` are the addresses and names that other machines reach the server by, the most usual first.
pub fn prepare(
    dir: &Path,
    listen: SocketAddr,
    advertise: &[ServerName<'static>],
    clock: &dyn Clock,
) -> Result<Identity, Error> {
    let pki = Pki { dir: dir.join("pki") };
    private_folder(dir)?;
    private_folder(&pki.dir)?;
    let now = clock.now();
    let ca_key = pki.key("ca.key")?;
    let ca = pki.ca(CA, &ca_key, now)?;
    let (certificate, key) = pki.server(&ca, ca_key, &addresses(listen, advertise), now)?;
    let client_key = pki.key("client-ca.key")?;
    let verifier = client_verifier(&pki, &pki.ca(CLIENT_CA, &client_key, now)?)?;
    let token = pki.token(clock)?;

    let kubeconfig = dir.join("kubeconfig");
    let advertised = advertise.first().map(|name| name.to_str().into_owned());
    // A node that joins finds in the chain the CA that its token names.
    let chain = vec![certificate, pki.der(&ca)?];
    let tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_client_cert_verifier(verifier))
        .and_then(|builder| builder.with_single_cert(chain, key))
        .map_err(|error| pki.damaged("server.key", &error))?;
    // What nobody can read is written anew when the other operators are known.
    let nodes: Nodes = serde_json::from_str(&pki.read(NODES)?.unwrap_or_default()).unwrap_or_default();
    let (kept, known) = (kubeconfig.clone(), Mutex::default());
    let authority = Authority { pki, kubeconfig: kept, listen, advertised, ca, client_key, nodes: known };
    authority.write_kubeconfig(&token, &nodes)?;
    *lock(&authority.nodes) = nodes;
    Ok(Identity { tls: Arc::new(tls), admin: authority.admin_token()?.valid(now), authority, kubeconfig })
}

/// Accepts certificates of this CA, and clients without any.
fn client_verifier(pki: &Pki, ca: &str) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let damaged = |problem: &dyn std::fmt::Display| pki.damaged("client-ca.crt", problem);
    let mut roots = rustls::RootCertStore::empty();
    let der = CertificateDer::from_pem_slice(ca.as_bytes()).map_err(|error| damaged(&error))?;
    roots.add(der).map_err(|error| damaged(&error))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    verifier.allow_unauthenticated().build().map_err(|error| damaged(&error))
}

fn yaml(value: &Value) -> String {
    serde_saphyr::to_string(value).expect("plain text becomes YAML")
}

/// The cryptography provider that all TLS uses.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Every address under which clients may reach the server.
fn addresses(listen: SocketAddr, advertise: &[ServerName<'static>]) -> Vec<SanType> {
    let mut addresses: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    if !listen.ip().is_unspecified() && !addresses.contains(&listen.ip()) {
        addresses.push(listen.ip());
    }
    let mut names = vec!["localhost".to_owned()];
    for one in advertise {
        match one {
            ServerName::IpAddress(address) => addresses.push(IpAddr::from(*address)),
            other => names.push(other.to_str().into_owned()),
        }
    }
    let names = names.into_iter().map(|name| SanType::DnsName(name.try_into().expect("a host name is ASCII")));
    addresses.into_iter().map(SanType::IpAddress).chain(names).collect()
}

/// The folder with keys and certificates.
struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// The key in this file; creates it if it is missing.
    fn key(&self, name: &str) -> Result<KeyPair, Error> {
        match self.read(name)? {
            Some(pem) => KeyPair::from_pem(&pem).map_err(|error| self.damaged(name, &error)),
            None => {
                let key = KeyPair::generate()?;
                self.write(name, &key.serialize_pem())?;
                Ok(key)
            }
        }
    }

    /// The certificate of a CA; creates it if it is missing.
    fn ca(&self, name: &str, key: &KeyPair, now: Timestamp) -> Result<String, Error> {
        let file = format!("{}.crt", name.trim_start_matches("evenkeel-"));
        if let Some(pem) = self.read(&file)? {
            return Ok(pem);
        }
        let mut params = ca_params(name);
        valid(&mut params, now, CA_DAYS);
        let pem = params.self_signed(key)?.pem();
        self.write(&file, &pem)?;
        Ok(pem)
    }

    /// The CA's certificate as DER.
    fn der(&self, ca: &str) -> Result<CertificateDer<'static>, Error> {
        CertificateDer::from_pem_slice(ca.as_bytes()).map_err(|error| self.damaged("ca.crt", &error))
    }

    /// The server's certificate and key: the existing ones unless they expire soon, else new ones.
    fn server(
        &self,
        ca: &str,
        ca_key: KeyPair,
        names: &[SanType],
        now: Timestamp,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), Error> {
        let key = self.key("server.key")?;
        let key_der = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())
            .map_err(|error| self.damaged("server.key", &error))?;
        let ca_der = self.der(ca)?;
        if let Some(pem) = self.read("server.crt")?
            && let Ok(certificate) = CertificateDer::from_pem_slice(pem.as_bytes())
            && serves(&certificate, &key, ca_der, names, now + DAY * RENEW_DAYS)
        {
            return Ok((certificate, key_der));
        }
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        params.distinguished_name.push(DnType::CommonName, "evenkeel");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        valid(&mut params, now, SERVER_DAYS);
        let certificate = params.signed_by(&key, &Issuer::new(ca_params(CA), ca_key))?;
        self.write("server.crt", &certificate.pem())?;
        Ok((certificate.der().clone(), key_der))
    }

    fn token(&self, clock: &dyn Clock) -> Result<String, Error> {
        if let Some(text) = self.read("token")? {
            let token = text.trim();
            let usable = token.len() >= 20 && token.chars().all(|c| c.is_ascii_graphic());
            return if usable { Ok(token.to_owned()) } else { Err(self.damaged("token", &"no token in it")) };
        }
        let token = secret(clock);
        self.write("token", &token)?;
        Ok(token)
    }

    fn read(&self, name: &str) -> Result<Option<String>, Error> {
        let path = self.dir.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { doing: "read", path, source }),
        }
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        write_private(&self.dir.join(name), text)
    }

    fn damaged(&self, name: &str, problem: &dyn std::fmt::Display) -> Error {
        Error::Damaged { path: self.dir.join(name), folder: self.dir.clone(), problem: problem.to_string() }
    }
}

/// Whether clients that trust this CA accept this certificate under all names until `until`.
fn serves(
    certificate: &CertificateDer<'_>,
    key: &KeyPair,
    ca: CertificateDer<'static>,
    names: &[SanType],
    until: Timestamp,
) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    if roots.add(ca).is_err() {
        return false;
    }
    let Ok(verifier) = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build() else {
        return false;
    };
    let until = UnixTime::since_unix_epoch(Duration::from_secs(until.as_second().unsigned_abs()));
    let accepted = |name: &SanType| {
        let name = match name {
            SanType::IpAddress(address) => Some(ServerName::from(*address)),
            SanType::DnsName(name) => ServerName::try_from(name.as_str()).ok(),
            _ => None,
        };
        name.is_some_and(|name| verifier.verify_server_cert(certificate, &[], &name, &[], until).is_ok())
    };
    // The certificate contains the public key unchanged.
    let ours = certificate.windows(key.public_key_raw().len()).any(|part| part == key.public_key_raw());
    ours && names.iter().all(accepted)
}

/// The parameters of the CA certificate; always the same, so that the CA's key alone can sign as this CA.
fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Valid from the day before (clocks differ) for this many days.
fn valid(params: &mut CertificateParams, now: Timestamp, days: i32) {
    let date = |time: Timestamp| {
        let date = time.to_zoned(TimeZone::UTC).date();
        rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = date(now - DAY);
    params.not_after = date(now + DAY * days);
}

/// Creates the folder with mode 0700, or sets that mode.
fn private_folder(path: &Path) -> Result<(), Error> {
    let failed = |doing| move |source| Error::File { doing, path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed("write"))
}

fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    private_file::write(path, text).map_err(|source| Error::File { doing: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

    use super::*;
    use crate::server::authn::tokens::hash;

    pub struct At(AtomicI64, AtomicU64);

    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp::from_second(self.0.load(Ordering::Relaxed)).unwrap()
        }
        fn boot(&self) -> std::time::Duration {
            std::time::Duration::ZERO
        }
        fn random(&self) -> u64 {
            self.1.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
        }
    }

    const START: i64 = 1_800_000_000;

    pub struct Home {
        dir: tempfile::TempDir,
        pub clock: At,
    }

    impl Home {
        pub fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), clock: At(START.into(), 1.into()) }
        }
        fn prepare(&self, listen: &str) -> Result<Identity, Error> {
            prepare(self.dir.path(), listen.parse().unwrap(), &[], &self.clock)
        }
        pub fn path(&self) -> &Path {
            self.dir.path()
        }
        pub fn read(&self, name: &str) -> String {
            fs::read_to_string(self.dir.path().join(name)).unwrap()
        }
        pub fn sleep_days(&self, days: i64) {
            self.clock.0.fetch_add(days * 86400, Ordering::Relaxed);
        }
    }

    const FILES: [&str; 8] = [
        "pki/ca.key",
        "pki/ca.crt",
        "pki/client-ca.key",
        "pki/client-ca.crt",
        "pki/server.key",
        "pki/server.crt",
        "pki/token",
        "kubeconfig",
    ];

    #[test]
    fn a_restart_finds_everything_as_it_was() {
        let home = Home::new();
        home.prepare("127.0.0.1:7443").unwrap();
        let before = FILES.map(|f| home.read(f));
        home.sleep_days(1);
        home.prepare("127.0.0.1:7443").unwrap();
        assert_eq!(FILES.map(|f| home.read(f)), before);
    }

    #[test]
    fn nobody_else_can_read_a_file() {
        let home = Home::new();
        home.prepare("127.0.0.1:7443").unwrap();
        let mode = |path: &str| fs::metadata(home.dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(FILES.map(mode), [0o600; 8]);
        assert_eq!(["", "pki"].map(mode), [0o700; 2]);
        assert_eq!(fs::read_dir(home.dir.path().join("pki")).unwrap().count(), 7, "no file is left beside them");
    }

    #[test]
    fn a_certificate_that_ends_soon_is_renewed_and_the_ca_stays() {
        let home = Home::new();
        home.prepare("127.0.0.1:7443").unwrap();
        let (ca, server) = (home.read("pki/ca.crt"), home.read("pki/server.crt"));
        home.sleep_days(340);
        home.prepare("127.0.0.1:7443").unwrap();
        assert_ne!(home.read("pki/server.crt"), server, "renewed within 30 days of its end");
        assert_eq!(home.read("pki/ca.crt"), ca);
    }

    #[test]
    fn another_listen_address_gets_another_certificate() {
        let home = Home::new();
        home.prepare("127.0.0.1:7443").unwrap();
        let server = home.read("pki/server.crt");
        home.prepare("10.1.2.3:7443").unwrap();
        assert_ne!(home.read("pki/server.crt"), server);
        assert!(home.read("kubeconfig").contains("https://10.1.2.3:7443"));
        home.prepare("0.0.0.0:7444").unwrap();
        assert!(home.read("kubeconfig").contains("https://127.0.0.1:7444"));
    }

    /// Regression 449: an operator that listened on all addresses had a certificate for loopback only, so no other machine could
    /// verify it. It names the advertised addresses, and kubeconfigs for other machines do, too.
    #[test]
    fn an_advertised_address_is_in_the_certificate_and_in_kubeconfigs_for_others() {
        let home = Home::new();
        let advertise = ["10.1.2.3", "one.example"].map(|name| ServerName::try_from(name.to_owned()).unwrap());
        let prepare =
            |advertise: &[_]| prepare(home.dir.path(), "0.0.0.0:7443".parse().unwrap(), advertise, &home.clock);
        assert_eq!(prepare(&[]).unwrap().authority.reached(), None, "nobody knows where");
        let authority = prepare(&advertise).unwrap().authority;
        assert_eq!(authority.reached().as_deref(), Some("10.1.2.3:7443"));
        let der = CertificateDer::from_pem_slice(home.read("pki/server.crt").as_bytes()).unwrap();
        let key = KeyPair::from_pem(&home.read("pki/server.key")).unwrap();
        let names = addresses("127.0.0.1:7443".parse().unwrap(), &advertise);
        assert!(serves(&der, &key, authority.ca().unwrap(), &names, home.clock.now()));
        let of_user = authority.issue("jane", &[], home.clock.now(), home.clock.now() + DAY).unwrap();
        assert_eq!(of_user["clusters"][0]["cluster"]["server"], "https://10.1.2.3:7443");
        assert!(home.read("kubeconfig").contains("https://127.0.0.1:7443"), "the administrator's is for this machine");
    }

    #[test]
    fn a_new_token_of_the_administrator_leaves_an_hour_for_the_old_one() {
        let home = Home::new();
        let authority = home.prepare("127.0.0.1:7443").unwrap().authority;
        let first = home.read("pki/token");
        let now = home.clock.now();
        let next = |before: AdminToken| before.replaced_by(secret(&home.clock), now, false);
        authority.replace_admin_token(next, |token| assert_eq!(token.valid(now).len(), 2)).unwrap();
        let second = home.read("pki/token");
        assert!(first != second && home.read("kubeconfig").contains(&second), "the kubeconfig has the new one");
        // A restart knows both.
        let authority = home.prepare("127.0.0.1:7443").unwrap().authority;
        let hour = SignedDuration::from_hours(1);
        let both = vec![(hash(&second), None), (hash(&first), Some(now + hour))];
        let token = authority.admin_token().unwrap();
        assert_eq!((token.valid(now), token.valid(now + hour)), (both.clone(), both[..1].to_vec()));
        assert!(!home.read("pki/token.old").contains(&first), "only its hash is kept");
    }

    #[test]
    fn a_certificate_names_its_user_and_groups_and_ends_when_it_was_asked_to() {
        let home = Home::new();
        let authority = home.prepare("127.0.0.1:7443").unwrap().authority;
        let (now, groups) = (home.clock.now(), ["ops", "db team"].map(str::to_owned));
        let config = authority.issue("jane", &groups, now, now + DAY).unwrap();
        let pem = STANDARD.decode(config["users"][0]["user"]["client-certificate-data"].as_str().unwrap()).unwrap();
        let certificate = CertificateDer::from_pem_slice(&pem).unwrap();
        let user = crate::server::authn::certificate::user(&certificate).unwrap();
        assert_eq!((user.name.as_str(), &user.groups[..2], user.expires), ("jane", &groups[..], Some(now + DAY)));
        // A server of ours is no client, and the other way round.
        let server = CertificateDer::from_pem_slice(home.read("pki/server.crt").as_bytes()).unwrap();
        let pki = Pki { dir: home.dir.path().join("pki") };
        let verifier = client_verifier(&pki, &home.read("pki/client-ca.crt")).unwrap();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(now.as_second().unsigned_abs()));
        assert!(verifier.verify_client_cert(&certificate, &[], at).is_ok());
        assert!(verifier.verify_client_cert(&server, &[], at).is_err());
    }

    /// Regression 156, on disk: two requests at once for a new token of the administrator wrote the files in any order. The kubeconfig
    /// could end up with a token that was not valid, or the operator with tokens that were in no file.
    #[test]
    fn two_who_replace_the_administrators_token_at_once_leave_one_that_is_valid() {
        let home = Home::new();
        let authority = home.prepare("127.0.0.1:7443").unwrap().authority;
        let (told, now) = (Mutex::default(), home.clock.now());
        let next = |before: AdminToken| before.replaced_by(secret(&home.clock), now, false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..25 {
                        authority.replace_admin_token(next, |token| *lock(&told) = token.valid(now)).unwrap();
                    }
                });
            }
        });
        let token = home.read("pki/token");
        assert!(home.read("kubeconfig").contains(&token));
        assert_eq!(lock(&told).first().copied(), Some((hash(&token), None)));
    }

    #[test]
    fn a_damaged_file_is_named_and_nothing_is_overwritten() {
        let home = Home::new();
        home.prepare("127.0.0.1:7443").unwrap();
        fs::write(home.dir.path().join("pki/ca.key"), "rubbish").unwrap();
        let error = home.prepare("127.0.0.1:7443").err().unwrap().to_string();
        assert!(error.contains("pki/ca.key is damaged"), "{error}");
        assert_eq!(home.read("pki/ca.key"), "rubbish");
    }
}
