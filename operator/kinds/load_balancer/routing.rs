//! Decides the servers of each backend, from the endpoints of its object, and their desired state at one balancer.
//! Pure.

use std::collections::BTreeMap;
use std::mem::take;
use std::net::Ipv4Addr;

use jiff::Timestamp;

use super::seen::{Admin, Answer, AtBalancer, Health};
use super::{LoadBalancer, Observed};
use crate::api::endpoints::{Endpoint, EndpointRole, EndpointSet, EndpointState, Routable};
use crate::api::load_balancer::{Backend, BalancerDecisions, Target, TargetObject, Writer};
use crate::kinds::waits::{self, Waited};

/// The desired state of a server at one balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredServer {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// Its administrative state.
    pub admin: Admin,
    /// Its open connections are closed now.
    pub cut: bool,
}

/// The desired servers of each backend at one balancer, by the backend's name.
pub type Servers = BTreeMap<String, Vec<DesiredServer>>;

/// The state that all balancers should give a server in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// New connections.
    Serve,
    /// No new connections; `late`: open ones are closed.
    Leave { late: bool },
    /// No connections.
    Out,
    /// Unchanged, because the state of the server is unknown.
    Keep,
}

/// A server of a backend, for all balancers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// The only host that reaches its address; `None` if every host does.
    pub host: Option<String>,
    /// Its address, once it has one.
    pub address: Option<Ipv4Addr>,
    /// Its port.
    pub port: u16,
    /// Where other hosts reach it.
    pub published: Option<(Ipv4Addr, u16)>,
    /// Its intent.
    pub intent: Intent,
}

impl Server {
    /// Where a balancer on this host reaches it, and its intent there. An address of another host's bridge belongs to another
    /// container here, or to none: without a published port the server gets nothing from this host.
    pub fn reached_from(&self, host: &str) -> (Option<Ipv4Addr>, Option<u16>, Intent) {
        match (&self.host, self.published) {
            (Some(own), Some((address, port))) if own != host => (Some(address), Some(port), self.intent),
            (Some(own), None) if own != host => {
                let leaves = matches!(self.intent, Intent::Leave { .. });
                (None, None, if leaves { self.intent } else { Intent::Out })
            }
            _ => (self.address, Some(self.port), self.intent),
        }
    }
}

/// A backend with the endpoints of the object that it refers to.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedBackend<'a> {
    /// The backend.
    pub backend: &'a Backend,
    /// Its servers; `None` while the object has no endpoints to read: then the servers stay unchanged.
    pub servers: Option<Vec<Server>>,
    /// Why the endpoints cannot be read, if that is a problem.
    pub problem: Option<String>,
    /// Servers that were leaving when the endpoints were last read; they get no new connections.
    pub leaving: Vec<String>,
}

/// Resolves every backend that refers to an object. What must be remembered about its servers goes into the decisions.
pub fn resolve<'a>(
    object: &'a LoadBalancer,
    observed: &Observed,
    decisions: &mut BalancerDecisions,
    now: Timestamp,
) -> Vec<ResolvedBackend<'a>> {
    let before = take(decisions);
    let resolved: Vec<_> = object
        .spec
        .backends
        .iter()
        .filter_map(|backend| {
            let target = backend.target()?;
            let named = target.object()?;
            let (servers, problem) = match endpoints(backend, &named, observed.targets.get(&named)) {
                Ok(set) => {
                    (set.map(|set| servers(backend, target, set, &before, decisions, &observed.waited, now)), None)
                }
                Err(problem) => (None, Some(problem)),
            };
            let leaving = if servers.is_none() { remember(backend, &before, decisions) } else { Vec::new() };
            Some(ResolvedBackend { backend, servers, problem, leaving })
        })
        .collect();
    *decisions =
        BalancerDecisions { leaving: take(&mut decisions.leaving), writers: take(&mut decisions.writers), ..before };
    resolved
}

/// The endpoints of the object that a backend refers to; `Ok(None)` while they cannot be read.
fn endpoints<'a>(
    backend: &Backend,
    named: &TargetObject,
    found: Option<&'a Routable>,
) -> Result<Option<&'a EndpointSet>, String> {
    let stay = |why: &str| format!("{named} {why}: the servers of backend {} stay as they are", backend.name);
    let Some(found) = found else {
        return Err(stay("does not exist"));
    };
    static NOTHING: EndpointSet = EndpointSet { network: String::new(), epoch: 0, endpoints: Vec::new() };
    let writers =
        |set: &EndpointSet| set.endpoints.iter().filter(|one| one.roles.contains(&EndpointRole::Primary)).count();
    match (found.endpoints(), &found.status) {
        (Some(set), _) if writers(set) > 1 => Err(stay("names more than one writer")),
        (Some(set), _) => Ok(Some(set)),
        (None, _) if found.deleting() => Err(stay("is being deleted")),
        // Its kind has not reconciled it yet, so none of its containers run.
        (None, None) => Ok(Some(&NOTHING)),
        // Written by an older version without endpoint sets.
        (None, Some(_)) => Ok(None),
    }
}

fn servers(
    backend: &Backend,
    target: Target,
    set: &EndpointSet,
    before: &BalancerDecisions,
    decisions: &mut BalancerDecisions,
    waited: &Waited,
    now: Timestamp,
) -> Vec<Server> {
    let server = |endpoint: &Endpoint| {
        let writer = Writer { server: endpoint.name.clone(), term: set.epoch };
        let intent = match endpoint.state {
            _ if target.role().is_some_and(|role| !endpoint.roles.contains(&role)) => Intent::Out,
            EndpointState::Serving => Intent::Serve,
            EndpointState::Leaving => {
                let key = format!("{}/{}", backend.name, endpoint.name);
                let since = before.leaving.get(&key).copied().unwrap_or(now);
                decisions.leaving.insert(key, since);
                Intent::Leave { late: waits::waited(waited, since) >= backend.drain_timeout.get() }
            }
            // A writer in state Unknown is neither removed nor opened.
            EndpointState::Unknown if backend.one_writer() => match before.writers.get(&backend.name) {
                Some(known) if *known == writer => Intent::Serve,
                _ => Intent::Out,
            },
            EndpointState::Unknown => Intent::Keep,
            EndpointState::Out => Intent::Out,
        };
        if backend.one_writer() && intent == Intent::Serve {
            decisions.writers.insert(backend.name.clone(), writer);
        }
        let port = target.port().or(endpoint.port).unwrap_or_default();
        let published = endpoint.published.iter().find(|one| one.port == port);
        Server {
            name: endpoint.name.clone(),
            host: (!set.network.is_empty()).then(|| endpoint.host.clone()),
            address: endpoint.address,
            port,
            published: published.map(|one| (one.address, one.host_port)),
            intent,
        }
    };
    set.endpoints.iter().map(server).collect()
}

/// Keeps the decisions about a backend whose endpoints cannot be read; returns the servers that are leaving.
fn remember(backend: &Backend, before: &BalancerDecisions, decisions: &mut BalancerDecisions) -> Vec<String> {
    let prefix = format!("{}/", backend.name);
    let of: Vec<_> = before.leaving.iter().filter(|(key, _)| key.starts_with(&prefix)).collect();
    decisions.leaving.extend(of.iter().map(|(key, since)| ((*key).clone(), **since)));
    decisions
        .writers
        .extend(before.writers.get_key_value(&backend.name).map(|(name, one)| (name.clone(), one.clone())));
    of.iter().map(|(key, _)| key[prefix.len()..].to_owned()).collect()
}

/// The desired servers of a backend at a balancer on this host with this answer. `live`: its engine checks and drains servers.
pub fn at_balancer(resolved: &ResolvedBackend, host: &str, live: bool, answer: &Answer) -> Vec<DesiredServer> {
    let backend = resolved.backend;
    let Some(servers) = &resolved.servers else {
        return answer.of(&backend.name).filter_map(|(name, seen)| as_it_is(resolved, name, seen)).collect();
    };
    let checked = live && !backend.is_database();
    // A server whose health is not known yet is better than no server.
    let alone = !answer.of(&backend.name).any(|(_, seen)| seen.admin == Admin::Ready && seen.health != Health::Down);
    let one = |server: &Server| {
        let seen = answer.server(&backend.name, &server.name);
        let (address, port, intent) = server.reached_from(host);
        // Where it is not reached any more, it keeps the place that it had until it is gone.
        let address = address.or_else(|| seen?.address)?;
        let port = port.or_else(|| Some(seen?.port))?;
        let moved = seen.is_some_and(|seen| (seen.address, seen.port) != (Some(address), port));
        let (admin, cut) = match (intent, seen) {
            (Intent::Serve, _) if backend.one_writer() => (Admin::Ready, false),
            // Its health was checked at another address.
            (Intent::Serve, Some(_)) if moved => (Admin::Maint, false),
            (Intent::Serve, seen) => (admit(seen, checked && !alone), false),
            (Intent::Leave { late }, Some(seen)) => leave(seen, live, late),
            (Intent::Keep, Some(seen)) => (seen.admin, false),
            (Intent::Out, Some(_)) => (Admin::Maint, backend.one_writer()),
            (Intent::Out | Intent::Keep, None) if backend.is_database() => (Admin::Maint, false),
            (Intent::Leave { .. } | Intent::Out | Intent::Keep, None) => return None,
        };
        Some(DesiredServer { name: server.name.clone(), address, port, admin, cut })
    };
    servers.iter().filter_map(one).collect()
}

/// A ready server gets connections once this balancer's own check succeeded too.
fn admit(seen: Option<&AtBalancer>, checked: bool) -> Admin {
    match seen.map(|seen| (seen.admin, seen.health)) {
        _ if !checked => Admin::Ready,
        Some((Admin::Ready, _)) | Some((Admin::Drain, Health::Up | Health::NoCheck)) => Admin::Ready,
        None | Some((Admin::Drain | Admin::Maint, _)) => Admin::Drain,
    }
}

fn leave(seen: &AtBalancer, live: bool, late: bool) -> (Admin, bool) {
    match (live, seen.admin, seen.sessions) {
        (false, _, _) => (Admin::Maint, false),
        (_, Admin::Ready, _) => (Admin::Drain, false),
        (_, _, 0) => (Admin::Maint, false),
        (_, admin, _) if !late => (admin, false),
        _ => (Admin::Maint, true),
    }
}

fn as_it_is(resolved: &ResolvedBackend, name: &str, seen: &AtBalancer) -> Option<DesiredServer> {
    let (address, port) = (seen.address?, seen.port);
    let leaves = seen.admin == Admin::Ready && resolved.leaving.iter().any(|leaving| leaving == name);
    let admin = if leaves { Admin::Drain } else { seen.admin };
    Some(DesiredServer { name: name.to_owned(), address, port, admin, cut: false })
}
