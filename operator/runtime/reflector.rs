//! Follows a resource of the store: lists it, then watches it, from where it was after any trouble.

use std::time::Duration;

use futures::StreamExt;
use serde_json::Value;
use tokio::time::sleep;

use super::finalizer::FINALIZER;
use crate::store::{Change, Error, Key, Objects, objects, rules};

/// The wait before a store that failed is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// What a follower is told.
#[derive(Debug)]
pub enum Event<'a> {
    /// All there are, at the start and whenever changes may have been missed.
    Listed(&'a [Key]),
    /// One change. Every one after the list is told, in order.
    Changed(&'a Change),
}

/// Follows `resource` until it is dropped.
pub async fn follow(objects: Objects, resource: &str, mut tell: impl FnMut(Event<'_>)) {
    let mut since = None;
    loop {
        match session(&objects, resource, &mut since, &mut tell).await {
            Ok(()) => tracing::debug!(resource, "the watch ended; watching again"),
            Err(Error::Compacted { .. } | Error::Future { .. }) => {
                tracing::info!(resource, "the watch fell behind; listing again");
                since = None;
                continue;
            }
            Err(error) => tracing::warn!(resource, %error, "cannot follow the store; trying again"),
        }
        sleep(RETRY).await;
    }
}

/// Lists unless it is known where to resume, then watches until something ends it.
async fn session(
    objects: &Objects,
    resource: &str,
    since: &mut Option<u64>,
    tell: &mut impl FnMut(Event<'_>),
) -> Result<(), Error> {
    let from = match *since {
        Some(revision) => revision,
        None => {
            let (values, revision) = objects.list::<Value>(resource, None).await?;
            let keys: Vec<Key> = values.iter().map(|value| objects::key_of(resource, value)).collect();
            tell(Event::Listed(&keys));
            revision
        }
    };
    *since = Some(from);
    let mut watch = objects.watch(resource, None, from).await?;
    while let Some(change) = watch.next().await {
        let change = change?;
        tell(Event::Changed(&change));
        *since = Some(change.revision);
    }
    Ok(())
}

/// Whether a change is one to reconcile for: anything but the status and our finalizer, which are the
/// controller's own words. Were it not for this, a status that shows a moving number would wake its writer for ever.
pub fn concerns_controller(change: &Change) -> bool {
    match (&change.old, &change.new) {
        (Some(old), Some(new)) => others_words(old) != others_words(new),
        _ => true,
    }
}

fn others_words(value: &Value) -> Value {
    let mut rest = rules::with_finalizer(value.clone(), FINALIZER, false);
    if let Some(object) = rest.as_object_mut() {
        object.remove("status");
    }
    if let Some(metadata) = rest.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
        metadata.remove("managedFields");
    }
    rest
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::RefCell;
    use std::pin::pin;
    use std::sync::Arc;

    use futures::FutureExt;
    use serde_json::json;

    use super::*;
    use crate::runtime::clock::TestClock;
    use crate::store::MemoryStore;

    fn key(name: &str) -> Key {
        Key { resource: "toys".into(), namespace: "default".into(), name: name.into() }
    }

    #[tokio::test]
    async fn a_follower_is_told_the_list_then_each_change_and_the_list_again_when_it_fell_behind() {
        let clock = Arc::new(TestClock::still(jiff::Timestamp::UNIX_EPOCH));
        let objects = Objects::new(Arc::new(MemoryStore::with_window(3)), clock);
        let create = async |name: &str| objects.create(&key(name), json!({"metadata": {}})).await.unwrap();
        let told = RefCell::new(Vec::new());
        let mut follower = pin!(follow(objects.clone(), "toys", |news| told.borrow_mut().push(match news {
            Event::Listed(keys) => format!("{} listed", keys.len()),
            Event::Changed(change) => change.key.name.clone(),
        })));
        let mut listen = || {
            // As much as can be told now; it never ends.
            assert!(follower.as_mut().now_or_never().is_none());
            told.take()
        };
        create("a").await;
        assert_eq!(listen(), ["1 listed"]);
        create("b").await;
        create("c").await;
        assert_eq!(listen(), ["b", "c"]);
        for name in ["d", "e", "f", "g"] {
            create(name).await;
        }
        assert_eq!(listen(), ["7 listed"]);
        create("h").await;
        assert_eq!(listen(), ["h"]);
    }

    fn concerns(old: Option<Value>, new: Option<Value>) -> bool {
        concerns_controller(&Change { key: key("a"), revision: 2, old, new })
    }

    fn object(revision: &str, spec: &str, status: &str) -> Option<Value> {
        Some(json!({"metadata": {"resourceVersion": revision}, "spec": spec, "status": status}))
    }

    #[test]
    fn what_the_controller_writes_itself_wakes_nobody_and_all_else_does() {
        let held = rules::with_finalizer(object("2", "a", "x").unwrap(), FINALIZER, true);
        assert!(!concerns(object("1", "a", "x"), Some(held.clone())));
        assert!(concerns(Some(held.clone()), Some(rules::with_finalizer(held, "example.org/other", true))));
        assert!(!concerns(object("1", "a", "x"), object("2", "a", "y")));
        assert!(concerns(object("1", "a", "x"), object("2", "b", "x")));
        assert!(concerns(None, object("1", "a", "x")));
        assert!(concerns(object("1", "a", "x"), None));
        let mut annotated = object("2", "a", "x");
        annotated.as_mut().unwrap()["metadata"]["annotations"] = json!({"evenkeel.dev/reconcile": "paused"});
        assert!(concerns(object("1", "a", "x"), annotated));
    }
}
