//! Writes a Secret that belongs to an object and is deleted with it.

use serde_json::json;

use crate::api::object::Object;
use crate::api::secret;
use crate::store::objects::Objects;
use crate::store::{Error, Key};

/// Writes the Secret at `key`, with this type and at most one annotation; an existing one is replaced.
pub async fn write<O: Object>(
    objects: &Objects,
    object: &O,
    key: &Key,
    kind: &str,
    note: Option<(&str, &str)>,
    fields: &[(&str, &str)],
) -> Result<(), Error> {
    let mut secret = secret::owned(object, &key.name, fields);
    secret["type"] = json!(kind);
    secret["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = json!(true);
    if let Some((name, text)) = note {
        secret["metadata"]["annotations"] = json!({ name: text });
    }
    match objects.create(key, secret.clone()).await {
        Err(Error::AlreadyExists { .. }) => objects.update(key, secret).await.map(drop),
        outcome => outcome.map(drop),
    }
}
