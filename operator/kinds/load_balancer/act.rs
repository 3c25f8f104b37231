//! Performs one step: one call each, no policy. A step that is already done is a success.

use super::diff::Command;
use super::links::ContainerRef;
use super::{LoadBalancer, LoadBalancerKind, Step, configure, secrets};
use crate::api::failure::{Class, Failure};
use crate::api::object::Object as _;
use crate::kinds::containers::HOME;

/// Performs `step`; the failure names the failed operation.
pub async fn act(controller: &LoadBalancerKind, object: &LoadBalancer, step: &Step) -> Result<(), Failure> {
    let at = |container: &str| {
        let id = controller.links.heard(&object.owner()).into_keys().find(|id| id.container == *container);
        let id = id.ok_or_else(|| Failure::new(Class::Conflict, format!("{container} no longer exists")))?;
        Ok::<_, Failure>(controller.link(object, controller.docker.hosts.get(HOME)?, id))
    };
    match step {
        Step::EnsureStats => secrets::ensure(controller, object).await,
        Step::Docker(step) => controller.docker.act(&object.owner(), step).await,
        Step::Tell { container, commands, old } => tell(&at(container)?, commands, old).await,
        Step::Write { container, config, files, runs } => configure::write(&at(container)?, config, files, *runs).await,
        Step::End { container, processes, .. } => configure::end(&at(container)?, processes).await,
        Step::Reload { container, hash, failed } => {
            configure::reload(&at(container)?, &*controller.clock, hash, *failed).await
        }
        Step::Keep { container, accepted } => configure::keep(&at(container)?, *accepted).await,
        Step::Refuse { container, skeleton, .. } => configure::refuse(&at(container)?, skeleton).await,
    }
}

/// Sends one batch of commands: all to the current process, then the closing ones to the processes from before a
/// reload.
async fn tell(at: &ContainerRef, commands: &[Command], old: &[u32]) -> Result<(), Failure> {
    let transient = |why: String| Failure::new(Class::Transient, format!("{}: {why}", at.id.container));
    let lines: Vec<_> = commands.iter().map(|command| format!("@1 {}", command.line())).collect();
    let words = at.tell(&lines).await.map_err(transient)?;
    let problems: Vec<_> = commands
        .iter()
        .zip(&words)
        .filter_map(|(command, words)| Some(format!("{command}: {}", command.judge(words).err()?)))
        .collect();
    let closing = commands.iter().filter(|command| command.closes());
    let lines: Vec<_> =
        closing.flat_map(|command| old.iter().map(move |pid| format!("@!{pid} {}", command.line()))).collect();
    if !lines.is_empty()
        && let Err(why) = at.tell(&lines).await
    {
        // The old process ended in the meantime, and all its connections with it.
        tracing::debug!(container = at.id.container, why, "an old process did not hear everything");
    }
    if problems.is_empty() { Ok(()) } else { Err(transient(problems.join("; "))) }
}
