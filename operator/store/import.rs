//! Copies the objects of one store into another one: from the file of a single operator into an etcd that several share.

use super::events::EVENTS;
use super::{Error, Expect, Store};

/// Copies every object but Events, each under a new revision; watches of the old store have to list again. What is there already
/// under the same uid stays as it is, so that an interrupted copy can be repeated. Returns the number of objects copied.
/// [`Error::Replaced`] if another object has the name of one: then nothing more is copied.
pub async fn import(from: &dyn Store, into: &dyn Store) -> Result<usize, Error> {
    let mut copied = 0;
    for (key, value) in from.all().await?.into_iter().filter(|(key, _)| key.resource != EVENTS) {
        let uid = |value: &serde_json::Value| value["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        match into.put(&key, Expect::Absent, (*value).clone()).await {
            Ok(_) => copied += 1,
            Err(Error::AlreadyExists { key }) => {
                let there = into.get(&key).await?.map(|there| uid(&there)).unwrap_or_default();
                if there != uid(&value) {
                    return Err(Error::Replaced { key, expected: uid(&value), found: there });
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(copied)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::{Key, MemoryStore};

    async fn put(store: &MemoryStore, resource: &str, name: &str, uid: &str) {
        let value = json!({"metadata": {"name": name, "uid": uid}, "status": {"phase": "Healthy"}});
        store.put(&Key::new(resource, "default", name), Expect::Absent, value).await.unwrap();
    }

    #[tokio::test]
    async fn everything_but_events_is_copied_once_and_nothing_of_others_is_overwritten() {
        let (from, into) = (MemoryStore::new(), MemoryStore::new());
        put(&from, "secrets", "app", "1").await;
        put(&from, EVENTS, "app.1", "2").await;
        assert_eq!(import(&from, &into).await.unwrap(), 1);
        put(&from, "secrets", "later", "3").await;
        assert_eq!(import(&from, &into).await.unwrap(), 1, "an interrupted copy goes on");
        let copied = into.get(&Key::new("secrets", "default", "app")).await.unwrap().unwrap();
        assert_eq!((&copied["metadata"]["uid"], &copied["status"]["phase"]), (&json!("1"), &json!("Healthy")));
        assert_eq!(into.all().await.unwrap().len(), 2);
        put(&into, "secrets", "taken", "4").await;
        put(&from, "secrets", "taken", "5").await;
        let refused = import(&from, &into).await.unwrap_err().to_string();
        assert!(refused.contains("taken is another object now"), "{refused}");
    }
}
