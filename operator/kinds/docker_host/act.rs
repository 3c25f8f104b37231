//! Registers and forgets engines.

use kube::ResourceExt as _;

use super::{DockerHostKind, Step};
use crate::api::docker_host::DockerHost;
use crate::api::failure::{Class, Failure};

impl DockerHostKind {
    pub(super) async fn perform(&self, object: &DockerHost, step: &Step) -> Result<(), Failure> {
        match step {
            Step::Register { .. } => {
                let (endpoint, tls) =
                    self.way(object).await?.map_err(|(_, message)| Failure::new(Class::Conflict, message))?;
                Ok(self.hosts.register(&object.name_any(), &endpoint, tls.as_ref())?)
            }
            Step::Forget { .. } => {
                self.hosts.forget(&object.name_any());
                Ok(())
            }
        }
    }
}
