//! What opens a store of backups, from the spec of an object and the Secrets that it names. The values are sent to supervisors and
//! shown nowhere.

use serde_json::Value;

use crate::api::backup_store::{BackupStore, S3Store};
use crate::api::hash::short_hash_of_parts;
use crate::api::object::Object;
use crate::api::secret::text;
use crate::archive::access::{S3, Store, StoreAccess};
use crate::store::objects::Objects;
use crate::store::{Error, Key};

/// Where a directory with the archive of a cluster is mounted in its containers.
pub const OWN: &str = "/evenkeel-archive";

/// Why a store cannot be opened: the reason and the message of a condition.
pub type Problem = (&'static str, String);

/// The Secrets that this store of an object names.
pub fn keys<O: Object>(object: &O, store: &BackupStore) -> Vec<Key> {
    let names =
        store.s3.iter().flat_map(|s3| [Some(&s3.credentials.secret_name), s3.ca_secret_name.as_ref()]).flatten();
    names.map(|name| Key::beside(object, "secrets", name)).collect()
}

/// What opens the store of an object; or why that is not known. A directory is mounted at the path beside it. `path`: where the
/// manifest has the store.
///
/// # Errors
/// The store of objects.
pub async fn access<O: Object>(
    objects: &Objects,
    object: &O,
    (store, mounted): (&BackupStore, &str),
    path: &str,
) -> Result<Result<StoreAccess, Problem>, Error> {
    let store = match (&store.s3, &store.directory) {
        (Some(s3), _) => match bucket(objects, object, s3, path).await? {
            Ok(s3) => Store::S3(s3),
            Err(problem) => return Ok(Err(problem)),
        },
        (None, _) => Store::Directory { path: mounted.to_owned() },
    };
    let hash = short_hash_of_parts([&serde_json::to_string(&store).unwrap_or_default()], 16);
    Ok(Ok(StoreAccess { hash, store }))
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
