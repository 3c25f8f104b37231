//! Shared by the tests of kinds with containers.

use std::collections::{BTreeMap, BTreeSet};

use super::DockerSeen;
use crate::kinds::fact::Fact;

impl DockerSeen {
    /// A host that answers and has nothing of the object.
    pub fn nothing() -> Self {
        Self {
            containers: Fact::Known(BTreeMap::new()),
            volumes: Fact::Known(BTreeSet::new()),
            networks: Fact::Known(BTreeMap::new()),
            images: Fact::Known(BTreeMap::new()),
            binary: None,
        }
    }
}
