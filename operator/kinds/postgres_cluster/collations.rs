//! Decides whether a container of the image would sort text by another library than the primary does. Then the indexes
//! that sort by that library may be wrong, on a standby at once; so no such container is made. Pure.

use std::collections::BTreeMap;

use super::decided::Blocker;
use super::view::{ClusterView, Member};
use super::{Observed, Step, workload};
use crate::api::libraries::Libraries;
use crate::api::postgres_cluster::CollationChange;
use crate::kinds::containers::replace;
use crate::runtime::companions::{Heard, due};
use crate::supervisor::wire::{Collations, Sorted};

/// The reason of the conditions.
pub const WOULD_CHANGE: &str = "CollationWouldChange";
/// Databases that a message names.
const NAMED: usize = 5;

/// An image on a host, by the image's ID.
pub type ImageOn = (String, String);

/// The libraries of images, as far as they were asked for.
pub type LibrariesSeen = BTreeMap<ImageOn, Heard<Libraries>>;

/// Why no container of the image is made now.
pub struct Held {
    /// The step that finds out more.
    pub ask: Option<Step>,
    /// What people should know.
    pub blocker: Option<Blocker>,
}

/// Whether the containers of the image are held back. Without an answer of the primary nothing is known, and a cluster
/// must be able to begin; and a supervisor of the release before does not say what sorts text.
pub fn held(view: &ClusterView, observed: &Observed) -> Option<Held> {
    if view.object.spec.collation_change == CollationChange::Allow {
        return None;
    }
    // The first leader has no data of anybody, and serves only once a standby is there.
    view.before.served.as_ref()?;
    let leader = view.member(view.before.leader_name()?)?;
    let collations = leader.live()?.collations.as_ref()?;
    let new = view.members.iter().filter_map(|member| image(view, observed, member));
    let leader = (leader.place.name.as_str(), collations);
    new.filter_map(|image| judge(view, observed, leader, image)).next()
}

/// The image and host of the container that would be made for this member.
fn image(view: &ClusterView, observed: &Observed, member: &Member) -> Option<ImageOn> {
    let host = &member.place.host;
    let image = observed.hosts.get(host)?.images.known()?.get(&view.object.spec.image)?;
    let network = workload::network(view.object);
    let replaced = || {
        let wanted = workload::member(view.object, observed, member.place);
        replace(&workload::common(view.object, observed, &network), &wanted).is_some()
    };
    let made = member.container_known && member.container.is_none();
    (made || replaced()).then(|| (host.clone(), image.id.clone()))
}

fn judge(
    view: &ClusterView,
    observed: &Observed,
    (leader, collations): (&str, &Collations),
    image: ImageOn,
) -> Option<Held> {
    let name = &view.object.spec.image;
    let blocked = |what: String| Some(Blocker::new(WOULD_CHANGE, what));
    let unknown = |what: &str, why: &str| {
        blocked(format!(
            "no container of image {name} is made: {what}: {why}; it is tried again. To go on without knowing it, set spec.collationChange: Allow"
        ))
    };
    let why = collations.problem.as_deref();
    let not_yet = |what: &str| Some(Held { ask: None, blocker: why.and_then(|why| unknown(what, why)) });
    let Some(sorted) = &collations.sorted else {
        return not_yet(&format!("{leader} cannot count the indexes that sort text by a library"));
    };
    if sorted.libc + sorted.icu == 0 {
        return None;
    }
    let Some(now) = &collations.libraries else {
        return not_yet(&format!("{leader} cannot tell by which library it sorts text"));
    };
    let heard = observed.libraries.get(&image);
    let Some(new) = heard.and_then(|heard| heard.value.as_ref()) else {
        let why = heard.and_then(Heard::failure);
        let blocker = why.and_then(|why| unknown("it cannot be asked by which library it sorts text", why));
        let ask = due(heard).then_some(Step::AskImage { host: image.0, image: image.1 });
        return Some(Held { ask, blocker });
    };
    let blocker = changed(now, new, sorted).map(|(from, to, count)| {
        let databases = in_words(&sorted.databases);
        let indexes = if count == 1 { "1 index depends".to_owned() } else { format!("{count} indexes depend") };
        Blocker::new(
            WOULD_CHANGE,
            format!(
                "no container of image {name} is made: it has {to}, and {leader} runs with {from}. In {databases} {indexes} on its order of text, and with the other version queries may give wrong answers. Set spec.image to an image with {from}. Or set spec.collationChange: Allow, and after the rollout run REINDEX DATABASE and ALTER DATABASE ... REFRESH COLLATION VERSION there"
            ),
        )
    });
    blocker.map(|blocker| Held { ask: None, blocker: Some(blocker) })
}

/// The libraries that change and that indexes depend on, and the number of these indexes.
fn changed(now: &Libraries, new: &Libraries, sorted: &Sorted) -> Option<(String, String, u64)> {
    let none = || "no ICU".to_owned();
    let icu = |libraries: &Libraries| libraries.icu.clone().unwrap_or_else(none);
    let both = [(now.libc.clone(), new.libc.clone(), sorted.libc), (icu(now), icu(new), sorted.icu)];
    let changed = both.into_iter().filter(|(from, to, count)| from != to && *count > 0);
    changed
        .reduce(|libc, icu| (format!("{} and {}", libc.0, icu.0), format!("{} and {}", libc.1, icu.1), libc.2 + icu.2))
}

fn in_words(databases: &[String]) -> String {
    let named = databases.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = databases.len().saturating_sub(NAMED);
    let word = if databases.len() == 1 { "database" } else { "databases" };
    if more == 0 { format!("{word} {named}") } else { format!("{word} {named} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;

    const THREE: &str = "{image: 'postgres:15', instances: 3}";

    #[test]
    fn only_a_library_that_indexes_depend_on_counts_as_changed() {
        let of = |libc: &str, icu: Option<&str>| Libraries { libc: libc.into(), icu: icu.map(str::to_owned) };
        let told = |new: &Libraries, libc, icu| {
            let sorted = Sorted { libc, icu, databases: vec!["app".into()] };
            let told = changed(&of("glibc 2.36", Some("ICU 72")), new, &sorted);
            told.map_or("-".to_owned(), |(from, to, count)| format!("{from} -> {to}: {count}"))
        };
        let (newer, musl) = (of("glibc 2.41", Some("ICU 72")), of("musl 1.2.5", None));
        let all = [told(&newer, 3, 2), told(&newer, 0, 2), told(&musl, 3, 2), told(&musl, 0, 2), told(&musl, 0, 0)];
        expect_test::expect![[r#"
            glibc 2.36 -> glibc 2.41: 3
            -
            glibc 2.36 and ICU 72 -> musl 1.2.5 and no ICU: 5
            ICU 72 -> no ICU: 2
            -"#]]
        .assert_eq(&all.join("\n"));
    }

    #[test]
    fn a_message_names_only_some_databases() {
        let of = |count: usize| in_words(&(1..=count).map(|n| format!("d{n}")).collect::<Vec<_>>());
        assert_eq!(of(1), "database d1");
        assert_eq!(of(7), "databases d1, d2, d3, d4, d5 and 2 more");
    }

    /// A settled cluster with this number of indexes that sort by glibc 2.36, and then an image with glibc 2.41.
    fn with_another_libc(spec: &str, indexes: u64) -> World {
        let of = |libc: &str| Libraries { libc: libc.into(), icu: None };
        let mut world = World::new(spec);
        world.settle(100);
        let sorted = Sorted { libc: indexes, icu: 0, databases: vec!["app".into()] };
        world.collations = Collations { libraries: Some(of("glibc 2.36")), sorted: Some(sorted), problem: None };
        world.image_libraries = of("glibc 2.41");
        world.object.spec.image = "postgres:15.9".into();
        world
    }

    /// Until nothing is left to do.
    fn heals(world: &mut World) {
        for _ in 0..600 {
            world.write();
            if world.turn(0).is_empty() && world.status().phase == "Healthy" {
                return;
            }
        }
        panic!("did not heal: {}\n{}", world.summary(), world.story());
    }

    fn conditions(world: &World) -> String {
        let all = world.status().conditions;
        all.iter().map(|one| format!("{} {} {}: {}\n", one.type_, one.status, one.reason, one.message)).collect()
    }

    /// Regression 35: an image with another C library was rolled out as any other, and text indexes were wrong on each
    /// standby from its first query on. Now no container of it is made while there are such indexes.
    #[test]
    fn an_image_that_sorts_text_otherwise_is_not_rolled_out_while_indexes_depend_on_it() {
        let mut world = with_another_libc(THREE, 12);
        let steps: Vec<_> = (0..100).flat_map(|_| world.turn(0)).collect();
        assert_eq!(steps, ["ask image id of postgres:15.9 on local by which libraries it sorts text"]);
        expect_test::expect![[r#"
            Ready True Serving: db-1 takes writes; all instances are ready
            Progressing False CollationWouldChange: no container of image postgres:15.9 is made: it has glibc 2.41, and db-1 runs with glibc 2.36. In database app 12 indexes depend on its order of text, and with the other version queries may give wrong answers. Set spec.image to an image with glibc 2.36. Or set spec.collationChange: Allow, and after the rollout run REINDEX DATABASE and ALTER DATABASE ... REFRESH COLLATION VERSION there
            Degraded True CollationWouldChange: no container of image postgres:15.9 is made: it has glibc 2.41, and db-1 runs with glibc 2.36. In database app 12 indexes depend on its order of text, and with the other version queries may give wrong answers. Set spec.image to an image with glibc 2.36. Or set spec.collationChange: Allow, and after the rollout run REINDEX DATABASE and ALTER DATABASE ... REFRESH COLLATION VERSION there
        "#]].assert_eq(&conditions(&world));
        // A failover still works, and a lost standby is not made of that image either.
        world.kill_postgres("db-1");
        heals(&mut world);
        world.boxes.remove("default.db-3");
        for _ in 0..300 {
            world.write();
            world.turn(0);
        }
        assert_eq!(world.lost(), Vec::<u64>::new());
        expect_test::expect!["Degraded term 2: db-1 standby streaming, db-2 primary running, db-3 none absent"]
            .assert_eq(&world.summary());
        world.object.spec.collation_change = CollationChange::Allow;
        heals(&mut world);
        heals(&mut world);
        expect_test::expect!["Healthy term 3: db-1 primary running, db-2 standby streaming, db-3 standby streaming"]
            .assert_eq(&world.summary());
        assert!(world.boxes.values().all(|one| one.spec.image == "postgres:15.9"), "{}", world.story());
    }

    #[test]
    fn a_cluster_without_such_indexes_or_with_the_same_libraries_is_rolled_out_at_once() {
        let mut none = with_another_libc(THREE, 0);
        let mut same = with_another_libc(THREE, 12);
        same.image_libraries.libc = "glibc 2.36".into();
        for world in [&mut none, &mut same] {
            heals(world);
            heals(world);
            assert!(world.boxes.values().all(|one| one.spec.image == "postgres:15.9"), "{}", world.story());
        }
        assert!(!none.story().contains("ask image"), "an image is not asked for nothing");
    }

    #[test]
    fn nothing_is_rolled_out_before_the_indexes_are_counted() {
        let mut world = with_another_libc(THREE, 12);
        world.collations.sorted = None;
        assert_eq!((0..50).flat_map(|_| world.turn(0)).collect::<Vec<_>>(), Vec::<String>::new());
        world.collations.problem = Some("database app does not let anybody in".into());
        world.turn(0);
        world.turn(0);
        let told = conditions(&world);
        let told = told.lines().find(|line| line.starts_with("Degraded")).unwrap_or_default();
        expect_test::expect!["Degraded True CollationWouldChange: no container of image postgres:15.9 is made: db-1 cannot count the indexes that sort text by a library: database app does not let anybody in; it is tried again. To go on without knowing it, set spec.collationChange: Allow"].assert_eq(told);
        world.collations.sorted = Some(Sorted::default());
        heals(&mut world);
    }
}
