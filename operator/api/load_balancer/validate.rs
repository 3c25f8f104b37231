//! Validation of a LoadBalancer: every problem that a schema cannot express, and features that the engine does not
//! have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::{Backend, EngineKind, Frontend, LoadBalancerSpec, Mode, StickBy, Target};
use crate::api::duration::Span;
use crate::api::invalid::Invalid;
use crate::api::postgres_cluster::image_problem;

/// Limit of a duration: engines store time in signed 32-bit milliseconds.
const LONGEST: Span = Span::seconds(24 * 3600);

impl LoadBalancerSpec {
    /// Every problem that the schema cannot express.
    pub fn validate(&self) -> Vec<Invalid> {
        let mut problems = Problems(Vec::new());
        if self.replicas == 0 || self.replicas > 9 {
            problems.add("spec.replicas", format!("is {}, must be from 1 to 9", self.replicas));
        }
        if let Some(problem) = self.image.as_deref().and_then(image_problem) {
            problems.add("spec.image", problem);
        }
        if !self.binds_to_host() && self.bind_address.parse::<IpAddr>().is_err() {
            let why = format!("{:?} is not an IP address, and not the word Host", self.bind_address);
            problems.add("spec.bindAddress", why);
        }
        if self.frontends.is_empty() {
            problems.add("spec.frontends", "must hold at least one");
        }
        if let Some(most) = self.reload.old_processes {
            // A reload of nginx leaves two processes behind.
            let least = if self.engine == EngineKind::Nginx { 2 } else { 1 };
            if !(least..=50).contains(&most) {
                problems.add("spec.reload.oldProcesses", format!("is {most}, must be from {least} to 50"));
            }
        }
        problems.span("spec.reload.timeout".to_owned(), self.reload.timeout);
        problems.0.extend(self.resources.problems("spec.resources"));
        self.ports(&mut problems);
        unique("spec.frontends", self.frontends.iter().map(|one| one.name.as_str()), &mut problems);
        unique("spec.backends", self.backends.iter().map(|one| one.name.as_str()), &mut problems);
        for (at, frontend) in self.frontends.iter().enumerate() {
            self.frontend(&format!("spec.frontends[{at}]"), frontend, &mut problems);
        }
        for (at, backend) in self.backends.iter().enumerate() {
            self.backend(&format!("spec.backends[{at}]"), backend, &mut problems);
        }
        problems.0
    }

    /// Host ports are published on the address of each balancer's own host.
    pub fn binds_to_host(&self) -> bool {
        self.bind_address == "Host"
    }

    /// Ports in the container and on the host must be unique.
    fn ports(&self, problems: &mut Problems) {
        let frontends = self.frontends.iter().enumerate();
        let listened = frontends.map(|(at, one)| (format!("spec.frontends[{at}]"), one.port, one.host_port));
        let stats = self.stats.iter().map(|stats| ("spec.stats".to_owned(), stats.port, stats.host_port));
        let (mut inside, mut outside) = (BTreeMap::new(), BTreeMap::new());
        for (path, port, host_port) in listened.chain(stats) {
            if let Some(other) = inside.insert(port, path.clone()) {
                problems.add(format!("{path}.port"), format!("{port} is the port of {other} already"));
            }
            let Some(first) = host_port else { continue };
            let last = u32::from(first).saturating_add(self.replicas.max(1) - 1);
            if last > 65535 || first == 0 {
                problems.add(format!("{path}.hostPort"), "hostPort + replicas - 1 must be from 1 to 65535");
            }
            for port in u32::from(first)..=last.min(65535) {
                if let Some(other) = outside.insert(port, path.clone()) {
                    let why = format!("{port} is a host port of {other} already (balancer n gets hostPort + n - 1)");
                    problems.add(format!("{path}.hostPort"), why);
                    break;
                }
            }
        }
    }

    fn frontend(&self, path: &str, one: &Frontend, problems: &mut Problems) {
        match (&one.backend, one.redirect_to_https) {
            (None, false) => problems.add(format!("{path}.backend"), "is missing: name a backend, or redirectToHttps"),
            (Some(_), true) => {
                problems.add(format!("{path}.redirectToHttps"), "cannot be with a backend: no request would get there")
            }
            (Some(name), false) if !self.backends.iter().any(|backend| backend.name == *name) => {
                problems.add(format!("{path}.backend"), format!("{name:?} is no backend of spec.backends"))
            }
            _ => {}
        }
        if one.redirect_to_https && (one.mode == Mode::Tcp || one.tls.is_some()) {
            problems.add(format!("{path}.redirectToHttps"), "is for mode http without tls only");
        }
        let https = self.https_frontends().count();
        if one.redirect_to_https && one.redirect_port.is_none() && https != 1 {
            let why = format!("is needed: {https} frontends of mode http have tls, so it is not clear where to");
            problems.add(format!("{path}.redirectPort"), why);
        }
        if !one.redirect_to_https && one.redirect_port.is_some() {
            problems.add(format!("{path}.redirectPort"), "is for redirectToHttps only");
        }
        for (name, span) in [
            ("client", one.timeouts.client),
            ("request", Some(one.timeouts.request)),
            ("keepAlive", Some(one.timeouts.keep_alive)),
        ] {
            problems.span(format!("{path}.timeouts.{name}"), span);
        }
    }

    /// Frontends with TLS.
    pub(super) fn https_frontends(&self) -> impl Iterator<Item = &Frontend> {
        self.frontends.iter().filter(|one| one.tls.is_some() && one.mode == Mode::Http)
    }

    fn backend(&self, path: &str, one: &Backend, problems: &mut Problems) {
        let users = self.frontends.iter().filter(|frontend| frontend.backend.as_deref() == Some(&one.name));
        let modes: BTreeSet<Mode> = users.map(|frontend| frontend.mode).collect();
        let http = modes.contains(&Mode::Http);
        match modes.len() {
            0 => problems.add(format!("{path}.name"), format!("no frontend has backend {:?}", one.name)),
            2 => problems.add(format!("{path}.name"), "is a backend of frontends of both modes; make two of it"),
            _ => {}
        }
        if one.target().is_none() {
            problems.add(path, "must have exactly one of deployment, postgres, redisSentinel and servers");
        }
        if one.is_database() && http {
            problems.add(path, "is a database: its frontends must be of mode tcp");
        }
        if let Some(Target::Servers(servers)) = one.target() {
            unique(&format!("{path}.servers"), servers.iter().map(String::as_str), problems);
            for (at, server) in servers.iter().enumerate() {
                if split_address(server).is_none() {
                    let why = format!("{server:?} is no address such as 10.0.0.5:8052 or db.example.com:5432");
                    problems.add(format!("{path}.servers[{at}]"), why);
                }
            }
        }
        if one.balance.is_some() && one.one_writer() {
            problems.add(format!("{path}.balance"), "has no effect where only one server gets connections");
        }
        self.health_check(path, one, problems);
        self.stick(path, one, http, problems);
        problems.span(format!("{path}.drainTimeout"), Some(one.drain_timeout));
        for (name, span) in [
            ("connect", one.timeouts.connect),
            ("server", one.timeouts.server),
            ("queue", Some(one.timeouts.queue)),
            ("tunnel", Some(one.timeouts.tunnel)),
        ] {
            problems.span(format!("{path}.timeouts.{name}"), span);
        }
    }

    fn health_check(&self, path: &str, one: &Backend, problems: &mut Problems) {
        let Some(check) = &one.health_check else { return };
        let path = format!("{path}.healthCheck");
        if one.is_database() {
            return problems.add(path, "has no effect for a database: the status of its own kind is used");
        }
        if let Some(asked) = &check.path {
            if self.engine == EngineKind::Nginx {
                let why =
                    "nginx cannot ask servers by itself: give the pods a readinessProbe, or choose engine haproxy";
                problems.add(format!("{path}.path"), why);
            }
            if !asked.starts_with('/') || !asked.chars().all(|c| c.is_ascii_graphic() && !"\"'\\#{};$%".contains(c)) {
                problems.add(format!("{path}.path"), format!("{asked:?} is no path such as /api/v2/ping/"));
            }
        }
        if let Some(host) = &check.host {
            if check.path.is_none() {
                problems.add(format!("{path}.host"), "is for a check with path only");
            }
            if split_address(host).or(split_address(&format!("{host}:80"))).is_none() {
                let why = format!("{host:?} is no host name such as app.example.com or app.example.com:8443");
                problems.add(format!("{path}.host"), why);
            }
        }
        for (name, value) in [("fall", check.fall), ("rise", check.rise)] {
            if !(1..=100).contains(&value) {
                problems.add(format!("{path}.{name}"), format!("is {value}, must be from 1 to 100"));
            }
        }
        problems.span(format!("{path}.interval"), Some(check.interval));
        problems.span(format!("{path}.timeout"), Some(check.timeout));
    }

    fn stick(&self, path: &str, one: &Backend, http: bool, problems: &mut Problems) {
        let Some(stick) = &one.stick else { return };
        let path = format!("{path}.stick");
        if one.one_writer() {
            problems.add(path.clone(), "has no effect where only one server gets connections");
        }
        if stick.by == StickBy::Cookie {
            if !http {
                problems.add(format!("{path}.by"), "cookie needs frontends of mode http");
            }
            if self.engine == EngineKind::Nginx {
                problems.add(format!("{path}.by"), "cookie needs engine haproxy; nginx can stick by source");
            }
        }
        let Some(cookie) = &stick.cookie else { return };
        if stick.by != StickBy::Cookie {
            problems.add(format!("{path}.cookie"), "is for by: cookie only");
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if cookie.is_empty() || cookie.len() > 64 || !cookie.chars().all(fits) {
            problems.add(format!("{path}.cookie"), "must be 1 to 64 letters, digits, - and _");
        }
    }
}

struct Problems(Vec<Invalid>);

impl Problems {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Invalid::new(path, message));
    }

    fn span(&mut self, path: String, span: Option<Span>) {
        let Some(span) = span else { return };
        if span < Span::millis(1) || span > LONGEST || span.get() != Duration::from_millis(span.as_millis()) {
            self.add(path, format!("is {span}, must be from 1ms to 24h, in whole milliseconds"));
        }
    }
}

/// Names must be valid for an engine, a file and a label, and unique.
fn unique<'a>(path: &str, names: impl Iterator<Item = &'a str>, problems: &mut Problems) {
    let addresses = path.ends_with(".servers");
    let mut seen = BTreeMap::new();
    for (at, name) in names.enumerate() {
        let path = if addresses { format!("{path}[{at}]") } else { format!("{path}[{at}].name") };
        if let Some(first) = seen.insert(name, at) {
            problems.add(path.clone(), format!("{name:?} is there already, at {first}"));
        }
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let letters = name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.ends_with('-');
        if !addresses && (name.len() > 40 || !letters || !name.chars().all(fits)) {
            problems.add(path, "must be 1 to 40 lower-case letters, digits and -, and begin with a letter");
        } else if name.starts_with("evenkeel") {
            problems.add(path, "begins with evenkeel, as only our own names do");
        }
    }
}

/// Splits `host:port`; hosts are names or IPv4 addresses.
pub fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    let good = !host.is_empty() && host.len() <= 253 && host.chars().all(fits);
    (good && host.starts_with(|c: char| c.is_ascii_alphanumeric())).then_some((host, port))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(yaml: &str, expected: Expect) {
        let spec: LoadBalancerSpec = serde_saphyr::from_str(yaml).unwrap();
        let said: String = spec.validate().iter().map(|problem| format!("{problem}\n")).collect();
        expected.assert_eq(&said);
    }

    #[test]
    fn the_example_of_the_documentation_is_valid_and_its_defaults_are_filled_in() {
        let yaml = r"
engine: haproxy
replicas: 2
frontends:
- {name: https, port: 443, tls: {secretName: cert}, backend: awx}
- {name: http, port: 80, redirectToHttps: true, hostPort: 8080}
- {name: pg, port: 5432, mode: tcp, backend: db}
backends:
- {name: awx, deployment: {name: awx-web, port: 8052}, balance: roundrobin, healthCheck: {path: /api/v2/ping/}, stick: {by: cookie}}
- {name: db, postgres: {name: awx-db, role: primary}}
stats: {hostPort: 18404}
";
        check(yaml, expect![""]);
        let spec: LoadBalancerSpec = serde_saphyr::from_str(yaml).unwrap();
        assert_eq!((spec.image(), spec.bind_address.as_str()), ("haproxy:2.6", "127.0.0.1"));
        assert_eq!((spec.mode_of("db"), spec.backends[1].one_writer()), (Some(Mode::Tcp), true));
        let again: LoadBalancerSpec = serde_json::from_value(serde_json::to_value(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
    }

    /// Regression 85: each host port of a balancer was noted before the number of replicas was refused: 4 billion of them filled
    /// the memory, and a few more overflowed.
    #[test]
    fn a_number_of_replicas_beyond_all_bounds_is_refused_at_once() {
        for replicas in [4_000_000_000_u32, u32::MAX] {
            let frontend = "{name: r, port: 80, redirectToHttps: true, redirectPort: 1, hostPort: 8080}";
            let yaml = format!("replicas: {replicas}\nfrontends: [{frontend}]\n");
            let spec: LoadBalancerSpec = serde_saphyr::from_str(&yaml).unwrap();
            let paths: Vec<_> = spec.validate().into_iter().map(|problem| problem.path).collect();
            assert_eq!(paths, ["spec.replicas", "spec.frontends[0].hostPort"]);
        }
    }

    #[test]
    fn all_problems_are_told_at_once_each_with_its_path() {
        check(
            r"
engine: nginx
replicas: 12
bindAddress: here
image: 'Nginx:'
frontends:
- {name: Web, port: 80, backend: nowhere, redirectPort: 1}
- {name: a, port: 80, mode: tcp, backend: web, hostPort: 65530}
- {name: a, port: 81, backend: web}
- {name: r, port: 82, redirectToHttps: true, backend: web}
- {name: s, port: 83, timeouts: {client: 0s, request: 2days}}
backends:
- {name: web, servers: ['a b:1', 'c', 'd:1', 'd:1'], healthCheck: {path: ping, fall: 0}, stick: {by: cookie, cookie: 'a b'}}
- {name: db, postgres: {name: x, role: primary}, servers: ['a:1'], drainTimeout: 1ns}
- {name: pg, postgres: {name: x, role: primary}, balance: source, healthCheck: {}}
stats: {port: 81}
",
            expect![[r#"
                spec.replicas: is 12, must be from 1 to 9
                spec.image: "Nginx:" is not an image reference such as postgres:15: the tag has characters that a tag cannot have
                spec.bindAddress: "here" is not an IP address, and not the word Host
                spec.frontends[1].port: 80 is the port of spec.frontends[0] already
                spec.frontends[1].hostPort: hostPort + replicas - 1 must be from 1 to 65535
                spec.stats.port: 81 is the port of spec.frontends[2] already
                spec.frontends[0].name: must be 1 to 40 lower-case letters, digits and -, and begin with a letter
                spec.frontends[2].name: "a" is there already, at 1
                spec.frontends[0].backend: "nowhere" is no backend of spec.backends
                spec.frontends[0].redirectPort: is for redirectToHttps only
                spec.frontends[3].redirectToHttps: cannot be with a backend: no request would get there
                spec.frontends[3].redirectPort: is needed: 0 frontends of mode http have tls, so it is not clear where to
                spec.frontends[4].backend: is missing: name a backend, or redirectToHttps
                spec.frontends[4].timeouts.client: is 0s, must be from 1ms to 24h, in whole milliseconds
                spec.frontends[4].timeouts.request: is 2days, must be from 1ms to 24h, in whole milliseconds
                spec.backends[0].name: is a backend of frontends of both modes; make two of it
                spec.backends[0].servers[3]: "d:1" is there already, at 2
                spec.backends[0].servers[0]: "a b:1" is no address such as 10.0.0.5:8052 or db.example.com:5432
                spec.backends[0].servers[1]: "c" is no address such as 10.0.0.5:8052 or db.example.com:5432
                spec.backends[0].healthCheck.path: nginx cannot ask servers by itself: give the pods a readinessProbe, or choose engine haproxy
                spec.backends[0].healthCheck.path: "ping" is no path such as /api/v2/ping/
                spec.backends[0].healthCheck.fall: is 0, must be from 1 to 100
                spec.backends[0].stick.by: cookie needs engine haproxy; nginx can stick by source
                spec.backends[0].stick.cookie: must be 1 to 64 letters, digits, - and _
                spec.backends[1].name: no frontend has backend "db"
                spec.backends[1]: must have exactly one of deployment, postgres, redisSentinel and servers
                spec.backends[1].drainTimeout: is 1ns, must be from 1ms to 24h, in whole milliseconds
                spec.backends[2].name: no frontend has backend "pg"
                spec.backends[2].balance: has no effect where only one server gets connections
                spec.backends[2].healthCheck: has no effect for a database: the status of its own kind is used
            "#]],
        );
    }

    /// Regression 76: a health check could not name its Host, so an application that answers only for its own names
    /// (Django's ALLOWED_HOSTS) was down for ever. The name becomes part of a configuration: nothing else passes.
    #[test]
    fn the_host_of_a_check_is_a_host_name() {
        let spec = |host: &str| {
            let yaml = "frontends: [{name: a, port: 1, backend: b}]\nbackends: [{name: b, servers: ['c:1'], healthCheck: {path: /}}]";
            let mut spec: LoadBalancerSpec = serde_saphyr::from_str(yaml).unwrap();
            spec.backends[0].health_check.as_mut().unwrap().host = Some(host.to_owned());
            spec
        };
        for good in ["app.example.com", "app.example.com:8443", "10.0.0.1", "App-1"] {
            assert_eq!(spec(good).validate(), [], "{good}");
        }
        for bad in ["", "a b", "a\nbind :1", "a:0", "a:b", "a:99999", "%[src]", "-a", "http://a", "a/b", "[::1]"] {
            let said = spec(bad).validate();
            let paths: Vec<_> = said.iter().map(|one| one.path.as_str()).collect();
            assert_eq!(paths, ["spec.backends[0].healthCheck.host"], "{bad:?}");
        }
        let mut without = spec("a");
        without.backends[0].health_check.as_mut().unwrap().path = None;
        let said = without.validate();
        let said: Vec<_> = said.iter().map(ToString::to_string).collect();
        assert_eq!(said, ["spec.backends[0].healthCheck.host: is for a check with path only"]);
    }

    /// Regression 79: see the scenario; here the limits at the door.
    #[test]
    fn the_limits_of_reloads_have_bounds() {
        check(
            r"
engine: nginx
frontends: [{name: a, port: 1, backend: b}]
backends: [{name: b, servers: ['c:1'], drainTimeout: 2m}]
reload: {oldProcesses: 1, timeout: 2days}
",
            expect![[r#"
                spec.reload.oldProcesses: is 1, must be from 2 to 50
                spec.reload.timeout: is 2days, must be from 1ms to 24h, in whole milliseconds
            "#]],
        );
    }

    #[test]
    fn unknown_fields_are_refused_by_name() {
        let spec = r"{frontends: [{name: a, port: 1, backend: b, reqadd: X-Foo}]}";
        let error = serde_saphyr::from_str::<LoadBalancerSpec>(spec).unwrap_err().to_string();
        assert!(error.contains("unknown field `reqadd`"), "{error}");
    }
}
