//! Rules for directives of redis.conf, of Redis 7 and Valkey 8: which exist, which a user may set, and which need a restart.
//!
//! A directive that an image's version does not have is refused by its server: that is shown as a condition.

/// Longest value, in bytes: one line of the file that is read at every start.
const LONGEST: usize = 1024;
/// Connections that Evenkeel, replicas and Sentinels need beside those of clients.
const LEAST_CLIENTS: u64 = 64;

/// Directives that `CONFIG SET` changes.
const LIVE: &[&str] = &[
    "acl-pubsub-default",
    "acllog-max-len",
    "active-defrag-cycle-max",
    "active-defrag-cycle-min",
    "active-defrag-cycle-us",
    "active-defrag-ignore-bytes",
    "active-defrag-max-scan-fields",
    "active-defrag-threshold-lower",
    "active-defrag-threshold-upper",
    "active-expire-effort",
    "activedefrag",
    "activerehashing",
    "aof-load-truncated",
    "aof-rewrite-incremental-fsync",
    "aof-timestamp-enabled",
    "aof-use-rdb-preamble",
    "appendfsync",
    "auto-aof-rewrite-min-size",
    "auto-aof-rewrite-percentage",
    "availability-zone",
    "busy-reply-threshold",
    "client-output-buffer-limit",
    "client-query-buffer-limit",
    "commandlog-execution-slower-than",
    "commandlog-large-reply-max-len",
    "commandlog-large-request-max-len",
    "commandlog-reply-larger-than",
    "commandlog-request-larger-than",
    "commandlog-slow-execution-max-len",
    "crash-log-enabled",
    "crash-memcheck-enabled",
    "dual-channel-replication-enabled",
    "dynamic-hz",
    "extended-redis-compatibility",
    "hash-max-listpack-entries",
    "hash-max-listpack-value",
    "hide-user-data-from-log",
    "hll-sparse-max-bytes",
    "hz",
    "ignore-warnings",
    "jemalloc-bg-thread",
    "latency-monitor-threshold",
    "latency-tracking",
    "latency-tracking-info-percentiles",
    "lazyfree-lazy-eviction",
    "lazyfree-lazy-expire",
    "lazyfree-lazy-server-del",
    "lazyfree-lazy-user-del",
    "lazyfree-lazy-user-flush",
    "lfu-decay-time",
    "lfu-log-factor",
    "list-compress-depth",
    "list-max-listpack-size",
    "locale-collate",
    "log-timestamp-format",
    "loglevel",
    "max-new-connections-per-cycle",
    "max-new-tls-connections-per-cycle",
    "maxclients",
    "maxmemory",
    "maxmemory-clients",
    "maxmemory-eviction-tenacity",
    "maxmemory-policy",
    "maxmemory-samples",
    "no-appendfsync-on-rewrite",
    "notify-keyspace-events",
    "oom-score-adj",
    "oom-score-adj-values",
    "prefetch-batch-max-size",
    "proc-title-template",
    "propagation-error-behavior",
    "proto-max-bulk-len",
    "rdb-del-sync-files",
    "rdb-save-incremental-fsync",
    "rdb-version-check",
    "rdbcompression",
    "repl-backlog-size",
    "repl-backlog-ttl",
    "repl-disable-tcp-nodelay",
    "repl-diskless-load",
    "repl-diskless-sync",
    "repl-diskless-sync-delay",
    "repl-diskless-sync-max-replicas",
    "repl-ping-replica-period",
    "repl-timeout",
    "replica-ignore-disk-write-errors",
    "replica-ignore-maxmemory",
    "replica-lazy-flush",
    "replica-serve-stale-data",
    "sanitize-dump-payload",
    "save",
    "set-max-intset-entries",
    "set-max-listpack-entries",
    "set-max-listpack-value",
    "slowlog-log-slower-than",
    "slowlog-max-len",
    "stop-writes-on-bgsave-error",
    "stream-node-max-bytes",
    "stream-node-max-entries",
    "tcp-keepalive",
    "timeout",
    "tracking-table-max-keys",
    "zset-max-listpack-entries",
    "zset-max-listpack-value",
];

/// Directives that are read when the server starts, and not after.
const AT_START: &[&str] = &[
    "always-show-logo",
    "aof_rewrite_cpulist",
    "bgsave_cpulist",
    "bio_cpulist",
    "databases",
    "disable-thp",
    "io-threads",
    "io-threads-do-reads",
    "rdbchecksum",
    "server_cpulist",
    "set-proc-title",
    "tcp-backlog",
];

/// Old names of directives, with the new ones. One directive by two names would have two values.
const RENAMED: &[(&str, &str)] = &[
    ("aof-rewrite-cpulist", "aof_rewrite_cpulist"),
    ("bgsave-cpulist", "bgsave_cpulist"),
    ("bio-cpulist", "bio_cpulist"),
    ("hash-max-ziplist-entries", "hash-max-listpack-entries"),
    ("hash-max-ziplist-value", "hash-max-listpack-value"),
    ("list-max-ziplist-size", "list-max-listpack-size"),
    ("lua-time-limit", "busy-reply-threshold"),
    ("repl-ping-slave-period", "repl-ping-replica-period"),
    ("server-cpulist", "server_cpulist"),
    ("slave-ignore-maxmemory", "replica-ignore-maxmemory"),
    ("slave-lazy-flush", "replica-lazy-flush"),
    ("slave-serve-stale-data", "replica-serve-stale-data"),
    ("zset-max-ziplist-entries", "zset-max-listpack-entries"),
    ("zset-max-ziplist-value", "zset-max-listpack-value"),
];

const NETWORK: &str = "Evenkeel gives each member its address and port";
const FILES: &str = "Evenkeel decides where files are";
const USERS: &str = "use spec.auth; Evenkeel makes the users";
const ROLE: &str = "Sentinel and Evenkeel decide who is master";
const PROCESS: &str = "Evenkeel's supervisor starts and stops the server";
const LOG: &str = "the server logs to the container's log";
const PERSISTENCE: &str = "use spec.persistence";
const PRIORITY: &str = "Evenkeel sets it for each failover, so that the best replica is chosen";
const ADDRESSES: &str = "Sentinel must know each member by its own address";
const WRITABLE_REPLICA: &str = "what is written to a replica is lost when it copies from the master";
const COMMANDS: &str = "it opens the server's host and files to every client";
const MIN_REPLICAS: &str = "use spec.minReplicasToWrite";
const MAX_LAG: &str = "use spec.minReplicasMaxLag";

/// Directives that a user cannot set, each with the reason or with what to use instead.
const REFUSED: &[(&str, &str)] = &[
    ("aclfile", USERS),
    ("aof-disable-auto-gc", "is for debuggers of Redis"),
    ("appenddirname", FILES),
    ("appendfilename", FILES),
    ("appendonly", PERSISTENCE),
    ("auto-failover-on-shutdown", ROLE),
    ("bind", NETWORK),
    ("bind-source-addr", NETWORK),
    ("daemonize", PROCESS),
    ("dbfilename", FILES),
    ("dir", FILES),
    ("enable-debug-command", COMMANDS),
    ("enable-module-command", COMMANDS),
    ("enable-protected-configs", COMMANDS),
    ("import-mode", "it stops the expiry of keys"),
    ("include", "write the directives here"),
    ("loadmodule", "it runs code of your choice in the server: use an image whose server has the module built in"),
    ("log-format", "Evenkeel reads the server's log"),
    ("logfile", LOG),
    ("masterauth", USERS),
    ("masteruser", USERS),
    ("min-replicas-max-lag", MAX_LAG),
    ("min-replicas-to-write", MIN_REPLICAS),
    ("min-slaves-max-lag", MAX_LAG),
    ("min-slaves-to-write", MIN_REPLICAS),
    ("pidfile", FILES),
    ("port", NETWORK),
    ("primaryauth", USERS),
    ("primaryuser", USERS),
    ("protected-mode", "clients must log in, and the user `default` is off"),
    ("rename-command", "Evenkeel and Sentinel need the commands; the application's user has no dangerous ones"),
    ("replica-announce-ip", NETWORK),
    ("replica-announce-port", NETWORK),
    ("replica-announced", ADDRESSES),
    ("replica-priority", PRIORITY),
    ("replica-read-only", WRITABLE_REPLICA),
    ("replicaof", ROLE),
    ("requirepass", USERS),
    ("shutdown-on-sigint", PROCESS),
    ("shutdown-on-sigterm", PROCESS),
    ("shutdown-timeout", PROCESS),
    ("slave-announce-ip", NETWORK),
    ("slave-announce-port", NETWORK),
    ("slave-priority", PRIORITY),
    ("slave-read-only", WRITABLE_REPLICA),
    ("slaveof", ROLE),
    ("socket-mark-id", "it needs rights that the container does not have"),
    ("supervised", PROCESS),
    ("syslog-enabled", LOG),
    ("syslog-facility", LOG),
    ("syslog-ident", LOG),
    ("unixsocket", FILES),
    ("unixsocketgroup", FILES),
    ("unixsocketperm", FILES),
    ("user", USERS),
];

/// Directives whose names begin so, and that a user cannot set.
const REFUSED_GROUPS: &[(&str, &str)] = &[
    ("cluster-", "a server that Sentinels watch is no Redis Cluster: use a RedisCluster"),
    ("rdma-", "Evenkeel connects members by TCP"),
    ("sentinel", "use the fields of spec"),
    ("tls-", "use spec.tls"),
];

/// The problem with a directive that does not exist.
pub const UNKNOWN: &str = "is not a directive of Redis 7 or Valkey 8";

/// Every directive that a user may set.
pub fn known() -> impl Iterator<Item = &'static str> {
    LIVE.iter().chain(AT_START).copied()
}

/// Whether a change of a directive needs a restart of the server.
pub fn needs_restart(name: &str) -> bool {
    AT_START.contains(&name)
}

/// The problem with one entry of `spec.config`.
pub fn problem(name: &str, value: &str) -> Option<String> {
    if let Some(why) = refused(name) {
        return Some(format!("is set by Evenkeel and cannot be chosen: {why}"));
    }
    if let Some((_, new)) = RENAMED.iter().find(|(old, _)| *old == name) {
        return Some(format!("is the old name of {new}: use that"));
    }
    if !known().any(|one| one == name) {
        return Some(UNKNOWN.into());
    }
    if value.len() > LONGEST {
        return Some(format!("must have no more than {LONGEST} bytes"));
    }
    if value.contains(char::is_control) {
        return Some("must be a single line without control characters".into());
    }
    match name {
        "maxclients" if value.parse::<u64>().is_ok_and(|clients| clients < LEAST_CLIENTS) => Some(format!(
            "must be at least {LEAST_CLIENTS}: replicas, Sentinels and Evenkeel need connections beside the clients"
        )),
        "maxmemory" | "repl-backlog-size" if bytes(value).is_none() => {
            Some("must be a size such as 512mb or 2gb".into())
        }
        _ => None,
    }
}

/// Why a user cannot set a directive. Redis reads names in any case.
fn refused(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let alone = REFUSED.iter().find(|(one, _)| *one == name);
    alone.or_else(|| REFUSED_GROUPS.iter().find(|(start, _)| name.starts_with(start))).map(|(_, why)| *why)
}

/// The bytes of a size as Redis reads it: `100`, `64mb`, `1g`.
pub fn bytes(value: &str) -> Option<u64> {
    let (number, unit) = value.split_at(value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len()));
    let scale = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1_000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_directive_is_in_one_list_and_the_lists_are_sorted() {
        let names = |list: &[(&'static str, &'static str)]| list.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        let lists = [LIVE.to_vec(), AT_START.to_vec(), names(RENAMED), names(REFUSED), names(REFUSED_GROUPS)];
        for list in &lists {
            assert!(list.is_sorted_by(|one, other| one < other), "{list:?}");
        }
        let mut all = lists.concat();
        all.sort_unstable();
        let before = all.len();
        all.dedup();
        assert_eq!(all.len(), before, "a directive is in two lists");
        assert!(LIVE.iter().chain(AT_START).all(|name| refused(name).is_none()));
        assert!(RENAMED.iter().all(|(_, new)| LIVE.contains(new) || AT_START.contains(new)));
    }

    /// Regression 341: what redis.conf may hold was not judged. `replicaof` made a second master, `dir` and `include` reached
    /// other files, and a typing error kept the server down at its next start.
    #[test]
    fn a_directive_that_is_unknown_or_not_the_users_is_refused_with_what_to_do() {
        let told = |name: &str| format!("{name} {}\n", problem(name, "1").unwrap_or_else(|| "is accepted".into()));
        let names = [
            "maxmemory-policy",
            "maxmemroy-policy",
            "MaxMemory",
            "maxmemory 1\nuser",
            "x",
            "replicaof",
            "SlaveOf",
            "tls-port",
            "cluster-enabled",
            "sentinel",
            "loadmodule",
            "min-replicas-to-write",
            "appendonly",
            "hash-max-ziplist-entries",
        ];
        expect_test::expect![[r#"
            maxmemory-policy is accepted
            maxmemroy-policy is not a directive of Redis 7 or Valkey 8
            MaxMemory is not a directive of Redis 7 or Valkey 8
            maxmemory 1
            user is not a directive of Redis 7 or Valkey 8
            x is not a directive of Redis 7 or Valkey 8
            replicaof is set by Evenkeel and cannot be chosen: Sentinel and Evenkeel decide who is master
            SlaveOf is set by Evenkeel and cannot be chosen: Sentinel and Evenkeel decide who is master
            tls-port is set by Evenkeel and cannot be chosen: use spec.tls
            cluster-enabled is set by Evenkeel and cannot be chosen: a server that Sentinels watch is no Redis Cluster: use a RedisCluster
            sentinel is set by Evenkeel and cannot be chosen: use the fields of spec
            loadmodule is set by Evenkeel and cannot be chosen: it runs code of your choice in the server: use an image whose server has the module built in
            min-replicas-to-write is set by Evenkeel and cannot be chosen: use spec.minReplicasToWrite
            appendonly is set by Evenkeel and cannot be chosen: use spec.persistence
            hash-max-ziplist-entries is the old name of hash-max-listpack-entries: use that
        "#]]
        .assert_eq(&names.map(told).concat());
    }

    #[test]
    fn a_value_that_would_add_a_line_or_shut_out_the_members_is_refused() {
        for (name, value) in [
            ("save", "60 1\nreplicaof 10.0.0.1 6379"),
            ("save", "60 1\0"),
            ("maxclients", "10"),
            ("maxmemory", "1.5gb"),
            ("maxmemory", ""),
            ("repl-backlog-size", "-1"),
        ] {
            assert!(problem(name, value).is_some(), "{name} {value:?}");
        }
        assert!(problem("ignore-warnings", &"x".repeat(LONGEST + 1)).is_some());
        for (name, value) in [("save", ""), ("save", "3600 1 300 100"), ("maxclients", "64"), ("maxmemory", "1gb")] {
            assert_eq!(problem(name, value), None, "{name} {value:?}");
        }
    }

    #[test]
    fn sizes_are_read_as_redis_reads_them() {
        let read = ["100", "1k", "1KB", "64mb", "2g", "2Gb", "1b", "gb", "1.5gb", "-1", "99999999999gb"].map(bytes);
        let (kib, mib, gib) = (1 << 10, 1 << 20, 1u64 << 30);
        let right = [Some(100), Some(1_000), Some(kib), Some(64 * mib), Some(2_000_000_000), Some(2 * gib), Some(1)];
        assert_eq!((&read[..7], &read[7..]), (&right[..], &[None; 4][..]));
    }

    #[test]
    fn what_is_read_only_at_a_start_needs_one() {
        assert!(needs_restart("databases") && needs_restart("io-threads"));
        assert!(!needs_restart("maxmemory") && !needs_restart("save"));
    }

    #[test]
    fn the_documentation_lists_each_directive_that_is_refused_or_needs_a_restart() {
        let page = include_str!("../../docs/kinds/redissentinel.md");
        let alone =
            REFUSED.iter().map(|(name, _)| *name).chain(AT_START.iter().copied()).map(|name| format!("`{name}`"));
        let groups = REFUSED_GROUPS.iter().map(|(start, _)| format!("`{start}*`"));
        let missing: Vec<_> = alone.chain(groups).filter(|name| !page.contains(name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
