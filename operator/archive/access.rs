//! How a store is reached, with its credentials, and where in it an archive is. Plain data.

use serde::{Deserialize, Serialize};

/// A store with what opens it. `Debug` shows no credentials.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct StoreAccess {
    /// Changes when any of the others changes; safe to show.
    pub hash: String,
    /// The store.
    pub store: Store,
    /// What the archives in it are encrypted with; `None`: with nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Identities>,
}

/// The private keys of an encrypted archive, one a line, as `age-keygen` writes them; see [`crate::archive::cipher`]. `Debug` shows
/// none.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(transparent)]
pub struct Identities(pub String);

impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identities(...)")
    }
}

impl std::fmt::Debug for StoreAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoreAccess({})", self.hash)
    }
}

/// The kinds of stores.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub enum Store {
    /// A bucket of S3, or of a server that speaks its protocol.
    S3(S3),
    /// A directory that is mounted into the container.
    Directory {
        /// Its path there.
        path: String,
    },
}

/// A bucket, with credentials.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct S3 {
    /// Its name.
    pub bucket: String,
    /// What every key begins with, without slashes at its ends; may be empty.
    pub prefix: String,
    /// `http://` or `https://` with host and port; `None`: that of AWS for the region.
    pub endpoint: Option<String>,
    /// The region, e.g. `us-east-1`.
    pub region: String,
    /// The bucket is in the path and not in the host's name.
    pub path_style: bool,
    /// Uploads have a SHA-256 that the server compares.
    pub sha256: bool,
    /// The access key.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
    /// Of temporary credentials.
    pub session_token: Option<String>,
    /// The CA certificates to trust, as PEM; `None`: those that the program brings along.
    pub ca: Option<String>,
}

/// The archive of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveAccess {
    /// The store.
    pub access: StoreAccess,
    /// Its folder below the store's prefix: `NAMESPACE.NAME/SYSTEM_IDENTIFIER-EPOCH`.
    pub path: String,
}
