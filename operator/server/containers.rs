//! Access to the containers of a pod: finds the container of a request, and defines the trait that the
//! engines implement.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Bytes;
use futures::stream::BoxStream;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use super::request::Request;
use super::status::Refusal;
use crate::api::failure::{Class, Failure};
use crate::api::labels::Owner;
use crate::store::Key;

/// A container on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The DockerHost.
    pub host: String,
    /// The container's id or name there, as a status says.
    pub container: String,
    /// The object that it must belong to; the engine is asked before anybody enters.
    pub owner: Owner,
    /// The pod of that object.
    pub pod: String,
}

/// The part of a log that is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// Follow: continue with new output.
    pub follow: bool,
    /// Only this many lines from the end.
    pub tail: Option<u64>,
    /// Only output since this time, in seconds since the epoch.
    pub since: Option<i64>,
    /// Start each line with its time.
    pub timestamps: bool,
    /// Only what was said before the container was last started; not found if it was started once.
    pub previous: bool,
}

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Command {
    /// Program and arguments.
    pub words: Vec<String>,
    /// Whether the client sends input.
    pub stdin: bool,
    /// Whether it gets a terminal.
    pub tty: bool,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// From stdout.
    Stdout(Bytes),
    /// From stderr.
    Stderr(Bytes),
}

/// The output of a process.
pub type Outputs = BoxStream<'static, Result<Output, Failure>>;

/// A running command.
pub struct Session {
    /// Its ID at the engine.
    pub id: String,
    /// Its output; the stream ends when the command ends.
    pub output: Outputs,
    /// Its stdin.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}

/// A connection to a port of a pod.
pub struct Connection {
    /// What the pod sends.
    pub read: Pin<Box<dyn AsyncRead + Send>>,
    /// What the pod gets.
    pub write: Pin<Box<dyn AsyncWrite + Send>>,
}

/// Access to containers; the server itself knows no engine.
#[async_trait::async_trait]
pub trait Containers: Send + Sync + 'static {
    /// The log of a container.
    async fn logs(&self, place: &Place, options: LogOptions) -> Result<Outputs, Failure>;
    /// Runs a command in a container.
    async fn exec(&self, place: &Place, command: &Command) -> Result<Session, Failure>;
    /// Sets the size of the command's terminal: rows, columns.
    async fn resize(&self, place: &Place, id: &str, size: (u16, u16)) -> Result<(), Failure>;
    /// The exit code of the command; `None` while it runs.
    async fn code(&self, place: &Place, id: &str) -> Result<Option<i64>, Failure>;
    /// Connects to a port of the container's pod, which has this address.
    async fn connect(&self, place: &Place, address: Option<IpAddr>, port: u16) -> Result<Connection, Failure>;
}

/// The container of a request.
pub struct Meant {
    /// Its host and ID.
    pub place: Place,
    /// Its name in the pod.
    pub name: String,
    /// The pod's name.
    pub pod: String,
}

/// Finds the container of a request; only containers that the Pod view shows can be reached.
pub async fn meant(request: &Request<'_>) -> Result<Meant, Refusal> {
    let (_, source, pod) = shown(request).await?;
    choose(&source, &pod, request.params.get("container"))
}

/// A container of the request's pod, whichever, and the pod's address: its containers share the network.
pub async fn pod(request: &Request<'_>) -> Result<(Place, Option<IpAddr>), Refusal> {
    let (_, source, pod) = shown(request).await?;
    let first = pod["status"]["containerStatuses"][0]["name"].as_str();
    let meant = choose(&source, &pod, first)?;
    Ok((meant.place, pod["status"]["podIP"].as_str().and_then(|address| address.parse().ok())))
}

/// The pod of the request, as its view shows it, and before it the key and value of the object that has it.
pub async fn shown(request: &Request<'_>) -> Result<(Key, Arc<Value>, Value), Refusal> {
    let name = request.key().name;
    let missing = || Refusal::not_found(request.target.resource, &name);
    let view = request.target.resource.view.as_ref().ok_or_else(missing)?;
    let store = request.server.objects.store();
    let listed = store.list_of(&view.resources(), request.target.namespace.as_deref()).await;
    let (sources, _) = listed.map_err(|error| request.store_refusal(&error))?;
    let found = sources.into_iter().find_map(|(key, source)| {
        let pod = view.of(&key.resource, &source).into_iter().find(|pod| pod["metadata"]["name"] == name)?;
        Some((key, source, pod))
    });
    found.ok_or_else(missing)
}

fn choose(source: &Value, pod: &Value, asked: Option<&str>) -> Result<Meant, Refusal> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let statuses = |field: &str| pod["status"][field].as_array().cloned().unwrap_or_default();
    let main = statuses("containerStatuses");
    let all: Vec<Value> = main.iter().cloned().chain(statuses("initContainerStatuses")).collect();
    let names = |of: &[Value]| of.iter().filter_map(|c| c["name"].as_str()).collect::<Vec<_>>().join(" ");
    let status = match (asked, main.as_slice()) {
        (Some(asked), _) => all.iter().find(|status| status["name"] == asked).ok_or_else(|| {
            let message = format!("container {asked} is not valid for pod {name}, choose one of: [{}]", names(&all));
            Refusal::bad_request(message)
        })?,
        (None, [only]) => only,
        (None, []) => return Err(Refusal::bad_request(format!("pod {name} has no container yet"))),
        (None, several) => {
            let names = names(several);
            let message = format!("a container name must be specified for pod {name}, choose one of: [{names}]");
            return Err(Refusal::bad_request(message));
        }
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let container = text(&status["containerID"]).trim_start_matches("docker://").to_owned();
    let of = &source["metadata"];
    let owner = Owner { kind: text(&source["kind"]), namespace: text(&of["namespace"]), name: text(&of["name"]) };
    let place = Place { host: text(&pod["spec"]["nodeName"]), container, owner, pod: name.to_owned() };
    Ok(Meant { place, name: text(&status["name"]), pod: name.to_owned() })
}

impl Meant {
    /// Converts a failure of the engine to an API error.
    pub fn refused(&self, failure: &Failure) -> Refusal {
        match failure.class {
            Class::NotFound => {
                let Self { name, pod, .. } = self;
                Refusal::bad_request(format!(
                    "container {name:?} in pod {pod:?} is waiting to start: it is not there yet"
                ))
            }
            Class::Transient => Refusal::unavailable(&failure.message),
            Class::Conflict | Class::Terminal => Refusal::bad_request(&failure.message),
        }
    }
}

/// The server's access to containers, if it has one.
pub fn door<'a>(request: &'a Request<'_>) -> Result<&'a Arc<dyn Containers>, Refusal> {
    let no_engine = || Refusal::not_allowed("this server has no way to containers");
    request.server.containers.as_ref().ok_or_else(no_engine)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn pod(containers: &[&str]) -> Value {
        let status = |name: &&str| json!({"name": name, "containerID": format!("docker://n.web-1.{name}")});
        json!({"metadata": {"name": "web-1"}, "spec": {"nodeName": "local"}, "status": {
            "containerStatuses": containers.iter().map(status).collect::<Vec<_>>(),
            "initContainerStatuses": [{"name": "setup", "containerID": "docker://n.web-1.setup"}],
        }})
    }

    #[test]
    fn a_container_is_found_by_name_or_because_it_is_the_only_one() {
        let found = |containers: &[&str], asked| {
            choose(&json!({"kind": "Deployment"}), &pod(containers), asked)
                .map(|meant| meant.place.container)
                .map_err(|refusal| (refusal.code.as_u16(), refusal.message))
        };
        assert_eq!(found(&["main"], None).unwrap(), "n.web-1.main");
        assert_eq!(found(&["main"], Some("setup")).unwrap(), "n.web-1.setup");
        let several = "a container name must be specified for pod web-1, choose one of: [main cache]";
        assert_eq!(found(&["main", "cache"], None), Err((400, several.to_owned())));
        let none = "container x is not valid for pod web-1, choose one of: [main setup]";
        assert_eq!(found(&["main"], Some("x")), Err((400, none.to_owned())));
    }
}
