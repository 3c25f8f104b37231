//! Gives the server access to containers through the engines: logs, commands, ports. Wiring only: it decides nothing.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::api::docker_host::LOCAL;
use crate::api::failure::{Class, Failure};
use crate::api::labels;
use crate::engine::hosts::Hosts;
use crate::engine::{self, ContainerSeen, Engine};
use crate::server::containers::{self, Connection, Containers, Place};

/// Timeout for connecting to a port of a pod on this machine.
const CONNECT: Duration = Duration::from_secs(5);

/// Gives the server access to containers through the engines.
pub struct EngineContainers(pub Arc<Hosts>);

impl EngineContainers {
    /// The engine of a place and the container there, if it belongs to the pod that it is said to be of: a status alone
    /// opens no container.
    async fn enter(&self, place: &Place) -> Result<(Arc<dyn Engine>, ContainerSeen), Failure> {
        let engine = self.0.get(&place.host)?;
        let seen = engine.list_containers(&place.owner).await?;
        let found = entered(&seen, place).cloned().ok_or_else(|| {
            let message = format!("no container {} of pod {} is on host {}", place.container, place.pod, place.host);
            Failure::new(Class::NotFound, message)
        })?;
        Ok((engine, found))
    }
}

/// The container that is meant, among those of the pod's owner.
fn entered<'a>(seen: &'a [ContainerSeen], place: &Place) -> Option<&'a ContainerSeen> {
    let is_meant = |one: &&ContainerSeen| one.id == place.container || one.name == place.container;
    seen.iter().filter(is_meant).find(|one| one.labels.get(labels::MEMBER) == Some(&place.pod))
}

#[async_trait::async_trait]
impl Containers for EngineContainers {
    async fn logs(&self, place: &Place, options: containers::LogOptions) -> Result<containers::Outputs, Failure> {
        let containers::LogOptions { follow, tail, since, timestamps, previous } = options;
        let options = engine::LogOptions { follow, tail, since, timestamps, previous };
        let (engine, container) = self.enter(place).await?;
        Ok(outputs(engine.logs(&container.id, &options).await?))
    }

    async fn exec(&self, place: &Place, command: &containers::Command) -> Result<containers::Session, Failure> {
        let containers::Command { words, stdin, tty } = command.clone();
        let request = engine::ExecRequest { command: words, stdin, tty };
        let (engine, container) = self.enter(place).await?;
        let engine::ExecSession { id, output, input } = engine.exec_attached(&container.id, &request).await?;
        Ok(containers::Session { id, output: outputs(output), input })
    }

    async fn resize(&self, place: &Place, id: &str, size: (u16, u16)) -> Result<(), Failure> {
        Ok(self.0.get(&place.host)?.exec_resize(id, size).await?)
    }

    async fn code(&self, place: &Place, id: &str) -> Result<Option<i64>, Failure> {
        Ok(self.0.get(&place.host)?.exec_code(id).await?)
    }

    async fn connect(&self, place: &Place, address: Option<IpAddr>, port: u16) -> Result<Connection, Failure> {
        let (engine, container) = self.enter(place).await?;
        // The networks of this machine's own engine can be reached as they are; others by a process in the container.
        let mut said = None;
        if let Some(address) = address.filter(|_| place.host == LOCAL) {
            match timeout(CONNECT, TcpStream::connect((address, port))).await {
                Ok(Ok(stream)) => {
                    let (read, write) = stream.into_split();
                    return Ok(Connection { read: Box::pin(read), write: Box::pin(write) });
                }
                Ok(Err(error)) => said = Some(error.to_string()),
                Err(_) => said = Some(format!("no answer within {} s", CONNECT.as_secs())),
            }
        }
        // A port that only the pod itself can reach; a container without a probe does not have Evenkeel's binary.
        let dialed = engine.dial(&container.id, &format!("tcp:127.0.0.1:{port}")).await;
        let stream = dialed.map_err(|error| match said {
            Some(said) => Failure::new(Class::Transient, format!("port {port} of the pod: {said}")),
            None => error.into(),
        })?;
        let (read, write) = tokio::io::split(stream);
        Ok(Connection { read: Box::pin(read), write: Box::pin(write) })
    }
}

fn outputs(outputs: engine::Outputs) -> containers::Outputs {
    outputs
        .map(|piece| match piece {
            Ok(engine::Output::Stdout(bytes)) => Ok(containers::Output::Stdout(bytes)),
            Ok(engine::Output::Stderr(bytes)) => Ok(containers::Output::Stderr(bytes)),
            Err(error) => Err(error.into()),
        })
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::labels::Owner;

    /// Regression 175: `exec`, `logs` and `port-forward` entered whatever container a status named, also one that Evenkeel has
    /// not made. The engine is asked first whether the container is of that pod.
    #[test]
    fn only_a_container_of_the_pod_is_entered() {
        let owner = Owner { kind: "Deployment".into(), namespace: "n".into(), name: "web".into() };
        let one = |id: &str, pod: &str| ContainerSeen {
            id: id.to_owned(),
            name: format!("n.{pod}"),
            labels: owner.member_labels(pod),
            state: engine::ContainerState::Running,
            image: "i".to_owned(),
            networks: Default::default(),
            exit_code: None,
        };
        let seen = [one("a1", "web-1"), one("b2", "web-2")];
        let enter = |container: &str| {
            let (host, pod) = (LOCAL.to_owned(), "web-1".to_owned());
            let place = Place { host, container: container.to_owned(), owner: owner.clone(), pod };
            entered(&seen, &place).map(|one| one.id.clone())
        };
        assert_eq!((enter("a1"), enter("n.web-1")), (Some("a1".to_owned()), Some("a1".to_owned())));
        assert_eq!((enter("b2"), enter("somebody-elses")), (None, None));
    }
}
