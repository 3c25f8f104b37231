//! Sets `EVENKEEL_CONTAINER_IDENTITY`, the program's identity in containers (see `operator/identity.rs`).

#[path = "operator/identity.rs"]
mod identity;

use std::path::Path;

fn main() {
    let variable = |name| std::env::var(name).expect("cargo sets it");
    let target = format!("{} {}", variable("TARGET"), variable("PROFILE"));
    let lock = std::fs::read_to_string("Cargo.lock").expect("Cargo.lock can be read");
    let sources = identity::sources(Path::new("operator"));
    let found = identity::identity(&sources, &identity::crates(&lock), &target);
    println!("cargo::rustc-env=EVENKEEL_CONTAINER_IDENTITY={found}");
    for file in identity::FILES {
        println!("cargo::rerun-if-changed=operator/{file}");
    }
    for file in ["Cargo.lock", "build.rs", "operator/identity.rs"] {
        println!("cargo::rerun-if-changed={file}");
    }
}
