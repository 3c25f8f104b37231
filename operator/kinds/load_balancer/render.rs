//! A whole configuration, for either engine: skeleton, servers, hash, and the files that it refers to. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::names::{CONFIG_DIR, name};
use super::routing::DesiredServer;
use super::{LoadBalancer, haproxy, nginx, text};
use crate::api::load_balancer::{Backend, EngineKind, Frontend, LoadBalancerSpec, Mode};

/// What a configuration follows from, its servers left aside.
pub struct Inputs<'a> {
    /// The object's name.
    pub name: &'a str,
    /// The object's uid.
    pub uid: &'a str,
    /// What is declared.
    pub spec: &'a LoadBalancerSpec,
    /// Hash of the certificate in force, by Secret.
    pub certificates: &'a BTreeMap<String, String>,
    /// The password of the stats page.
    pub stats_password: Option<&'a str>,
}

impl<'a> Inputs<'a> {
    /// The inputs of an object.
    pub fn new(
        object: &'a LoadBalancer,
        certificates: &'a BTreeMap<String, String>,
        stats_password: Option<&'a str>,
    ) -> Self {
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        Self { name: name(object), uid, spec: &object.spec, certificates, stats_password }
    }

    /// The file with the certificate of a frontend. `Some(None)`: it needs one and there never was a good one.
    pub fn certificate_of(&self, frontend: &Frontend) -> Option<Option<String>> {
        let secret = &frontend.tls.as_ref()?.secret_name;
        Some(self.certificates.get(secret).map(|hash| format!("{CONFIG_DIR}/{}", certificate_file(hash))))
    }

    /// The backend of a frontend.
    pub fn backend_of(&self, frontend: &Frontend) -> Option<&'a Backend> {
        let named = frontend.backend.as_deref()?;
        self.spec.backends.iter().find(|backend| backend.name == named)
    }

    /// Where a client that came without TLS is sent.
    pub fn redirect_port(&self, frontend: &Frontend) -> u16 {
        let https = || self.spec.frontends.iter().find(|one| one.tls.is_some() && one.mode == Mode::Http);
        frontend.redirect_port.or_else(|| https().map(|one| one.port)).unwrap_or(443)
    }
}

/// The hash of what runs until the first configuration is there.
pub const BOOTSTRAP: &str = "bootstrap";

/// Where a certificate of this hash is, below the directory of the configuration. Another certificate is another file.
pub fn certificate_file(hash: &str) -> String {
    format!("{hash}.pem")
}

/// Silence of a server that is borne, in milliseconds.
pub fn server_timeout(backend: &Backend, mode: Mode) -> u64 {
    let default = if mode == Mode::Http { 60_000 } else { 3_600_000 };
    backend.timeouts.server.map_or(default, |timeout| timeout.as_millis())
}

/// The file of the configuration.
pub fn config_file(engine: EngineKind) -> &'static str {
    match engine {
        EngineKind::Haproxy => "haproxy.cfg",
        EngineKind::Nginx => "nginx.conf",
    }
}

/// A configuration for one balancer. Its text may hold a password.
#[derive(Clone, PartialEq)]
pub struct Config {
    /// What a process that runs it answers with.
    pub hash: String,
    /// The text.
    pub text: String,
    /// Hash of its skeleton: what a refusal is about.
    pub skeleton: String,
    /// It is the last good one in the place of one that was refused.
    pub last_good: bool,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Config({})", self.hash)
    }
}

/// The configuration without its servers.
pub fn skeleton(inputs: &Inputs) -> String {
    match inputs.spec.engine {
        EngineKind::Haproxy => haproxy::skeleton(inputs),
        EngineKind::Nginx => nginx::skeleton(inputs),
    }
}

/// The configuration with these servers.
pub fn assemble(spec: &LoadBalancerSpec, skeleton: &str, servers: &BTreeMap<String, Vec<DesiredServer>>) -> Config {
    let lines = |backend: &Backend| -> Vec<String> {
        let servers = servers.get(&backend.name).into_iter().flatten();
        match spec.engine {
            EngineKind::Haproxy => servers.map(|server| haproxy::server_line(backend, server)).collect(),
            EngineKind::Nginx => nginx::server_lines(backend, servers),
        }
    };
    let mut holes: BTreeMap<String, Vec<String>> =
        spec.backends.iter().map(|backend| (backend.name.clone(), lines(backend))).collect();
    let hash = match spec.engine {
        // It takes servers without another process, so its hash is about the rest.
        EngineKind::Haproxy => text::hash(skeleton),
        EngineKind::Nginx => {
            holes.insert(nginx::STATE.into(), vec![nginx::state_line(servers)]);
            text::hash(&text::fill(skeleton, &holes, text::HASH))
        }
    };
    Config { text: text::fill(skeleton, &holes, &hash), skeleton: text::hash(skeleton), hash, last_good: false }
}

/// The Secrets that frontends name.
pub fn certificate_secrets(spec: &LoadBalancerSpec) -> BTreeSet<&str> {
    spec.frontends.iter().filter_map(|one| one.tls.as_ref()).map(|tls| tls.secret_name.as_str()).collect()
}
