//! Runs that once went wrong, as courses of events.

use std::time::Duration;

use super::driver::Run;
use super::faults::Fault;

/// Regression 9: while Docker's lists failed, what supervisors said over conversations that stood was thrown away; a primary
/// with w = 0 was not confirmed any more and stopped. What was heard now counts, whatever Docker says.
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
