//! Copies the objects of one store into another one: from a file into an etcd that several operators share.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;

use super::etcd::Closed;
use super::sqlite::Snapshot;
use super::{Error, EtcdStore, Expect, Key, Store};

/// Objects that are written at once.
const AT_ONCE: usize = 16;

impl Snapshot {
    /// Why an etcd is closed while this is copied into it.
    pub fn copying(&self) -> Closed {
        Closed::Copying { content: self.content.clone().unwrap_or_default() }
    }

    /// Copies all objects into an etcd that nobody leads over, and opens it with this generation. It is closed meanwhile, also if
    /// this is interrupted; then it is to be repeated. Returns the number of objects copied.
    pub async fn import_into(&self, etcd: &EtcdStore, generation: u64) -> Result<usize, Error> {
        etcd.close(self.copying()).await?;
        let copied = import(&self.objects, etcd).await?;
        etcd.reopen(generation).await?;
        Ok(copied)
    }
}

/// Copies objects, each under a new revision; watches of the old store have to list again. What is there already
/// under the same uid stays as it is, so that an interrupted copy can be repeated. Returns the number of objects copied.
/// [`Error::Replaced`] if another object has the name of one.
async fn import(objects: &[(Key, Arc<Value>)], into: &dyn Store) -> Result<usize, Error> {
    let copies = stream::iter(objects).map(|(key, value)| copy(key, value, into)).buffer_unordered(AT_ONCE);
    let copied: Vec<bool> = copies.try_collect().await?;
    Ok(copied.into_iter().filter(|is_new| *is_new).count())
}

/// Copies one object; `false`: it is there already.
async fn copy(key: &Key, value: &Value, into: &dyn Store) -> Result<bool, Error> {
    let uid = |value: &Value| value["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    match into.put(key, Expect::Absent, value.clone()).await {
        Ok(_) => Ok(true),
        Err(Error::AlreadyExists { key }) => {
            let found = into.get(&key).await?.map(|there| uid(&there)).unwrap_or_default();
            let expected = uid(value);
            if found == expected { Ok(false) } else { Err(Error::Replaced { key, expected, found }) }
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::MemoryStore;
    use crate::store::events::EVENTS;

    async fn put(store: &MemoryStore, resource: &str, name: &str, uid: &str) {
        let value = json!({"metadata": {"name": name, "uid": uid}, "status": {"phase": "Healthy"}});
        store.put(&Key::new(resource, "default", name), Expect::Absent, value).await.unwrap();
    }

    #[tokio::test]
    async fn everything_but_events_is_copied_once_and_nothing_of_others_is_overwritten() {
        let (from, into) = (MemoryStore::new(), MemoryStore::new());
        let copied = async || {
            let objects = Snapshot::of(&from, 0, jiff::Timestamp::UNIX_EPOCH).await.unwrap().objects;
            import(&objects, &into).await
        };
        put(&from, "secrets", "app", "1").await;
        put(&from, EVENTS, "app.1", "2").await;
        assert_eq!(copied().await.unwrap(), 1);
        put(&from, "secrets", "later", "3").await;
        assert_eq!(copied().await.unwrap(), 1, "an interrupted copy goes on");
        let app = into.get(&Key::new("secrets", "default", "app")).await.unwrap().unwrap();
        assert_eq!((&app["metadata"]["uid"], &app["status"]["phase"]), (&json!("1"), &json!("Healthy")));
        assert_eq!(into.all().await.unwrap().len(), 2);
        put(&into, "secrets", "taken", "4").await;
        put(&from, "secrets", "taken", "5").await;
        let refused = copied().await.unwrap_err().to_string();
        assert!(refused.contains("taken is another object now"), "{refused}");
    }
}
