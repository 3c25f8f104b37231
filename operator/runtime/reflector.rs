//! A reflector follows a resource of the store: it lists it, then watches it, and resumes after any failure.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use serde_json::Value;
use tokio::time::sleep;

use crate::store::{Change, Error, Objects};

/// Delay before a failed store is read again.
const RETRY: Duration = Duration::from_secs(1);

/// What a reflector passes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// All existing objects: at the start, and whenever changes may have been missed.
    Listed(&'a [Arc<Value>]),
    /// One change. Every change after the list is passed on, in order.
    Changed(&'a Change),
}

/// Follows `resource` until this future is dropped.
pub async fn follow(objects: Objects, resource: &str, mut handle: impl FnMut(Event<'_>)) {
    let mut since = None;
    loop {
        match session(&objects, resource, &mut since, &mut handle).await {
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

/// Lists unless the revision to resume from is known, then watches until the watch ends.
async fn session(
    objects: &Objects,
    resource: &str,
    since: &mut Option<u64>,
    handle: &mut impl FnMut(Event<'_>),
) -> Result<(), Error> {
    let from = match *since {
        Some(revision) => revision,
        None => {
            let (values, revision) = objects.store().list(resource, None).await?;
            handle(Event::Listed(&values));
            revision
        }
    };
    *since = Some(from);
    let mut watch = objects.watch(resource, None, from).await?;
    while let Some(change) = watch.next().await {
        let change = change?;
        handle(Event::Changed(&change));
        *since = Some(change.revision);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::RefCell;
    use std::pin::pin;

    use futures::FutureExt;
    use serde_json::json;

    use super::*;
    use crate::runtime::clock::TestClock;
    use crate::store::{Key, MemoryStore};

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
            Event::Listed(values) => format!("{} listed", values.len()),
            Event::Changed(change) => change.key.name.clone(),
        })));
        let mut listen = || {
            // Runs as far as it can now; it never ends.
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
}
