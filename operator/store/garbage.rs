//! Garbage collection: deletes what a deleted object owned, objects without an owner, and Events older than an hour.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::events::EVENTS;
use super::objects::{Objects, Part, Preconditions};
use super::{Error, Key, revision_of, rules};

/// Lifetime of an Event after its last occurrence, as in Kubernetes.
const EVENT_LIFE: SignedDuration = SignedDuration::from_hours(1);

impl Objects {
    /// Deletes the objects that the removed object `uid` owned. The owner is already gone, so a failure is only logged
    /// and the next [`Objects::sweep`] tries again.
    pub(super) async fn collect(&self, owner: &Key, uid: &str) {
        if owner.resource == EVENTS {
            return;
        }
        if let Err(error) = self.try_collect(uid).await {
            tracing::warn!(%owner, %error, "could not delete all that it owned; the next sweep will");
        }
    }

    /// Deletes Events whose last occurrence is over an hour ago, and objects whose owners are all gone.
    /// Returns their number.
    pub async fn sweep(&self) -> Result<usize, Error> {
        let all = self.store.all().await?;
        let uids: BTreeSet<&str> = all.iter().filter_map(|(_, value)| rules::uid_of(value)).collect();
        let now = self.clock.now();
        let mut swept = 0;
        for (key, value) in &all {
            let outcome = if key.resource == EVENTS {
                if !expired(value, now) {
                    continue;
                }
                self.store.delete(key, revision_of(value).unwrap_or(0)).await.map(|_| ())
            } else {
                if !orphaned(value, &uids) {
                    continue;
                }
                let only_if = Preconditions { revision: revision_of(value), ..Preconditions::default() };
                self.delete(key, &only_if).await.map(|_| ())
            };
            match outcome {
                Ok(()) => swept += 1,
                // Deleted or changed meanwhile: the next sweep checks it again.
                Err(Error::NotFound { .. } | Error::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(swept)
    }

    async fn try_collect(&self, uid: &str) -> Result<(), Error> {
        for (key, value) in self.store.owned_by(uid).await? {
            let outcome = if rules::owners(&value).len() == 1 {
                // The deletion also collects what the deleted object owned.
                Box::pin(self.delete(&key, &Preconditions::default())).await.map(|_| ())
            } else {
                let disown = |object| Ok::<_, Error>(disowned(object, uid));
                Box::pin(self.modify(&key, Part::Main, disown)).await.map(|_| ())
            };
            match outcome {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Objects {
    /// Takes the object out of the owners of all that it owns, so that they stay when it is deleted.
    pub async fn release(&self, owner: &Value) -> Result<(), Error> {
        let Some(uid) = rules::uid_of(owner) else { return Ok(()) };
        for (key, _) in self.store.owned_by(uid).await? {
            match self.modify(&key, Part::Main, |object| Ok::<_, Error>(disowned(object, uid))).await {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn disowned(mut object: Value, uid: &str) -> Value {
    if let Some(owners) = object["metadata"]["ownerReferences"].as_array_mut() {
        owners.retain(|owner| owner["uid"] != uid);
    }
    object
}

fn orphaned(value: &Value, uids: &BTreeSet<&str>) -> bool {
    let owners = rules::owners(value);
    !owners.is_empty() && !owners.iter().any(|uid| uids.contains(uid))
}

fn expired(event: &Value, now: Timestamp) -> bool {
    let times = [&event["lastTimestamp"], &event["eventTime"], &event["metadata"]["creationTimestamp"]];
    let last = times.into_iter().filter_map(Value::as_str).find_map(|time| time.parse::<Timestamp>().ok());
    last.is_none_or(|last| now.duration_since(last) > EVENT_LIFE)
}
