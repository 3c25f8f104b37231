//! Shared by the tests of kinds with containers.

use std::collections::{BTreeMap, BTreeSet};

use super::DockerSeen;
use crate::engine::Daemon;
use crate::kinds::fact::Fact;

/// An engine with Docker's own log driver, on a host with 4 GiB.
pub fn daemon() -> Daemon {
    Daemon { log_driver: "json-file".into(), memory_bytes: 4 << 30 }
}

impl DockerSeen {
    /// A host that answers and has nothing of the object.
    pub fn nothing() -> Self {
        Self {
            containers: Fact::Known(BTreeMap::new()),
            volumes: Fact::Known(BTreeSet::new()),
            foreign: Fact::Known(BTreeSet::new()),
            networks: Fact::Known(BTreeMap::new()),
            images: Fact::Known(BTreeMap::new()),
            binary: None,
            daemon: Some(daemon()),
        }
    }
}
