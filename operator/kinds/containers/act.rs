//! Performs one step about containers: one call each, no policy. A step that is already done is a success.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::inputs;
use super::{Docker, DockerStep, Fill, PreStop, Work};
use crate::api::failure::{Class, Failure};
use crate::api::labels::Owner;
use crate::engine::{ContainerSpec, Engine, Error, File};

impl Docker {
    /// Performs `step` for the object; the failure names the failed operation.
    pub async fn act(&self, owner: &Owner, step: &DockerStep) -> Result<(), Failure> {
        let (objects, namespace) = (&self.objects, owner.namespace.as_str());
        let engine = |host: &str| self.hosts.get(host);
        match step {
            DockerStep::EnsureNetwork { host, spec } => {
                engine(host)?.ensure_network(spec).await?;
                // What Docker refused concerned the network before.
                self.work.retain(owner, |work| {
                    !matches!(work, Work::Connect { host: on, network, .. } if on == host && *network == spec.name)
                });
            }
            DockerStep::GetImage { host, image, revision, logins } => {
                let (engine, objects) = (engine(host)?, objects.clone());
                let (namespace, image, logins) = (namespace.to_owned(), image.clone(), logins.clone());
                let work = Work::Image { host: host.clone(), image: image.clone(), revision: revision.clone() };
                self.work.begin(owner, work, async move {
                    let login = inputs::login(&objects, &namespace, &logins, &image).await?;
                    engine.pull_image(&image, login.as_ref()).await?;
                    let found = engine.image(&image).await?;
                    found.map(drop).ok_or_else(|| Failure::new(Class::Transient, "it was pulled and is gone again"))
                });
            }
            DockerStep::GetBinary { host, image } => {
                let (engine, image) = (engine(host)?, image.clone());
                let work = Work::Binary { host: host.clone() };
                self.work.begin(owner, work, async move { Ok(engine.ensure_binary(&image).await.map(drop)?) });
            }
            DockerStep::EnsureVolume { host, spec, .. } => engine(host)?.ensure_volume(spec).await?,
            DockerStep::Create { host, spec, env, .. } => {
                let mut spec = ContainerSpec::clone(spec);
                // Values of Secrets are in no hash: the hash is a label, and a short value could be guessed from it.
                spec.chosen.env.extend(inputs::environment(objects, namespace, env).await?);
                engine(host)?.create_container(&spec).await?;
            }
            DockerStep::Fill { host, fill: Fill { container, directory, volume }, .. } => {
                let files = match volume {
                    Some(volume) => inputs::files(objects, namespace, volume).await?,
                    None => vec![File { path: "./".into(), mode: 0o1777, owner: (0, 0), bytes: Vec::new() }],
                };
                engine(host)?.put_files(container, directory, &files).await?;
            }
            DockerStep::Connect { host, container, to, .. } => {
                let work = Work::Connect {
                    host: host.clone(),
                    container: container.clone(),
                    network: to.network.clone(),
                    address: to.address,
                };
                self.record(owner, work, engine(host)?.connect_network(container, to).await)?;
            }
            DockerStep::Start { host, container, .. } => {
                let work = Work::Start { host: host.clone(), container: container.clone() };
                self.record(owner, work, engine(host)?.start_container(container).await)?;
            }
            DockerStep::Unpause { host, container, .. } => engine(host)?.unpause_container(container).await?,
            DockerStep::Stop { host, subject, containers, grace, .. } => {
                let (engine, containers, grace) = (engine(host)?, containers.clone(), Duration::from_secs(*grace));
                let work = Work::Stop { host: host.clone(), subject: subject.clone() };
                self.work.begin(owner, work, async move {
                    let stops = containers.iter().map(|(container, hook)| stop(&engine, container, hook, grace));
                    let ended: Result<Vec<()>, Error> = join_all(stops).await.into_iter().collect();
                    Ok(ended.map(drop)?)
                });
            }
            DockerStep::Remove { host, container, grace: None, .. } => {
                engine(host)?.remove_container(container).await?
            }
            DockerStep::Remove { host, container, grace: Some(grace), .. } => {
                let (engine, name, grace) = (engine(host)?, container.clone(), Duration::from_secs(*grace));
                let work = Work::Remove { host: host.clone(), container: container.clone() };
                self.work.begin(owner, work, async move {
                    engine.stop_container(&name, grace).await?;
                    Ok(engine.remove_container(&name).await?)
                });
            }
            DockerStep::RemoveVolume { host, volume, .. } => engine(host)?.remove_volume(volume).await?,
            DockerStep::RemoveNetwork { host, network, shared } => match engine(host)?.remove_network(network).await {
                Err(Error::Conflict { .. }) if *shared => {}
                other => other?,
            },
        }
        Ok(())
    }

    /// What an engine refuses is recorded for the planner: a container that cannot be started is recreated, because some
    /// never start again ("id already in use" after the engine died while it started one).
    fn record(&self, owner: &Owner, work: Work, outcome: Result<(), Error>) -> Result<(), Failure> {
        match outcome {
            Ok(()) => {
                self.work.retain(owner, |known| !settles(&work, known));
                Ok(())
            }
            Err(error) => {
                // An engine that does not answer may have done it, and a removed container is recreated anyway.
                let refused = matches!(error, Error::Refused { .. } | Error::Conflict { .. });
                let failure = Failure::from(error);
                if refused {
                    self.work.failed(owner, work, failure.message.clone());
                }
                Err(failure)
            }
        }
    }
}

/// Whether the success of `work` makes the failure of `known` history: also a connection with another address.
fn settles(work: &Work, known: &Work) -> bool {
    let subject = |work: &Work| match work {
        Work::Connect { host, container, network, .. } => Some((host.clone(), container.clone(), network.clone())),
        _ => None,
    };
    work == known || subject(work).is_some() && subject(work) == subject(known)
}

async fn stop(engine: &Arc<dyn Engine>, container: &str, hook: &PreStop, grace: Duration) -> Result<(), Error> {
    match hook {
        PreStop::None => {}
        PreStop::Sleep(time) => tokio::time::sleep(*time).await,
        // A failed hook does not prevent the stop, as in Kubernetes.
        PreStop::Exec(command) => drop(engine.exec(container, command, grace).await),
    }
    engine.stop_container(container, grace).await
}
