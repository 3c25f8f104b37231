//! Parses the answer of a balancer. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// The administrative state of a server, in HAProxy's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Admin {
    /// It gets new connections.
    Ready,
    /// It gets no new connections; open ones continue, and its health is checked.
    Drain,
    /// It gets no new connections, and its health is not checked.
    Maint,
}

/// The answer of a balancer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// Hash of its running configuration.
    pub hash: String,
    /// Its backends.
    pub backends: BTreeSet<String>,
    /// Its servers, by backend and name.
    pub servers: BTreeMap<(String, String), AtBalancer>,
    /// Processes from before a reload that still have sessions, the oldest first.
    pub old: Vec<u32>,
    /// Failed reloads in a row.
    pub failed: u32,
}

/// A server as one balancer has it.
#[derive(Debug, Clone, PartialEq)]
pub struct AtBalancer {
    /// Its address; `None` while its name is not resolved.
    pub address: Option<Ipv4Addr>,
    /// Its port.
    pub port: u16,
    /// Its administrative state.
    pub admin: Admin,
    /// The result of the balancer's own health check.
    pub health: Health,
    /// Its open sessions, in all processes of the balancer.
    pub sessions: u64,
}

/// The result of a balancer's own health check of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// The server has no check.
    NoCheck,
    /// There is no result yet.
    Unchecked,
    /// The server is healthy.
    Up,
    /// The server is not healthy.
    Down,
}

/// Commands for HAProxy's current process, in the order of [`haproxy`]'s arguments.
pub const QUESTIONS: [&str; 4] = ["@1 show info", "@1 show servers state", "@1 show stat -1 6 -1", "show proc"];
/// The command for an old process; its number goes before it.
pub const OLD_QUESTION: &str = "show stat -1 4 -1";

/// Parses the answers of an HAProxy to [`QUESTIONS`]; `None` if they are not valid.
pub fn haproxy(info: &str, state: &str, stat: &str, proc: &str) -> Option<Answer> {
    let hash = info.lines().find_map(|line| line.strip_prefix("description: "))?.to_owned();
    let mut answer = Answer { hash, ..Default::default() };
    for line in state.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<_> = line.split(' ').collect();
        let &[_, backend, _, server, address, op, admin, _, _, _, _, result, _, check, ..] = fields.as_slice() else {
            continue;
        };
        let (op, admin, result): (u8, u8, u8) = (op.parse().ok()?, admin.parse().ok()?, result.parse().ok()?);
        let (configured, passed) = (check.parse::<u8>().ok()? & 2 != 0, result >= 3);
        answer.servers.insert(
            (backend.to_owned(), server.to_owned()),
            AtBalancer {
                address: address.parse().ok(),
                port: fields.get(18)?.parse().ok()?,
                admin: match admin {
                    // Maintenance by command, by another server, or because there is no address. (4 only repeats what
                    // the file said once.)
                    admin if admin & 0x63 != 0 => Admin::Maint,
                    admin if admin & 0x18 != 0 => Admin::Drain,
                    _ => Admin::Ready,
                },
                health: match (configured, op) {
                    (false, _) => Health::NoCheck,
                    (true, 0) if admin & 0x63 == 0 => Health::Down,
                    (true, _) if passed => Health::Up,
                    (true, _) => Health::Unchecked,
                },
                sessions: 0,
            },
        );
    }
    for (backend, server, sessions) in counts(stat) {
        match server {
            "BACKEND" => drop(answer.backends.insert(backend.to_owned())),
            _ => answer.add(backend, server, sessions),
        }
    }
    let mut old = false;
    let mut workers: Vec<(u64, u32)> = Vec::new();
    for line in proc.lines() {
        match line.strip_prefix("# ") {
            Some(title) => old = title == "old workers",
            None if line.contains(" master ") => {
                let failed = line.split_once("[failed: ").and_then(|(_, rest)| rest.split_once(']'));
                answer.failed = failed.and_then(|(count, _)| count.parse().ok()).unwrap_or_default();
            }
            None if old => {
                let mut words = line.split_whitespace();
                let pid = words.next().and_then(|pid| pid.parse().ok());
                let reloads = words.nth(1).and_then(|reloads| reloads.parse().ok()).unwrap_or_default();
                workers.extend(pid.map(|pid| (reloads, pid)));
            }
            None => {}
        }
    }
    // Each reload that a process survived makes its count grow.
    workers.sort_by_key(|(reloads, _)| std::cmp::Reverse(*reloads));
    answer.old = workers.into_iter().map(|(_, pid)| pid).collect();
    Some(answer)
}

impl Answer {
    /// Adds the sessions of an old process of HAProxy.
    pub fn add_old(&mut self, stat: &str) {
        for (backend, server, sessions) in counts(stat) {
            self.add(backend, server, sessions);
        }
    }

    fn add(&mut self, backend: &str, server: &str, sessions: u64) {
        if let Some(found) = self.servers.get_mut(&(backend.to_owned(), server.to_owned())) {
            found.sessions = found.sessions.saturating_add(sessions);
        }
    }

    /// The servers of a backend.
    pub fn of<'a>(&'a self, backend: &'a str) -> impl Iterator<Item = (&'a str, &'a AtBalancer)> {
        self.servers.iter().filter(move |((of, _), _)| of == backend).map(|((_, name), seen)| (name.as_str(), seen))
    }

    /// A server, if the balancer has it.
    pub fn server(&self, backend: &str, name: &str) -> Option<&AtBalancer> {
        self.servers.get(&(backend.to_owned(), name.to_owned()))
    }
}

/// (backend, server, sessions) of each line: current and queued sessions.
fn counts(stat: &str) -> impl Iterator<Item = (&str, &str, u64)> {
    stat.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut fields = line.split(',');
        let (backend, server) = (fields.next()?, fields.next()?);
        let waiting: u64 = fields.next()?.parse().unwrap_or(0);
        let going: u64 = fields.nth(1)?.parse().unwrap_or(0);
        Some((backend, server, waiting.saturating_add(going)))
    })
}

/// The sessions to a server, from an old process's answer to `show sess`.
pub fn sessions<'a>(told: &'a str, backend: &str, server: &str) -> impl Iterator<Item = &'a str> {
    let (backend, server) = (format!("be={backend}"), format!("srv={server}"));
    told.lines().filter_map(move |line| {
        let (session, rest) = line.split_once(": ")?;
        let has = |word: &str| rest.split(' ').any(|one| one == word);
        (has(&backend) && has(&server)).then_some(session)
    })
}

/// Parses the answer of an nginx: the state of its own configuration, and the numbers of its processes that only finish
/// their open connections.
pub fn nginx(state: &str, old: &str) -> Option<Answer> {
    let old: Result<Vec<u32>, _> = old.split_whitespace().map(str::parse).collect();
    let mut answer = Answer { old: old.ok()?, ..Default::default() };
    answer.old.sort_unstable();
    let old = answer.old.len() as u64;
    for line in state.lines() {
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["hash", hash] => answer.hash = (*hash).to_owned(),
            ["backend", backend] => drop(answer.backends.insert((*backend).to_owned())),
            ["server", backend, server, address, admin] => {
                let (address, port) = address.rsplit_once(':')?;
                let admin = if *admin == "ready" { Admin::Ready } else { Admin::Maint };
                answer.servers.insert(
                    ((*backend).to_owned(), (*server).to_owned()),
                    AtBalancer {
                        address: address.parse().ok(),
                        port: port.parse().ok()?,
                        admin,
                        health: Health::NoCheck,
                        // nginx does not count by server. An old process may still have connections to any server that
                        // left.
                        sessions: if admin == Admin::Ready { 0 } else { old },
                    },
                );
            }
            _ => {}
        }
    }
    (!answer.hash.is_empty()).then_some(answer)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_words_of_an_haproxy_are_read() {
        let state = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state ...
3 awx 1 s1 127.0.0.1 0 5 1 1 29 1 0 0 14 0 0 0 - 9001 - 0 0 - - 0
3 awx 2 s2 10.0.0.2 2 8 1 1 1 1 0 2 6 0 0 0 - 9003 - 0 0 - - 0
3 awx 3 s3 10.0.0.3 2 0 1 1 1 15 3 4 6 0 0 0 - 9003 - 0 0 - - 0
3 awx 4 s4 10.0.0.4 0 8 1 1 4 8 2 0 6 0 0 0 - 9003 - 0 0 - - 0
4 pg 1 p1 127.0.0.1 2 0 1 1 26 1 0 0 0 0 0 0 - 9002 - 0 0 - - 0
4 pg 2 name - 2 32 1 1 26 1 0 0 0 0 0 0 db.x 9002 - 0 0 - - 0
";
        let stat = "# pxname,svname,qcur,qmax,scur,smax\nawx,s3,1,0,4,9,\nawx,BACKEND,0,0,4,,\npg,p1,0,0,2,,\npg,BACKEND,0,0,0,\n\n";
        let proc = "#<PID> <type> <reloads>\n1   master  1 [failed: 2]\n# workers\n23   worker 0\n# old workers\n8  worker 1\n9 worker 2\n10 worker 12\n# programs\n\n";
        let mut answer = haproxy("Name: HAProxy\ndescription: abc\n", state, stat, proc).unwrap();
        answer.add_old("# pxname\nawx,s3,0,0,3,\nawx,gone,0,0,3,\n");
        let said: String = answer.servers.iter().map(|(name, seen)| format!("{name:?} {seen:?}\n")).collect();
        expect![[r#"
            ("awx", "s1") AtBalancer { address: Some(127.0.0.1), port: 9001, admin: Maint, health: Unchecked, sessions: 0 }
            ("awx", "s2") AtBalancer { address: Some(10.0.0.2), port: 9003, admin: Drain, health: Unchecked, sessions: 0 }
            ("awx", "s3") AtBalancer { address: Some(10.0.0.3), port: 9003, admin: Ready, health: Up, sessions: 8 }
            ("awx", "s4") AtBalancer { address: Some(10.0.0.4), port: 9003, admin: Drain, health: Down, sessions: 0 }
            ("pg", "name") AtBalancer { address: None, port: 9002, admin: Maint, health: NoCheck, sessions: 0 }
            ("pg", "p1") AtBalancer { address: Some(127.0.0.1), port: 9002, admin: Ready, health: NoCheck, sessions: 2 }
        "#]]
        .assert_eq(&said);
        assert_eq!(
            (answer.hash.as_str(), answer.old.as_slice(), answer.backends.len()),
            ("abc", [10, 9, 8].as_slice(), 2)
        );
        assert_eq!(answer.failed, 2);
        assert_eq!(haproxy("Unknown command", state, stat, proc), None);
    }

    /// Regression 80: a session that only listens, in a process from before a reload, stayed open to a primary that was
    /// demoted while it hung. An old process refuses `shutdown sessions server` ("Proxy is disabled"): its sessions are
    /// found here and ended one by one. `tests/e2e/scenarios_edges.py` has the whole story.
    #[test]
    fn the_sessions_of_a_server_in_an_old_process_are_found() {
        let told = "0x10: proto=tcpv4 src=10.0.0.9:1 fe=rw be=rw srv=pg-1 ts=00 epoch=0\n\
                    0x20: proto=tcpv4 src=10.0.0.9:2 fe=rw be=rw srv=pg-10 ts=00\n\
                    0x30: proto=tcpv4 src=10.0.0.9:3 fe=ro be=ro srv=pg-1 ts=00\n\
                    0x40: proto=sockpair src=unix:1 fe=GLOBAL be=<NONE> srv=<none> ts=00\n\n";
        assert_eq!(sessions(told, "rw", "pg-1").collect::<Vec<_>>(), ["0x10"]);
        assert_eq!(sessions("Unknown command", "rw", "pg-1").count(), 0);
    }

    /// Regression 75: numbers of sessions were added without a bound: a sum that overflowed was small, and a server with
    /// sessions counted as drained.
    #[test]
    fn sessions_beyond_all_bounds_are_not_few() {
        let state = "1\n3 awx 1 s1 10.0.0.2 2 0 1 1 1 15 3 4 6 0 0 0 - 9003 - 0 0 - - 0\n";
        let most = u64::MAX;
        let mut answer = haproxy("description: abc", state, &format!("awx,s1,{most},0,{most},\n"), "").unwrap();
        answer.add_old("awx,s1,0,0,9,\n");
        assert_eq!(answer.server("awx", "s1").unwrap().sessions, most);
    }

    #[test]
    fn the_words_of_an_nginx_are_read() {
        let answer = nginx(
            "hash abc\nbackend web\nserver web a 10.0.0.1:80 ready\nserver web b 10.0.0.2:80 maint\n",
            "100 99\n",
        );
        let answer = answer.unwrap();
        let sessions = |name| answer.server("web", name).map(|seen| (seen.admin, seen.sessions));
        assert_eq!((sessions("a"), sessions("b")), (Some((Admin::Ready, 0)), Some((Admin::Maint, 2))));
        assert_eq!((answer.hash.as_str(), answer.old), ("abc", vec![99, 100]));
        assert_eq!((nginx("404", ""), nginx("hash abc\n", "sh: no")), (None, None));
    }
}
