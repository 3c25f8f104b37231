//! TLS of a PostgresCluster: `spec.tls`, and `status.certificates`.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::words::words;

/// Changes the CA of the cluster's certificates: any text that is new.
pub const ROTATE_CA_ANNOTATION: &str = "evenkeel.dev/rotate-ca";

/// TLS of clients. Every instance offers it, with a certificate that Evenkeel makes and renews.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// A Secret with your own server certificate: `tls.crt`, `tls.key`, and `ca.crt` with the CA certificates that verify it.
    /// The certificate needs the names of all instances (`CLUSTER-1` ...) as DNS names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_secret: Option<SecretRef>,
    /// `optional` (default): clients may connect without TLS. `required`: they may not.
    #[serde(default)]
    pub clients: ClientTls,
}

impl Tls {
    /// Nothing is declared.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// See [`Tls::clients`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ClientTls {
    /// With or without TLS.
    #[default]
    Optional,
    /// With TLS only.
    Required,
}

/// A Secret in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretRef {
    /// Its name.
    #[schemars(length(min = 1))]
    pub name: String,
}

/// The certificates of the instances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificatesStatus {
    /// The cluster's CA.
    pub ca: CaStatus,
    /// The certificate that clients see; absent until it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerCertificateStatus>,
}

/// A CA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaStatus {
    /// The end of its life.
    #[schemars(with = "String")]
    pub not_after: Timestamp,
    /// Where a change of the CA is.
    #[serde(default)]
    pub phase: CaPhase,
}

/// The certificate that clients see.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerCertificateStatus {
    /// The end of its life.
    #[schemars(with = "String")]
    pub not_after: Timestamp,
    /// `Evenkeel`, or the Secret that it is from.
    #[serde(default)]
    pub source: String,
}

words! {
    /// Where a change of the CA is.
    CaPhase {
        /// There is one CA.
        #[default]
        Settled = "Settled",
        /// The next CA is trusted, and makes no certificates yet.
        NextTrusted = "NextTrusted",
        /// The next CA makes the certificates; the old one is still trusted.
        OldTrusted = "OldTrusted",
    }
}
