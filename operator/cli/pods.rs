//! Which pods and containers a person means by `POD` or `KIND/NAME`, for the verbs that go into containers.

use std::collections::BTreeSet;

use serde_json::Value;

use super::client::JSON;
use super::discovery::{self, Catalog, Resource};
use super::error::Error;
use super::render;
use super::session::Session;

/// The pods that are meant: one by its name, or all of the object `KIND/NAME`.
pub async fn meant(words: &str, session: &Session<'_>) -> Result<(Resource, Vec<Value>), Error> {
    let catalog = session.client.catalog().await?;
    let pods = catalog.resolve("pods")?.clone();
    let target = match words.contains('/') {
        true => discovery::targets(&[words.to_owned()])?.remove(0),
        false => ("pods".to_owned(), Some(words.to_owned())),
    };
    let (resource, name) = (catalog.resolve(&target.0)?, target.1.unwrap_or_default());
    let path = resource.path(Some(&session.namespace), Some(&name));
    let object = session.client.get(&path, &[], JSON).await?;
    if *resource == pods {
        return Ok((pods, vec![object]));
    }
    let found = of(&object, &catalog, session).await?;
    match found.is_empty() {
        true => Err(Error::NotFound(format!("{words} has no pods"))),
        false => Ok((pods, found)),
    }
}

/// The pods that an object owns, by itself or through its ReplicaSets.
async fn of(object: &Value, catalog: &Catalog, session: &Session<'_>) -> Result<Vec<Value>, Error> {
    let mut uids = BTreeSet::from([render::cell(&object["metadata"]["uid"])]);
    uids.extend(
        owned("replicasets.apps", &uids, catalog, session)
            .await?
            .iter()
            .map(|set| render::cell(&set["metadata"]["uid"])),
    );
    owned("pods", &uids, catalog, session).await
}

/// The objects of a kind that one of these owns.
pub async fn owned(
    kind: &str,
    uids: &BTreeSet<String>,
    catalog: &Catalog,
    session: &Session<'_>,
) -> Result<Vec<Value>, Error> {
    let path = catalog.resolve(kind)?.path(Some(&session.namespace), None);
    let mut list = session.client.get(&path, &[], JSON).await?;
    let mut items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
    items.retain(|item| {
        let owners = item["metadata"]["ownerReferences"].as_array();
        owners.into_iter().flatten().any(|owner| uids.contains(owner["uid"].as_str().unwrap_or_default()))
    });
    Ok(items)
}

/// Names of a pod's containers, those that prepare it left out.
pub fn containers(pod: &Value) -> Vec<String> {
    pod["status"]["containerStatuses"].as_array().into_iter().flatten().map(|c| render::cell(&c["name"])).collect()
}
