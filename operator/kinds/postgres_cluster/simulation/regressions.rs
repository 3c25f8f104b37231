//! Runs that failed once, as sequences of events.

use std::time::Duration;

use super::driver::Run;
use super::faults::Fault;

/// Regression 9: while Docker's lists failed, reports over open links were thrown away; a primary with w = 0 was not
/// confirmed any more and stopped. A report now counts even if Docker does not answer.
#[tokio::test(start_paused = true)]
async fn a_docker_that_cannot_list_stops_no_primary() -> Result<(), String> {
    let mut run = Run::healthy("{image: 'postgres:15', instances: 3, durability: {mode: async}}").await?;
    run.strike(Fault::Blind).await?;
    run.strike(Fault::KillContainer("db-3".into())).await?;
    run.pass(Duration::from_secs(30)).await?;
    let (term, writable) = run.sim.look(|state| (state.world.status().term, state.world.writable()));
    assert_eq!((term, writable), (1, vec!["default.db-1".to_owned()]));
    Ok(())
}

/// Milliseconds from the death of the primary until another one takes writes.
async fn outage(run: &mut Run) -> Result<u64, String> {
    run.strike(Fault::KillContainer("db-1".into())).await?;
    for passed in 1..300 {
        run.pass(Duration::from_millis(100)).await?;
        if run.sim.look(|state| state.world.writable().iter().any(|name| name != "default.db-1")) {
            return Ok(passed * 100);
        }
    }
    Err("nothing takes writes".into())
}

/// Regression 23: a pull was awaited inside the reconcile, so while a registry hung there was no failover and no
/// renewal. A step now only starts pulls, and stops with grace; they run in the background.
#[tokio::test(start_paused = true)]
async fn a_registry_that_never_answers_delays_no_failover() -> Result<(), String> {
    let mut calm = Run::healthy("{image: 'postgres:15', instances: 3}").await?;
    let without = outage(&mut calm).await?;
    let mut run = Run::healthy("{image: 'postgres:15', instances: 3}").await?;
    run.sim.change(|state| state.registry_hangs = true);
    run.strike(Fault::Image("postgres:16".into())).await?;
    run.pass(Duration::from_secs(3)).await?;
    let with = outage(&mut run).await?;
    assert!(with <= without + 500, "{with} ms while a pull hangs, {without} ms without it");
    let conditions = run.sim.look(|state| state.world.status().conditions);
    let progressing = conditions.iter().find(|one| one.type_ == "Progressing").map(|one| one.message.clone());
    assert_eq!(progressing.as_deref(), Some("getting image postgres:16 on local"));
    Ok(())
}

/// Regression 28: Docker would not start a container again ("id already in use" after Docker was killed during a
/// start), and that failed step delayed the other starts. Members are lanes now; such a container is recreated.
#[tokio::test(start_paused = true)]
async fn a_container_that_never_starts_again_is_made_anew_and_holds_up_nobody() -> Result<(), String> {
    let mut run = Run::healthy("{image: 'postgres:15', instances: 3}").await?;
    run.sim.change(|state| {
        let id = state.world.boxes["default.db-2"].id;
        state.stuck.insert(("default.db-2".into(), id));
    });
    run.strike(Fault::KillContainer("db-2".into())).await?;
    run.strike(Fault::KillContainer("db-3".into())).await?;
    run.pass(Duration::from_secs(3)).await?;
    let runs = |run: &Run, name: &str| run.sim.look(|state| state.world.boxes.get(name).is_some_and(|one| one.runs()));
    assert!(runs(&run, "default.db-3"), "db-3 waits for db-2");
    run.heal("heal").await?;
    assert!(runs(&run, "default.db-2"));
    Ok(())
}

/// Regression 129: no test had seen a report that is refused in a running cluster: the condition names the member and the
/// bound, the cluster serves without that member, and the member comes back by itself with its first good report.
#[tokio::test(start_paused = true)]
async fn a_report_that_breaks_its_bounds_costs_the_cluster_that_member_only() -> Result<(), String> {
    let mut run = Run::healthy("{image: 'postgres:15', instances: 3}").await?;
    let seen = |run: &Run| {
        run.sim.look(|state| {
            let status = state.world.status();
            let refused = status.conditions.iter().find(|one| one.type_ == "ReportRefused");
            let states: Vec<_> = status.instances.iter().map(|one| format!("{} {}", one.name, one.state)).collect();
            (status.term, state.world.writable(), states.join(", "), refused.map(|one| one.message.clone()))
        })
    };
    let (before, primary) = (seen(&run), vec!["default.db-1".to_owned()]);
    assert_eq!((&before.1, &before.3), (&primary, &None));
    run.sim.change(|state| {
        state.forged = Some(("default.db-3".into(), |report| report.incarnation = Some("x".repeat(129))));
    });
    run.pass(Duration::from_secs(30)).await?;
    let (term, writable, states, refused) = seen(&run);
    let why = "a name in it is longer than 128 bytes, or has characters that no name has";
    let told = format!("a report is refused, and this instance counts as not reachable: db-3: {why}");
    assert_eq!((term, writable, refused), (before.0, primary, Some(told)));
    assert_eq!(states, "db-1 running, db-2 streaming, db-3 unknown");
    run.sim.change(|state| state.forged = None);
    run.heal("a good report").await?;
    assert_eq!(seen(&run), before);
    Ok(())
}
