//! A reference to a PostgresCluster.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A PostgresCluster in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterRef {
    /// Its name.
    #[schemars(length(min = 1))]
    pub name: String,
}
