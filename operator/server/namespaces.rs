//! Namespaces: objects can be created only in one that exists and is not terminating; a deleted one is emptied first.

use std::time::Duration;

use axum::http::StatusCode;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Server;
use super::request::WriteError;
use super::status::{Cause, Refusal};
use crate::api::core::{DEFAULT_NAMESPACE, NAMESPACES, set_phase};
use crate::api::registry;
use crate::api::resource::Resource;
use crate::store::objects::{Deleted, Objects, Part, Preconditions, key_of};
use crate::store::{self, Key, rules};

/// Finalizer that keeps a deleted namespace until it is empty.
const FINALIZER: &str = "kubernetes";
/// Interval of checks of a terminating namespace that is not empty yet, and of attempts to reopen a lost watch.
const RECHECK: Duration = Duration::from_secs(1);

/// Creates the default namespace if it is missing, and gives a phase to namespaces of earlier versions, which had none.
pub async fn prepare(objects: &Objects) -> Result<(), store::Error> {
    let mut default = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": DEFAULT_NAMESPACE}});
    set_phase(&mut default);
    match objects.create(&key(DEFAULT_NAMESPACE), default).await {
        Ok(_) | Err(store::Error::AlreadyExists { .. }) => {}
        Err(error) => return Err(error),
    }
    for namespace in objects.list::<Value>(NAMESPACES, None).await?.0 {
        match objects.modify(&key_of(NAMESPACES, &namespace), Part::Main, with_phase).await {
            Ok(_) | Err(store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn with_phase(mut namespace: Value) -> Result<Value, store::Error> {
    set_phase(&mut namespace);
    Ok(namespace)
}

/// Refuses to create a `resource` in a namespace that does not exist (404) or is terminating (403).
pub async fn require(server: &Server, resource: &Resource, name: &str) -> Result<(), WriteError> {
    let found = server.objects.get::<Value>(&key(name)).await?;
    match found {
        None => Err(Refusal::not_found(namespaces(), name).into()),
        Some(namespace) if rules::is_deleting(&namespace) => {
            let message =
                format!("{} cannot be created in namespace {name}: it is being terminated", resource.qualified(),);
            let cause = Cause::new("NamespaceTerminating", "metadata.namespace", "namespace is being terminated");
            Err(Refusal::new(StatusCode::FORBIDDEN, "Forbidden", message).because(vec![cause]).into())
        }
        Some(_) => Ok(()),
    }
}

/// Marks a namespace as terminating; [`keep_emptying`] does the rest.
pub async fn delete(server: &Server, key: &Key, only_if: &Preconditions) -> Result<Deleted, store::Error> {
    let hold = |namespace: Value| {
        let add = !rules::is_deleting(&namespace);
        Ok::<_, store::Error>(if add { rules::with_finalizer(namespace, FINALIZER, true) } else { namespace })
    };
    let held = server.objects.modify(key, Part::Main, hold).await?;
    // The finalizer has changed the revision; the uid still identifies the namespace.
    let uid = only_if.uid.clone().or_else(|| rules::uid_of(&held).map(str::to_owned));
    let deleted = server.objects.delete(key, &Preconditions { uid, revision: None }).await?;
    match server.objects.modify(key, Part::Main, with_phase).await {
        Ok(terminating) => Ok(Deleted::Pending(terminating)),
        Err(store::Error::NotFound { .. }) => Ok(deleted), // it was empty
        Err(error) => Err(error),
    }
}

/// Refuses to delete the default namespace.
pub fn deletable(name: &str) -> Result<(), Refusal> {
    if name != DEFAULT_NAMESPACE {
        return Ok(());
    }
    let message = "namespaces \"default\" is forbidden: this namespace may not be deleted";
    Err(Refusal::new(StatusCode::FORBIDDEN, "Forbidden", message))
}

/// Empties terminating namespaces until it is told to stop.
pub async fn keep_emptying(objects: Objects, stop: CancellationToken) {
    let work = async {
        loop {
            if let Err(error) = empty_all(&objects).await {
                tracing::warn!(%error, "could not empty a namespace; trying again");
                tokio::time::sleep(RECHECK).await;
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// One pass over all namespaces; then waits for the reason for the next pass.
async fn empty_all(objects: &Objects) -> Result<(), store::Error> {
    let (namespaces, revision) = objects.list::<Value>(NAMESPACES, None).await?;
    let mut going = false;
    for namespace in namespaces.iter().filter(|namespace| rules::is_deleting(namespace)) {
        going |= !empty(objects, &key_of(NAMESPACES, namespace)).await?;
    }
    let mut changes = objects.watch(NAMESPACES, None, revision).await?;
    if going {
        // A remaining object waits for its finalizers; no change of the namespace shows when they are removed.
        let _ = tokio::time::timeout(RECHECK, changes.next()).await;
    } else if changes.next().await.is_none() {
        tokio::time::sleep(RECHECK).await;
    }
    Ok(())
}

/// Deletes the objects in a namespace. When none is left, removes the namespace's finalizer and returns true.
async fn empty(objects: &Objects, namespace: &Key) -> Result<bool, store::Error> {
    let mut left = 0;
    for resource in registry::resources().iter().filter(|r| r.namespaced && r.view.is_none()) {
        let resource = resource.qualified();
        let (contents, _) = objects.list::<Value>(&resource, Some(&namespace.name)).await?;
        for object in &contents {
            match objects.delete(&key_of(&resource, object), &Preconditions::default()).await {
                Ok(Deleted::Pending(_)) => left += 1,
                Ok(Deleted::Removed(_)) | Err(store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    if left > 0 {
        return Ok(false);
    }
    let release = |object: Value| Ok::<_, store::Error>(rules::with_finalizer(object, FINALIZER, false));
    match objects.modify(namespace, Part::Main, release).await {
        Ok(_) | Err(store::Error::NotFound { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// The key of a namespace.
pub fn key(name: &str) -> Key {
    Key { resource: NAMESPACES.to_owned(), namespace: String::new(), name: name.to_owned() }
}

fn namespaces() -> &'static Resource {
    registry::find("", "v1", NAMESPACES).expect("namespaces are served")
}
