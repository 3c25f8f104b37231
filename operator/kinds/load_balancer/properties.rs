//! Property tests of the planner under random events: pods and databases change, balancers restart, do not answer, or
//! get only a part of the steps.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::fixture::{WEB_AND_DATABASE, World, bootstrapped, members, obey, started, web_and_redis};
use super::seen::{Admin, Health};
use super::{Fact, Refusal, Step, render, text};
use crate::api::load_balancer::ServerState;
use crate::api::object::Object as _;
use crate::kinds::containers::HOME;

/// An event between two plans.
#[derive(Debug, Clone)]
enum Happening {
    /// The pods change: address (0: none), ready, leaving.
    Pods(Vec<(u8, bool, bool)>),
    /// The cluster has this term, stage (0..3), leader, and state of the leader.
    Cluster(u64, usize, usize, usize),
    /// The cluster or the Deployment is missing in the store.
    Gone(bool),
    /// Clients use every server that gets connections at this balancer; all other sessions have ended.
    Load(usize),
    /// The health checks of a balancer have this result.
    Checks(bool),
    /// Docker restarts a balancer.
    Restart(usize),
    /// A balancer is recreated.
    Fresh(usize),
    /// A balancer does not answer for a round.
    Silent(usize),
    /// The spec changes in a way that needs a reload.
    Spec(u32),
    /// The engines refuse the desired configuration.
    Refuse,
    /// The first frontend listens on a port that no new process can bind (or on one that it can).
    Port(bool),
    /// A new operator takes over, which has requested no reload.
    Successor,
    /// This many seconds pass.
    Wait(i64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let pod = (0u8..6, any::<bool>(), any::<bool>());
    prop_oneof![
        3 => prop::collection::vec(pod, 0..4).prop_map(Happening::Pods),
        4 => (1u64..5, 0usize..4, 0usize..3, 0usize..5).prop_map(|(a, b, c, d)| Happening::Cluster(a, b, c, d)),
        1 => any::<bool>().prop_map(Happening::Gone),
        2 => (0usize..2).prop_map(Happening::Load),
        2 => any::<bool>().prop_map(Happening::Checks),
        1 => (0usize..2).prop_map(Happening::Restart),
        1 => (0usize..2).prop_map(Happening::Fresh),
        1 => (0usize..2).prop_map(Happening::Silent),
        1 => (1u32..4).prop_map(Happening::Spec),
        1 => Just(Happening::Refuse),
        2 => any::<bool>().prop_map(Happening::Port),
        1 => Just(Happening::Successor),
        1 => (0i64..40).prop_map(Happening::Wait),
    ]
}

fn name(world: &World, at: usize) -> String {
    members(&world.object)[at].1.clone()
}

fn happen(world: &mut World, happening: &Happening) {
    match happening {
        Happening::Pods(pods) => {
            let names = ["web-a", "web-b", "web-c", "web-d"];
            let words = |ready: bool, leaving: bool| match (ready, leaving) {
                (true, true) => "ready leaving",
                (true, false) => "ready",
                (false, true) => "leaving",
                (false, false) => "",
            };
            let pods: Vec<_> =
                names.iter().zip(pods).map(|(n, (address, r, l))| (*n, *address, words(*r, *l))).collect();
            world.pods(&pods);
        }
        Happening::Cluster(term, stage, leader, state) => {
            let stage = ["New", "Electing", "Establishing", "Steady"][*stage];
            let state = ["running", "gated", "unknown", "stopped", "promoting"][*state];
            let members = ["pg-1", "pg-2", "pg-3"];
            let told: Vec<String> = (0..3)
                .map(|at| format!("{} {}", members[at], if at == *leader { state } else { "streaming" }))
                .collect();
            let told: Vec<&str> = told.iter().map(String::as_str).collect();
            world.cluster(*term, stage, members[*leader], &told);
        }
        Happening::Gone(true) => world.observed.targets.retain(|named, _| named.kind == "Deployment"),
        Happening::Gone(false) => world.observed.targets.retain(|named, _| named.kind != "Deployment"),
        Happening::Load(at) => {
            let name = name(world, *at);
            let Some(Fact::Known(answer)) = world.observed.balancers.get_mut(&name).map(|one| &mut one.answer) else {
                return;
            };
            answer.servers.values_mut().for_each(|seen| seen.sessions = u64::from(seen.admin == Admin::Ready));
        }
        Happening::Checks(well) => world.checks(if *well { Health::Up } else { Health::Down }),
        Happening::Restart(at) => {
            let name = name(world, *at);
            let Some(balancer) = world.observed.balancers.get_mut(&name) else { return };
            let file = balancer.files.known().unwrap().current.0.clone();
            if file.contains("bind :667") {
                return;
            }
            balancer.answer = Fact::Known(started(&file));
        }
        Happening::Fresh(at) => {
            if let Some(balancer) = world.observed.balancers.get_mut(&name(world, *at)) {
                *balancer = bootstrapped(HOME);
            }
        }
        Happening::Silent(_) => {}
        Happening::Spec(connections) => world.object.spec.max_connections = *connections,
        Happening::Refuse => {
            let plan = world.plan();
            for step in &plan.steps {
                let Step::Write { container, config, runs: false, .. } = step else { continue };
                world.files(container).refused =
                    Some(Refusal { skeleton: config.skeleton.clone(), words: "no".into() });
            }
        }
        Happening::Port(free) => world.object.spec.frontends[0].port = if *free { 443 } else { 667 },
        Happening::Successor => world.observed.balancers.values_mut().for_each(|balancer| balancer.signalled = None),
        Happening::Wait(seconds) => {
            world.now = world.now.checked_add(jiff::SignedDuration::from_secs(*seconds)).unwrap();
        }
    }
}

/// The servers of the database that a balancer gives connections to.
fn writers(world: &World, container: &str) -> Vec<String> {
    let answer = world.observed.balancers.get(container).map(|balancer| &balancer.answer);
    let Some(Fact::Known(answer)) = answer else { return Vec::new() };
    let ready = answer.of("db").filter(|(_, seen)| seen.admin == Admin::Ready);
    ready.map(|(name, _)| name.to_owned()).collect()
}

/// Safety: holds at every moment.
fn safe(world: &World, before: &[Vec<String>]) {
    let status = world.object.status.as_ref().unwrap();
    let decided = status.decisions.as_ref().unwrap().writers.get("db").map(|writer| writer.server.clone());
    for ((_, container), before) in members(&world.object).iter().zip(before) {
        let writers = writers(world, container);
        assert!(writers.len() <= 1, "two writers at {container}: {writers:?}");
        for writer in writers.iter().filter(|writer| !before.contains(writer)) {
            assert_eq!(Some(writer), decided.as_ref(), "{container} opened a writer that was not decided upon");
        }
        if let Some(Fact::Known(answer)) = world.observed.balancers.get(container).map(|one| &one.answer) {
            for key in status.decisions.as_ref().unwrap().leaving.keys() {
                let (backend, server) = key.split_once('/').unwrap();
                let ready = answer.server(backend, server).is_some_and(|seen| seen.admin == Admin::Ready);
                assert!(!ready, "{server} leaves and still gets new connections at {container}");
            }
        }
    }
}

/// The status of the servers equals their state at the observed balancers.
fn honest(world: &World) {
    let status = world.object.status.as_ref().unwrap();
    let answers: Vec<_> = world.observed.balancers.values().map(|balancer| balancer.answer.known()).collect();
    for backend in &status.backends {
        for server in &backend.servers {
            let seen = |ready: bool| {
                answers.iter().all(|answer| {
                    let seen = answer.as_ref().map(|answer| answer.server(&backend.name, &server.name));
                    match seen {
                        None => false,
                        Some(None) => !ready,
                        Some(Some(seen)) if ready => seen.admin == Admin::Ready,
                        Some(Some(seen)) => seen.admin != Admin::Ready && seen.sessions == 0,
                    }
                })
            };
            match server.state {
                ServerState::Ready => assert!(seen(true), "{} is not ready everywhere", server.name),
                ServerState::Drained => assert!(seen(false), "{} is not drained", server.name),
                _ => {}
            }
        }
    }
}

/// Plans, and performs only the first `done` commands and steps, as if the operator died after them.
fn interrupted(world: &mut World, mut done: usize) {
    let plan = world.plan();
    honest(world);
    let before: Vec<_> = members(&world.object).iter().map(|(_, name)| writers(world, name)).collect();
    for step in &plan.steps {
        if done == 0 {
            return;
        }
        if let Step::Tell { container, commands, .. } = step {
            for command in commands {
                if done == 0 {
                    return;
                }
                done -= 1;
                obey(world.answer(container), command);
                safe_writers(world, &before);
            }
            continue;
        }
        done -= 1;
        world.perform(step);
        safe_writers(world, &before);
    }
    safe(world, &before);
}

fn safe_writers(world: &World, before: &[Vec<String>]) {
    let decided = world.object.status.as_ref().unwrap().decisions.as_ref().unwrap().writers.get("db");
    for ((_, container), before) in members(&world.object).iter().zip(before) {
        let writers = writers(world, container);
        assert!(writers.len() <= 1, "two writers at {container}: {writers:?}");
        for writer in writers.iter().filter(|writer| !before.contains(writer)) {
            assert_eq!(Some(writer), decided.map(|decided| &decided.server), "opened without a decision");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn never_two_writers_nothing_new_to_who_leaves_and_no_word_that_was_not_seen(
        story in prop::collection::vec((happening(), 0usize..12), 1..25), redis in any::<bool>()
    ) {
        let mut world = World::new(&if redis { web_and_redis() } else { WEB_AND_DATABASE.to_owned() });
        world.pods(&[("web-a", 1, "ready")]);
        world.cluster(1, "Steady", "pg-1", &["pg-1 running", "pg-2 streaming", "pg-3 streaming"]);
        for (happening, done) in &story {
            happen(&mut world, happening);
            let silent = match happening {
                Happening::Silent(at) => {
                    let name = name(&world, *at);
                    let unknown = Fact::Unknown("no answer".into());
                    let balancer = world.observed.balancers.get_mut(&name);
                    balancer.map(|balancer| (name, std::mem::replace(&mut balancer.answer, unknown)))
                }
                _ => None,
            };
            interrupted(&mut world, *done);
            if let Some((name, answer)) = silent
                && let Some(balancer) = world.observed.balancers.get_mut(&name)
                && matches!(balancer.answer, Fact::Unknown(_))
            {
                balancer.answer = answer;
            }
            world.now = world.now.checked_add(jiff::SignedDuration::from_secs(1)).unwrap();
        }
    }

    #[test]
    fn whatever_happened_it_settles_when_nothing_more_does(
        story in prop::collection::vec((happening(), 0usize..12), 0..12), taken in any::<bool>()
    ) {
        let mut world = World::new(WEB_AND_DATABASE);
        for (happening, done) in &story {
            happen(&mut world, happening);
            interrupted(&mut world, *done);
        }
        if !taken {
            world.object.spec.frontends[0].port = 443;
        }
        world.pods(&[("web-a", 1, "ready"), ("web-b", 2, "ready"), ("web-c", 3, "leaving")]);
        world.cluster(9, "Steady", "pg-2", &["pg-1 streaming", "pg-2 running", "pg-3 streaming"]);
        world.observed.balancers.values_mut().for_each(|balancer| {
            if let Fact::Known(files) = &mut balancer.files {
                files.refused = None;
            }
            if let Fact::Known(answer) = &mut balancer.answer {
                answer.servers.values_mut().for_each(|seen| seen.sessions = 0);
            }
        });
        world.settle();
        world.plan();
        honest(&world);
        let refused = world.object.spec.frontends[0].port == 667;
        for (_, container) in members(&world.object) {
            // The running configuration is the file in use and the last good one: after a restart, or a failed reload,
            // it runs again.
            let files = world.files(&container).clone();
            prop_assert_eq!(text::hash_in(&files.current.0), Some(world.answer(&container).hash.as_str()));
            prop_assert!(!files.current.0.contains("bind :667"));
            prop_assert!(files.good.as_ref() == Some(&files.current) || world.answer(&container).hash == render::BOOTSTRAP);
            prop_assert_eq!(world.answer(&container).failed, 0);
            if refused && world.answer(&container).hash == render::BOOTSTRAP {
                continue;
            }
            prop_assert_eq!(writers(&world, &container), vec!["pg-2".to_owned()]);
            let answer = world.answer(&container);
            let ready: Vec<_> = answer.of("web").filter(|(_, seen)| seen.admin == Admin::Ready).map(|(n, _)| n).collect();
            prop_assert_eq!(ready, vec!["web-a", "web-b"]);
        }
    }

    #[test]
    fn it_is_the_same_plan_each_time_and_never_a_panic(story in prop::collection::vec(happening(), 0..8)) {
        let mut world = World::new(WEB_AND_DATABASE);
        for happening in &story {
            happen(&mut world, happening);
            world.round();
        }
        let (one, other) = (super::plan::plan(&world.object, &world.observed, world.object.want(), world.now),
                            super::plan::plan(&world.object, &world.observed, world.object.want(), world.now));
        prop_assert_eq!(one, other);
        *world.docker() = crate::kinds::containers::DockerSeen::unknown("away");
        world.observed.balancers.values_mut().for_each(|balancer| balancer.answer = Fact::Unknown("away".into()));
        let steps = world.plan().steps;
        prop_assert!(steps.iter().all(|step| matches!(step, Step::EnsureStats)), "{:?}", steps);
    }
}
