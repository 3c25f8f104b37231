//! The binary and its tests share the compiled dependencies.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::process::Command;

/// Each crate of the build with the features it is compiled with, as cargo resolves them.
fn crates(edges: &str) -> BTreeSet<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let arguments = ["tree", "--locked", "--offline", "--prefix", "none", "--format", "{p}|{f}", "--edges", edges];
    let out = Command::new(cargo).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

/// The packages of a lock file, each as `name version`.
fn locked(file: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let value = |line: Option<&str>| line.unwrap().split('"').nth(1).unwrap().to_owned();
    let package = |text: &str| {
        let mut lines = text.lines().skip(1);
        format!("{} {}", value(lines.next()), value(lines.next()))
    };
    text.split("[[package]]").skip(1).map(package).collect()
}

#[test]
fn the_fuzzer_is_built_of_the_same_crates() {
    let own = ["arbitrary ", "evenkeel-fuzz ", "jobserver ", "libfuzzer-sys "];
    let (program, fuzzer) = (locked("Cargo.lock"), locked("fuzz/Cargo.lock"));
    let other: Vec<_> =
        fuzzer.difference(&program).filter(|one| !own.iter().any(|name| one.starts_with(name))).collect();
    assert!(fuzzer.len() > 100 && other.is_empty(), "docs/testing.md tells how to update fuzz/Cargo.lock: {other:?}");
}

#[test]
fn no_dependency_of_the_tests_adds_features_to_a_crate_of_the_program() {
    let of_program = crates("normal,build");
    assert!(of_program.len() > 100, "cargo tells of {} crates only", of_program.len());
    let changed: Vec<_> = of_program.difference(&crates("normal,build,dev")).cloned().collect();
    assert!(
        changed.is_empty(),
        "compiled twice with all that depends on them; name the features in Cargo.toml: {changed:#?}"
    );
}
