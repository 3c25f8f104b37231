//! Decides how many pods of each revision run: adds and stops pods within the limits of the strategy. Pure.
//!
//! Invariant (`never_less_available_than_allowed` in tests): a rollout stops no available pod if that leaves fewer than
//! `replicas - maxUnavailable` available ones, and adds no pod beyond `replicas + maxSurge`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodSpec;

use super::context::PlanContext;
use super::{blueprint, placement};
use crate::api::deployment::{Decisions, Deployment, Pod, Stop};
use crate::api::deployment_rules::share;
use crate::api::object::Object as _;

/// The limits of the strategy, in pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Desired number of pods.
    pub replicas: usize,
    /// `maxSurge`: how many more pods may exist during the rollout.
    pub surge: usize,
    /// `maxUnavailable`: how many pods may be unavailable during the rollout.
    pub unavailable: usize,
    /// An old pod must be removed before its replacement is created.
    pub stop_first: bool,
    /// The strategy is Recreate: all old pods must be removed first.
    pub recreate: bool,
    /// Why a pod that is too many is stopped.
    pub surplus: &'static str,
}

impl Limits {
    /// Those of a Deployment that is to have no pods for a while.
    pub fn held(self, held: bool) -> Self {
        match held {
            true => {
                Self { replicas: 0, surplus: "a Backup or VolumeRestore lets the Deployment have no pods now", ..self }
            }
            false => self,
        }
    }
}

/// The readiness of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// All its containers are ready.
    pub ready: bool,
    /// It has been ready for `minReadySeconds`, and every balancer sends it new connections.
    pub available: bool,
    /// Its host is lost, so that other pods replace it.
    pub lost: bool,
    /// Why it cannot stay where it is, if so.
    pub moves: Option<String>,
    /// Number of restarts.
    pub restarts: u32,
}

/// The readiness of the pods, by name.
pub type Standings = BTreeMap<String, Standing>;

/// The limits of an object with this pod template.
pub fn limits(object: &Deployment, spec: &PodSpec) -> Limits {
    let deleting = object.metadata.deletion_timestamp.is_some();
    let replicas = if deleting { 0 } else { usize::try_from(object.spec.replicas.unwrap_or(1)).unwrap_or_default() };
    let (strategy, surplus) = (object.spec.strategy.clone().unwrap_or_default(), "scaled down");
    if strategy.type_.as_deref() == Some("Recreate") {
        return Limits { replicas, surge: 0, unavailable: replicas, stop_first: true, recreate: true, surplus };
    }
    let rolling = strategy.rolling_update.unwrap_or_default();
    let whole = u32::try_from(replicas).unwrap_or(u32::MAX);
    let of = |value| share(value, whole).unwrap_or_default();
    // As in Kubernetes: `maxSurge` is rounded up, `maxUnavailable` down.
    let surge = rolling.max_surge.as_ref().map_or(u64::from(whole) * 25, of).div_ceil(100) as usize;
    let away = (rolling.max_unavailable.as_ref().map_or(u64::from(whole) * 25, of) / 100) as usize;
    let stop_first = blueprint::forbids_surge(spec).is_some();
    let surge = if stop_first { 0 } else { surge };
    // Without a surge a rollout can progress only if one pod may be unavailable.
    let unavailable = if surge == 0 { away.max(1) } else { away };
    Limits { replicas, surge, unavailable, stop_first, recreate: false, surplus }
}

/// Changes the pods by one decision towards the target revision. Returns why a pod that cannot stay where it is does not leave.
///
/// A pod that cannot stay is replaced before it is stopped, whatever the strategy allows to be unavailable. Where two
/// pods must not run (`Recreate`, a volume for one writer), it is stopped once there is a place for its successor.
pub fn adjust(context: &PlanContext, standings: &Standings, limits: Limits, d: &mut Decisions) -> Option<String> {
    let now = context.now;
    let of = |pod: &Pod| standings.get(&pod.name).cloned().unwrap_or_default();
    let lives = |pod: &&Pod| pod.stop.is_none() && !of(pod).lost;
    let target = d.target.clone();
    let moves = |pod: &&Pod| pod.hash == target && of(pod).moves.is_some();
    let is_new = |pod: &&Pod| pod.hash == target && !moves(pod);

    // Too many pods of the target revision.
    let new = d.pods.iter().filter(lives).filter(is_new).count();
    let surplus = new.saturating_sub(limits.replicas);
    for name in dispensable(d.pods.iter().filter(lives).filter(is_new), &of, surplus) {
        stop(d, &name, limits.surplus, now);
    }

    // Old pods, while enough others are available: first the unavailable ones, then the available ones.
    let least = limits.replicas.saturating_sub(limits.unavailable);
    let all = d.pods.iter().filter(lives).count();
    let new_away = d.pods.iter().filter(lives).filter(is_new).filter(|pod| !of(pod).available).count();
    let away = |pod: &&Pod| !of(pod).available;
    let old =
        |d: &Decisions| -> Vec<Pod> { d.pods.iter().filter(lives).filter(|pod| pod.hash != target).cloned().collect() };
    let spare = all.saturating_sub(least + new_away);
    let idle = old(d);
    for name in dispensable(idle.iter().filter(away), &of, spare) {
        stop(d, &name, "replaced by another revision", now);
    }
    let available = d.pods.iter().filter(lives).filter(|pod| of(pod).available).count();
    let working = old(d);
    let spare = available.saturating_sub(least);
    for name in dispensable(working.iter().filter(|pod| !away(pod)), &of, spare) {
        stop(d, &name, "replaced by another revision", now);
    }

    // New pods, while there is room. Terminating pods still hold their ports and volumes.
    let spec =
        super::revisions::of(d, &target).filter(|revision| !revision.images.is_empty()).map(blueprint::pod_spec)?;
    let holds = |pod: &&Pod| if limits.stop_first { !of(pod).lost } else { lives(pod) };
    let others = d.pods.iter().filter(holds).filter(|pod| pod.hash != target).count();
    if limits.recreate && others > 0 {
        return None;
    }
    let moving = d.pods.iter().filter(lives).filter(moves).count();
    let there = d.pods.iter().filter(holds).count();
    let new = d.pods.iter().filter(lives).filter(is_new).count();
    let alone = limits.recreate || blueprint::single_writer(&spec);
    let surge = if moving > 0 && !alone { limits.surge.max(1) } else { limits.surge };
    let room = (limits.replicas + surge).saturating_sub(there);
    let mut blocked = None;
    for _ in 0..limits.replicas.saturating_sub(new).min(room) {
        match placement::choose(context.object, context.observed, d, &spec) {
            Ok(host) => add(context.object, d, host, &spec, now),
            Err(why) => {
                blocked = Some(why);
                break;
            }
        }
    }

    // Pods that cannot stay, while enough others are available.
    let living = d.pods.iter().filter(lives).count();
    let idle: Vec<Pod> = d.pods.iter().filter(lives).filter(moves).filter(|pod| !of(pod).ready).cloned().collect();
    for name in dispensable(idle.iter(), &of, living.saturating_sub(limits.replicas)) {
        leave(d, &name, &of, now);
    }
    // One that is ready counts, also while a balancer cannot say or cannot reach it; its successor must be available.
    let serves = |pod: &&Pod| of(pod).available || moves(pod) && of(pod).ready;
    let serving = d.pods.iter().filter(lives).filter(serves).count();
    let working: Vec<Pod> = d.pods.iter().filter(lives).filter(moves).filter(serves).cloned().collect();
    for name in dispensable(working.iter(), &of, serving.saturating_sub(limits.replicas)) {
        leave(d, &name, &of, now);
    }
    let first = d.pods.iter().filter(lives).find(moves).cloned();
    if let Some(pod) = first.filter(|_| alone) {
        match placement::choose(context.object, context.observed, d, &spec) {
            Ok(_) => leave(d, &pod.name, &of, now),
            Err(why) => blocked = Some(why),
        }
    }
    let stays = d.pods.iter().filter(lives).find(moves)?;
    Some(format!("{} stays, although {}: {}", stays.name, of(stays).moves?, blocked?))
}

/// Marks a pod as terminating because it cannot stay where it is.
fn leave(d: &mut Decisions, name: &str, of: &impl Fn(&Pod) -> Standing, now: Timestamp) {
    let why = d.pods.iter().find(|pod| pod.name == name).and_then(|pod| of(pod).moves).unwrap_or_default();
    stop(d, name, &why, now);
}

/// Judges pods that were given up and whose hosts answer again. `back`: their names. What has been replaced is stopped, by
/// what the record says; the others are taken back.
pub fn take_back(standings: &Standings, replicas: usize, back: &[String], d: &mut Decisions, now: Timestamp) {
    let target = d.target.clone();
    let serves = |pod: &&Pod| {
        let available = standings.get(&pod.name).is_some_and(|standing| standing.available);
        pod.stop.is_none() && !pod.given_up && pod.hash == target && available
    };
    let mut serving = d.pods.iter().filter(serves).count();
    for name in back {
        let Some(pod) = d.pods.iter_mut().find(|pod| pod.name == *name) else { continue };
        let replaced = serving >= replicas || pod.hash != target;
        pod.given_up = false;
        if replaced {
            stop(d, name, "it was replaced while its host did not answer", now);
        } else {
            serving += 1;
        }
    }
}

/// The names of this many pods; the first are those whose loss matters least.
fn dispensable<'a>(pods: impl Iterator<Item = &'a Pod>, of: &impl Fn(&Pod) -> Standing, count: usize) -> Vec<String> {
    let mut pods: Vec<_> = pods.collect();
    let mut on_host: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in &pods {
        *on_host.entry(&pod.host).or_default() += 1;
    }
    pods.sort_by_key(|pod| {
        let standing = of(pod);
        let crowd = on_host.get(pod.host.as_str()).copied().unwrap_or_default();
        (
            standing.available,
            standing.ready,
            Reverse(crowd),
            Reverse(standing.restarts),
            Reverse(pod.created_at),
            Reverse(pod.ordinal),
        )
    });
    pods.into_iter().take(count).map(|pod| pod.name.clone()).collect()
}

/// Marks a pod as terminating.
pub fn stop(d: &mut Decisions, name: &str, why: &str, now: Timestamp) {
    let pod = d.pods.iter_mut().find(|pod| pod.name == name && pod.stop.is_none());
    if let Some(pod) = pod {
        pod.stop = Some(Stop { since: Some(now), why: why.to_owned(), drained_at: None });
    }
}

fn add(object: &Deployment, d: &mut Decisions, host: String, spec: &PodSpec, now: Timestamp) {
    if blueprint::single_writer(spec) {
        d.home = Some(host.clone());
    }
    let taken = |ordinal: u32| d.pods.iter().any(|pod| pod.hash == d.target && pod.ordinal == ordinal);
    let ordinal = (1..).find(|ordinal| !taken(*ordinal)).unwrap_or_default();
    d.pods.push(Pod {
        name: format!("{}-{}-{ordinal}", object.name(), d.target),
        hash: d.target.clone(),
        ordinal,
        host,
        created_at: Some(now),
        ..Default::default()
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::api::deployment::DeploymentStatus;
    use crate::kinds::containers::DockerSeen;
    use crate::kinds::deployment::{HostSeen, Observed};
    use crate::kinds::hosts::Declared;

    fn object(replicas: u32, surge: u32, unavailable: u32) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {
                "replicas": replicas, "selector": {},
                "strategy": {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
                "template": {"spec": {"containers": [{"name": "web", "image": "web"}]}},
            },
        }))
        .unwrap()
    }

    fn decisions(old: &[Standing], new: &[Standing]) -> (Decisions, BTreeMap<String, Standing>) {
        let mut d = Decisions { target: "new".into(), ..Default::default() };
        let mut standing = BTreeMap::new();
        for (hash, pods) in [("old", old), ("new", new)] {
            let images = BTreeMap::from([("web".to_owned(), "web".to_owned())]);
            d.revisions.push(crate::api::deployment::Revision { hash: hash.into(), images, ..Default::default() });
            for (ordinal, stands) in (1..).zip(pods) {
                let name = format!("{hash}-{ordinal}");
                standing.insert(name.clone(), stands.clone());
                d.pods.push(Pod { name, hash: hash.into(), ordinal, host: "local".into(), ..Default::default() });
            }
        }
        (d, standing)
    }

    fn standing() -> impl Strategy<Value = Standing> {
        (any::<bool>(), any::<bool>(), 0..3_u32).prop_map(|(ready, long, restarts)| Standing {
            ready,
            available: ready && long,
            restarts,
            ..Default::default()
        })
    }

    proptest! {
        #[test]
        fn never_less_available_than_allowed(
            (replicas, surge, unavailable) in (0..6_u32, 0..3_u32, 0..3_u32),
            old in proptest::collection::vec(standing(), 0..6),
            new in proptest::collection::vec(standing(), 0..6),
        ) {
            let object = object(replicas, surge, unavailable);
            let host = HostSeen {
                volumes: Default::default(),
                declared: Declared { domain: "local".into(), open: true, ..Default::default() },
                docker: DockerSeen::nothing(),
            };
            let observed = Observed { hosts: BTreeMap::from([("local".to_owned(), host)]), ..Default::default() };
            let limits = limits(&object, &object.spec.template.spec.clone().unwrap());
            let (mut d, standing) = decisions(&old, &new);
            let of = |pod: &&Pod| standing.get(&pod.name).cloned().unwrap_or_default().available && pod.stop.is_none();
            let before = d.pods.iter().filter(of).count();
            let there = d.pods.len();
            let recorded = DeploymentStatus::default();
            let now = Timestamp::UNIX_EPOCH;
            let context = PlanContext { object: &object, observed: &observed, claims: &BTreeMap::new(), before: &recorded, now };
            adjust(&context, &standing, limits, &mut d);
            let after = d.pods.iter().filter(of).count();
            let least = limits.replicas - limits.unavailable.min(limits.replicas);
            prop_assert!(after >= before.min(least), "{before} -> {after}, at least {least}");
            let lives = d.pods.iter().filter(|pod| pod.stop.is_none()).count();
            prop_assert!(lives <= (limits.replicas + limits.surge).max(there), "{lives} live");
            // It progresses: it is done, or it changed something, or it waits for a pod to become available.
            let waits = d.pods.iter().any(|pod| pod.stop.is_none() && !standing.get(&pod.name).is_some_and(|one| one.available));
            let done = d.pods.iter().all(|pod| pod.hash == "new" && pod.stop.is_none()) && d.pods.len() == limits.replicas;
            prop_assert!(done || waits || d.pods.iter().any(|pod| pod.stop.is_some()), "stands still: {:?}", d.pods);
        }
    }
}
