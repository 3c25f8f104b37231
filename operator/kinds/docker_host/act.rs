//! Registers and forgets engines.

use super::{DockerHostKind, Step, observe};
use crate::api::docker_host::DockerHost;
use crate::api::failure::{Class, Failure};
use crate::api::object::Object as _;

/// Performs `step`; the failure names the failed operation.
pub async fn act(controller: &DockerHostKind, object: &DockerHost, step: &Step) -> Result<(), Failure> {
    match step {
        Step::Register { .. } => {
            let connection = observe::connection(controller, object).await?;
            let (endpoint, tls) = connection.map_err(|(_, message)| Failure::new(Class::Conflict, message))?;
            Ok(controller.hosts.register(object.name(), &endpoint, tls.as_ref())?)
        }
        Step::Forget { .. } => {
            controller.hosts.forget(object.name());
            Ok(())
        }
    }
}
