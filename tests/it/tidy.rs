//! Keeps the structure of the code: imports between rooms, pure planners, adapters in their rooms, small files.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "../../operator/identity.rs"]
mod identity;

/// The rooms that each room may import.
const ARROWS: [(&str, &[&str]); 10] = [
    ("api", &[]),
    ("archive", &["api"]),
    ("store", &["api"]),
    ("runtime", &["api", "store"]),
    ("engine", &["api"]),
    ("etcd", &["api", "engine"]),
    ("supervisor", &["api", "archive"]),
    ("kinds", &["api", "archive", "store", "runtime", "engine", "supervisor"]),
    ("server", &["api", "store", "runtime"]),
    ("cli", &["api"]),
];

/// Files that wire the rooms together and may import them all.
const WIRING: [&str; 20] = [
    "main.rs",
    "inside.rs",
    "cli/operator.rs",
    "cli/operator/containers.rs",
    "cli/operator/leader.rs",
    "cli/operator/opened.rs",
    "cli/operator/snapshots.rs",
    "cli/secrets.rs",
    "cli/snapshot_store.rs",
    "cli/etcd.rs",
    "cli/join.rs",
    "cli/cluster/backup.rs",
    "cli/cluster/leave.rs",
    "cli/cluster/renew_keys.rs",
    "cli/cluster/reset.rs",
    "cli/cluster/restore.rs",
    "cli/cluster/stopped.rs",
    "cli/managed.rs",
    "cli/managed/kept.rs",
    "cli/managed/running.rs",
];

/// Files of `kinds` that decide and must say "Pure." in their header.
const DECIDERS: [&str; 3] = ["plan.rs", "status.rs", "workload.rs"];

/// Words that show that a decision is not pure.
const IMPURE: [&str; 13] = [
    "async fn",
    "async move",
    "async {",
    "await",
    "tokio",
    "bollard",
    "sqlx",
    "redis::",
    "SystemTime",
    "Instant",
    "rand",
    "HashMap",
    "HashSet",
];

/// Words that only one room may use.
const OWNED: [(&str, &str); 5] = [
    ("bollard", "engine"),
    ("sqlx::sqlite", "store"),
    ("SqlitePool", "store"),
    ("etcd_client", "store"),
    ("object_store", "archive"),
];

/// Most lines of a file.
const LINES: usize = 800;

pub(crate) struct Source {
    /// Path below the folder that was searched, with `/`.
    pub(crate) name: String,
    text: String,
}

impl Source {
    /// The code without comments and without the tests at its end.
    pub(crate) fn code(&self) -> String {
        let is_foot = |(at, _): &(usize, &str)| {
            let after = self.text[*at..].lines().find(|line| !line.starts_with("#["));
            after.is_some_and(|line| line.starts_with("mod "))
        };
        let foot = self.text.match_indices("#[cfg(test)]").find(is_foot).map_or(self.text.len(), |(at, _)| at);
        self.text[..foot].lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
    }

    /// Whether the header says that the file is pure: the word `Pure` in its `//!` lines.
    fn says_pure(&self) -> bool {
        self.text.lines().take_while(|line| line.starts_with("//!")).any(|line| has_word(line, "Pure"))
    }

    fn room(&self) -> &str {
        self.name.split(['/', '.']).next().unwrap()
    }
}

/// All Rust files under a folder of the repository.
pub(crate) fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                found.push(Source { name, text: fs::read_to_string(&path).unwrap() });
            }
        }
    }
    assert!(found.len() > 1, "no sources under {folder}");
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// The rooms that a piece of code imports: `crate::room` and `use crate::{room, other::…}`.
fn rooms_named(code: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            named.insert(word_at(rest));
            continue;
        };
        let mut depth = 0;
        for part in group.split_inclusive(['{', '}', ',']) {
            if depth == 0 && !word_at(part.trim_start()).is_empty() {
                named.insert(word_at(part.trim_start()));
            }
            match part.chars().last() {
                Some('{') => depth += 1,
                Some('}') if depth == 0 => break,
                Some('}') => depth -= 1,
                _ => {}
            }
        }
    }
    named
}

fn word_at(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let inside = |letter: char| letter.is_alphanumeric() || letter == '_';
        !code[..at].ends_with(inside) && !code[at + word.len()..].starts_with(inside)
    })
}

/// Fails with a list of all problems.
pub(crate) fn expect_none(rule: &str, problems: Vec<String>) {
    assert!(problems.is_empty(), "{rule}:\n  {}", problems.join("\n  "));
}

#[test]
fn a_room_names_only_those_its_arrows_point_at() {
    let mut problems = Vec::new();
    for source in sources("operator") {
        let Some((room, allowed)) = ARROWS.iter().find(|(room, _)| *room == source.room()) else { continue };
        if WIRING.contains(&source.name.as_str()) {
            continue;
        }
        for named in rooms_named(&source.code()) {
            let is_room = ARROWS.iter().any(|(room, _)| *room == named);
            if is_room && named != *room && !allowed.contains(&named.as_str()) {
                problems.push(format!("operator/{} names {named}", source.name));
            }
        }
    }
    expect_none("a room names only those above it (operator/lib.rs)", problems);
}

#[test]
fn every_folder_of_the_operator_is_a_room() {
    let rooms: BTreeSet<String> = sources("operator").iter().map(|source| source.room().to_owned()).collect();
    let known = ARROWS
        .iter()
        .map(|(room, _)| (*room).to_owned())
        .chain(["lib", "main", "inside", "identity", "fuzzing"].map(str::to_owned));
    assert_eq!(rooms, known.collect(), "a new room needs its arrows in this test");
}

#[test]
fn no_kind_names_another_kind() {
    let mut problems = Vec::new();
    let all = sources("operator/kinds");
    // A folder with a planner is a kind; the other folders are shared by all kinds and must not import any.
    let kinds: BTreeSet<&str> =
        all.iter().filter(|source| source.name.ends_with("/plan.rs")).map(Source::room).collect();
    for source in all.iter().filter(|source| source.name.contains('/')) {
        for other in kinds.iter().filter(|kind| **kind != source.room()) {
            if source.code().contains(&format!("kinds::{other}")) {
                problems.push(format!("operator/kinds/{} names {other}", source.name));
            }
        }
    }
    expect_none("a kind sees another only as an object in the store", problems);
}

#[test]
fn what_says_that_it_is_pure_is() {
    let mut problems = Vec::new();
    for source in sources("operator").iter().filter(|source| source.says_pure()) {
        // A room of the supervisor has the name of a crate.
        let code = source.code().replace("supervisor::redis::", "");
        let says = |word: &&&str| if word.ends_with("::") { code.contains(**word) } else { has_word(&code, word) };
        for word in IMPURE.iter().filter(says) {
            problems.push(format!("operator/{} says {word}", source.name));
        }
    }
    expect_none("a planner has no clock, no chance, no I/O and no order of chance", problems);
}

#[test]
fn what_decides_says_that_it_is_pure() {
    let decides = |source: &&Source| {
        let file = source.name.rsplit('/').next().unwrap();
        source.room() == "kinds" && DECIDERS.contains(&file) || source.room() == "supervisor" && file == "next.rs"
    };
    let all = sources("operator");
    assert!(all.iter().filter(decides).count() > DECIDERS.len(), "where are the planners?");
    let silent = all.iter().filter(decides).filter(|source| !source.says_pure());
    expect_none("its header ends with Pure.", silent.map(|source| format!("operator/{}", source.name)).collect());
}

#[test]
fn bollard_sqlite_and_etcd_each_have_one_room() {
    let mut problems = Vec::new();
    for source in sources("operator") {
        let code = source.code();
        for (word, room) in OWNED {
            if source.room() != room && source.name != "identity.rs" && has_word(&code, word) {
                problems.push(format!("operator/{} names {word}, which is {room}'s", source.name));
            }
        }
    }
    expect_none("an adapter stays in its room", problems);
}

/// Regression 150: the supervisor is root beside a user who may put links anywhere in the data directory.
#[test]
fn the_supervisor_touches_files_of_the_servers_user_in_one_file_only() {
    // Their folders are root's, beside an agent or a porter there is no server, and `ask.rs` runs as the server's user; `theirs.rs` is the
    // one for all others.
    let free = [
        "theirs",
        "place",
        "durable",
        "secrets",
        "control",
        "proof",
        "redis/place",
        "redis/kept",
        "agent/run",
        "porter/pack",
        "porter/restore",
        "porter/unpack",
        "archiving/ask",
    ]
    .map(|name| format!("supervisor/{name}.rs"));
    // What they read is the kernel's, or root's.
    let read = ["process", "authenticating", "probe", "dry_start"].map(|name| format!("supervisor/{name}.rs"));
    let changes =
        ["fs::write", "fs::create", "fs::remove", "fs::copy", "fs::set_", "File::create", "OpenOptions", "chown"];
    let reads = ["fs::read", "fs::metadata", ".exists()"];
    let mut problems = Vec::new();
    let all = sources("operator");
    let ours = |source: &&Source| source.room() == "supervisor" && !source.name.ends_with("/tests.rs");
    for source in all.iter().filter(ours).filter(|source| !free.contains(&source.name)) {
        let reads = reads.iter().filter(|_| !read.contains(&source.name));
        let found = changes.iter().chain(reads).filter(|word| source.code().contains(**word));
        problems.extend(found.map(|word| format!("operator/{} has {word}: use theirs.rs", source.name)));
    }
    expect_none("files of the server's user are touched with its rights", problems);
}

#[test]
fn every_file_says_what_it_is_and_is_not_long() {
    let mut problems = Vec::new();
    for folder in ["operator", "tests"] {
        for source in sources(folder) {
            if !source.text.starts_with("//! ") {
                problems.push(format!("{folder}/{} does not begin with a //! sentence", source.name));
            }
            let lines = source.text.lines().count();
            if lines > LINES {
                problems.push(format!("{folder}/{} has {lines} lines, more than {LINES}", source.name));
            }
        }
    }
    expect_none("one file, one purpose", problems);
}

#[test]
fn no_test_is_switched_off_and_none_waits_by_the_clock() {
    // Written in two parts, so that this file does not match itself.
    let ignored = concat!("#[", "ignore");
    let asleep = [concat!("thread::", "sleep("), concat!("tokio::time::", "sleep(")];
    let mut problems = Vec::new();
    for (folder, source) in
        ["operator", "tests"].iter().flat_map(|folder| sources(folder).into_iter().map(move |s| (folder, s)))
    {
        if source.text.contains(ignored) {
            problems.push(format!("{folder}/{} ignores a test", source.name));
        }
        // Paused time does not wait; only a helper that polls for a condition may wait.
        let waits = asleep.iter().any(|sleep| source.text.contains(sleep));
        let excused = source.text.contains("start_paused = true") || source.name.ends_with("poll.rs");
        if *folder == "tests" && source.name.starts_with("it/") && waits && !excused {
            problems.push(format!("{folder}/{} sleeps; poll for what it waits for (tests/it/poll.rs)", source.name));
        }
    }
    expect_none("a test runs always and waits for a fact", problems);
}

#[test]
fn no_select_of_the_operator_draws_chance() {
    let mut problems = Vec::new();
    for source in sources("operator") {
        let kept = ["runtime", "kinds", "store"].contains(&source.room()) || source.name == "engine/hosts.rs";
        let drawn = |(at, _): &(usize, &str)| {
            let first = source.text[*at..].lines().skip(1).map(str::trim).find(|line| !line.starts_with("//"));
            first != Some("biased;")
        };
        problems
            .extend(source.text.match_indices("select! {").filter(|_| kept).filter(drawn).map(|_| source.name.clone()));
    }
    expect_none("a select! here is biased, so that a simulated run can be repeated (docs/testing.md)", problems);
}

/// The modules in paths from the crate's root: `a/b` for `crate::a::b::…`, and each module of a group.
fn modules_named(code: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for root in ["crate::", "evenkeel::"] {
        for (at, _) in code.match_indices(root) {
            if code[..at].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_') {
                continue;
            }
            let room = word_at(&code[at + root.len()..]);
            let Some(rest) = code[at + root.len() + room.len()..].strip_prefix("::") else { continue };
            let group = rest.strip_prefix('{').and_then(|group| group.split_once('}')).map(|(group, _)| group);
            for part in group.unwrap_or(rest).split(',').take(if group.is_some() { usize::MAX } else { 1 }) {
                named.insert(format!("{room}/{}", word_at(part.trim_start())));
            }
        }
    }
    named
}

#[test]
fn the_identity_of_containers_covers_all_that_runs_in_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let dependencies = manifest.split("\n[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let names = dependencies.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name);
    let names: BTreeSet<String> =
        names.filter(|name| !name.starts_with('#')).map(|name| name.replace('-', "_")).collect();
    let covered: BTreeSet<String> =
        identity::CRATES.iter().map(|path| path.split('/').next().unwrap().replace('-', "_")).collect();
    let is_covered = |module: &str| {
        let folder =
            identity::FILES.iter().any(|file| !file.ends_with(".rs") && module.starts_with(&format!("{file}/")));
        folder || identity::FILES.contains(&format!("{module}.rs").as_str())
    };
    let (mut problems, mut used) = (Vec::new(), BTreeSet::new());
    for (path, code) in identity::sources(&root.join("operator")) {
        let path = path.strip_prefix(root).unwrap().display().to_string();
        problems.extend(
            modules_named(&code)
                .into_iter()
                .filter(|module| !is_covered(module))
                .map(|module| format!("{path} names {module}")),
        );
        let in_folder = path.matches('/').count() == 2 && path.starts_with("operator/supervisor/");
        if code.contains("super::super") || code.contains("super::") && !in_folder {
            problems.push(format!("{path} names a module by super::; write its path from the crate's root"));
        }
        for name in names.iter().filter(|name| {
            has_word(&code, name) && (code.contains(&format!("{name}::")) || code.contains(&format!("use {name}")))
        }) {
            used.insert(name.clone());
            if !covered.contains(name) {
                problems.push(format!("{path} names the crate {name}"));
            }
        }
    }
    problems.extend(covered.difference(&used).map(|name| format!("nothing names the crate {name} any more")));
    expect_none("operator/identity.rs lists the files and crates that run in containers", problems);
}

#[test]
fn another_file_another_crate_and_another_target_are_another_identity() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lock = fs::read_to_string(root.join("Cargo.lock")).unwrap();
    let sources = identity::sources(&root.join("operator"));
    let crates = identity::crates(&lock);
    let has = |name: &str| crates.iter().any(|found| found.starts_with(&format!("{name} ")));
    assert!(has("tokio") && has("sqlx-postgres") && !has("bollard") && !has("kube"), "{crates:?}");
    let now = identity::identity(&sources, &crates, "x");
    assert_eq!(now, identity::identity(&sources, &identity::crates(&lock), "x"));
    let newer = lock.replacen("name = \"tokio\"\nversion = \"", "name = \"tokio\"\nversion = \"9", 1);
    assert_ne!(now, identity::identity(&sources, &identity::crates(&newer), "x"));
    assert_ne!(now, identity::identity(&sources, &crates, "y"));
    let mut changed = sources.clone();
    changed[0].1.push_str("fn other() {}\n");
    assert_ne!(now, identity::identity(&changed, &crates, "x"));
    let has_tests = sources.iter().filter(|(_, code)| code.contains("#[test]") || code.contains("//!")).count();
    assert_eq!(has_tests, 0, "tests and comments do not count");
}

#[test]
fn this_test_sees_what_it_looks_for() {
    let named = rooms_named("use crate::{api::{a, store}, engine};\nlet x = crate::kinds::y();");
    assert_eq!(named, ["api", "engine", "kinds"].map(str::to_owned).into());
    let modules = modules_named("use evenkeel::a::b;\nuse crate::{c};\nuse crate::d::{e, f::g};\nmycrate::h::i()");
    assert_eq!(modules, ["a/b", "d/e", "d/f"].map(str::to_owned).into());
    assert!(has_word("x.await?", "await") && !has_word("strand(awaited)", "rand"));
    let source =
        Source { name: "kinds/a/plan.rs".into(), text: "fn a() {} // async\n#[cfg(test)]\nmod tests { rand }".into() };
    assert_eq!((source.code().trim(), source.room()), ("fn a() {}", "kinds"));
}
