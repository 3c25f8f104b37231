//! Renders a whole configuration: skeleton, servers, hash. Pure. The only place that maps an engine to its dialect.

use std::collections::BTreeMap;

use super::dialect::Dialect;
use super::haproxy::HAPROXY;
use super::inputs::Inputs;
use super::nginx::NGINX;
use super::routing::Servers;
use super::text;
use crate::api::load_balancer::{EngineKind, LoadBalancerSpec};

/// The hash of the configuration that runs before the first one is written.
pub const BOOTSTRAP: &str = "bootstrap";

/// A configuration for one balancer. Its text may hold a password.
#[derive(Clone, PartialEq)]
pub struct Config {
    /// The hash that a process with this configuration reports.
    pub hash: String,
    /// The text.
    pub text: String,
    /// Hash of its skeleton; a refusal refers to it.
    pub skeleton: String,
    /// It is the last good one, used because the engine refused the desired one.
    pub last_good: bool,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Config({})", self.hash)
    }
}

/// The dialect of an engine.
pub fn dialect(engine: EngineKind) -> &'static Dialect {
    match engine {
        EngineKind::Haproxy => &HAPROXY,
        EngineKind::Nginx => &NGINX,
    }
}

/// The configuration without its servers.
pub fn skeleton(inputs: &Inputs) -> String {
    (dialect(inputs.spec.engine).skeleton)(inputs)
}

/// The configuration with these servers.
pub fn assemble(spec: &LoadBalancerSpec, skeleton: &str, servers: &Servers) -> Config {
    let dialect = dialect(spec.engine);
    let mut holes = BTreeMap::new();
    for backend in &spec.backends {
        let servers = servers.get(&backend.name).map(Vec::as_slice).unwrap_or_default();
        holes.insert(backend.name.clone(), (dialect.server_lines)(backend, servers));
    }
    holes.extend((dialect.summary)(servers).map(|(hole, line)| (hole.to_owned(), vec![line])));
    let hash = match dialect.live_servers {
        // The hash covers everything except the servers, because servers change without a reload.
        true => text::hash(skeleton),
        false => text::hash(&text::fill(skeleton, &holes, text::HASH)),
    };
    Config { text: text::fill(skeleton, &holes, &hash), skeleton: text::hash(skeleton), hash, last_good: false }
}
