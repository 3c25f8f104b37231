//! Where each backend is to go, and what each server is to be given at a balancer that has it as it has. Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use kube::ResourceExt as _;

use super::names::POSTGRES_PORT;
use super::seen::{Answer, AtBalancer, Health};
use super::{LoadBalancer, Observed};
use crate::api::load_balancer::{
    Backend, BalancerDecisions, DeploymentRef, EngineKind, PostgresRef, PostgresRole, Target, Writer,
};
use crate::api::postgres_cluster::{PostgresCluster, PostgresClusterStatus, Stage};

/// What a balancer gives a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Admin {
    /// New connections.
    Ready,
    /// Nothing new; what goes on may go on, and it is checked.
    Drain,
    /// Nothing new, and it is not checked.
    Maint,
}

/// What a server is to be at one balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: Ipv4Addr,
    /// On which port.
    pub port: u16,
    /// What it is given.
    pub admin: Admin,
    /// What goes on with it is to end now.
    pub cut: bool,
}

/// What a server is to get of all balancers in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Its share.
    Serve,
    /// Nothing new; it goes when it is done, or at this time.
    Leave(Timestamp),
    /// Nothing.
    Out,
    /// What it gets: nobody knows better.
    Keep,
}

/// A server of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// Where it is, once it is anywhere.
    pub address: Option<Ipv4Addr>,
    /// On which port.
    pub port: u16,
    /// What it is to get.
    pub wish: Wish,
}

/// A backend and what it refers to, as that is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Route<'a> {
    /// The backend.
    pub backend: &'a Backend,
    /// Its servers; `None` if nobody can say: then they stay as they are.
    pub servers: Option<Vec<Server>>,
    /// Why nobody can say.
    pub problem: Option<String>,
    /// Who was seen to leave before that; they get nothing new.
    pub leaving: Vec<String>,
}

/// All backends whose servers come and go. What has to be remembered about them goes into the decisions.
pub fn routes<'a>(
    object: &'a LoadBalancer,
    observed: &Observed,
    d: &mut BalancerDecisions,
    now: Timestamp,
) -> Vec<Route<'a>> {
    let mut leaving = BTreeMap::new();
    let mut writers = BTreeMap::new();
    let mut routes = Vec::new();
    for backend in &object.spec.backends {
        let found = match backend.target() {
            Some(Target::Deployment(to)) => pods(backend, to, observed, d, &mut leaving, now),
            Some(Target::Postgres(to)) => instances(backend, to, observed, d, &mut writers),
            Some(Target::RedisSentinel(to)) => Err(format!(
                "RedisSentinel {} is not there: no connection to backend {} is served until it is",
                to.name, backend.name
            )),
            Some(Target::Servers(_)) | None => continue,
        };
        let mut route = Route { backend, servers: None, problem: None, leaving: Vec::new() };
        match found {
            Ok(servers) => route.servers = Some(servers),
            Err(problem) => {
                // Who was sticky stays so, for nobody said anything else.
                let prefix = format!("{}/", backend.name);
                let left: Vec<_> = d.leaving.iter().filter(|(key, _)| key.starts_with(&prefix)).collect();
                route.leaving = left.iter().map(|(key, _)| key[prefix.len()..].to_owned()).collect();
                leaving.extend(left.into_iter().map(|(key, since)| (key.clone(), *since)));
                writers.extend(d.writers.get_key_value(&backend.name).map(|(k, v)| (k.clone(), v.clone())));
                route.problem = Some(problem);
            }
        }
        routes.push(route);
    }
    (d.leaving, d.writers) = (leaving, writers);
    routes
}

fn pods(
    backend: &Backend,
    to: &DeploymentRef,
    observed: &Observed,
    d: &BalancerDecisions,
    leaving: &mut BTreeMap<String, Timestamp>,
    now: Timestamp,
) -> Result<Vec<Server>, String> {
    let missing = || {
        let (name, of) = (&to.name, &backend.name);
        format!("Deployment {name} is not there: the servers of backend {of} stay as they were until it is")
    };
    let deployment = observed.deployments.get(&to.name).ok_or_else(missing)?;
    let pods = deployment.status.iter().flat_map(|status| &status.pods);
    let server = |pod: &crate::api::pod::PodSeen| {
        let wish = if pod.terminating {
            let key = format!("{}/{}", backend.name, pod.name);
            let since = *leaving.entry(key.clone()).or_insert(d.leaving.get(&key).copied().unwrap_or(now));
            Wish::Leave(since.checked_add(backend.drain_timeout.get()).unwrap_or(Timestamp::MAX))
        } else if pod.ready && pod.address.is_some() {
            Wish::Serve
        } else if pod.phase == "Unknown" {
            Wish::Keep
        } else {
            Wish::Out
        };
        Server { name: pod.name.clone(), address: pod.address, port: to.port, wish }
    };
    Ok(pods.map(server).collect())
}

fn instances(
    backend: &Backend,
    to: &PostgresRef,
    observed: &Observed,
    d: &BalancerDecisions,
    writers: &mut BTreeMap<String, Writer>,
) -> Result<Vec<Server>, String> {
    let gone = |why: &str| format!("PostgresCluster {} {why}: the servers of backend {} stay", to.name, backend.name);
    let cluster = observed.clusters.get(&to.name).ok_or_else(|| gone("is not there"))?;
    if cluster.metadata.deletion_timestamp.is_some() {
        return Err(gone("is being deleted"));
    }
    let Some(status) = &cluster.status else { return Ok(Vec::new()) };
    let members = || status.decisions.iter().flat_map(|decisions| &decisions.members);
    let state = |name: &str| {
        let instance = status.instances.iter().find(|instance| instance.name == name);
        instance.map_or("unknown", |instance| instance.state.as_str())
    };
    let writer = writer(cluster, status, d.writers.get(&backend.name));
    let streaming = members().any(|member| state(&member.name) == "streaming");
    let wish = |name: &str| match (to.role, state(name)) {
        (PostgresRole::Primary, _) if writer.as_ref().is_some_and(|writer| writer.server == name) => Wish::Serve,
        (PostgresRole::Primary, _) => Wish::Out,
        (PostgresRole::Replica, "streaming") => Wish::Serve,
        (PostgresRole::Replica, "unknown" | "paused") => Wish::Keep,
        (PostgresRole::Replica, "running") if !streaming => Wish::Serve,
        (PostgresRole::Replica, _) => Wish::Out,
    };
    let servers = members()
        .map(|member| Server {
            name: member.name.clone(),
            address: member.address,
            port: POSTGRES_PORT,
            wish: wish(&member.name),
        })
        .collect();
    if to.role == PostgresRole::Primary {
        writers.extend(writer.map(|writer| (backend.name.clone(), writer)));
    }
    Ok(servers)
}

/// Who takes writes: the leader of a term that is settled, once its gate was seen open, and then for as long as nothing
/// else is known. From the moment that another election begins until its leader serves it is nobody.
fn writer(cluster: &PostgresCluster, status: &PostgresClusterStatus, before: Option<&Writer>) -> Option<Writer> {
    let decisions = status.decisions.as_ref().filter(|decisions| decisions.stage == Stage::Steady)?;
    let leader = decisions.leader.as_ref()?;
    let told = status.instances.iter().find(|instance| instance.name == leader.member)?;
    debug_assert!(!cluster.name_any().is_empty());
    let serving = Writer { server: leader.member.clone(), term: decisions.term };
    match (told.role.as_str(), told.state.as_str()) {
        ("primary", "running") => Some(serving),
        // It could not be asked. That is no reason to take it away, and none to open it.
        (_, "unknown" | "paused") if before == Some(&serving) => Some(serving),
        _ => None,
    }
}

/// What the servers of a route are to be at a balancer that answered this.
pub fn at_balancer(route: &Route, engine: EngineKind, answer: &Answer, now: Timestamp) -> Vec<Wanted> {
    let backend = route.backend;
    let Some(servers) = &route.servers else {
        return answer.of(&backend.name).filter_map(|(name, seen)| as_it_is(route, name, seen)).collect();
    };
    let checked = engine == EngineKind::Haproxy && !backend.is_database();
    // An unchecked server is better than none.
    let alone = !answer.of(&backend.name).any(|(_, seen)| seen.admin == Admin::Ready && seen.health != Health::Down);
    let one = |server: &Server| {
        let seen = answer.server(&backend.name, &server.name);
        let address = server.address.or_else(|| seen?.address)?;
        let moved = seen.is_some_and(|seen| (seen.address, seen.port) != (Some(address), server.port));
        let (admin, cut) = match (server.wish, seen) {
            (Wish::Serve, _) if backend.one_writer() => (Admin::Ready, false),
            // What was known of it was about another address.
            (Wish::Serve, Some(_)) if moved => (Admin::Maint, false),
            (Wish::Serve, seen) => (admit(seen, checked && !alone), false),
            (Wish::Leave(until), Some(seen)) => leave(seen, engine, until <= now),
            (Wish::Keep, Some(seen)) => (seen.admin, false),
            (Wish::Out, Some(_)) => (Admin::Maint, backend.one_writer()),
            (Wish::Out | Wish::Keep, None) if backend.is_database() => (Admin::Maint, false),
            (Wish::Leave(_) | Wish::Out | Wish::Keep, None) => return None,
        };
        Some(Wanted { name: server.name.clone(), address, port: server.port, admin, cut })
    };
    servers.iter().filter_map(one).collect()
}

/// A server that is well by its own kind gets its share when this balancer has checked it, too.
fn admit(seen: Option<&AtBalancer>, checked: bool) -> Admin {
    match seen.map(|seen| (seen.admin, seen.health)) {
        _ if !checked => Admin::Ready,
        Some((Admin::Ready, _)) | Some((Admin::Drain, Health::Up | Health::NoCheck)) => Admin::Ready,
        None | Some((Admin::Drain | Admin::Maint, _)) => Admin::Drain,
    }
}

fn leave(seen: &AtBalancer, engine: EngineKind, late: bool) -> (Admin, bool) {
    match (engine, seen.admin, seen.sessions) {
        (EngineKind::Nginx, _, _) => (Admin::Maint, false),
        (_, Admin::Ready, _) => (Admin::Drain, false),
        (_, _, 0) => (Admin::Maint, false),
        (_, admin, _) if !late => (admin, false),
        _ => (Admin::Maint, true),
    }
}

fn as_it_is(route: &Route, name: &str, seen: &AtBalancer) -> Option<Wanted> {
    let (address, port) = (seen.address?, seen.port);
    let leaves = seen.admin == Admin::Ready && route.leaving.iter().any(|leaving| leaving == name);
    let admin = if leaves { Admin::Drain } else { seen.admin };
    Some(Wanted { name: name.to_owned(), address, port, admin, cut: false })
}
