//! Performs one step: one call each, no policy. A step that is already done is a success.

use super::diff::{Command, Verb};
use super::links::{ContainerRef, SESSIONS};
use super::{LoadBalancer, LoadBalancerKind, Step, configure, secrets, seen};
use crate::api::failure::{Class, Failure};
use crate::api::object::Object as _;
use crate::kinds::ports;

/// Performs `step`; the failure names the failed operation.
pub async fn act(controller: &LoadBalancerKind, object: &LoadBalancer, step: &Step) -> Result<(), Failure> {
    let at = |container: &str| {
        let id = controller.links.heard(&object.owner()).into_keys().find(|id| id.container == *container);
        let id = id.ok_or_else(|| Failure::new(Class::Conflict, format!("{container} no longer exists")))?;
        Ok::<_, Failure>(controller.link(object, controller.docker.hosts.get(&id.host)?, id))
    };
    match step {
        Step::EnsureStats => secrets::ensure(controller, object).await,
        Step::Port(step) => ports::act(&controller.objects, step).await,
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

/// Sends one batch of commands to the current process, and cuts sessions in the processes from before a reload too.
async fn tell(at: &ContainerRef, commands: &[Command], old: &[u32]) -> Result<(), Failure> {
    let transient = |why: String| Failure::new(Class::Transient, format!("{}: {why}", at.id.container));
    let lines: Vec<_> = commands.iter().map(|command| format!("@1 {}", command.line())).collect();
    let words = at.tell(&lines).await.map_err(transient)?;
    let problems: Vec<_> = commands
        .iter()
        .zip(&words)
        .filter_map(|(command, words)| Some(format!("{command}: {}", command.judge(words).err()?)))
        .collect();
    let cuts: Vec<_> = commands.iter().filter(|command| command.verb == Verb::Cut).collect();
    if !cuts.is_empty()
        && let Err(why) = cut_in_old(at, &cuts, old).await
    {
        // The old process ended in the meantime, and all its connections with it.
        tracing::debug!(container = at.id.container, why, "an old process did not hear everything");
    }
    if problems.is_empty() { Ok(()) } else { Err(transient(problems.join("; "))) }
}

/// A process from before a reload refuses every command on a server ("Proxy is disabled"), so its sessions are ended one
/// by one.
async fn cut_in_old(at: &ContainerRef, cuts: &[&Command], old: &[u32]) -> Result<(), String> {
    let questions: Vec<_> = old.iter().map(|pid| format!("@!{pid} {SESSIONS}")).collect();
    let answers = at.tell(&questions).await?;
    let mut lines = Vec::new();
    for (pid, words) in old.iter().zip(&answers) {
        let sessions = cuts.iter().flat_map(|cut| seen::sessions(words, &cut.backend, &cut.server));
        lines.extend(sessions.map(|session| format!("@!{pid} shutdown session {session}")));
    }
    at.tell(&lines).await.map(drop)
}
