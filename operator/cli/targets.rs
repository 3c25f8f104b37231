//! The pods that an argument names: one pod by its name, or the pods of an object.

use serde_json::Value;

use super::client::JSON;
use super::discovery::{Catalog, Resource};
use super::error::Error;
use super::session::Session;

/// The pods for `POD`, `pod/NAME` or `KIND/NAME`; at least one.
pub async fn meant(word: &str, session: &Session<'_>) -> Result<(Resource, Vec<Value>), Error> {
    let catalog = session.client.catalog().await?;
    let pods = catalog.resolve("pods")?.clone();
    let (kind, name) = word.split_once('/').unwrap_or(("pods", word));
    let resource = catalog.resolve(kind)?;
    let namespace = &session.namespace;
    let found = session.client.object(resource, namespace, name).await?;
    let object = found.ok_or_else(|| Error::NotFound(format!("{} {name:?} not found", resource.label())))?;
    if *resource == pods {
        return Ok((pods, vec![object]));
    }
    let mut theirs = list(&pods, session).await?;
    let sets = owned(&catalog, &object, session).await?;
    let owners: Vec<&Value> = sets.iter().chain([&object]).map(|owner| &owner["metadata"]["uid"]).collect();
    theirs.retain(|pod| owners.iter().any(|uid| owned_by(pod, uid)));
    // Pods that can answer come first.
    theirs.sort_by_key(|pod| (pod["metadata"]["deletionTimestamp"].is_string(), pod["status"]["phase"] != "Running"));
    if theirs.is_empty() {
        return Err(Error::NotFound(format!("{}/{name} has no pods", resource.label())));
    }
    Ok((pods, theirs))
}

/// The revisions of an object: its ReplicaSets.
pub async fn owned(catalog: &Catalog, object: &Value, session: &Session<'_>) -> Result<Vec<Value>, Error> {
    let mut sets = list(catalog.resolve("replicasets.apps")?, session).await?;
    sets.retain(|set| owned_by(set, &object["metadata"]["uid"]));
    Ok(sets)
}

async fn list(resource: &Resource, session: &Session<'_>) -> Result<Vec<Value>, Error> {
    let mut list = session.client.get(&resource.path(Some(&session.namespace), None), &[], JSON).await?;
    Ok(match list["items"].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    })
}

fn owned_by(object: &Value, uid: &Value) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().any(|owner| owner["uid"] == *uid)
}

/// The container to use in a pod, and a note if it was not named and the pod has several.
pub fn container(pod: &Value, named: Option<&str>) -> (String, Option<String>) {
    if let Some(named) = named {
        return (named.to_owned(), None);
    }
    let containers = pod["spec"]["containers"].as_array();
    let names: Vec<&str> = containers.into_iter().flatten().filter_map(|c| c["name"].as_str()).collect();
    let first = names.first().copied().unwrap_or_default().to_owned();
    let word = format!("container {first:?} is taken; there are {} (-c names one)", names.join(", "));
    (first, (names.len() > 1).then_some(word))
}

/// `metadata.name`.
pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_container_is_taken_and_that_is_said() {
        let pod = json!({"spec": {"containers": [{"name": "main"}, {"name": "cache"}]}});
        assert_eq!(container(&pod, Some("cache")), ("cache".to_owned(), None));
        let word = "container \"main\" is taken; there are main, cache (-c names one)";
        assert_eq!(container(&pod, None), ("main".to_owned(), Some(word.to_owned())));
        assert_eq!(container(&json!({"spec": {"containers": [{"name": "main"}]}}), None).1, None);
    }
}
