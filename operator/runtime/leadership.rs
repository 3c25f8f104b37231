//! Runs the controllers while this operator leads: at once where it is the only one, else for each of its leaderships.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::api::chain::chain;
use crate::store::{Candidate, Leadership, Leases};

/// Pause before leadership is tried for again after a failure.
const AGAIN: Duration = Duration::from_millis(250);

/// Tries to lead until `shutdown`. For each leadership, `lead` runs everything that only the leader does, until its token is
/// cancelled. When the lease is over, that future is dropped, whatever it was in the middle of.
pub async fn run<F>(
    leases: Arc<dyn Leases>,
    who: Candidate,
    shutdown: CancellationToken,
    lead: impl Fn(&Leadership, CancellationToken) -> F,
) where
    F: Future<Output = ()>,
{
    while let Some(leadership) = won(&*leases, &who, &shutdown).await {
        let epoch = leadership.tenure().epoch();
        if epoch > 0 {
            tracing::info!(epoch, node = who.node, "this operator leads");
        }
        let stop = shutdown.child_token();
        let over = tokio::select! {
            biased;
            () = leadership.ended() => true,
            () = lead(&leadership, stop.clone()) => false,
        };
        if over {
            tracing::warn!(epoch, "this operator does not lead any more; what it was doing is dropped");
        } else if let Err(error) = leadership.release().await {
            tracing::warn!(error = %chain(&error), "the lease could not be given back; the others wait until it runs out");
        }
    }
}

/// The next leadership of this operator; `None` at shutdown.
async fn won(leases: &dyn Leases, who: &Candidate, shutdown: &CancellationToken) -> Option<Leadership> {
    let mut told = false;
    loop {
        let tried = async {
            if let Some(leadership) = leases.acquire(who).await? {
                return Ok(Some(leadership));
            }
            leases.vacant().await?;
            Ok(None)
        };
        let tried = shutdown.run_until_cancelled(tried).await?;
        match tried {
            Ok(Some(leadership)) => return Some(leadership),
            Ok(None) => told = false,
            Err::<_, crate::store::Error>(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(error = %chain(&error), "it is not known who leads; trying on");
                }
                shutdown.run_until_cancelled(sleep(AGAIN)).await?;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::api::sync::lock;
    use crate::runtime::SystemClock;
    use crate::store::{MemoryStore, SoleLeader};

    fn who(node: &str) -> Candidate {
        Candidate { node: node.into(), address: String::new() }
    }

    #[tokio::test]
    async fn one_leads_after_the_other_and_nobody_leads_twice_at_once() {
        let leases: Arc<dyn Leases> = Arc::new(SoleLeader::new(Arc::new(MemoryStore::new()), Arc::new(SystemClock), 0));
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let start = |name: &'static str| {
            let (shutdown, told) = (CancellationToken::new(), told.clone());
            let running = run(leases.clone(), who(name), shutdown.clone(), move |_, stop| {
                let told = told.clone();
                lock(&told).push(format!("{name} leads"));
                async move {
                    stop.cancelled().await;
                    lock(&told).push(format!("{name} stops"));
                }
            });
            (shutdown, tokio::spawn(running))
        };
        let (stop_a, a) = start("a");
        while lock(&told).is_empty() {
            tokio::task::yield_now().await;
        }
        let (stop_b, b) = start("b");
        stop_a.cancel();
        a.await.unwrap();
        while lock(&told).len() < 3 {
            tokio::task::yield_now().await;
        }
        stop_b.cancel();
        b.await.unwrap();
        assert_eq!(*lock(&told), ["a leads", "a stops", "b leads", "b stops"]);
    }
}
