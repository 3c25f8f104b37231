//! The REST client: sends one request and returns one response, with errors that tell the user what to do.
//! Decides nothing.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::{Method, StatusCode, Url};
use serde_json::Value;

use super::discovery::{Catalog, Resource};
use super::error::{Error, Refusal};
use super::kubeconfig::{Kubeconfig, UNIX};
use crate::api::sync::lock;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
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

/// A connection to one server.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Client without a time-out, for streams that may be silent for any time: logs and commands.
    patient: reqwest::Client,
    url: String,
    kubeconfig: Kubeconfig,
    /// What the server has warned of in the first answer to a read that had warnings.
    warned: Arc<Mutex<Vec<String>>>,
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
    pub fn new(kubeconfig: Kubeconfig) -> Result<Self, Error> {
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
                .connect_timeout(CONNECT_TIMEOUT)
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
        Ok(Self { http, patient, url, kubeconfig, warned: Arc::default() })
    }

    /// The kubeconfig this client uses.
    pub fn kubeconfig(&self) -> &Kubeconfig {
        &self.kubeconfig
    }

    /// GETs a JSON document.
    pub async fn get(&self, path: &str, query: &Query<'_>, accept: &str) -> Result<Value, Error> {
        let request = self.request(Method::GET, path, query)?.header("Accept", accept).timeout(REQUEST_TIMEOUT);
        let Answer { body, warnings, .. } = self.answer(request).await?;
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
        let request = self.request(Method::GET, path, query)?.header("Accept", accept);
        self.send(request).await
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
        self.send(self.request_by(&self.patient, Method::GET, path, query)?).await
    }

    /// Upgrades the connection to another protocol (WebSocket), with these headers.
    pub async fn upgrade(
        &self,
        path: &str,
        query: &Query<'_>,
        headers: &Query<'_>,
    ) -> Result<reqwest::Upgraded, Error> {
        let mut request = self.request_by(&self.patient, Method::GET, path, query)?;
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.once_admitted(request).await?;
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
        let request = self.request(method, path, query)?.timeout(REQUEST_TIMEOUT);
        self.answer(request.header("Content-Type", kind).header("Accept", JSON).body(body.to_string())).await
    }

    fn request(&self, method: Method, path: &str, query: &Query<'_>) -> Result<reqwest::RequestBuilder, Error> {
        self.request_by(&self.http, method, path, query)
    }

    fn request_by(
        &self,
        http: &reqwest::Client,
        method: Method,
        path: &str,
        query: &Query<'_>,
    ) -> Result<reqwest::RequestBuilder, Error> {
        let address = format!("{}{path}", self.url);
        let mut url = Url::parse(&address)
            .map_err(|error| Error::Failed(format!("{address} in {} is no URL: {error}", self.path())))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = http.request(method, url);
        Ok(match &self.kubeconfig.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }

    /// Sends a request; a response that is not a success becomes an error.
    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, Error> {
        let response = self.once_admitted(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.text().await.map_err(|error| self.unreachable(error))?;
        Err(Refusal::from_body(status.as_u16(), &body).into())
    }

    /// Sends a request, and again as long as the server says when to try again, as kubectl does.
    async fn once_admitted(&self, mut request: reqwest::RequestBuilder) -> Result<reqwest::Response, Error> {
        for _ in 1..TRIES {
            let Some(copy) = request.try_clone() else { break };
            let response = request.send().await.map_err(|error| self.unreachable(error))?;
            let after = response.headers().get("Retry-After").and_then(|after| after.to_str().ok()?.parse().ok());
            match after.filter(|_| response.status() == StatusCode::TOO_MANY_REQUESTS) {
                Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                None => return Ok(response),
            }
            request = copy;
        }
        request.send().await.map_err(|error| self.unreachable(error))
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<Answer, Error> {
        let response = self.send(request).await?;
        let status = response.status();
        let header = |value: &reqwest::header::HeaderValue| value.to_str().ok().map(warning_text);
        let warnings = response.headers().get_all("Warning").iter().filter_map(header).collect();
        let text = response.text().await.map_err(|error| self.unreachable(error))?;
        let body = serde_json::from_str(&text).map_err(|error| {
            Error::Failed(format!("{} does not speak the Kubernetes API: {error}", self.kubeconfig.server))
        })?;
        Ok(Answer { status, body, warnings })
    }

    /// The error of a failed connection, with advice for the user.
    pub fn unreachable(&self, error: reqwest::Error) -> Error {
        Error::Unreachable {
            address: self.kubeconfig.server.clone(),
            kubeconfig: self.kubeconfig.path.clone(),
            // The message already contains the URL.
            source: error.without_url().into(),
        }
    }

    fn path(&self) -> std::path::Display<'_> {
        self.kubeconfig.path.display()
    }
}

/// `299 - "unknown field \"x\""` -> `unknown field "x"`.
fn warning_text(header: &str) -> String {
    let quoted = header.split_once('"').map_or(header, |(_, rest)| rest.trim_end().trim_end_matches('"'));
    quoted.replace("\\\"", "\"")
}
