//! Tests of the mirror: what it answers from memory, and what a silent host costs.
#![allow(clippy::unwrap_used)]

use std::pin::Pin;

use futures::{FutureExt as _, Stream};

use super::super::fake::FakeEngine;
use super::super::{ContainerSpec, NetworkSpec};
use super::*;

fn owner(name: &str) -> Owner {
    Owner { kind: "K".into(), namespace: "default".into(), name: name.into() }
}

fn spec(owner: &Owner, name: &str) -> ContainerSpec {
    let (image, network) = ("image".into(), "net".into());
    ContainerSpec { name: name.into(), image, network, labels: owner.labels(), ..Default::default() }
}

/// A host with one running container `a` of owner `one`, its mirror, and its events.
async fn mirrored() -> (Arc<FakeEngine>, Mirror, Pin<Box<dyn Stream<Item = EventHint> + Send>>) {
    let fake = Arc::new(FakeEngine::new("fake"));
    let mirror = Mirror::new("fake", fake.clone());
    let mut events = mirror.events();
    assert_eq!(events.next().await, Some(None));
    mirror.pull_image("image", None).await.unwrap();
    mirror
        .ensure_network(&NetworkSpec { name: "net".into(), labels: owner("one").labels(), internal: false })
        .await
        .unwrap();
    mirror.create_container(&spec(&owner("one"), "a")).await.unwrap();
    mirror.start_container("a").await.unwrap();
    (fake, mirror, events)
}

async fn states(mirror: &Mirror, owner: &Owner) -> String {
    let seen = mirror.list_containers(owner).await.unwrap();
    seen.iter().map(|one| format!("{} {:?} ", one.name, one.state)).collect()
}

#[tokio::test(start_paused = true)]
async fn looking_again_costs_the_host_nothing_and_what_was_done_is_seen() {
    let (fake, mirror, _events) = mirrored().await;
    assert_eq!(states(&mirror, &owner("one")).await, "a Running ");
    fake.take_calls();
    for _ in 0..100 {
        assert_eq!(states(&mirror, &owner("one")).await, "a Running ");
    }
    assert!(fake.take_calls().is_empty());
    mirror.stop_container("a", Duration::ZERO).await.unwrap();
    assert_eq!(states(&mirror, &owner("one")).await, "a Exited ");
}

#[tokio::test(start_paused = true)]
async fn an_event_outdates_its_owner_alone() {
    let (fake, mirror, mut events) = mirrored().await;
    mirror.create_container(&spec(&owner("two"), "b")).await.unwrap();
    let both = [owner("one"), owner("two")];
    // The test's own changes cause events too.
    while tokio::time::timeout(Duration::from_millis(10), events.next()).await.is_ok() {}
    for owner in &both {
        states(&mirror, owner).await;
    }
    fake.take_calls();
    fake.die("a");
    while events.next().await != Some(Some(owner("one"))) {}
    assert_eq!(states(&mirror, &both[0]).await + &states(&mirror, &both[1]).await, "a Exited b Created ");
    assert_eq!(fake.take_calls(), ["list_containers one"]);
}

#[tokio::test(start_paused = true)]
async fn what_no_event_told_is_seen_at_the_next_refresh_and_its_owner_is_woken() {
    let (fake, mirror, mut events) = mirrored().await;
    states(&mirror, &owner("one")).await;
    fake.world(|world| world.containers.clear());
    assert_eq!(states(&mirror, &owner("one")).await, "a Running ");
    let woken = async { while events.next().await != Some(Some(owner("one"))) {} };
    tokio::time::timeout(REFRESH + Duration::from_secs(1), woken).await.unwrap();
    assert_eq!(states(&mirror, &owner("one")).await, "");
}

#[tokio::test(start_paused = true)]
async fn without_a_follower_nothing_is_answered_from_memory() {
    let (fake, mirror, events) = mirrored().await;
    drop(events);
    tokio::task::yield_now().await;
    states(&mirror, &owner("one")).await;
    fake.world(|world| world.containers.clear());
    assert_eq!(states(&mirror, &owner("one")).await, "");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_reads_any_more_is_given_back() {
    let (_fake, mirror, mut events) = mirrored().await;
    tokio::spawn(async move { while events.next().await.is_some() {} });
    for number in 0..100 {
        states(&mirror, &owner(&number.to_string())).await;
    }
    assert!(mirror.kept() >= 100);
    sleep(REFRESH_ALL * 6).await;
    // The network is dropped too, because it was not read.
    assert_eq!(mirror.kept(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_hangs_fails_at_once_from_the_second_read_on() {
    let (fake, mirror, mut events) = mirrored().await;
    tokio::spawn(async move { while events.next().await.is_some() {} });
    fake.world(|world| world.hangs = true);
    let (x, y) = (owner("x"), owner("y"));
    assert!(matches!(mirror.list_containers(&x).await, Err(Error::Unreachable { .. })));
    let second = mirror.list_containers(&y).now_or_never();
    assert!(matches!(second, Some(Err(Error::Unreachable { .. }))));
    fake.world(|world| world.hangs = false);
    sleep(Duration::from_secs(15)).await;
    mirror.list_containers(&owner("x")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_host_that_hangs_fails_for_what_was_known_too() {
    let (fake, mirror, mut events) = mirrored().await;
    tokio::spawn(async move { while events.next().await.is_some() {} });
    sleep(Duration::from_millis(10)).await;
    states(&mirror, &owner("one")).await;
    sleep(Duration::from_millis(4_000)).await;
    fake.world(|world| world.hangs = true);
    assert!(matches!(mirror.list_containers(&owner("x")).await, Err(Error::Unreachable { .. })));
    let known = mirror.list_containers(&owner("one")).await;
    assert!(known.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_start_that_is_refused_outdates_its_owner_alone() {
    let (fake, mirror, mut events) = mirrored().await;
    tokio::spawn(async move { while events.next().await.is_some() {} });
    for number in 0..200 {
        states(&mirror, &owner(&number.to_string())).await;
    }
    sleep(Duration::from_millis(10)).await;
    fake.take_calls();
    fake.fail_next("start_container", 1, super::super::fake::Fault::Refused);
    mirror.create_container(&spec(&owner("one"), "b")).await.unwrap();
    mirror.start_container("b").await.unwrap_err();
    for number in 0..200 {
        states(&mirror, &owner(&number.to_string())).await;
    }
    let lists = fake.take_calls().iter().filter(|call| call.starts_with("list")).count();
    assert!(lists <= 2, "{lists}");
}

#[tokio::test(start_paused = true)]
async fn a_new_subscription_costs_one_list_whatever_the_number_of_owners() {
    let (fake, mirror, mut events) = mirrored().await;
    tokio::spawn(async move { while events.next().await.is_some() {} });
    for number in 0..200 {
        states(&mirror, &owner(&number.to_string())).await;
    }
    fake.take_calls();
    fake.hint(None);
    sleep(Duration::from_millis(100)).await;
    for number in 0..200 {
        states(&mirror, &owner(&number.to_string())).await;
    }
    let lists = fake.take_calls().iter().filter(|call| call.starts_with("list")).count();
    assert!(lists <= 2, "{lists}");
}

#[tokio::test(start_paused = true)]
async fn a_network_made_anew_outside_is_seen_by_its_event_or_at_the_next_whole_list() {
    let (fake, mirror, mut events) = mirrored().await;
    tokio::spawn(async move { while events.next().await.is_some() {} });
    let before = mirror.network("net").await.unwrap().unwrap();
    let make_anew = |third: u8| {
        fake.world(|world| {
            let (_, seen) = world.networks.get_mut("net").unwrap();
            seen.subnet.0 = std::net::Ipv4Addr::new(10, 99, third, 0);
        });
    };
    make_anew(0);
    fake.stir();
    sleep(Duration::from_millis(10)).await;
    let told = mirror.network("net").await.unwrap().unwrap();
    assert_ne!(before, told);
    make_anew(1);
    sleep(REFRESH_ALL + REFRESH).await;
    assert_ne!(told, mirror.network("net").await.unwrap().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_change_that_nobody_waits_for_leaves_nothing_old() {
    let (fake, mirror, mut events) = mirrored().await;
    tokio::spawn(async move { while events.next().await.is_some() {} });
    sleep(Duration::from_millis(10)).await;
    let changing = mirror.change(|state| state.outdate_thing("a"), async {
        sleep(Duration::from_millis(5)).await;
        fake.world(|world| world.containers.clear());
        sleep(Duration::from_secs(5)).await;
        Ok(())
    });
    let one = owner("one");
    tokio::join!(
        async {
            sleep(Duration::from_millis(1)).await;
            assert_eq!(states(&mirror, &one).await, "a Running ");
        },
        async { assert!(tokio::time::timeout(Duration::from_millis(20), changing).await.is_err()) }
    );
    assert_eq!(states(&mirror, &owner("one")).await, "");
}

#[tokio::test(start_paused = true)]
async fn many_images_are_kept_by_one_list_and_a_change_outdates_them() {
    let (fake, mirror, mut events) = mirrored().await;
    tokio::spawn(async move { while events.next().await.is_some() {} });
    let names: Vec<_> = (0..100).map(|number| format!("web:{number}")).collect();
    fake.world(|world| world.images.extend(names.iter().cloned()));
    let read = async || {
        for name in &names {
            mirror.image(name).await.unwrap();
        }
        fake.take_calls()
    };
    sleep(REFRESH_ALL).await;
    read().await;
    for _ in 0..3 {
        sleep(REFRESH_ALL).await;
        let calls = read().await;
        let lists = calls.iter().filter(|call| call.starts_with("list_")).count();
        assert!(calls.iter().filter(|call| *call == "list_all").count() == 1 && lists == 10, "{calls:?}");
        assert!(calls.iter().all(|call| call.starts_with("list_") || call == "info"), "{calls:?}");
    }
    fake.world(|world| world.ids.insert("web:7".into(), "sha256:new".into()));
    fake.stir();
    sleep(Duration::from_millis(10)).await;
    assert_eq!(mirror.image("web:7").await.unwrap().unwrap().id, "sha256:new");
}

/// Reads everything about an owner, as a reconcile does; returns how long it took and whether all of it is unknown.
async fn looked(mirror: &Mirror, name: &str) -> (Duration, bool) {
    let (began, owner) = (instant(), owner(name));
    let (containers, volumes, network, image, claim) = tokio::join!(
        mirror.list_containers(&owner),
        mirror.list_volumes(&owner),
        mirror.network("net"),
        mirror.image("image"),
        mirror.volume("claim"),
    );
    let unknown = [containers.is_err(), volumes.is_err(), network.is_err(), image.is_err(), claim.is_err()];
    (began.elapsed(), unknown.iter().all(|unknown| *unknown))
}

/// Regression 322: each object with something on a host that hangs waited ten seconds for it, also with all else at hand.
#[tokio::test(start_paused = true)]
async fn a_silent_host_costs_a_hundred_objects_one_second_once_and_then_nothing() {
    let (fake, mirror, mut events) = mirrored().await;
    tokio::spawn(async move { while events.next().await.is_some() {} });
    sleep(Duration::from_millis(10)).await;
    fake.world(|world| world.hangs = true);
    let names: Vec<_> = (0..100).map(|number| number.to_string()).collect();
    let first = futures::future::join_all(names.iter().map(|name| looked(&mirror, name))).await;
    assert!(first.iter().all(|(took, unknown)| *took <= HANG && *unknown));
    for name in &names {
        assert_eq!(looked(&mirror, name).await, (Duration::ZERO, true));
    }
    // What no answer tells is unknown for as long as there is none, and known soon after.
    sleep(Duration::from_secs(60)).await;
    assert_eq!(looked(&mirror, "one").await, (Duration::ZERO, true));
    assert_eq!(mirror.glance().trouble.unwrap().to_string(), "no answer within 1 s");
    fake.world(|world| world.hangs = false);
    // The attempt under way ends in time, and the next one is answered.
    sleep(RARELY + HANG * 2).await;
    assert_eq!(states(&mirror, &owner("one")).await, "a Running ");
    assert_eq!(mirror.glance().trouble, None);
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_an_answer() {
    let (fake, mirror, mut events) = mirrored().await;
    tokio::spawn(async move { while events.next().await.is_some() {} });
    sleep(Duration::from_millis(10)).await;
    fake.world(|world| world.slow = Duration::from_millis(900));
    for name in ["x", "y"] {
        assert_eq!(mirror.list_containers(&owner(name)).await.unwrap(), []);
    }
    sleep(REFRESH * 3).await;
    assert_eq!((mirror.glance().trouble, states(&mirror, &owner("one")).await), (None, "a Running ".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn the_hosts_own_object_is_woken_when_the_host_falls_silent_and_when_it_answers_again() {
    let (fake, mirror, mut events) = mirrored().await;
    let own = Owner { kind: "DockerHost".into(), namespace: String::new(), name: "fake".into() };
    let (seen, hints) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
    let (count, all) = (seen.clone(), hints.clone());
    let is_own = own.clone();
    tokio::spawn(async move {
        while let Some(hint) = events.next().await {
            *lock(&count) += usize::from(hint.as_ref() == Some(&is_own));
            *lock(&all) += 1;
        }
    });
    let woken = async |for_: Duration| {
        sleep(for_).await;
        std::mem::take(&mut *lock(&seen))
    };
    woken(Duration::from_secs(1)).await;
    fake.world(|world| world.hangs = true);
    let _ = mirror.list_containers(&owner("x")).await;
    assert_eq!(woken(Duration::from_millis(100)).await, 1);
    assert_eq!(woken(Duration::from_secs(100)).await, 0, "as long as nothing changes, nobody is woken");
    fake.world(|world| world.hangs = false);
    assert_eq!(woken(RARELY + HANG * 2).await, 1);
}

/// A host that is known as engine `one`, with a running container of owner `one`.
async fn known() -> (Arc<FakeEngine>, Mirror) {
    let (fake, mirror, mut events) = mirrored().await;
    tokio::spawn(async move { while events.next().await.is_some() {} });
    fake.world(|world| world.engine_id = Some("one".into()));
    mirror.know("one");
    sleep(Duration::from_millis(10)).await;
    assert_eq!(states(&mirror, &owner("one")).await, "a Running ");
    fake.take_calls();
    (fake, mirror)
}

/// Puts an empty engine with another ID in the place of the known one; `told`: the ID that it told last.
fn replace(fake: &FakeEngine, told: Option<&str>) {
    fake.world(|world| {
        (world.engine_id, world.told) = (Some("two".into()), told.map(str::to_owned));
        world.containers.clear();
        world.volumes.clear();
    });
}

/// Regression 323: a reinstalled host, or another one at its address, has none of the members, and each of them counted as
/// gone for sure.
#[tokio::test(start_paused = true)]
async fn another_engine_certifies_nothing_and_gets_nothing_until_it_is_accepted() {
    let (fake, mirror) = known().await;
    replace(&fake, None);
    // The stream of events has ended.
    fake.stir();
    sleep(Duration::from_millis(10)).await;
    let mut told = Vec::new();
    told.push(mirror.list_containers(&owner("one")).await.err().map(|error| error.to_string()));
    told.push(mirror.image("image").await.err().map(|error| error.to_string()));
    told.push(mirror.volume("claim").await.err().map(|error| error.to_string()));
    told.push(mirror.create_container(&spec(&owner("one"), "a")).await.err().map(|error| error.to_string()));
    told.push(mirror.start_container("a").await.err().map(|error| error.to_string()));
    told.push(mirror.dial("a", "unix:/x").await.err().map(|error| error.to_string()));
    let same = told[0].clone();
    assert!(told.iter().all(|one| *one == same), "{told:?}");
    expect_test::expect!["Docker host fake is another engine than before: its ID is two and was one. Nothing there is believed or changed until a person says that it is right: evenkeel host accept fake"].assert_eq(&same.unwrap());
    assert_eq!(mirror.glance().stranger.as_deref(), Some("two"));
    let calls = fake.take_calls();
    assert!(calls.iter().all(|call| call == "info"), "{calls:?}");
    mirror.know("two");
    assert_eq!((states(&mirror, &owner("one")).await, mirror.glance().stranger), (String::new(), None));
}

#[tokio::test(start_paused = true)]
async fn an_empty_list_counts_only_if_the_engine_has_told_its_id_since() {
    let (fake, mirror) = known().await;
    sleep(SURE).await;
    // Nobody has noticed yet that the connection leads to another engine.
    replace(&fake, Some("one"));
    assert!(matches!(mirror.list_containers(&owner("new")).await, Err(Error::Stranger { .. })));
    let (fake, mirror) = known().await;
    replace(&fake, Some("one"));
    sleep(REFRESH).await;
    assert!(matches!(mirror.list_containers(&owner("one")).await, Err(Error::Stranger { .. })));
}

#[tokio::test(start_paused = true)]
async fn the_number_of_containers_is_known_without_a_request() {
    let (fake, mirror, mut events) = mirrored().await;
    tokio::spawn(async move { while events.next().await.is_some() {} });
    sleep(REFRESH).await;
    fake.take_calls();
    assert_eq!(mirror.glance().containers.unwrap(), [(owner("one"), 1)].into());
    assert!(fake.take_calls().is_empty());
    mirror.remove_container("a").await.unwrap();
    states(&mirror, &owner("one")).await;
    assert_eq!(mirror.glance().containers.unwrap(), [].into());
}

/// Regression 324: a new subscription whose first list took longer than a second had none for half a minute.
#[tokio::test(start_paused = true)]
async fn a_first_list_that_is_late_is_made_up_for_at_once() {
    let fake = Arc::new(FakeEngine::new("fake"));
    fake.world(|world| world.slow = Duration::from_millis(1_050));
    let mirror = Mirror::new("fake", fake.clone());
    let mut events = mirror.events();
    tokio::spawn(async move { while events.next().await.is_some() {} });
    sleep(Duration::from_millis(1_500)).await;
    fake.world(|world| world.slow = Duration::ZERO);
    sleep(Duration::from_secs(3)).await;
    assert!(mirror.glance().containers.is_some());
}
