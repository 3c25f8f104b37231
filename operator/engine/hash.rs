//! The hash of a container spec: equal hash, same container; different hash, the container is recreated.

use serde_json::Value;

use super::ContainerSpec;
use crate::api::hash::short_hash;
use crate::api::labels;

impl ContainerSpec {
    /// The first 16 hex digits of the SHA-256 of the spec's canonical JSON.
    ///
    /// Empty and absent fields are left out, so that a field added in a later version does not change the hash of a
    /// container that does not use it.
    pub fn hash(&self) -> String {
        let mut canonical = serde_json::to_value(self).expect("a spec is plain data");
        // A running container can get another address.
        if let Some(fields) = canonical.as_object_mut() {
            fields.remove("address");
        }
        if let Some(labels) = canonical.get_mut("labels").and_then(Value::as_object_mut) {
            labels.remove(labels::SPEC_HASH);
        }
        prune(&mut canonical);
        short_hash(canonical.to_string(), 16)
    }
}

/// A number that spreads names evenly, and is the same each time.
pub(super) fn spread(text: &str) -> u8 {
    u8::from_str_radix(&short_hash(text, 2), 16).unwrap_or_default()
}

/// Removes empty fields from an object.
fn prune(value: &mut Value) {
    let Value::Object(fields) = value else { return };
    fields.retain(|_, value| {
        prune(value);
        match value {
            Value::Null => false,
            Value::Array(items) => !items.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
            _ => true,
        }
    });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn spec() -> ContainerSpec {
        ContainerSpec {
            name: "db-1".into(),
            hostname: "db-1".into(),
            image: "postgres:15".into(),
            entrypoint: vec!["/evenkeel/evenkeel".into(), "supervise".into()],
            env: BTreeMap::new(),
            labels: BTreeMap::from([(labels::NAME.to_owned(), "db".to_owned())]),
            volumes: vec![("db-1-data".into(), "/var/lib/postgresql".into(), false)],
            tmpfs: BTreeMap::new(),
            network: "db".into(),
            address: None,
            aliases: vec![],
            ports: vec![],
            shm_bytes: None,
            stop_timeout_seconds: 30,
            memory_bytes: None,
            nano_cpus: None,
            restart: true,
            ..Default::default()
        }
    }

    #[test]
    fn a_hash_never_changes_between_versions() {
        // A change of this value recreates every container of every user: change it only on purpose.
        expect_test::expect!["f8b417ae13d25060"].assert_eq(&spec().hash());
    }

    #[test]
    fn every_change_of_the_spec_changes_the_hash() {
        let changes: [fn(&mut ContainerSpec); 5] = [
            |s| s.image = "postgres:16".into(),
            |s| s.volumes[0].2 = true,
            |s| s.memory_bytes = Some(1),
            |s| s.restart = false,
            |s| s.aliases = vec!["db".into()],
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut changed = spec();
            change(&mut changed);
            assert_ne!(changed.hash(), spec().hash(), "change {number}");
        }
    }

    #[test]
    fn the_hash_label_itself_does_not_count() {
        let mut labelled = spec();
        labelled.labels.insert(labels::SPEC_HASH.to_owned(), "0123".to_owned());
        assert_eq!(labelled.hash(), spec().hash());
    }

    #[test]
    fn what_was_chosen_does_not_count_so_that_no_value_of_a_secret_is_in_a_hash() {
        let mut secret = spec();
        secret.chosen.env.insert("PASSWORD".to_owned(), "a word".to_owned());
        assert_eq!(secret.hash(), spec().hash());
    }

    #[test]
    fn the_address_does_not_count_because_it_is_changed_while_the_container_runs() {
        let moved = ContainerSpec { address: Some([10, 0, 0, 2].into()), ..spec() };
        assert_eq!(moved.hash(), spec().hash());
    }
}
