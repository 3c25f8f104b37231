//! Probes containers of this machine at their address, those of other hosts at their published port, or else by a command in
//! them: one task per container, which ends with it. A changed result wakes
//! the Deployment; the planner decides what follows.

use std::collections::BTreeMap;
use std::iter;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::probe::{self, Count, Probed, Question};
use super::{HostSeen, blueprint, revisions};
use crate::api::deployment::{Decisions, Deployment, Pod};
use crate::api::deployment_rules::port_number;
use crate::api::docker_host::LOCAL;
use crate::api::labels::{self, Owner};
use crate::api::object::Object as _;
use crate::engine::hosts::Hosts;
use crate::engine::{BINARY, ContainerSeen, ContainerState};
use crate::kinds::network_of;
use crate::runtime::clock;
use crate::runtime::companions::{Companions, Voice, Wake};

/// Interval of probes until the first success, so that a new container does not wait for its whole period.
const EAGER: Duration = Duration::from_millis(100);

/// Most bytes of an HTTP answer that are read: its head must fit, and its body is not read.
const ANSWER: usize = 64 << 10;

/// Time for Docker to run a command and to answer, in addition to the command's own.
const DOCKER: Duration = Duration::from_secs(3);

/// All probes of all Deployments.
pub(super) struct Prober {
    hosts: Arc<Hosts>,
    pub(super) probes: Companions<ProbeId, Probed>,
}

/// A container and its address; if the address changes, the probe starts again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProbeId {
    host: String,
    container: String,
    address: Option<Ipv4Addr>,
}

impl Prober {
    pub(super) fn new(hosts: Arc<Hosts>, wake: Wake) -> Self {
        Self { hosts, probes: Companions::new(wake) }
    }

    /// The results so far, by container id.
    pub(super) fn found(&self, owner: &Owner) -> BTreeMap<String, Probed> {
        let probes = self.probes.heard(owner).into_iter();
        probes.filter_map(|(id, heard)| Some((id.container, heard.value?))).collect()
    }

    /// Probes exactly the running containers of a Deployment that have probes.
    pub(super) fn keep(&self, object: &Deployment, hosts: &BTreeMap<String, HostSeen>) {
        let (owner, network) = (object.owner(), network_of(object.namespace()));
        let templates = templates(object);
        let published: BTreeMap<_, _> = decided(object).map(|(_, pod)| (pod.name.clone(), pod.ports.clone())).collect();
        let mut wanted = BTreeMap::new();
        for (host, seen) in hosts {
            let all: Vec<_> = seen.docker.containers.known().into_iter().flat_map(BTreeMap::values).collect();
            for container in all.iter().filter(|one| one.state == ContainerState::Running) {
                let label = |label: &str| container.labels.get(label).cloned().unwrap_or_default();
                let template = templates.get(&(label(labels::MEMBER), label(labels::CONTAINER)));
                let address = address(container, &all, &network);
                let id = ProbeId { host: host.clone(), container: container.id.clone(), address };
                // A container from before probes had a parent has no binary.
                let parent = container.labels.contains_key(labels::BINARY);
                let ports = published.get(&label(labels::MEMBER)).cloned().unwrap_or_default();
                wanted.extend(template.map(|template| (id, (container.name.clone(), parent, template, ports))));
            }
        }
        // No answer from the host does not mean that the container is gone.
        let silent = |host: &str| hosts.get(host).is_some_and(|seen| seen.docker.containers.known().is_none());
        self.probes.retain(&owner, |id| wanted.contains_key(id) || silent(&id.host));
        for (id, (container, parent, template, published)) in wanted {
            let (hosts, template, host, address) = (self.hosts.clone(), template.clone(), id.host.clone(), id.address);
            let asker = |voice| Asker { hosts, host, container, parent, address, published, template, voice }.run();
            self.probes.ensure(&owner, id, asker);
        }
    }
}

/// The decided pods.
fn decided(object: &Deployment) -> impl Iterator<Item = (&Decisions, &Pod)> {
    let decisions = object.status.iter().filter_map(|status| status.decisions.as_ref());
    decisions.flat_map(|d| d.pods.iter().map(move |pod| (d, pod)))
}

/// The containers that have probes, by pod and name in it.
fn templates(object: &Deployment) -> BTreeMap<(String, String), Container> {
    let pods = decided(object).map(|(d, pod)| (pod, revisions::of(d, &pod.hash)));
    let pods = pods.filter_map(|(pod, revision)| Some((pod.name.clone(), blueprint::pod_spec(revision?))));
    let all =
        pods.flat_map(|(pod, spec)| spec.containers.into_iter().map(move |one| ((pod.clone(), one.name.clone()), one)));
    let probed =
        |one: &Container| one.startup_probe.is_some() || one.readiness_probe.is_some() || one.liveness_probe.is_some();
    all.filter(|(_, one)| probed(one)).collect()
}

/// The address of a container's pod: its own, or that of the sandbox that holds its network.
fn address(container: &ContainerSeen, all: &[&ContainerSeen], network: &str) -> Option<Ipv4Addr> {
    let pod = container.labels.get(labels::MEMBER);
    let of_pod = all.iter().filter(|one| one.labels.get(labels::MEMBER) == pod);
    iter::once(&container).chain(of_pod).find_map(|one| one.address(network))
}

struct Asker {
    hosts: Arc<Hosts>,
    host: String,
    container: String,
    /// Whether the container has Evenkeel's binary, which ends all processes of an exec probe.
    parent: bool,
    address: Option<Ipv4Addr>,
    /// Where other hosts reach its ports.
    published: BTreeMap<u16, SocketAddrV4>,
    template: Container,
    voice: Voice<ProbeId, Probed>,
}

impl Asker {
    async fn run(self) {
        let begun = Probed {
            started: self.template.startup_probe.is_none().then_some(true),
            ready: self.template.readiness_probe.is_none().then_some(true),
            alive: self.template.liveness_probe.is_none().then_some(true),
            said: None,
        };
        self.voice.tell(|found| {
            *found = Some(begun);
            false
        });
        if let Some(probe) = &self.template.startup_probe {
            self.ask_until(probe, Question::Startup, true).await;
        }
        let rest = [
            (&self.template.readiness_probe, Question::Readiness),
            (&self.template.liveness_probe, Question::Liveness),
        ];
        let rest = rest.into_iter().filter_map(|(probe, question)| Some((probe.as_ref()?, question)));
        join_all(rest.map(|(probe, question)| self.ask_until(probe, question, false))).await;
    }

    /// Probes without end, or with `once` until the first success.
    async fn ask_until(&self, probe: &Probe, question: Question, once: bool) {
        let (period, mut eager) = (probe::period(probe), EAGER);
        let mut count = Count::default();
        let mut counted: Option<Instant> = None;
        sleep(probe::delay(probe)).await;
        loop {
            let answer = self.ask(probe).await;
            // Before the period is over, only a success counts.
            let due = counted.is_none_or(|at| at.elapsed() >= period);
            if answer.is_ok() || due {
                counted = Some(clock::instant());
                let changed = count.take(probe, question, answer.is_ok());
                self.note(question, count.verdict, answer.err(), changed);
            }
            if once && count.verdict == Some(true) {
                return;
            }
            let wait = if count.verdict == Some(true) { period } else { eager.min(period) };
            eager = eager.saturating_mul(2);
            sleep(wait).await;
        }
    }

    fn note(&self, question: Question, verdict: Option<bool>, said: Option<String>, changed: bool) {
        self.voice.tell(|found| {
            let Some(found) = found else { return false };
            match question {
                Question::Startup => found.started = verdict,
                Question::Readiness => found.ready = verdict,
                Question::Liveness => found.alive = verdict,
            }
            if said.is_some() || changed {
                found.said = said;
            }
            changed
        });
    }

    /// One probe; the error is text for people.
    async fn ask(&self, probe: &Probe) -> Result<(), String> {
        let limit = probe::limit(probe);
        let late = || format!("no answer within {} s", limit.as_secs());
        if let Some(exec) = &probe.exec {
            return self.exec(exec.command.clone().unwrap_or_default(), limit, late()).await;
        }
        let asked = async {
            let engine = self.hosts.get(&self.host).map_err(|error| error.to_string())?;
            let port = probe.http_get.as_ref().map(|get| &get.port).or(probe.tcp_socket.as_ref().map(|tcp| &tcp.port));
            let port = port.and_then(|port| port_number(port, &self.template)).ok_or("no such port")?;
            let address = self.address.ok_or("it has no address")?;
            let near = (self.host == LOCAL).then(|| SocketAddrV4::new(address, port));
            if let Some(at) = near.or_else(|| self.published.get(&port).copied()) {
                let stream = TcpStream::connect(at).await;
                let stream = stream.map_err(|error| format!("port {port}: {error}"))?;
                return talk(probe, stream, self.address, port).await;
            }
            let inside = format!("tcp:127.0.0.1:{port}");
            let stream = engine.dial(&self.container, &inside).await.map_err(|error| error.to_string())?;
            talk(probe, stream, self.address, port).await
        };
        timeout(limit, asked).await.unwrap_or_else(|_| Err(late()))
    }

    /// Runs a command in the container; `late`: what to say if it does not end in time.
    async fn exec(&self, command: Vec<String>, limit: Duration, late: String) -> Result<(), String> {
        let engine = self.hosts.get(&self.host).map_err(|error| error.to_string())?;
        let (command, patience) = if self.parent {
            let parent = [BINARY, "probe", &limit.as_millis().to_string(), "--"].map(str::to_owned);
            ([parent.to_vec(), command].concat(), limit + DOCKER)
        } else {
            (command, limit)
        };
        let begun = clock::instant();
        let ended = engine.exec(&self.container, &command, patience).await;
        match ended {
            Ok(ended) if ended.code == 0 => Ok(()),
            _ if begun.elapsed() >= limit => Err(late),
            Ok(ended) => Err(format!("exit code {}: {}", ended.code, first_line(&ended.output))),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Asks an HTTP probe's question on a stream; without one, a stream that is open is enough.
async fn talk(
    probe: &Probe,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    address: Option<Ipv4Addr>,
    port: u16,
) -> Result<(), String> {
    let Some(get) = &probe.http_get else { return Ok(()) };
    let path = path(get);
    let request = request(get, address, port).map_err(|error| error.to_string())?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(ANSWER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // Ends by itself if this task is cancelled first, because that drops its sender.
    let driver = tokio::spawn(connection);
    let answer = sender.send_request(request).await;
    driver.abort();
    let answer = answer.map_err(|error| format!("GET {path} got no HTTP answer: {error}"))?;
    match answer.status().as_u16() {
        200..=399 => Ok(()),
        status => Err(format!("GET {path} answered {status}")),
    }
}

fn path(get: &HTTPGetAction) -> String {
    get.path.clone().filter(|path| path.starts_with('/')).unwrap_or_else(|| "/".into())
}

/// The request of an HTTP probe. The template's headers come first, as in Kubernetes: `Host`, `User-Agent` and `Accept`
/// are added only if it does not name them.
fn request(get: &HTTPGetAction, address: Option<Ipv4Addr>, port: u16) -> Result<Request<String>, hyper::http::Error> {
    let mut request = Request::get(path(get)).header("connection", "close");
    for header in get.http_headers.iter().flatten() {
        request = request.header(&header.name, &header.value);
    }
    let host = address.map(|address| format!("{address}:{port}")).unwrap_or_default();
    for (name, default) in [("host", host.as_str()), ("user-agent", "evenkeel-probe"), ("accept", "*/*")] {
        if request.headers_ref().is_some_and(|headers| !headers.contains_key(name)) {
            request = request.header(name, default);
        }
    }
    request.body(String::new())
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use k8s_openapi::api::core::v1::HTTPHeader;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Regression 77: a probe that named its own `User-Agent` sent two, and an application that reads the first one saw
    /// ours. As in Kubernetes the template's headers win, `Host` included.
    #[test]
    fn the_headers_of_the_template_win() {
        let said = |headers: &[(&str, &str)]| {
            let headers =
                headers.iter().map(|(name, value)| HTTPHeader { name: (*name).into(), value: (*value).into() });
            let get = HTTPGetAction { http_headers: Some(headers.collect()), ..Default::default() };
            let request = request(&get, Some(Ipv4Addr::new(10, 0, 0, 1)), 80).unwrap();
            let headers = request.headers().iter().filter(|(name, _)| *name != "connection");
            headers.map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap())).collect::<String>()
        };
        assert_eq!(said(&[]), "host: 10.0.0.1:80\nuser-agent: evenkeel-probe\naccept: */*\n");
        let own = [("Host", "app.example.com"), ("User-Agent", "me"), ("X-A", "1"), ("X-A", "2")];
        assert_eq!(said(&own), "host: app.example.com\nuser-agent: me\nx-a: 1\nx-a: 2\naccept: */*\n");
    }

    /// Regression 104: nothing said how much of an application's answer is read. Its head has 64 KiB, and of its body
    /// nothing is read but what comes with the head.
    #[tokio::test]
    async fn an_answer_without_end_is_no_burden() {
        let said = async |head: &'static str| {
            let (ours, mut theirs) = tokio::io::duplex(16 << 10);
            let endless = tokio::spawn(async move {
                let mut written = head.len();
                let _ = theirs.read(&mut [0; 4096]).await;
                let _ = theirs.write_all(head.as_bytes()).await;
                while theirs.write_all(&[b'x'; 1024]).await.is_ok() {
                    written += 1024;
                }
                written
            });
            let probe = Probe { http_get: Some(HTTPGetAction::default()), ..Default::default() };
            let answer = talk(&probe, ours, None, 80).await;
            let written = endless.await.unwrap();
            assert!(written <= ANSWER + (32 << 10), "{written}");
            answer
        };
        assert_eq!(said("HTTP/1.1 200 OK\r\n\r\n").await, Ok(()));
        let refused = said("HTTP/1.1 200 OK\r\nx: ").await.unwrap_err();
        assert_eq!(refused, "GET / got no HTTP answer: message head is too large");
    }
}
