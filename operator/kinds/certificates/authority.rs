//! The Secrets with an object's certificates: `NAME-ca`, `NAME-server` with the certificate that the members show (Evenkeel's
//! or a copy of the user's), and that of the client certificate if there is one. Reads and verifies them, and performs what
//! `due.rs` decides.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::due::{CA_LIFE, CaSeen, CertificatesSeen, Certified, Due, LEAF_LIFE, LeafSeen, Server, names};
use super::{Made, Pair, Purpose, certificates, ends, make_ca, make_leaf, roots};
use crate::api::failure::{Class, Failure};
use crate::api::hash::short_hash_of_parts;
use crate::api::labels::Owner;
use crate::api::postgres_tls::ROTATE_CA_ANNOTATION;
use crate::api::secret::text;
use crate::api::sync::lock;
use crate::api::x509;
use crate::kinds::owned_secret::write;
use crate::runtime::Keeper;
use crate::store::objects::Objects;
use crate::store::{Error, Key};

/// On `NAME-server`: the user's Secret that it is a copy of.
const COPY_OF: &str = "evenkeel.dev/copy-of";

/// The keys of Secrets whose texts are certificates.
const CERTIFICATES: [&str; 5] = ["tls.crt", "ca.crt", "next.crt", "old.crt", FORMER_CA];

/// A key of `NAME-server`: the CA of the user's certificate before, which some members may still show.
const FORMER_CA: &str = "former-ca.crt";

/// The ends of the names of the object's own ones.
pub fn name_ends<O: Certified>() -> impl Iterator<Item = &'static str> {
    ["ca", "server"].into_iter().chain(O::CLIENT.map(|(end, _)| end))
}

/// The keys of the Secrets.
pub fn keys<O: Certified>(object: &O) -> impl Iterator<Item = Key> {
    name_ends::<O>().map(|end| own(object, end)).chain(given_key(object))
}

/// Whether the object owns the Secret. Others are never written.
fn belongs<O: Certified>(secret: &Value, object: &O) -> bool {
    let owners = secret["metadata"]["ownerReferences"].as_array();
    let ours = |owner: &Value| owner["kind"] == O::KIND && owner["name"] == object.name();
    owners.is_some_and(|owners| owners.iter().any(ours))
}

/// The key of the Secret `NAME-END`.
pub fn own<O: Certified>(object: &O, end: &str) -> Key {
    Key::beside(object, "secrets", &format!("{}-{end}", object.name()))
}

fn given_key<O: Certified>(object: &O) -> Option<Key> {
    object.given().map(|secret| Key::beside(object, "secrets", &secret.name))
}

/// What every member should hold.
#[derive(Clone)]
pub struct Material {
    /// Changes when any of the others changes; safe to show.
    pub hash: String,
    /// The CA certificates by which server certificates are verified.
    pub ca: String,
    /// Those by which client certificates are verified.
    pub client_ca: String,
    /// The server certificate.
    pub server: Made,
    /// The client certificate of [`Certified::CLIENT`].
    pub client: Option<Made>,
}

/// The certificates of an object, read from the store and verified.
pub struct Authority {
    secrets: Secrets,
    /// While it is this time, the same Secrets are judged the same.
    steady: Range<Timestamp>,
    seen: CertificatesSeen,
    material: Option<Material>,
    server_cas: Option<String>,
}

impl Authority {
    /// Reads and verifies them.
    pub async fn read<O: Certified>(objects: &Objects, object: &O, now: Timestamp) -> Result<Self, Error> {
        Ok(Self::of(Secrets::read(objects, object).await?, now))
    }

    fn of(secrets: Secrets, now: Timestamp) -> Self {
        let (material, server_cas) = (secrets.material(now), secrets.server_cas(now));
        let seen = secrets.seen(now, material.as_ref().map(|all| all.hash.clone()));
        Self { steady: secrets.steady(now), seen, material, server_cas, secrets }
    }

    /// What was read, without keys.
    pub fn seen(&self) -> CertificatesSeen {
        self.seen.clone()
    }

    /// What every member should hold; `None` while something is missing or the CA is unusable.
    pub fn material(&self) -> Option<Material> {
        self.material.clone()
    }

    /// The CA certificates by which server certificates are verified: also the user's, before one of its is shown.
    pub fn server_cas(&self) -> Option<String> {
        self.server_cas.clone()
    }
}

/// The last verified certificates of each object of a kind. Nothing is verified again while the Secrets, the names and what
/// the clock says of each certificate (not yet valid, valid, expired) are the same.
#[derive(Default)]
pub struct Authorities(Mutex<BTreeMap<Owner, Arc<Authority>>>);

impl Authorities {
    /// Reads the Secrets, and verifies what has changed.
    pub async fn read<O: Certified>(
        &self,
        objects: &Objects,
        object: &O,
        now: Timestamp,
    ) -> Result<Arc<Authority>, Error> {
        let (owner, secrets) = (object.owner(), Secrets::read(objects, object).await?);
        let same = |known: &&Arc<Authority>| known.steady.contains(&now) && known.secrets == secrets;
        if let Some(known) = lock(&self.0).get(&owner).filter(same) {
            return Ok(known.clone());
        }
        let verified = Arc::new(Authority::of(secrets, now));
        lock(&self.0).insert(owner, verified.clone());
        Ok(verified)
    }
}

impl Keeper for Authorities {
    fn forget(&self, owner: &Owner) {
        lock(&self.0).remove(owner);
    }

    fn count(&self) -> usize {
        lock(&self.0).len()
    }
}

/// All Secrets with certificates, as they are in the store, and what they are judged by besides the time.
#[derive(PartialEq)]
struct Secrets {
    ca: Option<Value>,
    server: Option<Value>,
    client: Option<Value>,
    /// See [`Certified::CLIENT`].
    role: Option<&'static str>,
    /// The user's, if the object names one.
    given: Option<Option<Value>>,
    names: Vec<String>,
    verified_by: Vec<String>,
    given_name: String,
    ca_name: String,
    /// What is wrong with a Secret that has the name of one of these and is somebody else's.
    foreign: Option<String>,
}

impl Secrets {
    async fn read<O: Certified>(objects: &Objects, object: &O) -> Result<Self, Error> {
        let given = match given_key(object) {
            Some(key) => Some(objects.get(&key).await?),
            None => None,
        };
        let mut secrets = [None, None, None];
        let mut foreign = None;
        for (secret, end) in secrets.iter_mut().zip(name_ends::<O>()) {
            let key = own(object, end);
            *secret = objects.get(&key).await?;
            if secret.as_ref().is_some_and(|secret| !belongs(secret, object)) {
                let owner = format!("{} {}, which needs the name", O::KIND, object.name());
                foreign = Some(format!("Secret {} does not belong to {owner}: give yours another one", key.name));
            }
        }
        let [ca, server, client] = secrets;
        Ok(Self {
            ca,
            server,
            client,
            role: O::CLIENT.map(|(_, role)| role),
            foreign,
            given,
            names: names(object).unwrap_or_default(),
            verified_by: object.verified_by(),
            given_name: given_key(object).map(|key| key.name).unwrap_or_default(),
            ca_name: own(object, "ca").name,
        })
    }

    /// The time around now in which no certificate begins or ends; empty if the life of one cannot be read.
    fn steady(&self, now: Timestamp) -> Range<Timestamp> {
        let secrets = [&self.ca, &self.server, &self.client].into_iter().chain(&self.given).flatten();
        let texts = secrets.flat_map(|secret| CERTIFICATES.into_iter().filter_map(|key| text(secret, key)));
        let mut steady = Timestamp::MIN..Timestamp::MAX;
        for der in texts.filter_map(|pem| certificates(&pem).ok()).flatten() {
            let Some(read) = x509::read(&der) else { return now..now };
            // It is valid up to and including its last second.
            let over = read.until.saturating_add(SignedDuration::from_secs(1)).unwrap_or(Timestamp::MAX);
            for moment in [read.from, over] {
                match moment <= now {
                    true => steady.start = steady.start.max(moment),
                    false => steady.end = steady.end.min(moment),
                }
            }
        }
        steady
    }

    fn seen(&self, now: Timestamp, hash: Option<String>) -> CertificatesSeen {
        let current = self.ca.as_ref().and_then(|ca| text(ca, "ca.crt")).unwrap_or_default();
        let seen = |secret: &Option<Value>, refused: &dyn Fn(&Pair) -> Option<String>, names: &[String]| {
            let (secret, pair) = (secret.as_ref()?, pair(secret.as_ref())?);
            leaf(secret, &pair, refused(&pair).is_none(), names)
        };
        let as_client = |pair: &Pair| pair.refused_as_client(&current, now);
        let server = seen(&self.server, &|pair| pair.refused_as_server(&current, now), &self.names);
        let client = seen(&self.client, &as_client, &[]);
        let told = |secret: &Option<Value>| secret.as_ref().and_then(|secret| text(secret, "ca.crt")) == self.bundle();
        let told = (self.role.is_none() || told(&self.client)) && (self.copied() || told(&self.server));
        CertificatesSeen {
            ca: self.ca(),
            server,
            client,
            given: self.given.as_ref().map(|secret| self.given(secret.as_ref(), now)),
            told,
            hash,
        }
    }

    fn ca(&self) -> Result<Option<CaSeen>, String> {
        if let Some(why) = &self.foreign {
            return Err(why.clone());
        }
        let Some(secret) = &self.ca else { return Ok(None) };
        let name = &self.ca_name;
        let cert = text(secret, "ca.crt").ok_or_else(|| format!("Secret {name} has no key ca.crt"))?;
        roots(&cert).map_err(|why| format!("ca.crt of Secret {name} {why}"))?;
        let pair = |cert: &str, key: &str| {
            let pair = Pair::of_keys(name, secret, cert, key)?;
            let strange =
                || format!("{cert} of Secret {name} was not made by Evenkeel; delete the Secret, and a new CA is made");
            if pair.is_our_ca() { Ok(pair) } else { Err(strange()) }
        };
        let issues = text(secret, "ca.key").is_some();
        if issues {
            pair("ca.crt", "ca.key")?;
        }
        let next = match text(secret, "next.crt") {
            Some(_) => pair("next.crt", "next.key")?.validity().map(|(_, until)| until - CA_LIFE),
            None if issues => None,
            None => return Err(format!("Secret {name} has no key ca.key")),
        };
        let until = ends(&cert).ok_or_else(|| format!("the end of ca.crt of Secret {name} cannot be read"))?;
        let request = annotation(secret, ROTATE_CA_ANNOTATION);
        Ok(Some(CaSeen { until, issues, next, old: text(secret, "old.crt").is_some(), request }))
    }

    /// The user's certificate.
    fn given(&self, secret: Option<&Value>, now: Timestamp) -> Result<LeafSeen, String> {
        let name = &self.given_name;
        let pair = Pair::of_secret(name, secret)?;
        let secret = secret.unwrap_or(&Value::Null);
        let what = "the CA certificates by which clients and the other instances verify tls.crt";
        let ca = text(secret, "ca.crt").ok_or_else(|| format!("Secret {name} has no key ca.crt: {what}"))?;
        roots(&ca).map_err(|why| format!("ca.crt of Secret {name} {why}"))?;
        let leaf = leaf(secret, &pair, false, &self.verified_by);
        let leaf = leaf.ok_or_else(|| format!("the life of tls.crt of Secret {name} cannot be read"))?;
        // Its life is judged by itself.
        let at = now.clamp(leaf.from, leaf.until);
        if let Some(why) = pair.refused_as_server(&ca, at) {
            return Err(format!("ca.crt of Secret {name} does not verify its tls.crt: {why}"));
        }
        match pair.refused_as_client(&ca, at).filter(|_| self.role.is_none()) {
            Some(why) => Err(format!(
                "ca.crt of Secret {name} does not verify its tls.crt as that of a client, by which members connect to each \
                 other (it needs the extended key usages serverAuth and clientAuth): {why}"
            )),
            None => Ok(leaf),
        }
    }

    fn copied(&self) -> bool {
        self.server.as_ref().is_some_and(|secret| annotation(secret, COPY_OF).is_some())
    }

    /// The CA certificates of Evenkeel's CAs that are trusted now.
    fn bundle(&self) -> Option<String> {
        let secret = self.ca.as_ref()?;
        Some(["ca.crt", "next.crt", "old.crt"].into_iter().filter_map(|key| text(secret, key)).collect())
    }

    fn server_cas(&self, now: Timestamp) -> Option<String> {
        let given = self.given.iter().flatten().filter(|secret| self.given(Some(secret), now).is_ok());
        let shown = self.server.iter().filter(|_| self.copied());
        let former = self.server.iter().filter_map(|secret| text(secret, FORMER_CA));
        let mut all = self.bundle()?;
        for ca in shown.chain(given).filter_map(|secret| text(secret, "ca.crt")).chain(former) {
            if !all.contains(ca.trim()) {
                all.push_str(ca.trim());
                all.push('\n');
            }
        }
        Some(all)
    }

    fn material(&self, now: Timestamp) -> Option<Material> {
        self.ca().ok()??;
        let (client_ca, ca, server) = (self.bundle()?, self.server_cas(now)?, pair(self.server.as_ref())?);
        let client = pair(self.client.as_ref());
        if self.role.is_some() && client.is_none() {
            return None;
        }
        let parts = [&ca, &client_ca, &server.cert, &server.key].into_iter();
        let hash = short_hash_of_parts(parts.chain(client.iter().flat_map(|pair| [&pair.cert, &pair.key])), 16);
        let made = |pair: Pair| Made { cert: pair.cert, key: pair.key };
        Some(Material { hash, ca, client_ca, server: made(server), client: client.map(made) })
    }
}

fn pair(secret: Option<&Value>) -> Option<Pair> {
    Pair::of_secret("", secret).ok()
}

fn annotation(secret: &Value, name: &str) -> Option<String> {
    secret["metadata"]["annotations"][name].as_str().map(str::to_owned)
}

fn leaf(secret: &Value, pair: &Pair, current: bool, names: &[String]) -> Option<LeafSeen> {
    let (from, until) = pair.validity()?;
    let parts = [&pair.cert, &pair.key, &text(secret, "ca.crt").unwrap_or_default()];
    Some(LeafSeen {
        from,
        until,
        current,
        copied: annotation(secret, COPY_OF).is_some(),
        former_ca: text(secret, FORMER_CA).is_some(),
        lacks: pair.lacks(names),
        content: short_hash_of_parts(parts, 16),
    })
}

/// Performs one change. Nothing is done if it is no longer possible.
pub async fn perform<O: Certified>(objects: &Objects, now: Timestamp, object: &O, due: Due) -> Result<(), Failure> {
    let secrets = Secrets::read(objects, object).await?;
    if secrets.foreign.is_some() {
        return Ok(());
    }
    match due {
        Due::Leaves { server, client } => leaves(objects, object, &secrets, now, (server, client), true).await,
        Due::DropFormerCa => leaves(objects, object, &secrets, now, (Server::Keep, false), false).await,
        _ => change_ca(objects, object, &secrets, now, due).await,
    }
}

async fn change_ca<O: Certified>(
    objects: &Objects,
    object: &O,
    secrets: &Secrets,
    now: Timestamp,
    due: Due,
) -> Result<(), Failure> {
    let part = |key: &str| secrets.ca.as_ref().and_then(|secret| text(secret, key));
    // Certificates of a CA whose Secret was deleted are still trusted until others are made.
    let shown = || secrets.server.as_ref().filter(|_| secrets.role.is_none() && !secrets.copied());
    let lost = || secrets.client.as_ref().or_else(shown).and_then(|secret| text(secret, "ca.crt"));
    let new = || make_ca(now, CA_LIFE).map_err(unmade);
    let fields: Vec<(&str, Option<String>)> = match due {
        // Somebody has made or deleted it meanwhile.
        _ if (due == Due::Ca) == secrets.ca.is_some() => return Ok(()),
        Due::Ca => {
            let Made { cert, key } = new()?;
            match lost() {
                Some(lost) => vec![("ca.crt", Some(lost)), ("next.crt", Some(cert)), ("next.key", Some(key))],
                None => vec![("ca.crt", Some(cert)), ("ca.key", Some(key))],
            }
        }
        Due::NextCa if part("next.crt").is_none() => {
            let Made { cert, key } = new()?;
            let (next, next_key) = (("next.crt", Some(cert)), ("next.key", Some(key)));
            vec![("ca.crt", part("ca.crt")), ("ca.key", part("ca.key")), next, next_key]
        }
        Due::ChangeCa if part("next.crt").is_some() => {
            vec![("ca.crt", part("next.crt")), ("ca.key", part("next.key")), ("old.crt", part("ca.crt"))]
        }
        Due::DropOldCa => vec![("ca.crt", part("ca.crt")), ("ca.key", part("ca.key"))],
        _ => return Ok(()),
    };
    let fields: Vec<(&str, &str)> = fields.iter().filter_map(|(key, text)| Some((*key, text.as_deref()?))).collect();
    let request = object.annotation(ROTATE_CA_ANNOTATION).map(|request| (ROTATE_CA_ANNOTATION, request));
    Ok(write(objects, object, &own(object, "ca"), "Opaque", request, &fields).await?)
}

async fn leaves<O: Certified>(
    objects: &Objects,
    object: &O,
    secrets: &Secrets,
    now: Timestamp,
    (server, client): (Server, bool),
    keep_former: bool,
) -> Result<(), Failure> {
    let Some(bundle) = secrets.bundle() else { return Ok(()) };
    let ca_key = || {
        let key = secrets.ca.as_ref().and_then(|secret| text(secret, "ca.key"));
        key.ok_or_else(|| Failure::new(Class::Transient, format!("Secret {} has no key ca.key", secrets.ca_name)))
    };
    let made = |purpose| make_leaf(&ca_key()?, purpose, now, LEAF_LIFE).map_err(unmade);
    let kept = |secret: Option<&Value>| pair(secret).map(|pair| Made { cert: pair.cert, key: pair.key });
    let own_client = match O::CLIENT {
        Some((_, role)) if client => Some(made(Purpose::Client(role))?),
        _ => kept(secrets.client.as_ref()),
    };
    let given = secrets.given.as_ref().and_then(Option::as_ref);
    let of_given = given.and_then(|secret| text(secret, "ca.crt"));
    let of_shown = secrets.server.as_ref().filter(|_| secrets.copied()).and_then(|secret| text(secret, "ca.crt"));
    let copy_of = secrets.server.as_ref().and_then(|secret| annotation(secret, COPY_OF));
    let (shown, ca, copy_of) = match server {
        Server::Copy => (kept(given), of_given, Some(secrets.given_name.clone())),
        Server::Make => (
            Some(made(match O::CLIENT {
                Some(_) => Purpose::Server(&secrets.names),
                None => Purpose::Member(&secrets.names),
            })?),
            None,
            None,
        ),
        Server::Keep => (kept(secrets.server.as_ref()), of_shown.clone(), copy_of),
    };
    let former = secrets.server.as_ref().and_then(|secret| text(secret, FORMER_CA)).filter(|_| keep_former);
    let former = of_shown.filter(|shown| server != Server::Keep && ca.as_ref() != Some(shown)).or(former);
    let ca = ca.unwrap_or_else(|| bundle.clone());
    let note = copy_of.as_deref().map(|name| (COPY_OF, name));
    let client_end = O::CLIENT.map_or("", |(end, _)| end);
    for (end, pair, ca, note, former) in
        [(client_end, own_client, &bundle, None, None), ("server", shown, &ca, note, former.as_deref())]
    {
        let Some(Made { cert, key }) = pair else { continue };
        let fields = [("tls.crt", cert.as_str()), ("tls.key", &key), ("ca.crt", ca)];
        let fields: Vec<_> = fields.into_iter().chain(former.map(|former| (FORMER_CA, former))).collect();
        write(objects, object, &own(object, end), "kubernetes.io/tls", note, &fields).await?;
    }
    Ok(())
}

fn unmade(error: rcgen::Error) -> Failure {
    Failure::new(Class::Transient, format!("making a certificate: {error}"))
}
