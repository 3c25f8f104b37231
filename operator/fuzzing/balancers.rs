//! What balancers answer, and what is written for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::Value;

use super::{json, lines};
use crate::api::load_balancer::{LoadBalancer, split_address};
use crate::kinds::load_balancer::inputs::Inputs;
use crate::kinds::load_balancer::routing::DesiredServer;
use crate::kinds::load_balancer::seen::{self, Admin, Answer};
use crate::kinds::load_balancer::{diff, links, render};

/// Parts of an input.
const PART: &str = "\n----\n";

/// The answers of an HAProxy (info, state, stat, proc, those of an old process) and of an nginx (page, processes) are
/// read or refused; more sessions make no server idle, and a server that is not wanted gets a command.
pub(super) fn answer(bytes: &[u8]) {
    let _ = links::split(bytes);
    if let Some(body) = links::body(bytes) {
        assert!(body.len() <= bytes.len());
    }
    let text = String::from_utf8_lossy(bytes);
    let parts: Vec<&str> = text.split(PART).collect();
    let part = |at: usize| parts.get(at).copied().unwrap_or_default();
    if let Some(mut answer) = seen::haproxy(part(0), part(1), part(2), part(3)) {
        let before = answer.clone();
        answer.add_old(part(4));
        assert!(before.servers.iter().all(|(name, server)| answer.servers[name].sessions >= server.sessions));
        told(&answer);
    }
    if let Some(answer) = seen::nginx(part(0), part(1)) {
        told(&answer);
    }
    for session in seen::sessions(part(0), "rw", "pg-1") {
        assert!(!session.contains('\n'));
    }
}

fn told(answer: &Answer) {
    static OBJECT: LazyLock<LoadBalancer> = LazyLock::new(|| object(&[]).unwrap());
    let object = &*OBJECT;
    let none = BTreeMap::new();
    let inputs = Inputs::new(object, &none, None);
    let wanted = object.spec.backends.iter().map(|backend| (backend.name.clone(), Vec::new())).collect();
    let commands = diff::commands(&inputs, answer, &wanted);
    let named = |backend: &str, server: &str| commands.iter().any(|one| one.backend == backend && one.server == server);
    let ours = |backend: &String| answer.backends.contains(backend) && wanted.contains_key(backend);
    assert!(answer.servers.keys().filter(|(backend, _)| ours(backend)).all(|(backend, server)| named(backend, server)));
}

/// An object with everything that a configuration can have; the input changes it.
const BASE: &str = include_str!("balancer.json");

/// The object with some parts changed: a JSON pointer and a value in each line.
fn object(changes: &[&[u8]]) -> Option<LoadBalancer> {
    let mut object: Value = serde_json::from_str(BASE).unwrap();
    for change in changes {
        let at = change.iter().position(|byte| *byte == b' ')?;
        let (pointer, value) = (std::str::from_utf8(&change[..at]).ok()?, json(&change[at..])?);
        match object.pointer_mut(pointer) {
            Some(place) => *place = value,
            None => {
                let (parent, name) = pointer.rsplit_once('/')?;
                object.pointer_mut(parent)?.as_object_mut()?.insert(name.to_owned(), value);
            }
        }
    }
    let resource = crate::api::registry::find("evenkeel.dev", "v1alpha1", "loadbalancers")?;
    let validation = crate::server::params::FieldValidation::Ignore;
    let admitted = crate::server::validate::admit(resource, object, None, &[], validation).ok()?;
    Some(serde_json::from_value(admitted.object).unwrap())
}

/// A configuration has no line that no template has: it has the lines, words and quotes of one whose texts are harmless.
pub(super) fn config(bytes: &[u8]) {
    let Some(object) = object(&lines(bytes).collect::<Vec<_>>()) else { return };
    let (text, harmless) = (text(&object), text(&tame(&object)));
    let shape = |line: &str| {
        let marks: String =
            line.chars().filter(|c| !c.is_alphanumeric() && !"-_./:?&=+,~!*()@[]|^<>`".contains(*c)).collect();
        (line.split_whitespace().next().unwrap_or_default().to_owned(), line.split_whitespace().count(), marks)
    };
    let shapes = |text: &str| text.lines().map(shape).collect::<Vec<_>>();
    assert_eq!(shapes(&text), shapes(&harmless), "{text}");
}

fn text(object: &LoadBalancer) -> String {
    let secrets = object.spec.frontends.iter().filter_map(|one| one.tls.as_ref());
    let certificates = secrets.map(|tls| (tls.secret_name.clone(), "c0ffee".to_owned())).collect();
    let inputs = Inputs::new(object, &certificates, object.spec.stats.as_ref().map(|_| "word"));
    let server = |at: u8| DesiredServer {
        name: format!("server-{at}"),
        address: [10, 1, 0, at].into(),
        port: 80,
        admin: if at == 1 { Admin::Ready } else { Admin::Drain },
        cut: false,
    };
    let servers = object.spec.backends.iter().map(|one| (one.name.clone(), vec![server(1), server(2)])).collect();
    render::assemble(&object.spec, &render::skeleton(&inputs), &servers).text
}

/// The object with plain words instead of the users' texts, the same for the same text. Their order stays.
fn tame(object: &LoadBalancer) -> LoadBalancer {
    let mut object = object.clone();
    let spec = &mut object.spec;
    let names = spec.frontends.iter().flat_map(|one| one.backend.iter().chain([&one.name]));
    let names: BTreeSet<String> = names.chain(spec.backends.iter().map(|one| &one.name)).cloned().collect();
    let word = |name: &String| format!("n{}", names.iter().position(|one| one == name).unwrap());
    for one in &mut spec.frontends {
        one.name = word(&one.name);
        one.backend = one.backend.as_ref().map(word);
    }
    for (at, one) in spec.backends.iter_mut().enumerate() {
        one.name = word(&one.name);
        for (server, address) in one.servers.iter_mut().enumerate() {
            let (host, port) = split_address(address).unwrap();
            let is_address = host.parse::<std::net::Ipv4Addr>().is_ok();
            *address = if is_address { format!("10.{at}.0.{server}:{port}") } else { format!("h{at}-{server}:{port}") };
        }
        if let Some(check) = &mut one.health_check {
            check.path = check.path.as_ref().map(|_| "/ping".to_owned());
            check.host = check.host.as_ref().map(|_| "host".to_owned());
        }
        if let Some(stick) = &mut one.stick {
            stick.cookie = stick.cookie.as_ref().map(|_| "cookie".to_owned());
        }
    }
    object
}
