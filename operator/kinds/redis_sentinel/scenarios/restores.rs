//! The restore of the first data from a backup.

use expect_test::expect;

use super::super::world::World;
use super::super::world::restore::Stored;
use super::{compare, end, shown};

const RECOVERY: &str = "bootstrap: {recovery: {source: {backup: today}}}";

/// An object that is to be restored from a backup with this in it.
fn restoring(stored: Stored) -> World {
    let mut world = World::new(RECOVERY);
    world.archives.hash = Some("h".into());
    world.stored = stored;
    // The numbers of clients begin after those.
    world.next_write = 1_000;
    world
}

fn ready(world: &World) -> String {
    let status = world.status();
    let ready = status.conditions.iter().find(|one| one.type_ == "Ready").unwrap().clone();
    format!("{} {} {}: {}\n", world.ms, status.phase, ready.reason, ready.message)
}

/// Turns, and notes what people are told whenever that changes. Nobody leads meanwhile.
fn watch(world: &mut World, turns: usize) -> String {
    let mut told = String::new();
    let mut last = String::new();
    for _ in 0..turns {
        world.turn();
        let now = ready(world);
        let text = now.split_once(' ').unwrap().1.to_owned();
        if text != last {
            told += &now;
        }
        last = text;
        if world.status().phase != "Recovering" && world.decisions().master.is_some() {
            break;
        }
        assert_eq!(world.masters(), Vec::<String>::new());
        for member in ["cache-1", "cache-2", "cache-3"] {
            let running = world.boxes.get(&world.container(member)).is_some_and(|one| one.data.server.is_some());
            assert!(!running, "the server of {member} runs before there is data");
        }
    }
    told
}

#[test]
fn one_member_makes_the_data_and_then_leads_with_it() {
    let mut world = restoring(Stored { writes: vec![1, 2, 3], damage: None });
    let told = watch(&mut world, 100);
    world.writers = false;
    world.settle(200);
    let recovery = world.status().recovery.unwrap();
    compare(
        &world,
        &format!("{told}{}{}: {}\n", shown(&world), recovery.phase, recovery.message),
        &expect![[r#"
            100 Pending Starting: no member is master yet
            200 Pending Starting: waiting for cache-1, cache-2, cache-3: the member with the newest data becomes master
            300 Recovering Recovering: cache-1 is to restore the backup
            400 Recovering Recovering: cache-1 is told to restore the backup
            500 Recovering Recovering: cache-1 downloads backup 20261130T030000: 0% of 100
            1400 Bootstrapping Starting: no member is master yet
            cache-1 master running Some(3)
            cache-2 replica in sync Some(3)
            cache-3 replica in sync Some(3)
            Completed: cache-1 has the data of backup 20261130T030000
        "#]],
    );
    let data = &world.redis(&world.container(&world.master())).unwrap().writes;
    assert!(data.starts_with(&[1, 2, 3]), "{data:?}");
}

#[test]
fn a_backup_without_a_key_is_restored_as_well() {
    let mut world = restoring(Stored::default());
    watch(&mut world, 100);
    world.settle(200);
    assert_eq!((world.master().as_str(), world.status().phase.word()), ("cache-1", "Healthy"));
    end(&world);
}

/// What cannot be read is told, tried again if that can help, and never replaced by nothing.
#[test]
fn a_restore_that_fails_is_told_and_nobody_leads_without_data() {
    let failed = |lasting, turns| {
        let damage = Some(("rdb/20261130T030000/dump.rdb.zst: the frame at 0 is damaged".to_owned(), lasting));
        let mut world = restoring(Stored { writes: vec![1], damage });
        let told = watch(&mut world, turns);
        assert_eq!(world.masters(), Vec::<String>::new());
        (world, told)
    };
    let (_, told) = failed(true, 200);
    expect![[r#"
        100 Pending Starting: no member is master yet
        200 Pending Starting: waiting for cache-1, cache-2, cache-3: the member with the newest data becomes master
        300 Recovering Recovering: cache-1 is to restore the backup
        400 Recovering Recovering: cache-1 is told to restore the backup
        500 Recovering Recovering: cache-1 downloads backup 20261130T030000: 0% of 100
        1400 Recovering RecoveryFailed: cache-1 could not restore the backup: rdb/20261130T030000/dump.rdb.zst: the frame at 0 is damaged; no data is served: delete this object, and restore another backup, or with another image
    "#]].assert_eq(&told);
    let (mut world, told) = failed(false, 100);
    expect![[r#"
        100 Pending Starting: no member is master yet
        200 Pending Starting: waiting for cache-1, cache-2, cache-3: the member with the newest data becomes master
        300 Recovering Recovering: cache-1 is to restore the backup
        400 Recovering Recovering: cache-1 is told to restore the backup
        500 Recovering Recovering: cache-1 downloads backup 20261130T030000: 0% of 100
        1400 Recovering RecoveryFailed: cache-1 could not restore the backup: rdb/20261130T030000/dump.rdb.zst: the frame at 0 is damaged; no data is served; it is tried again
    "#]].assert_eq(&told);
    world.stored.damage = None;
    world.settle(600);
    assert_eq!(world.status().recovery.unwrap().attempt, 2);
    end(&world);
}

#[test]
fn a_store_that_cannot_be_opened_holds_everything_up() {
    let mut world = restoring(Stored { writes: vec![1], damage: None });
    world.archives.hash = None;
    world.archives.problem = Some(("RecoverySourceNotFound", "Backup today does not exist".into()));
    world.turns(50);
    expect![[r#"
        5000 Pending RecoverySourceNotFound: Backup today does not exist
    "#]]
    .assert_eq(&ready(&world));
    assert_eq!(world.masters(), Vec::<String>::new());
    world.archives.hash = Some("h".into());
    world.archives.problem = None;
    world.settle(200);
    end(&world);
}

/// Data that volumes have is adopted: a manifest that is applied again after its object was lost restores nothing over it.
#[test]
fn data_that_is_there_is_adopted_and_nothing_is_restored() {
    let mut world = super::running("");
    let kept = world.redis(&world.container("cache-1")).unwrap().writes.clone();
    world.writers = false;
    for member in ["cache-1", "cache-2", "cache-3"] {
        world.kill_container(member);
    }
    world.object = World::new(RECOVERY).object;
    world.archives.hash = Some("h".into());
    world.stored = Stored { writes: vec![1], damage: None };
    world.settle(300);
    let found = &world.redis(&world.container(&world.master())).unwrap().writes;
    assert!(found.starts_with(&kept[..kept.len() - 1]), "{found:?}");
    assert_eq!(world.decisions().recovery, None);
}

/// The member that restores dies at any moment of it: it goes on, nobody else leads, and the data is the same.
#[test]
fn a_container_that_dies_while_it_restores_begins_again() {
    // Afterwards it is a master that dies.
    for moment in 1..14 {
        let mut world = restoring(Stored { writes: vec![1, 2, 3], damage: None });
        world.writers = false;
        world.turns(moment);
        if world.boxes.contains_key(&world.container("cache-1")) {
            world.kill_container("cache-1");
        }
        let healed = world.heals(400);
        assert!(healed.is_some(), "killed at {moment}:\n{}", world.story(0).chars().take(6000).collect::<String>());
        let data = &world.redis(&world.container(&world.master())).unwrap().writes;
        assert_eq!((moment, data.as_slice()), (moment, [1, 2, 3].as_slice()));
        end(&world);
    }
}

/// An operator that loses its record in the midst decides anew, and never for an empty master.
#[test]
fn an_operator_that_has_lost_its_record_decides_anew() {
    for moment in 1..30 {
        let mut world = restoring(Stored { writes: vec![1, 2, 3], damage: None });
        world.writers = false;
        world.turns(moment);
        world.object.status = None;
        world.settle(400);
        let data = &world.redis(&world.container(&world.master())).unwrap().writes;
        assert_eq!((moment, data.as_slice()), (moment, [1, 2, 3].as_slice()));
        end(&world);
    }
}
