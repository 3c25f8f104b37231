//! Performs one step: one call each, no policy. Already so is success.

use std::time::Duration;

use super::{PostgresClusterKind, RESOURCE, Step, container_name, secrets};
use crate::api::failure::{Class, Failure};
use crate::api::postgres_cluster::PostgresCluster;
use crate::supervisor::wire::Command;

/// A container that is to go gets this long to stop its server.
const STOP: Duration = Duration::from_secs(30);

/// Performs `step`; its failure says what could not be done.
pub async fn act(controller: &PostgresClusterKind, object: &PostgresCluster, step: &Step) -> Result<(), Failure> {
    let engine = controller.hosts.get(super::HOST)?;
    match step {
        Step::EnsureSecrets { host } => secrets::ensure(controller, object, host).await?,
        Step::EnsureImage(image) => engine.ensure_image(image).await?,
        Step::EnsureBinary { image } => {
            let volume = engine.ensure_binary(image).await?;
            controller.binary.get_or_init(|| volume);
        }
        Step::EnsureNetwork(spec) => drop(engine.ensure_network(spec).await?),
        Step::EnsureVolume(spec) => engine.ensure_volume(spec).await?,
        Step::CreateContainer(spec) => engine.create_container(spec).await?,
        Step::StartContainer(name) => engine.start_container(name).await?,
        Step::RemoveContainer { name, .. } => {
            engine.stop_container(name, STOP).await?;
            engine.remove_container(name).await?;
        }
        Step::RemoveVolume(name) => engine.remove_volume(name).await?,
        Step::RemoveNetwork(name) => engine.remove_network(name).await?,
        Step::Order { member, order } => {
            send(controller, object, member, Command::Order((**order).clone())).await?;
        }
        Step::SendCredentials { member } => {
            let credentials = secrets::credentials(&controller.objects, object).await?.ok_or_else(|| {
                Failure::new(
                    Class::Transient,
                    format!("the Secrets of {RESOURCE} {} are not there yet", super::name(object)),
                )
            })?;
            send(controller, object, member, Command::Credentials(credentials)).await?;
        }
        Step::RestartPostgres { member, run, .. } => {
            send(controller, object, member, Command::Restart { run: run.clone() }).await?;
        }
        Step::Renew { member, term, clock_ms } => {
            send(controller, object, member, Command::Renew { term: *term, clock_ms: *clock_ms }).await?;
        }
    }
    Ok(())
}

async fn send(
    controller: &PostgresClusterKind,
    object: &PostgresCluster,
    member: &str,
    command: Command,
) -> Result<(), Failure> {
    let container = container_name(object, member);
    controller
        .links
        .send(&container, command)
        .map_err(|failure| Failure::new(failure.class, format!("{member}: {failure}")))
}
