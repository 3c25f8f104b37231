//! Registers and forgets engines, and accepts another engine at a host's endpoint.

use super::{DockerHostKind, Step, register};
use crate::api::docker_host::DockerHost;
use crate::api::failure::Failure;
use crate::api::object::Object as _;

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
    }
}
