//! Performs one step: one call each, no policy. A step that is already done is a success.

use serde_json::json;

use super::{PostgresClusterKind, RESOURCE, Step, secrets, stores};
use crate::api::backup::Backup;
use crate::api::failure::{Class, Failure};
use crate::api::object::Object as _;
use crate::api::postgres_cluster::PostgresCluster;
use crate::engine::ask;
use crate::kinds::certificates::authority::{self, Authority};
use crate::kinds::ports;
use crate::store::Key;
use crate::supervisor::wire::Command;

/// Performs `step`; the failure names the failed operation.
pub async fn act(controller: &PostgresClusterKind, object: &PostgresCluster, step: &Step) -> Result<(), Failure> {
    let send = |member: &str, command| {
        let sent = controller.links.send(&object.owner(), member, command);
        sent.map_err(|failure| Failure::new(failure.class, format!("{member}: {failure}")))
    };
    match step {
        Step::EnsureSecrets { host, port } => secrets::ensure(controller, object, (host, port)).await,
        Step::Port(step) => ports::act(&controller.objects, step).await,
        Step::Certificates(due) => authority::perform(&controller.objects, controller.clock.now(), object, *due).await,
        Step::Docker(step) => controller.docker.act(&object.owner(), step).await,
        Step::AskImage { host, image } => {
            let (engine, owner) = (controller.docker.hosts.get(host)?, object.owner());
            let (asker, id) = (owner.clone(), (host.clone(), image.clone()));
            controller
                .libraries
                .begin(&owner, id.clone(), async move { Ok(ask::libraries(&*engine, &id.0, &asker, &id.1).await?) });
            Ok(())
        }
        Step::Order { member, order } => send(member, Command::Order((**order).clone())),
        Step::SendCredentials { member } => {
            let authority = Authority::read(&controller.objects, object, controller.clock.now()).await?;
            let credentials =
                secrets::credentials(&controller.objects, object, &authority).await?.ok_or_else(|| {
                    Failure::new(
                        Class::Transient,
                        format!("the Secrets of {RESOURCE} {} do not exist yet", object.name()),
                    )
                })?;
            send(member, Command::Credentials(credentials))
        }
        Step::SendArchives { member } => {
            let archives = stores::archives(&controller.objects, object).await?;
            let failed = |(_, message)| Failure::new(Class::Transient, message);
            let archives = archives.or_else(|problem| stores::closed(object).ok_or(problem)).map_err(failed)?;
            send(member, Command::Archives(Box::new(archives)))
        }
        Step::BackUp { name, .. } => {
            let backup = json!({
                "apiVersion": "evenkeel.dev/v1alpha1", "kind": Backup::KIND, "metadata": {},
                "spec": {"cluster": {"name": object.name()}},
            });
            let key = Key::beside(object, Backup::RESOURCE, name);
            Ok(controller.objects.create_if_absent(&key, backup).await?)
        }
        Step::RestartPostgres { member, run, .. } => send(member, Command::Restart { run: run.clone() }),
        Step::Renew { member, term, clock_ms } => send(member, Command::Renew { term: *term, clock_ms: *clock_ms }),
    }
}
