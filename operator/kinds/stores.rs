//! What opens a store of backups, from the spec of an object and the Secrets that it names. The values are sent to supervisors and
//! shown nowhere.

use serde_json::Value;

use crate::api::backup_store::{BackupStore, Encryption, S3Store};
use crate::api::hash::short_hash_of_parts;
use crate::api::object::Object;
use crate::api::secret::text;
use crate::archive::access::{Identities, S3, Store, StoreAccess};
use crate::archive::cipher::Cipher;
use crate::engine::{Mount, MountSource};
use crate::store::objects::Objects;
use crate::store::{Error, Key};

/// Where a directory with the archive of a cluster is mounted in its containers.
pub const OWN: &str = "/evenkeel-archive";
/// Where a directory is mounted in the containers that the first data is restored from.
pub const SOURCE: &str = "/evenkeel-source";

/// What opens the stores of an object, without its values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ArchivesSeen {
    /// Hash of what the supervisors must hold; empty if that is nothing, `None` if it is not known.
    pub hash: Option<String>,
    /// Why it is not known.
    pub problem: Option<Problem>,
}

/// The directories of the host among these stores, each with its path in the container, and whether nothing is written there.
pub fn mounts<'a>(stores: impl Iterator<Item = (&'a BackupStore, &'static str, bool)>) -> Vec<Mount> {
    let mount = |(store, path, read_only): (&BackupStore, &str, bool)| {
        let source = MountSource::Bind(store.directory.as_ref()?.path.clone());
        Some(Mount { source, path: path.to_owned(), read_only })
    };
    stores.filter_map(mount).collect()
}

/// The key of the Secret of an encryption.
const IDENTITY: &str = "identity";

/// Why a store cannot be opened: the reason and the message of a condition.
pub type Problem = (&'static str, String);

/// A store as an object declares it.
#[derive(Debug, Clone, Copy)]
pub struct Declared<'a> {
    /// The store.
    pub store: &'a BackupStore,
    /// Where a directory is mounted.
    pub mounted: &'a str,
    /// What its archives are encrypted with.
    pub encryption: Option<&'a Encryption>,
    /// Where the manifest has both, such as `spec.backup`.
    pub path: &'a str,
}

/// The Secrets that this store of an object names.
pub fn keys<O: Object>(object: &O, store: &BackupStore, encryption: Option<&Encryption>) -> Vec<Key> {
    let names = store.secrets().chain(encryption.map(|encryption| encryption.secret_name.as_str()));
    names.map(|name| Key::beside(object, "secrets", name)).collect()
}

/// What opens the store of an object; or why that is not known.
///
/// # Errors
/// The store of objects.
pub async fn access<O: Object>(
    objects: &Objects,
    object: &O,
    declared: Declared<'_>,
) -> Result<Result<StoreAccess, Problem>, Error> {
    let Declared { store, mounted, encryption, path } = declared;
    let store = match (&store.s3, &store.directory) {
        (Some(s3), _) => match bucket(objects, object, s3, &format!("{path}.store")).await? {
            Ok(s3) => Store::S3(s3),
            Err(problem) => return Ok(Err(problem)),
        },
        (None, _) => Store::Directory { path: mounted.to_owned() },
    };
    let encryption = match encryption {
        None => None,
        Some(encryption) => match identities(objects, object, encryption, path).await? {
            Ok(identities) => Some(identities),
            Err(problem) => return Ok(Err(problem)),
        },
    };
    let mut parts = vec![serde_json::to_string(&store).unwrap_or_default()];
    parts.extend(encryption.iter().map(|Identities(text)| text.clone()));
    let hash = short_hash_of_parts(parts, 16);
    Ok(Ok(StoreAccess { hash, store, encryption }))
}

/// The private keys of an archive. What is wrong with them is told without any of their words.
async fn identities<O: Object>(
    objects: &Objects,
    object: &O,
    encryption: &Encryption,
    path: &str,
) -> Result<Result<Identities, Problem>, Error> {
    let name = &encryption.secret_name;
    let problem = |reason, what: String| {
        Ok(Err((reason, format!("{path}.encryption.secretName names Secret {name}, which {what}"))))
    };
    let Some(secret) = objects.get::<Value>(&Key::beside(object, "secrets", name)).await? else {
        return problem(
            "SecretNotFound",
            format!("does not exist: create it with the key {IDENTITY}, as age-keygen writes it"),
        );
    };
    let Some(text) = text(&secret, IDENTITY) else {
        return problem("KeyMissing", format!("lacks the key {IDENTITY}, with lines as age-keygen writes them"));
    };
    let identities = Identities(text);
    match Cipher::try_from(&identities) {
        Ok(_) => Ok(Ok(identities)),
        Err(bad) => problem("KeyMissing", format!("has no usable key {IDENTITY}: {bad}")),
    }
}

async fn bucket<O: Object>(
    objects: &Objects,
    object: &O,
    s3: &S3Store,
    path: &str,
) -> Result<Result<S3, Problem>, Error> {
    let secret = async |name: &str| objects.get::<Value>(&Key::beside(object, "secrets", name)).await;
    let name = &s3.credentials.secret_name;
    let missing = |at: &str, name: &str, what: &str| {
        ("SecretNotFound", format!("{path}.s3.{at} names Secret {name}, which {what}"))
    };
    let at = "credentials.secretName";
    let Some(found) = secret(name).await? else {
        let what = "does not exist: create it with the keys accessKeyId and secretAccessKey";
        return Ok(Err(missing(at, name, what)));
    };
    let value = |key: &str| text(&found, key).filter(|value| !value.is_empty());
    let (Some(access_key_id), Some(secret_access_key)) = (value("accessKeyId"), value("secretAccessKey")) else {
        return Ok(Err(missing(at, name, "lacks the key accessKeyId or secretAccessKey")));
    };
    let ca = match &s3.ca_secret_name {
        None => None,
        Some(name) => match secret(name).await?.as_ref().and_then(|found| text(found, "ca.crt")) {
            None => return Ok(Err(missing("caSecretName", name, "does not exist or lacks the key ca.crt"))),
            ca => ca,
        },
    };
    Ok(Ok(S3 {
        bucket: s3.bucket.clone(),
        prefix: s3.prefix.clone(),
        endpoint: s3.endpoint.clone(),
        region: s3.region.clone(),
        path_style: s3.path_style(),
        sha256: s3.checksum.is_some(),
        access_key_id,
        secret_access_key,
        session_token: value("sessionToken"),
        ca,
    }))
}
