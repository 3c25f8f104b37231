//! What tests of kinds with containers share.

use std::collections::{BTreeMap, BTreeSet};

use super::DockerSeen;
use crate::kinds::fact::Fact;

impl DockerSeen {
    /// The host answers and shows nothing.
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
