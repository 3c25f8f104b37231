//! The directives of redis.conf that follow from a spec, with the reason for each, and what does not fit together. Pure.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::invalid::{Invalid, closest};
use super::redis_settings::{self, UNKNOWN, bytes};

const MIB: u64 = 1 << 20;
/// Least memory limit of a member: the supervisor, Redis without data, and room for a copy of its pages.
const LEAST: u64 = 64 * MIB;
/// Least `maxmemory`: with less, Redis' own buffers leave no room for data.
const LEAST_DATA: u64 = 8 * MIB;
/// Most directives; there are fewer.
const MOST: usize = 200;
/// Redis' own `repl-ping-replica-period`, in seconds.
const PING_PERIOD: u64 = 10;
/// Redis' own points of snapshots.
const SAVE: &str = "3600 1 300 100 60 10000";

/// What is kept on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Persistence {
    /// Nothing.
    None,
    /// Snapshots.
    Rdb,
    /// A log of all writes.
    #[default]
    Aof,
}

/// What the directives follow from.
#[derive(Debug, Clone, Copy)]
pub struct Basis<'a> {
    /// `spec.persistence`.
    pub persistence: Persistence,
    /// The memory limit of a member, in bytes.
    pub memory: Option<u64>,
    /// `spec.config`.
    pub config: &'a BTreeMap<String, String>,
}

/// The directives: those of Evenkeel, and over them those of `config`.
pub fn directives(basis: &Basis<'_>) -> BTreeMap<String, String> {
    let save = if basis.persistence == Persistence::Rdb { SAVE } else { "" };
    let log = if basis.persistence == Persistence::Aof { "yes" } else { "no" };
    let ours = [
        ("appendonly", log.to_owned()),
        // A stop of the host loses no more than the last second of writes.
        ("appendfsync", "everysec".to_owned()),
        // Without snapshots on disk, none is written at a stop either.
        ("save", save.to_owned()),
        // No limit, unless the container has one.
        ("maxmemory", most_of(basis.memory).to_string()),
        // A new replica is copied to without a file on the master's disk.
        ("repl-diskless-sync", "yes".to_owned()),
        // Redis waits 5 s for more replicas before it begins a copy: so long there would be no second copy after a failover.
        ("repl-diskless-sync-delay", "0".to_owned()),
        // A replica that was away receives only what it has missed, if that is no more than this.
        ("repl-backlog-size", backlog(max_memory(basis)).to_string()),
        // The last replica may be away for more than an hour and still receive only what it has missed.
        ("repl-backlog-ttl", "0".to_owned()),
        ("client-output-buffer-limit", replica_buffer(basis.memory)),
        // Without persistence, the file by which a replica received its copy would be loaded at the next start, however old.
        ("rdb-del-sync-files", if basis.persistence == Persistence::None { "yes" } else { "no" }.to_owned()),
    ];
    let mut all: BTreeMap<String, String> = ours.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    for (name, value) in basis.config {
        let mut value = value.clone();
        // A value that leaves out replicas would give them Redis' own limit again.
        if name == "client-output-buffer-limit" && !limits_replicas(&value) {
            value = format!("{value} {}", replica_buffer(basis.memory)).trim().to_owned();
        }
        all.insert(name.clone(), value);
    }
    all
}

/// `maxmemory` that follows from the limit, in bytes: three quarters of it. The rest is for buffers, fragmentation, the
/// supervisor, and the pages that change while a copy is written. 0: no limit.
fn most_of(limit: Option<u64>) -> u64 {
    limit.map_or(0, |limit| limit / 4 * 3)
}

/// `maxmemory` in force, in bytes; `None`: no limit.
fn max_memory(basis: &Basis<'_>) -> Option<u64> {
    let chosen = basis.config.get("maxmemory").and_then(|value| bytes(value));
    Some(chosen.unwrap_or_else(|| most_of(basis.memory))).filter(|bytes| *bytes > 0)
}

/// `repl-backlog-size`, in bytes: some seconds of many writes. It counts to `maxmemory`, so it takes no more than a
/// sixteenth of that.
fn backlog(max_memory: Option<u64>) -> u64 {
    max_memory.map_or(64 * MIB, |most| (most / 16).clamp(MIB, 64 * MIB))
}

/// `client-output-buffer-limit` of replicas: what is written while a replica receives a copy waits in it. A replica for
/// which it is too small begins its copy again and again; one that hangs must not take the memory of the master.
fn replica_buffer(limit: Option<u64>) -> String {
    let bytes = limit.map_or(1024 * MIB, |limit| limit / 8);
    format!("replica {bytes} {bytes} 60")
}

fn limits_replicas(value: &str) -> bool {
    value.split_ascii_whitespace().any(|word| ["replica", "slave"].contains(&word.to_ascii_lowercase().as_str()))
}

/// Every problem with `spec.config`, and with what it and the other fields ask for together.
pub fn problems(basis: &Basis<'_>) -> Vec<Invalid> {
    let config = |name: &str| basis.config.get(name).map(String::as_str);
    let at = |name: &str| format!("spec.config[{name}]");
    let mut problems = Vec::new();
    if basis.config.len() > MOST {
        let many = format!("has {} directives, must have no more than {MOST}: Redis has fewer", basis.config.len());
        return vec![Invalid::new("spec.config", many)];
    }
    for (name, value) in basis.config {
        if let Some(problem) = redis_settings::problem(name, value) {
            let meant = closest(name, redis_settings::known()).filter(|_| problem == UNKNOWN);
            let meant = meant.map(|one| format!("; did you mean {one}?")).unwrap_or_default();
            problems.push(Invalid::new(at(name), problem + &meant));
        }
    }
    let mut say = |path: String, message: String| problems.push(Invalid::new(path, message));
    match (basis.persistence, config("save").map(|save| save.trim_matches(['"', ' ']).is_empty())) {
        (Persistence::None, Some(false)) => {
            say(at("save"), "writes snapshots, but spec.persistence is none: leave it out, or use rdb".into());
        }
        (Persistence::Rdb, Some(true)) => {
            say(at("save"), "writes no snapshot, but spec.persistence is rdb: leave it out, or use none".into());
        }
        _ => {}
    }
    let number = |name: &str| config(name).and_then(|value| value.parse::<u64>().ok());
    let ping = number("repl-ping-replica-period");
    let named = if ping.is_some() { "repl-ping-replica-period" } else { "repl-timeout" };
    let (ping, timeout) = (ping.unwrap_or(PING_PERIOD), number("repl-timeout").unwrap_or(60));
    if timeout <= ping {
        let why = "a replica hears from an idle master only so often, and would leave a master that is well";
        say(
            at(named),
            format!("repl-timeout ({timeout} s) must be more than repl-ping-replica-period ({ping} s): {why}"),
        );
    }
    let chosen = config("maxmemory").and_then(bytes);
    if chosen.is_some_and(|bytes| bytes > 0 && bytes < LEAST_DATA) {
        say(at("maxmemory"), "must be at least 8mb: with less, Redis' own buffers leave no room for data".into());
    }
    let backlog = config("repl-backlog-size").and_then(bytes);
    if let (Some(backlog), Some(most)) = (backlog, max_memory(basis))
        && backlog > most / 4
    {
        say(at("repl-backlog-size"), format!("counts to maxmemory ({most} bytes): must be at most a quarter of it"));
    }
    let Some(limit) = basis.memory else { return problems };
    let shown = format!("spec.resources.limits.memory ({limit} bytes)");
    if limit < LEAST {
        say("spec.resources.limits.memory".into(), "must be at least 64Mi for Redis".into());
    }
    match chosen {
        Some(0) => say(
            at("maxmemory"),
            format!("is no limit, but {shown} is one: Linux would kill the server there, master and replicas alike"),
        ),
        Some(most) if most > limit => say(at("maxmemory"), format!("does not fit {shown}")),
        _ => {}
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basis<'a>(persistence: Persistence, memory: Option<u64>, config: &'a BTreeMap<String, String>) -> Basis<'a> {
        Basis { persistence, memory, config }
    }

    fn config(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn shown(persistence: Persistence, memory: Option<u64>, entries: &[(&str, &str)]) -> String {
        let config = config(entries);
        directives(&basis(persistence, memory, &config))
            .iter()
            .map(|(name, value)| format!("{name} {value}\n"))
            .collect()
    }

    #[test]
    fn the_directives_follow_from_persistence_and_memory() {
        expect_test::expect![[r#"
            appendfsync everysec
            appendonly yes
            client-output-buffer-limit replica 134217728 134217728 60
            maxmemory 805306368
            rdb-del-sync-files no
            repl-backlog-size 50331648
            repl-backlog-ttl 0
            repl-diskless-sync yes
            repl-diskless-sync-delay 0
            save 
        "#]]
        .assert_eq(&shown(Persistence::Aof, Some(1024 * MIB), &[]));
        expect_test::expect![[r#"
            appendfsync everysec
            appendonly no
            client-output-buffer-limit normal 0 0 0 replica 1073741824 1073741824 60
            maxmemory 100mb
            rdb-del-sync-files no
            repl-backlog-size 6553600
            repl-backlog-ttl 0
            repl-diskless-sync yes
            repl-diskless-sync-delay 0
            save 60 1
        "#]]
        .assert_eq(&shown(
            Persistence::Rdb,
            None,
            &[("save", "60 1"), ("maxmemory", "100mb"), ("client-output-buffer-limit", "normal 0 0 0")],
        ));
    }

    /// Regression 344: memory that cannot hold what is asked for was accepted. Linux killed the master, and then each replica
    /// that took its place.
    #[test]
    fn what_does_not_fit_together_is_refused_with_its_path() {
        let told = |persistence, memory: u64, entries: &[(&str, &str)]| {
            let config = config(entries);
            let problems = problems(&basis(persistence, Some(memory * MIB), &config));
            problems.iter().map(|one| format!("{one}\n")).collect::<String>()
        };
        expect_test::expect![[r#"
            spec.config[save]: writes snapshots, but spec.persistence is none: leave it out, or use rdb
            spec.config[repl-backlog-size]: counts to maxmemory (1073741824 bytes): must be at most a quarter of it
            spec.config[maxmemory]: does not fit spec.resources.limits.memory (268435456 bytes)
        "#]]
        .assert_eq(&told(
            Persistence::None,
            256,
            &[("save", "60 1"), ("maxmemory", "1gb"), ("repl-backlog-size", "300mb")],
        ));
        expect_test::expect![[r#"
            spec.config[save]: writes no snapshot, but spec.persistence is rdb: leave it out, or use none
            spec.config[repl-timeout]: repl-timeout (10 s) must be more than repl-ping-replica-period (10 s): a replica hears from an idle master only so often, and would leave a master that is well
            spec.resources.limits.memory: must be at least 64Mi for Redis
            spec.config[maxmemory]: is no limit, but spec.resources.limits.memory (33554432 bytes) is one: Linux would kill the server there, master and replicas alike
        "#]]
        .assert_eq(&told(Persistence::Rdb, 32, &[("save", "\"\""), ("maxmemory", "0"), ("repl-timeout", "10")]));
        assert_eq!(
            told(Persistence::Aof, 64, &[("MaxMemory", "50mb"), ("x", "")]),
            "spec.config[MaxMemory]: is not a directive of Redis 7 or Valkey 8; did you mean maxmemory?\n\
             spec.config[x]: is not a directive of Redis 7 or Valkey 8\n"
        );
        let many: Vec<String> = (0..=MOST).map(|number| number.to_string()).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "")).collect();
        assert_eq!(
            told(Persistence::Aof, 64, &many),
            "spec.config: has 201 directives, must have no more than 200: Redis has fewer\n"
        );
        assert_eq!(
            told(Persistence::Aof, 64, &[("maxmemory", "1kb")]),
            "spec.config[maxmemory]: must be at least 8mb: with less, Redis' own buffers leave no room for data\n"
        );
        assert_eq!(told(Persistence::None, 64, &[("save", ""), ("maxmemory", "50mb"), ("repl-timeout", "11")]), "");
    }
}
