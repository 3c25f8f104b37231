//! The REST client: sends one request and returns one response, with errors that tell the user what to do. Of several operators
//! over one store, it asks another one when the first cannot be reached.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::{Method, StatusCode, Url};
use serde_json::Value;

use super::discovery::{Catalog, Resource};
use super::error::{Error, Refusal};
use super::kubeconfig::{Kubeconfig, UNIX};
use crate::api::chain::chain;
use crate::api::sync::lock;

/// Limit of a connection to the only server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit of a connection when there is another server to ask.
const CONNECT_TIMEOUT_OF_SEVERAL: Duration = Duration::from_secs(2);
/// Time-out of every request except watches. It is generous because writes wait for a durable commit, perhaps
/// on a slow disk.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Time-out for the next line of a watch; the server sends a bookmark at least every minute.
const WATCH_SILENCE: Duration = Duration::from_secs(90);

/// Limit of the tries of a request that the server puts off.
const TRIES: u32 = 10;

/// Media type: whole objects.
pub const JSON: &str = "application/json";
/// Media type: the table that the server prints.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// Query parameters of a request.
pub type Query<'a> = [(&'a str, &'a str)];

/// The connections to the servers of one cluster.
#[derive(Debug, Clone)]
pub struct Client {
    /// That of the kubeconfig's current context first.
    servers: Arc<Vec<Server>>,
    /// The place of the one that is asked.
    current: Arc<AtomicUsize>,
    /// What a server has warned of in the first answer to a read that had warnings.
    warned: Arc<Mutex<Vec<String>>>,
}

/// One server, and the connections to it.
#[derive(Debug)]
struct Server {
    http: reqwest::Client,
    /// Client without a time-out, for streams that may be silent for any time: logs and commands.
    patient: reqwest::Client,
    url: String,
    kubeconfig: Kubeconfig,
}

/// A request, which any of the servers can answer.
struct Wanted<'a> {
    method: Method,
    path: &'a str,
    query: &'a Query<'a>,
    headers: Vec<(&'a str, &'a str)>,
    body: Option<String>,
    /// Limit of the whole answer.
    limit: Option<Duration>,
    /// By the client without a time-out.
    patient: bool,
    /// It changes nothing: it may reach two servers.
    is_read: bool,
}

/// The server's response to a write.
#[derive(Debug)]
pub struct Answer {
    /// 200 or 201.
    pub status: StatusCode,
    /// The object, or a Status of success.
    pub body: Value,
    /// `Warning` headers, their text only.
    pub warnings: Vec<String>,
}

impl Client {
    /// Prepares a client; connects to nothing yet.
    pub fn new(mut kubeconfig: Kubeconfig) -> Result<Self, Error> {
        let others = std::mem::take(&mut kubeconfig.others);
        let limit = if others.is_empty() { CONNECT_TIMEOUT } else { CONNECT_TIMEOUT_OF_SEVERAL };
        let all = std::iter::once(kubeconfig).chain(others);
        let servers = all.map(|one| Server::new(one, limit)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { servers: Arc::new(servers), current: Arc::default(), warned: Arc::default() })
    }

    /// The kubeconfig of the server that is asked.
    pub fn kubeconfig(&self) -> &Kubeconfig {
        &self.server().kubeconfig
    }

    fn server(&self) -> &Server {
        &self.servers[self.current.load(Ordering::Relaxed) % self.servers.len()]
    }

    /// GETs a JSON document.
    pub async fn get(&self, path: &str, query: &Query<'_>, accept: &str) -> Result<Value, Error> {
        let wanted = Wanted { limit: Some(REQUEST_TIMEOUT), ..Wanted::read(path, query, accept) };
        let Answer { body, warnings, .. } = self.answer(&wanted).await?;
        let mut warned = lock(&self.warned);
        // A verb reads several times, and one warning is enough.
        if warned.is_empty() {
            *warned = warnings;
        }
        Ok(body)
    }

    /// What the server has warned of when something was read.
    pub fn warnings(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.warned))
    }

    /// GETs one object; `None` if it is not there.
    pub async fn object(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Option<Value>, Error> {
        match self.get(&resource.path(Some(namespace), Some(name)), &[], JSON).await {
            Ok(object) => Ok(Some(object)),
            Err(Error::Refused(Refusal { code: 404, .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// PATCHes an object with the given content type.
    pub async fn patch(&self, path: &str, query: &Query<'_>, kind: &str, body: &Value) -> Result<Answer, Error> {
        self.write(Method::PATCH, path, query, kind, body).await
    }

    /// POSTs a JSON document.
    pub async fn post(&self, path: &str, query: &Query<'_>, body: &Value) -> Result<Answer, Error> {
        self.write(Method::POST, path, query, JSON, body).await
    }

    /// DELETEs an object.
    pub async fn delete(&self, path: &str, query: &Query<'_>, options: &Value) -> Result<Answer, Error> {
        self.write(Method::DELETE, path, query, JSON, options).await
    }

    /// Opens a watch; the caller reads the lines.
    pub async fn open_watch(&self, path: &str, query: &Query<'_>, accept: &str) -> Result<reqwest::Response, Error> {
        self.send(&Wanted::read(path, query, accept)).await
    }

    /// Lists every kind that the server serves.
    pub async fn catalog(&self) -> Result<Catalog, Error> {
        let groups = self.get("/apis", &[], JSON).await?;
        let mut paths = vec!["/api/v1".to_owned()];
        for group in groups["groups"].as_array().into_iter().flatten() {
            if let Some(version) = group["preferredVersion"]["groupVersion"].as_str() {
                paths.push(format!("/apis/{version}"));
            }
        }
        let lists = futures::future::try_join_all(paths.iter().map(|path| self.get(path, &[], JSON))).await?;
        Ok(Catalog::from_lists(&lists))
    }

    /// Opens a text stream that ends when the server closes it (logs).
    pub async fn open_text(&self, path: &str, query: &Query<'_>) -> Result<reqwest::Response, Error> {
        self.send(&Wanted { patient: true, ..Wanted::read(path, query, "*/*") }).await
    }

    /// Upgrades the connection to another protocol (WebSocket), with these headers.
    pub async fn upgrade(
        &self,
        path: &str,
        query: &Query<'_>,
        headers: &Query<'_>,
    ) -> Result<reqwest::Upgraded, Error> {
        // A command that was sent may run.
        let (method, headers) = (Method::GET, headers.to_vec());
        let wanted = Wanted { method, path, query, headers, body: None, limit: None, patient: true, is_read: false };
        let response = self.respond(&wanted).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return response.upgrade().await.map_err(|error| self.unreachable(error));
        }
        let status = response.status();
        let body = response.text().await.map_err(|error| self.unreachable(error))?;
        Err(Refusal::from_body(status.as_u16(), &body).into())
    }

    async fn write(
        &self,
        method: Method,
        path: &str,
        query: &Query<'_>,
        kind: &str,
        body: &Value,
    ) -> Result<Answer, Error> {
        let (headers, body) = (vec![("Content-Type", kind), ("Accept", JSON)], Some(body.to_string()));
        let limit = Some(REQUEST_TIMEOUT);
        self.answer(&Wanted { method, path, query, headers, body, limit, patient: false, is_read: false }).await
    }

    /// Sends a request; a response that is not a success becomes an error.
    async fn send(&self, wanted: &Wanted<'_>) -> Result<reqwest::Response, Error> {
        let response = self.respond(wanted).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.text().await.map_err(|error| self.unreachable(error))?;
        Err(Refusal::from_body(status.as_u16(), &body).into())
    }

    /// Asks the server that answered last, and then each other one: when no connection could be made, so that nothing was sent,
    /// or when an answer to a read did not come. The error is that of the first one.
    async fn respond(&self, wanted: &Wanted<'_>) -> Result<reqwest::Response, Error> {
        let (first, count) = (self.current.load(Ordering::Relaxed), self.servers.len());
        let mut failed = None;
        for at in (first..first + count).map(|at| at % count) {
            let server = &self.servers[at];
            match server.once_admitted(wanted).await {
                Ok(response) => {
                    if self.current.swap(at, Ordering::Relaxed) != at {
                        // If this fails, there is no way to report it.
                        let _ = writeln!(std::io::stderr(), "{}", moved(&self.servers[first], server, failed.as_ref()));
                    }
                    return Ok(response);
                }
                Err(Failed::Unusable(error)) => return Err(error),
                Err(Failed::Call(error)) if error.is_connect() || wanted.is_read => {
                    failed.get_or_insert(server.unreachable(error));
                }
                Err(Failed::Call(error)) => return Err(server.unreachable(error)),
            }
        }
        Err(failed.unwrap_or_else(|| Error::Failed("no server is known".to_owned())))
    }

    async fn answer(&self, wanted: &Wanted<'_>) -> Result<Answer, Error> {
        let response = self.send(wanted).await?;
        let status = response.status();
        let header = |value: &reqwest::header::HeaderValue| value.to_str().ok().map(warning_text);
        let warnings = response.headers().get_all("Warning").iter().filter_map(header).collect();
        let text = response.text().await.map_err(|error| self.unreachable(error))?;
        let body = serde_json::from_str(&text).map_err(|error| {
            Error::Failed(format!("{} does not speak the Kubernetes API: {error}", self.kubeconfig().server))
        })?;
        Ok(Answer { status, body, warnings })
    }

    /// The error of a failed connection, with advice for the user.
    pub fn unreachable(&self, error: reqwest::Error) -> Error {
        self.server().unreachable(error)
    }
}

/// Why a server gave no answer.
enum Failed {
    /// There was no connection, or no answer over it.
    Call(reqwest::Error),
    /// The kubeconfig cannot be used.
    Unusable(Error),
}

impl Server {
    fn new(kubeconfig: Kubeconfig, limit: Duration) -> Result<Self, Error> {
        // Another part of the process may have installed the same provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let unusable = |source: reqwest::Error| Error::Operator {
            doing: format!("cannot use the kubeconfig {}", kubeconfig.path.display()),
            source: source.into(),
        };
        if kubeconfig.server.starts_with("http://") && kubeconfig.token.is_some() {
            return Err(Error::Failed(format!(
                "the kubeconfig {} has a token and the server {}: without TLS, others could read the token on its way; \
                 use https://",
                kubeconfig.path.display(),
                kubeconfig.server
            )));
        }
        let socket = kubeconfig.server.strip_prefix(UNIX).map(PathBuf::from);
        let pem = kubeconfig.certificate_authority.clone().unwrap_or_default();
        let trusted = reqwest::Certificate::from_pem_bundle(&pem).map_err(unusable)?;
        let builder = || {
            let builder = reqwest::Client::builder()
                .user_agent(concat!("evenkeel/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(limit)
                .no_proxy()
                .tls_certs_only(trusted.clone());
            match &socket {
                Some(path) => builder.unix_socket(path.as_path()),
                None => builder,
            }
        };
        let identity = kubeconfig.client_certificate.as_deref().map(reqwest::Identity::from_pem);
        let identity = identity.transpose().map_err(unusable)?;
        let builder = || match &identity {
            Some(identity) => builder().identity(identity.clone()),
            None => builder(),
        };
        let http = builder().read_timeout(WATCH_SILENCE).build().map_err(unusable)?;
        let patient = builder().build().map_err(unusable)?;
        // HTTP needs a name for the server; nothing is looked up.
        let url = if socket.is_some() { "http://localhost".to_owned() } else { kubeconfig.server.clone() };
        Ok(Self { http, patient, url, kubeconfig })
    }

    /// Sends a request, and again as long as the server says when to try again, as kubectl does.
    async fn once_admitted(&self, wanted: &Wanted<'_>) -> Result<reqwest::Response, Failed> {
        let mut tries = 1;
        loop {
            let response = self.request(wanted).map_err(Failed::Unusable)?.send().await.map_err(Failed::Call)?;
            let after = response.headers().get("Retry-After").and_then(|after| after.to_str().ok()?.parse().ok());
            match after.filter(|_| response.status() == StatusCode::TOO_MANY_REQUESTS && tries < TRIES) {
                Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                None => return Ok(response),
            }
            tries += 1;
        }
    }

    fn request(&self, wanted: &Wanted<'_>) -> Result<reqwest::RequestBuilder, Error> {
        let address = format!("{}{}", self.url, wanted.path);
        let mut url = Url::parse(&address).map_err(|error| {
            Error::Failed(format!("{address} in {} is no URL: {error}", self.kubeconfig.path.display()))
        })?;
        if !wanted.query.is_empty() {
            url.query_pairs_mut().extend_pairs(wanted.query);
        }
        let http = if wanted.patient { &self.patient } else { &self.http };
        let mut request = http.request(wanted.method.clone(), url);
        for (name, value) in &wanted.headers {
            request = request.header(*name, *value);
        }
        if let Some(limit) = wanted.limit {
            request = request.timeout(limit);
        }
        if let Some(body) = &wanted.body {
            request = request.body(body.clone());
        }
        Ok(match &self.kubeconfig.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }

    fn unreachable(&self, error: reqwest::Error) -> Error {
        Error::Unreachable {
            address: self.kubeconfig.server.clone(),
            kubeconfig: self.kubeconfig.path.clone(),
            // The message already contains the URL.
            source: error.without_url().into(),
        }
    }
}

impl<'a> Wanted<'a> {
    /// A read, without a limit of the whole answer.
    fn read(path: &'a str, query: &'a Query<'a>, accept: &'a str) -> Self {
        let (method, headers) = (Method::GET, vec![("Accept", accept)]);
        Self { method, path, query, headers, body: None, limit: None, patient: false, is_read: true }
    }
}

/// What people are told when another server has answered.
fn moved(from: &Server, to: &Server, why: Option<&Error>) -> String {
    let why = why.map(|error| format!(" ({})", chain(error))).unwrap_or_default();
    format!("Warning: {} does not answer{why}; {} does", from.kubeconfig.server, to.kubeconfig.server)
}

/// `299 - "unknown field \"x\""` -> `unknown field "x"`.
fn warning_text(header: &str) -> String {
    let quoted = header.split_once('"').map_or(header, |(_, rest)| rest.trim_end().trim_end_matches('"'));
    quoted.replace("\\\"", "\"")
}
