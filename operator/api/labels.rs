//! The labels on everything that Evenkeel manages in Docker, and the owner in them.

use std::collections::BTreeMap;

/// Kind of the owning object, e.g. `PostgresCluster`.
pub const KIND: &str = "evenkeel.dev/kind";
/// Namespace of the owning object; empty for cluster-scoped kinds.
pub const NAMESPACE: &str = "evenkeel.dev/namespace";
/// Name of the owning object.
pub const NAME: &str = "evenkeel.dev/name";
/// The member (instance) this container or volume belongs to, e.g. `awx-db-1`.
pub const MEMBER: &str = "evenkeel.dev/member";
/// The container's name within its pod.
pub const CONTAINER: &str = "evenkeel.dev/container";
/// The mounted volume with Evenkeel's binary; tells whether a container differs from its spec only in the binary.
pub const BINARY: &str = "evenkeel.dev/binary";
/// Hash of the container spec it was created from; if the hash differs, the container is recreated.
pub const SPEC_HASH: &str = "evenkeel.dev/spec-hash";

/// The object that owns a container, volume or network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// Kind, e.g. `PostgresCluster`.
    pub kind: String,
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
}

impl Owner {
    /// The labels for this owner.
    pub fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (KIND.to_owned(), self.kind.clone()),
            (NAMESPACE.to_owned(), self.namespace.clone()),
            (NAME.to_owned(), self.name.clone()),
        ])
    }

    /// The labels of everything that belongs to one of its members.
    pub fn member_labels(&self, member: &str) -> BTreeMap<String, String> {
        let mut labels = self.labels();
        labels.insert(MEMBER.to_owned(), member.to_owned());
        labels
    }

    /// Reads the owner from labels; `None` if Evenkeel did not set them.
    pub fn from_labels<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        Some(Self { kind: get(KIND)?.to_owned(), namespace: get(NAMESPACE)?.to_owned(), name: get(NAME)?.to_owned() })
    }
}
