//! A real API server for tests: TLS on a free port of loopback, the memory store, and a client with only the
//! kubeconfig.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use evenkeel::api::pod_security::Level;
use evenkeel::runtime::clock::SystemClock;
use evenkeel::server;
use evenkeel::server::containers::Containers;
use evenkeel::server::doors::Doors;
use evenkeel::server::identity;
use evenkeel::store::{MemoryStore, Objects};
use reqwest::Method;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Time-out of everything in these tests.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server and a client of it.
pub struct Api {
    pub objects: Objects,
    pub http: reqwest::Client,
    pub url: String,
    pub token: String,
    stop: CancellationToken,
    serving: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

/// An answer: code, body, and the text of its `Warning` header.
pub struct Answer {
    pub code: u16,
    pub body: Value,
    pub warning: String,
}

impl Api {
    pub async fn start() -> Self {
        Self::with_store(MemoryStore::new()).await
    }

    pub async fn with_store(store: MemoryStore) -> Self {
        Self::with(store, None).await
    }

    pub async fn with(store: MemoryStore, containers: Option<Arc<dyn Containers>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let clock = Arc::new(SystemClock);
        let identity =
            identity::prepare(dir.path(), listener.local_addr().unwrap(), &["127.0.0.1".try_into().unwrap()], &*clock)
                .unwrap();
        let text = std::fs::read_to_string(&identity.kubeconfig).unwrap();
        let kubeconfig: Value = serde_saphyr::from_str(&text).unwrap();
        let objects = Objects::new(Arc::new(store), clock.clone());
        let stop = CancellationToken::new();
        let run = server::run(
            Doors::only(listener).unwrap(),
            identity,
            objects.clone(),
            clock,
            server::Behind { containers, default_level: Level::Baseline, ..Default::default() },
            stop.clone(),
        );
        let serving = tokio::spawn(async move { run.await.unwrap() });

        let _ = rustls::crypto::ring::default_provider().install_default();
        let cluster = &kubeconfig["clusters"][0]["cluster"];
        let ca = STANDARD.decode(cluster["certificate-authority-data"].as_str().unwrap()).unwrap();
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()])
            .build()
            .unwrap();
        Self {
            objects,
            http,
            url: cluster["server"].as_str().unwrap().to_owned(),
            token: kubeconfig["users"][0]["user"]["token"].as_str().unwrap().to_owned(),
            stop,
            serving: Some(serving),
            _dir: dir,
        }
    }

    /// The data directory.
    pub fn dir(&self) -> &std::path::Path {
        self._dir.path()
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token).timeout(PATIENCE)
    }

    pub async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        answer(self.request(Method::POST, path).json(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        answer(self.request(Method::PUT, path).json(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        answer(self.request(Method::DELETE, path)).await
    }

    /// A patch: `merge`, `json` or `apply`.
    pub async fn patch(&self, kind: &str, path: &str, body: &Value) -> Answer {
        let kind = match kind {
            "apply" => "application/apply-patch+yaml".to_owned(),
            other => format!("application/{other}-patch+json"),
        };
        answer(self.request(Method::PATCH, path).header("Content-Type", kind).body(body.to_string())).await
    }

    pub async fn watch(&self, path: &str) -> Events {
        self.watch_as(&self.token, path).await
    }

    /// A watch by the bearer of another token.
    pub async fn watch_as(&self, token: &str, path: &str) -> Events {
        let response = self.http.get(format!("{}{path}", self.url)).bearer_auth(token).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        Events { response, buffer: Vec::new() }
    }

    /// Stops the server and waits for its end.
    pub async fn stop(mut self) {
        self.stop.cancel();
        timeout(PATIENCE, self.serving.take().unwrap()).await.unwrap().unwrap();
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let code = response.status().as_u16();
    let warning = response.headers().get("warning").map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer { code, body, warning }
}

/// An open watch.
pub struct Events {
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event; `None` when the stream has ended cleanly.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            match timeout(PATIENCE, self.response.chunk()).await.expect("an event in time").unwrap() {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None => return None,
            }
        }
    }

    /// The next event, as text `TYPE name`.
    pub async fn told(&mut self) -> String {
        let event = self.next().await.expect("an event");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or("-").to_owned();
        format!("{} {name}", event["type"].as_str().unwrap())
    }
}
