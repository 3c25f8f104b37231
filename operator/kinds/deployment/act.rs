//! Performs one step: one call each, no policy. Already so is success. What takes long is begun here and ends in a job.

use std::time::Duration;

use futures::future::join_all;

use super::{DeploymentKind, Fill, PreStop, Step, inputs, name, namespace, placement};
use crate::api::deployment::Deployment;
use crate::api::failure::{Class, Failure};
use crate::engine::{ContainerSpec, Error, File};

/// Performs `step`; its failure says what could not be done.
pub(super) async fn act(controller: &DeploymentKind, object: &Deployment, step: &Step) -> Result<(), Failure> {
    let (objects, namespace) = (&controller.objects, namespace(object));
    let subject = (namespace.to_owned(), name(object).to_owned());
    let engine = |host: &str| controller.hosts.get(host);
    match step {
        Step::EnsureNetwork { host, spec } => drop(engine(host)?.ensure_network(spec).await?),
        Step::GetImage { host, image, always, never, logins } => {
            let (engine, objects) = (engine(host)?, objects.clone());
            let (namespace, image, logins) = (namespace.to_owned(), image.clone(), logins.clone());
            let (always, never, key) = (*always, *never, placement::image_job(host, &image));
            controller.jobs.begin(&subject, key, async move {
                let there = engine.image(&image).await?;
                if there.is_none() && never {
                    let problem = format!("image {image} is not on the host, and it must not be pulled; put it there");
                    return Err(Failure::new(Class::Transient, problem));
                }
                if !never && (there.is_none() || always) {
                    let login = inputs::login(&objects, &namespace, &logins, &image).await?;
                    engine.pull_image(&image, login.as_ref()).await?;
                }
                let found = engine.image(&image).await?;
                let found =
                    found.ok_or_else(|| Failure::new(Class::Transient, format!("image {image} is gone again")))?;
                Ok(std::iter::once(found.id).chain(found.digests).collect::<Vec<_>>().join(","))
            });
        }
        Step::GetBinary { host, image } => {
            let (engine, image) = (engine(host)?, image.clone());
            let key = placement::binary_job(host);
            controller.jobs.begin(&subject, key, async move { Ok(engine.ensure_binary(&image).await?) });
        }
        Step::Create { host, make, .. } => {
            let env = inputs::environment(objects, namespace, &make.env).await?;
            let spec = ContainerSpec { env, ..make.spec.clone() };
            let made = engine(host)?.create_container(&spec).await;
            if matches!(made, Err(Error::NotFound { .. })) {
                // What was got once is no longer there.
                controller.jobs.forget_all(&subject, host);
            }
            made?;
        }
        Step::Fill { host, fill: Fill { container, directory, volume }, .. } => {
            let files = match volume {
                Some(volume) => inputs::files(objects, namespace, volume).await?,
                None => vec![File { path: "./".into(), mode: 0o1777, owner: (0, 0), bytes: Vec::new() }],
            };
            engine(host)?.put_files(container, directory, &files).await?;
        }
        Step::Start { host, container, .. } => engine(host)?.start_container(container).await?,
        Step::Unpause { host, container, .. } => engine(host)?.unpause_container(container).await?,
        Step::Stop { host, subject: stopped, containers, grace, .. } => {
            let (engine, containers, grace) = (engine(host)?, containers.clone(), Duration::from_secs(*grace));
            let key = placement::stop_job(stopped);
            controller.jobs.begin(&subject, key, async move {
                let stops = containers.iter().map(|(container, before)| {
                    let engine = engine.clone();
                    async move {
                        match before {
                            PreStop::None => {}
                            PreStop::Sleep(time) => tokio::time::sleep(*time).await,
                            // A hook that fails keeps nothing running, as in Kubernetes.
                            PreStop::Exec(command) => drop(engine.exec(container, command, grace).await),
                        }
                        engine.stop_container(container, grace).await
                    }
                });
                let ended: Result<Vec<()>, Error> = join_all(stops).await.into_iter().collect();
                Ok(ended.map(|_| String::new())?)
            });
        }
        Step::Remove { host, container, .. } => engine(host)?.remove_container(container).await?,
        Step::RemoveVolume { host, volume, .. } => engine(host)?.remove_volume(volume).await?,
        Step::RemoveNetwork { host, network } => match engine(host)?.remove_network(network).await {
            // Others of the namespace are in it.
            Err(Error::Conflict { .. }) => {}
            other => other?,
        },
    }
    Ok(())
}
