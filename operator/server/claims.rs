//! Refuses a new object whose containers would have the names of another object's.

use serde_json::Value;
use tokio::sync::MutexGuard;

use super::Server;
use super::request::WriteError;
use super::status::{Cause, Refusal};
use crate::api::claims::clash;
use crate::api::registry;
use crate::api::resource::Resource;
use crate::store::{Key, rules};

/// Held from the check of a name until the object is stored, so that of two new objects one sees the other.
pub struct Held<'a> {
    _turn: Option<MutexGuard<'a, ()>>,
}

/// Refuses the new object (422) if another object has the same names in Docker. The store itself refuses a second object of
/// the same kind and name.
pub async fn hold<'a>(server: &'a Server, resource: &Resource, key: &Key) -> Result<Held<'a>, WriteError> {
    let Some(claim) = resource.claim else { return Ok(Held { _turn: None }) };
    let turn = server.claims.lock().await;
    for (other, theirs) in registry::resources().iter().filter_map(|other| Some((other, other.claim?))) {
        let (there, _) = server.objects.list::<Value>(&other.qualified(), Some(&key.namespace)).await?;
        let named = there.iter().filter_map(|object| Some((object, object["metadata"]["name"].as_str()?)));
        let others = named.filter(|(_, name)| other != resource || *name != key.name);
        let mut same = others.filter(|(_, name)| clash((claim, &key.name), (theirs, name)));
        if let Some((object, name)) = same.next() {
            let deleting = if rules::is_deleting(object) { ", which is being deleted" } else { "" };
            let message = format!(
                "Invalid value: {:?}: {} {name} of this namespace{deleting} has containers and volumes of the same names \
                 ({}); choose another name",
                key.name,
                other.kind,
                theirs.shown(name),
            );
            let causes = vec![Cause::invalid("metadata.name", message)];
            return Err(Refusal::invalid(resource, &key.name, causes).into());
        }
    }
    Ok(Held { _turn: Some(turn) })
}
