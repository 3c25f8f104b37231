//! The Docker volume of a claim: that of its namespace, which outlives every pod.

use super::labels::Owner;

/// Kind in the owner labels of a claim's volume; no object of that kind exists, so nothing removes it.
const KIND: &str = "PersistentVolumeClaim";

/// The Docker volume of a claim of the namespace.
pub fn volume(namespace: &str, claim: &str) -> String {
    format!("{namespace}.claim.{claim}")
}

/// The owner of that volume.
pub fn owner(namespace: &str, claim: &str) -> Owner {
    Owner { kind: KIND.into(), namespace: namespace.into(), name: claim.into() }
}

/// The folder, below the prefix of a store, of the copy of a claim's volume in the Backup with this ID.
pub fn copy_folder(namespace: &str, claim: &str, id: &str) -> String {
    format!("{}/volumes/{id}", volume(namespace, claim))
}
