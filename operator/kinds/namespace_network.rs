//! The Docker network of a namespace: where its pods and balancers reach each other by name.

use std::collections::BTreeMap;

use crate::api::labels::Owner;
use crate::engine::NetworkSpec;

/// Its name on every host. Without a dot, so that it is no name of a cluster's own network.
pub fn network_of(namespace: &str) -> String {
    format!("evenkeel-{namespace}")
}

/// What it is to be: it belongs to the namespace, and goes when nobody of it is left.
pub fn network_spec(namespace: &str) -> NetworkSpec {
    let owner = Owner { kind: "Namespace".into(), namespace: String::new(), name: namespace.into() };
    let labels: BTreeMap<String, String> = owner.labels();
    NetworkSpec { name: network_of(namespace), labels }
}
