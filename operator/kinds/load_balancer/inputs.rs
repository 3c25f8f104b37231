//! The inputs of a configuration, for any engine. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::LoadBalancer;
use super::names::CONFIG_DIR;
use crate::api::load_balancer::{Backend, Frontend, LoadBalancerSpec, Mode};
use crate::api::object::Object as _;

/// The largest head of a request or an answer that every engine passes on, in KiB. Single sign-on makes large cookies.
pub const HEAD_KIB: u64 = 32;

/// When an idle TCP peer is asked whether it is still there: after so many seconds, then every so many, and how often
/// until it counts as gone.
pub const KEEPALIVE: (u32, u32, u32) = (10, 5, 3);

/// The inputs of a configuration, without its servers.
pub struct Inputs<'a> {
    /// The object's name.
    pub name: &'a str,
    /// The object's uid.
    pub uid: &'a str,
    /// The object's spec.
    pub spec: &'a LoadBalancerSpec,
    /// Hash of the certificate in use, by Secret.
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
        Self { name: object.name(), uid, spec: &object.spec, certificates, stats_password }
    }

    /// The file with the certificate of a frontend. `Some(None)`: it needs one, and there was never a valid one.
    pub fn certificate_of(&self, frontend: &Frontend) -> Option<Option<String>> {
        let secret = &frontend.tls.as_ref()?.secret_name;
        Some(self.certificates.get(secret).map(|hash| format!("{CONFIG_DIR}/{}", certificate_file(hash))))
    }

    /// The backend of a frontend.
    pub fn backend_of(&self, frontend: &Frontend) -> Option<&'a Backend> {
        let named = frontend.backend.as_deref()?;
        self.spec.backends.iter().find(|backend| backend.name == named)
    }

    /// The port that a client without TLS is redirected to, as it follows a host name; empty for HTTPS's default port.
    pub fn redirect_port(&self, frontend: &Frontend) -> String {
        let https = || self.spec.frontends.iter().find(|one| one.tls.is_some() && one.mode == Mode::Http);
        let port = frontend.redirect_port.or_else(|| https().map(|one| one.port)).filter(|port| *port != 443);
        port.map(|port| format!(":{port}")).unwrap_or_default()
    }
}

/// Path of the certificate with this hash, relative to the configuration's directory. Another certificate has another
/// file.
pub fn certificate_file(hash: &str) -> String {
    format!("{hash}.pem")
}

/// Inactivity timeout of a server, in milliseconds.
pub fn server_timeout(backend: &Backend, mode: Mode) -> u64 {
    backend.timeouts.server.map_or(silence(mode), |timeout| timeout.as_millis())
}

/// Connect timeout, in milliseconds.
///
/// The network of a container that is killed is gone for some 100 ms before Docker tells of its end. A client that connects
/// to the writer then waits for this time, and HAProxy cannot end a connection attempt earlier.
pub fn connect_timeout(backend: &Backend) -> u64 {
    let default = if backend.one_writer() { 300 } else { 2_000 };
    backend.timeouts.connect.map_or(default, |timeout| timeout.as_millis())
}

/// Inactivity timeout of a client, in milliseconds.
pub fn client_timeout(frontend: &Frontend) -> u64 {
    frontend.timeouts.client.map_or(silence(frontend.mode), |timeout| timeout.as_millis())
}

/// Default inactivity timeout, in milliseconds.
fn silence(mode: Mode) -> u64 {
    if mode == Mode::Http { 60_000 } else { 3_600_000 }
}

/// The Secrets that frontends refer to.
pub fn certificate_secrets(spec: &LoadBalancerSpec) -> BTreeSet<&str> {
    spec.frontends.iter().filter_map(|one| one.tls.as_ref()).map(|tls| tls.secret_name.as_str()).collect()
}
