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
