//! The identity of this program in containers: a hash of the sources and crates that run there. Computed by `build.rs`.
//!
//! It names the volume with the binary, and the volume's name is part of a container's definition: another identity
//! rolls every database. So it covers only what runs in containers; tests, comments and blank lines do not count.
//! `tests/it/tidy.rs` checks that [`FILES`] and [`CRATES`] cover everything that those files import.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Files and folders under `operator/` that run in containers.
pub const FILES: &[&str] = &[
    "api/backup_id.rs",
    "api/chain.rs",
    "api/hash.rs",
    "api/libraries.rs",
    "api/lsn.rs",
    "api/postgres_settings.rs",
    "api/reach.rs",
    "api/redis_settings.rs",
    "api/sync.rs",
    "archive",
    "cli/logging.rs",
    "engine/bridge.rs",
    "inside.rs",
    "supervisor",
];

/// Files with tests, in any folder.
const TESTS: &[&str] = &["tests.rs", "released.rs"];

/// The crates that those files use. `a/b`: only the dependency `b` of `a` runs there.
pub const CRATES: &[&str] = &[
    "age",
    "async-trait",
    "base64",
    "bytes",
    "fallible-iterator",
    "futures",
    "hmac",
    "jiff",
    "nix",
    "object_store",
    "postgres-protocol",
    "redis",
    "ring",
    "rustls",
    "schemars",
    "serde",
    "serde_json",
    "sha2",
    "sqlx/sqlx-core",
    "sqlx/sqlx-postgres",
    "stringprep",
    "tar",
    "thiserror",
    "tokio",
    "tokio-rustls",
    "tokio-util",
    "tracing",
    "tracing-subscriber",
    "uuid",
    "webpki-root-certs",
    "zstd",
];

/// The files of [`FILES`] below this `operator/`, in order, each with its code.
pub fn sources(operator: &Path) -> Vec<(PathBuf, String)> {
    let mut waiting: Vec<PathBuf> = FILES.iter().map(|name| operator.join(name)).collect();
    let mut files = BTreeSet::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).expect("the folder can be read");
            waiting.extend(entries.map(|entry| entry.expect("the folder can be read").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !TESTS.iter().any(|name| path.ends_with(name))
        {
            files.insert(path);
        }
    }
    let code = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, code(&text))
    };
    files.into_iter().map(code).collect()
}

/// Without the tests at the end, comments and blank lines.
fn code(text: &str) -> String {
    let is_foot = |(at, _): &(usize, &str)| {
        let after = text[*at..].lines().find(|line| !line.starts_with("#["));
        after.is_some_and(|line| line.starts_with("mod ") || line.starts_with("pub mod "))
    };
    let foot = text.match_indices("#[cfg(test)]\n").find(is_foot).map_or(text.len(), |(at, _)| at);
    let lines = text[..foot]
        .lines()
        .filter(|line| !matches!(line.trim_start(), "" | "//") && !line.trim_start().starts_with("//"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Each crate that [`CRATES`] depend on, including themselves, with version and checksum; from the text of
/// `Cargo.lock`.
pub fn crates(lock: &str) -> BTreeSet<String> {
    let packages: BTreeMap<(&str, &str), Package> = lock.split("[[package]]").skip(1).map(package).collect();
    let find = |name: &str| {
        let (name, version) = name.split_once(' ').map_or((name, None), |(name, rest)| (name, rest.split(' ').next()));
        packages.keys().find(|(found, at)| *found == name && version.is_none_or(|version| version == *at)).copied()
    };
    let dependency = |of: (&str, &str), name: &str| {
        let named = |dependency: &&&str| dependency.split(' ').next() == Some(name);
        packages[&of].dependencies.iter().find(named).and_then(|found| find(found))
    };
    let ours = find("evenkeel").expect("Cargo.lock names this crate");
    let root = |path: &&str| {
        let step = |of, name| dependency(of, name).unwrap_or_else(|| panic!("Cargo.lock has no {path}"));
        path.split('/').fold(ours, step)
    };
    let mut waiting: Vec<(&str, &str)> = CRATES.iter().map(root).collect();
    let mut found = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        let package = &packages[&id];
        if found.insert(format!("{} {} {}", id.0, id.1, package.checksum)) {
            waiting.extend(package.dependencies.iter().filter_map(|name| find(name)));
        }
    }
    found
}

struct Package<'a> {
    checksum: &'a str,
    dependencies: Vec<&'a str>,
}

/// Name, version and the rest of one entry of `Cargo.lock`.
fn package(entry: &str) -> ((&str, &str), Package<'_>) {
    let field = |name: &str| {
        let line = entry.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
        line.unwrap_or_default().trim_matches('"')
    };
    let dependencies = entry.lines().filter_map(|line| line.strip_prefix(" \"")?.strip_suffix("\",")).collect();
    ((field("name"), field("version")), Package { checksum: field("checksum"), dependencies })
}

/// 12 hexadecimal digits. `target`: the build target, e.g. `x86_64-unknown-linux-gnu release`.
pub fn identity(sources: &[(PathBuf, String)], crates: &BTreeSet<String>, target: &str) -> String {
    let names = sources.iter().filter_map(|(path, _)| path.file_name()?.to_str());
    let parts = names.chain(sources.iter().map(|(_, code)| code.as_str()));
    let parts = parts.chain(crates.iter().map(String::as_str)).chain([target]);
    // FNV-1a: equal input, equal name. It need not be collision resistant against attackers.
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in parts.flat_map(|part| part.bytes().chain([0])) {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    format!("{hash:032x}")[..12].to_owned()
}
