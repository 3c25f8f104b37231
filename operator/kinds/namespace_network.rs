//! The Docker network of a namespace, in which its pods and balancers reach each other by name.

use std::collections::BTreeMap;

use crate::api::labels::Owner;
use crate::engine::NetworkSpec;

/// Its name on every host. It has no dot, so it cannot be the name of a cluster's own network.
pub fn network_of(namespace: &str) -> String {
    format!("evenkeel-{namespace}")
}

/// The desired network: it belongs to the namespace, and is removed when no container uses it.
pub fn network_spec(namespace: &str) -> NetworkSpec {
    let owner = Owner { kind: "Namespace".into(), namespace: String::new(), name: namespace.into() };
    let labels: BTreeMap<String, String> = owner.labels();
    NetworkSpec { name: network_of(namespace), labels, internal: false }
}
