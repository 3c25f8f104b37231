//! Images are asked for their libraries on a real Docker Engine. Runs only with EVENKEEL_TEST_DOCKER=1, and needs the image
//! `postgres:15`.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::process::{Command, Stdio};

use evenkeel::api::labels;
use evenkeel::engine::{Engine as _, ask};

use crate::docker_engine::{IMAGE, bench};

/// An image with PostgreSQL and another `getconf`; it is removed when this is dropped.
struct Pretending(String);

impl Pretending {
    fn glibc(version: &str) -> Self {
        let tag = format!("evenkeel-test/pretending-{}:{version}", std::process::id());
        let build = ["build", "-q", "-t", &tag, "-"];
        let mut build = Command::new("docker").args(build).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let script = format!("printf '#!/bin/sh\\necho glibc {version}\\n' >/usr/bin/getconf");
        write!(build.stdin.take().unwrap(), "FROM postgres:15\nRUN {script}\n").unwrap();
        assert!(build.wait().unwrap().success());
        Self(tag)
    }
}

impl Drop for Pretending {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rmi", "-f", &self.0]).output();
    }
}

#[tokio::test]
async fn an_image_says_by_which_libraries_it_sorts_text_and_nothing_stays_behind() {
    let Some(bench) = bench("ask") else { return };
    let engine = &bench.engine;
    let other = Pretending::glibc("2.99");
    for image in ["postgres:15", &other.0] {
        let id = engine.image(image).await.unwrap().unwrap().id;
        let libraries = ask::libraries(engine, "local", &bench.owner, &id).await.unwrap();
        assert_eq!(libraries.libc == "glibc 2.99", image == other.0, "{libraries:?}");
        assert!(libraries.libc.starts_with("glibc ") && libraries.icu.is_some(), "{libraries:?}");
    }
    let id = engine.image(IMAGE).await.unwrap().unwrap().id;
    let refused = ask::libraries(engine, "local", &bench.owner, &id).await.unwrap_err();
    assert!(refused.to_string().contains("\"sh\""), "{refused}");
    let label = format!("label={}={}", labels::NAME, bench.owner.name);
    let left = Command::new("docker").args(["ps", "-aq", "--filter", &label]).output().unwrap();
    assert!(left.stdout.is_empty(), "{left:?}");
}
