//! What keeps containers apart, against a real Docker Engine: volumes by owner, the program that is not believed, capabilities.
//! Runs only with EVENKEEL_TEST_DOCKER=1.
#![allow(clippy::unwrap_used)]

use evenkeel::api::labels::{self, Owner};
use evenkeel::engine::{ContainerSpec, Engine, Error, Mount, MountSource, NetworkSpec, VolumeSpec};

use crate::docker_engine::{IDLE, IMAGE, bench, docker, own_binary};

/// Runs a shell script in a new container, with further arguments of `docker run`; returns what it says.
fn docker_run(arguments: &[&str], script: &str) -> String {
    docker(&[&["run", "--rm"], arguments, &["--entrypoint", "/bin/busybox", IMAGE, "sh", "-c", script]].concat())
}

/// Regression 196: the marker in the volume was believed, not the program beside it. Whoever could write to the volume was root
/// in every database of the host.
#[tokio::test]
async fn a_binary_that_somebody_changed_is_replaced_and_one_that_somebody_can_change_is_refused() {
    let Some(bench) = bench("tampered") else { return };
    let engine = own_binary(&bench);
    let volume = engine().ensure_binary(IMAGE).await.unwrap();
    let mount = format!("{volume}:/evenkeel");
    for change in [
        "echo '#!/bin/busybox sh' > /evenkeel/evenkeel; echo 'echo mine' >> /evenkeel/evenkeel",
        "/bin/busybox rm /evenkeel/evenkeel; /bin/busybox ln -s /bin/busybox /evenkeel/evenkeel",
        "/bin/busybox rm /evenkeel/evenkeel",
    ] {
        docker_run(&["-v", &mount], change);
        assert_eq!(engine().ensure_binary(IMAGE).await.unwrap(), volume);
        let read_only = format!("{mount}:ro");
        assert_eq!(docker_run(&["-v", &read_only], "/evenkeel/evenkeel"), bench.owner.name, "{change}");
    }
    let writer = bench.name("writer");
    docker(&["create", "--name", &writer, "-v", &mount, "--entrypoint", "/bin/busybox", IMAGE]);
    let refused = engine().ensure_binary(IMAGE).await.unwrap_err();
    assert!(matches!(&refused, Error::Conflict { message, .. } if message.contains(&writer)), "{refused}");
    docker(&["rm", &writer]);
    assert_eq!(engine().ensure_binary(IMAGE).await.unwrap(), volume);
    bench.engine.remove_volume(&volume).await.unwrap();
}

/// Regression 196: a mount by name took any existing volume, whatever its owner.
#[tokio::test]
async fn a_volume_of_another_owner_is_not_mounted_by_its_name() {
    let Some(bench) = bench("foreign") else { return };
    bench.engine.ensure_network(&bench.network()).await.unwrap();
    let (taken, free, kept) = (bench.name("taken"), bench.name("free"), bench.name("kept"));
    bench.engine.ensure_volume(&VolumeSpec { name: taken.clone(), labels: bench.owner.labels() }).await.unwrap();
    docker(&["volume", "create", &free]);
    let with = |name: &str, source: MountSource| {
        let mounts = vec![Mount { source, path: "/data".into(), read_only: false }];
        ContainerSpec { name: bench.name(name), mounts, ..bench.container(IDLE) }
    };
    let named = |name: &str| MountSource::Volume { name: name.into(), options: [].into(), labels: [].into() };
    let other = Owner { name: "other".into(), ..bench.owner.clone() };
    let theirs = MountSource::Kept { name: taken.clone(), labels: other.labels() };
    for source in [named(&taken), theirs] {
        let refused = bench.engine.create_container(&with("1", source)).await.unwrap_err();
        assert!(matches!(refused, Error::Conflict { .. }), "{refused}");
    }
    bench.engine.create_container(&with("2", named(&free))).await.unwrap();
    let own = MountSource::Kept { name: kept.clone(), labels: bench.owner.labels() };
    bench.engine.create_container(&with("3", own)).await.unwrap();
    let label = format!("{{{{index .Labels {:?}}}}}", labels::NAME);
    assert_eq!(docker(&["volume", "inspect", "-f", &label, &kept]), bench.owner.name);
    docker(&["rm", "-f", &bench.name("2")]);
    docker(&["volume", "rm", &free]);
}

/// Regression 190: see `networks.rs`.
#[tokio::test]
async fn two_networks_of_which_one_is_named_like_a_probe_live_together() {
    let Some(bench) = bench("probes") else { return };
    let named = |name: String| NetworkSpec { name, labels: bench.owner.labels(), internal: false };
    let (one, other) = (named(bench.name("x")), named(bench.name("x-probe")));
    let first = bench.engine.ensure_network(&other).await.unwrap();
    bench.engine.ensure_network(&one).await.unwrap();
    assert_eq!(bench.engine.network(&other.name).await.unwrap(), Some(first));
}

/// Regression 197: see `create.rs`.
#[tokio::test]
async fn no_container_can_forge_packets() {
    let Some(bench) = bench("caps") else { return };
    bench.run(&bench.container("/bin/busybox grep CapBnd /proc/self/status")).await;
    let line = bench.says(&bench.name("1")).await;
    let bits = u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap();
    let has = |bit: u32| bits >> bit & 1 == 1;
    // NET_RAW, MKNOD, AUDIT_WRITE, SETFCAP; and CHOWN, which it keeps.
    assert_eq!([13, 27, 29, 31, 0].map(has), [false, false, false, false, true], "{line}");
}
