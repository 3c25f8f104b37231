//! Registers and forgets engines, accepts another engine at a host's endpoint, and performs the steps of an agent.

use super::{DockerHostKind, Step, agent, register};
use crate::api::docker_host::DockerHost;
use crate::api::failure::Failure;
use crate::api::object::Object as _;
use crate::kinds::ports;
use crate::supervisor::agent::wire::Command;

/// Performs `step`; the failure names the failed operation.
pub async fn act(controller: &DockerHostKind, object: &DockerHost, step: &Step) -> Result<(), Failure> {
    match step {
        Step::Register { .. } => register::one(&controller.hosts, &controller.objects, object).await,
        Step::Accept { host, engine } => {
            controller.hosts.accept(host, engine);
            Ok(())
        }
        Step::Forget { .. } => {
            controller.hosts.forget(object.name());
            Ok(())
        }
        Step::Port(step) => ports::act(&controller.objects, step).await,
        Step::Docker(step) => controller.docker.act(&object.owner(), step).await,
        Step::Order(order) => controller.links.send(&object.owner(), agent::AGENT, Command::Order((**order).clone())),
        // Its Event is all.
        Step::Rebooted { .. } => Ok(()),
    }
}
