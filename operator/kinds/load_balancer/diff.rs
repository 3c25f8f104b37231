//! Commands that bring the servers of a running HAProxy to their desired state. Pure.

use std::fmt;
use std::net::Ipv4Addr;

use super::haproxy;
use super::inputs::Inputs;
use super::routing::{DesiredServer, Servers};
use super::seen::{Admin, Answer};
use crate::api::load_balancer::{Backend, StickBy};

/// One command on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Its backend.
    pub backend: String,
    /// Its name.
    pub server: String,
    /// What to do with it.
    pub verb: Verb,
}

/// See [`Command`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// Set its administrative state.
    State(Admin),
    /// Close its sessions.
    Cut,
    /// Remove it, if it has no session.
    Delete,
    /// Add it: address, port, options.
    Add(Ipv4Addr, u16, String),
    /// Enable its health check.
    Check,
    /// Change its address.
    Address(Ipv4Addr, u16),
    /// Set the cookie key of its backend.
    Cookie(String),
}

impl Command {
    /// Its text in HAProxy's runtime API.
    pub fn line(&self) -> String {
        let name = format!("{}/{}", self.backend, self.server);
        match &self.verb {
            Verb::State(admin) => format!("set server {name} state {}", word(*admin)),
            Verb::Cut => format!("shutdown sessions server {name}"),
            Verb::Delete => format!("del server {name}"),
            Verb::Add(address, port, options) => format!("add server {name} {address}:{port}{options}"),
            Verb::Check => format!("enable health {name}"),
            Verb::Address(address, port) => format!("set server {name} addr {address} port {port}"),
            Verb::Cookie(key) => format!("set dynamic-cookie-key backend {} {key}", self.backend),
        }
    }

    /// Interprets HAProxy's answer; `Err` with HAProxy's words if the command failed.
    pub fn judge(&self, words: &str) -> Result<(), String> {
        let words = words.trim();
        let fine = match self.verb {
            // The server cannot be removed while it has connections; the removal is retried.
            Verb::Delete => true,
            Verb::Add(..) => words.starts_with("New server registered") || words.contains("Already exists"),
            Verb::Address(..) => words.is_empty() || words.contains("changed") || words.contains("no need to change"),
            _ => words.is_empty(),
        };
        if fine { Ok(()) } else { Err(words.to_owned()) }
    }
}

fn word(admin: Admin) -> &'static str {
    match admin {
        Admin::Ready => "ready",
        Admin::Drain => "drain",
        Admin::Maint => "maint",
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format_args!("{}/{}", self.backend, self.server);
        match &self.verb {
            Verb::State(admin) => write!(f, "{name} {}", word(*admin)),
            Verb::Cut => write!(f, "cut {name}"),
            Verb::Delete => write!(f, "forget {name}"),
            Verb::Add(address, port, _) => write!(f, "{name} is at {address}:{port}"),
            Verb::Check => write!(f, "check {name}"),
            Verb::Address(address, port) => write!(f, "{name} moved to {address}:{port}"),
            Verb::Cookie(_) => write!(f, "cookies of {}", self.backend),
        }
    }
}

/// The commands; those that close something come before those that open something.
pub fn commands(inputs: &Inputs, answer: &Answer, wanted: &Servers) -> Vec<Command> {
    let (mut closing, mut opening) = (Vec::new(), Vec::new());
    for backend in &inputs.spec.backends {
        let Some(servers) = wanted.get(&backend.name).filter(|_| answer.backends.contains(&backend.name)) else {
            continue;
        };
        for (name, seen) in answer.of(&backend.name).filter(|(name, _)| !servers.iter().any(|one| one.name == *name)) {
            let command = |verb| Command { backend: backend.name.clone(), server: name.to_owned(), verb };
            if seen.admin != Admin::Maint {
                closing.push(command(Verb::State(Admin::Maint)));
            }
            if seen.sessions > 0 || seen.admin == Admin::Ready {
                closing.push(command(Verb::Cut));
            }
            closing.push(command(Verb::Delete));
        }
        for server in servers {
            one(backend, server, answer, &mut closing, &mut opening);
        }
        let sticky = backend.stick.as_ref().is_some_and(|stick| stick.by == StickBy::Cookie);
        let new = |command: &&Command| command.backend == backend.name && matches!(command.verb, Verb::Add(..));
        if let Some(added) = opening.iter().find(new).filter(|_| sticky) {
            let verb = Verb::Cookie(haproxy::cookie_key(inputs, backend));
            opening.push(Command { verb, ..added.clone() });
        }
    }
    closing.extend(opening);
    closing
}

fn one(
    backend: &Backend,
    server: &DesiredServer,
    answer: &Answer,
    closing: &mut Vec<Command>,
    opening: &mut Vec<Command>,
) {
    let command = |verb| Command { backend: backend.name.clone(), server: server.name.clone(), verb };
    let Some(seen) = answer.server(&backend.name, &server.name) else {
        opening.push(command(Verb::Add(server.address, server.port, haproxy::options(backend))));
        if !backend.is_database() {
            opening.push(command(Verb::Check));
        }
        if server.admin != Admin::Maint {
            opening.push(command(Verb::State(server.admin)));
        }
        return;
    };
    let moved = (seen.address, seen.port) != (Some(server.address), server.port);
    // A server is never ready while its address changes.
    let closed = if moved { Admin::Maint } else { server.admin };
    if seen.admin != closed && (closed != Admin::Ready) {
        let list = if closed == Admin::Drain && seen.admin == Admin::Maint { &mut *opening } else { &mut *closing };
        list.push(command(Verb::State(closed)));
    }
    if server.cut && (seen.sessions > 0 || seen.admin == Admin::Ready) || moved && seen.sessions > 0 {
        closing.push(command(Verb::Cut));
    }
    if moved {
        closing.push(command(Verb::Address(server.address, server.port)));
    }
    if server.admin == Admin::Ready && (moved || seen.admin != Admin::Ready) {
        opening.push(command(Verb::State(Admin::Ready)));
    }
}
