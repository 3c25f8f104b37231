//! Bounds of containers: the resources that an object declares. Pure.

use crate::api::resources::Resources;
use crate::engine::ContainerSpec;

/// CPU shares of one CPU, as Docker counts them.
const SHARES: i64 = 1024;

/// A spec with these resources and nothing else.
pub fn limits(resources: &Resources) -> ContainerSpec {
    ContainerSpec {
        memory_bytes: resources.memory(),
        nano_cpus: resources.milli_cpus().map(|milli| milli * 1_000_000),
        cpu_shares: resources.requested_milli_cpus().map(|milli| (milli * SHARES / 1000).max(2)),
        pids_limit: resources.pids(),
        ..Default::default()
    }
}
