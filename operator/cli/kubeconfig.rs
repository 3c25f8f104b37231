//! Finds and reads the kubeconfig: server, CA and token.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::datadir;
use super::error::Error;
use crate::api::core::DEFAULT_NAMESPACE;

/// The data needed to connect to a server.
#[derive(Debug, Clone)]
pub struct Kubeconfig {
    /// The file this was read from, or the unix socket.
    pub path: PathBuf,
    /// The server's URL: `https://127.0.0.1:7443`, `unix:///run/evenkeel/api.sock`.
    pub server: String,
    /// The CA certificates to trust, PEM.
    pub certificate_authority: Option<Vec<u8>>,
    /// The bearer token.
    pub token: Option<String>,
    /// The client certificate and its key, PEM.
    pub client_certificate: Option<Vec<u8>>,
    /// The namespace used when none is given.
    pub namespace: String,
    /// The further servers of the same cluster, which are asked when this one cannot be reached. They have no others.
    pub others: Vec<Kubeconfig>,
}

/// What servers on a unix socket start with, as in `unix:///run/evenkeel/api.sock`.
pub const UNIX: &str = "unix://";

impl Kubeconfig {
    /// All its servers, each without others.
    fn flat(mut self) -> Vec<Self> {
        let others = std::mem::take(&mut self.others);
        std::iter::once(self).chain(others).collect()
    }
}

/// The server to talk to: that of the kubeconfig, or, for root who names none, the unix socket of the operator here.
pub fn find(flag: Option<&Path>, variable: impl Fn(&str) -> Option<String>) -> Result<Kubeconfig, Error> {
    let default = datadir::default_dir(&variable);
    let path = locate(flag, variable);
    let named = flag.is_some() || path != default.join("kubeconfig");
    let socket = datadir::sockets(&default).into_iter().find(|socket| socket.exists());
    match socket.filter(|_| !named && nix::unistd::geteuid().is_root()) {
        Some(path) => {
            let server = format!("{UNIX}{}", path.display());
            let namespace = DEFAULT_NAMESPACE.to_owned();
            // Without an operator behind the socket, others may answer.
            let others = load(&default.join("kubeconfig")).map(Kubeconfig::flat).unwrap_or_default();
            let (certificate_authority, token, client_certificate) = (None, None, None);
            Ok(Kubeconfig { path, server, certificate_authority, token, client_certificate, namespace, others })
        }
        None => load(&path),
    }
}

/// The path of the kubeconfig: the flag, EVENKEEL_KUBECONFIG, KUBECONFIG (its first existing file), the
/// default data directory.
pub fn locate(flag: Option<&Path>, variable: impl Fn(&str) -> Option<String>) -> PathBuf {
    if let Some(path) = flag {
        return path.to_owned();
    }
    let set = |name| variable(name).filter(|value| !value.is_empty());
    if let Some(path) = set("EVENKEEL_KUBECONFIG") {
        return path.into();
    }
    if let Some(list) = set("KUBECONFIG") {
        let paths: Vec<PathBuf> = std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect();
        if let Some(path) = paths.iter().find(|path| path.exists()).or(paths.first()) {
            return path.clone();
        }
    }
    datadir::default_dir(variable).join("kubeconfig")
}

/// Reads the current context of a kubeconfig.
pub fn load(path: &Path) -> Result<Kubeconfig, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::NotFound(format!(
            "there is no kubeconfig at {}; start `evenkeel operator`, which writes one, or name one with --kubeconfig",
            path.display()
        )),
        _ => Error::Io { doing: format!("read the kubeconfig {}", path.display()), source },
    })?;
    let broken = |what: &str| Error::Manifest(format!("the kubeconfig {} {what}", path.display()));
    let file: File = serde_saphyr::from_str(&text).map_err(|error| {
        let at =
            error.location().map(|at| format!(" at line {}, column {}", at.line(), at.column())).unwrap_or_default();
        broken(&format!("cannot be understood{at}"))
    })?;
    let wanted = file.current_context.as_deref().filter(|name| !name.is_empty());
    let context = match wanted {
        Some(name) => file.contexts.iter().find(|context| context.name == name),
        None => file.contexts.first(),
    };
    let context = &context.ok_or_else(|| broken("has no current context"))?.context;
    let cluster = file.clusters.iter().find(|cluster| cluster.name == context.cluster);
    let cluster = &cluster.ok_or_else(|| broken(&format!("has no cluster {:?}", context.cluster)))?.cluster;
    let others = file.servers_beside(cluster, &context.user);
    let user = file.users.iter().find(|user| user.name == context.user);
    let user = user.map(|user| user.user.clone()).unwrap_or_default();
    let cluster = cluster.clone();
    // Relative paths are relative to the kubeconfig file, as in kubectl.
    let beside = |name: PathBuf| path.parent().map_or_else(|| name.clone(), |folder| folder.join(&name));
    let read = |name: PathBuf| {
        let name = beside(name);
        std::fs::read(&name).map_err(|source| Error::Io { doing: format!("read {}", name.display()), source })
    };
    let certificate_authority = match (cluster.certificate_authority_data, cluster.certificate_authority) {
        (Some(data), _) => {
            Some(decode(&data).ok_or_else(|| broken("has a certificate-authority-data that is not base64"))?)
        }
        (None, Some(file)) => Some(read(file)?),
        (None, None) => None,
    };
    let token = match (user.token, user.token_file) {
        (Some(token), _) => Some(token),
        (None, Some(file)) => Some(String::from_utf8_lossy(&read(file)?).trim().to_owned()),
        (None, None) => None,
    };
    let part = |name: &str, data: Option<String>, file: Option<PathBuf>| match (data, file) {
        (Some(data), _) => decode(&data).map(Some).ok_or_else(|| broken(&format!("has a {name} that is not base64"))),
        (None, Some(file)) => read(file).map(Some),
        (None, None) => Ok(None),
    };
    let certificate = part("client-certificate-data", user.client_certificate_data, user.client_certificate)?;
    let key = part("client-key-data", user.client_key_data, user.client_key)?;
    let client_certificate = certificate.zip(key).map(|(certificate, key)| [certificate, b"\n".to_vec(), key].concat());
    let found = Kubeconfig {
        client_certificate,
        others: Vec::new(),
        path: path.to_owned(),
        server: cluster.server.trim_end_matches('/').to_owned(),
        certificate_authority,
        token,
        namespace: context
            .namespace
            .clone()
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
    };
    let others = others.into_iter().map(|server| Kubeconfig { server, ..found.clone() }).collect();
    Ok(Kubeconfig { others, ..found })
}

fn decode(data: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(data.trim()).ok()
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "current-context")]
    current_context: Option<String>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

impl File {
    /// The other servers that this user has contexts for and that are trusted by the same CA: those of the other operators over one
    /// store. A credential is sent to no other server.
    fn servers_beside(&self, cluster: &Cluster, user: &str) -> Vec<String> {
        let same = |other: &Cluster| {
            let same_data = other.certificate_authority_data == cluster.certificate_authority_data;
            let same_file = other.certificate_authority == cluster.certificate_authority;
            let has_ca = cluster.certificate_authority_data.is_some() || cluster.certificate_authority.is_some();
            has_ca && same_data && same_file && other.server.starts_with("https://")
        };
        let named = |context: &NamedContext| {
            let cluster = self.clusters.iter().find(|cluster| cluster.name == context.context.cluster)?;
            Some(&cluster.cluster).filter(|cluster| context.context.user == user && same(cluster))
        };
        let mut servers: Vec<String> = Vec::new();
        for other in self.contexts.iter().filter_map(named).map(|cluster| cluster.server.trim_end_matches('/')) {
            if other != cluster.server.trim_end_matches('/') && !servers.iter().any(|known| known == other) {
                servers.push(other.to_owned());
            }
        }
        servers
    }
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
    namespace: Option<String>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize, Clone)]
struct Cluster {
    server: String,
    #[serde(rename = "certificate-authority-data")]
    certificate_authority_data: Option<String>,
    #[serde(rename = "certificate-authority")]
    certificate_authority: Option<PathBuf>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "kebab-case")]
struct User {
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_certificate: Option<PathBuf>,
    client_key_data: Option<String>,
    client_key: Option<PathBuf>,
}
