//! The loop of a porter: takes its order, tries whether it can be carried out, carries it out, and reports.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use crate::api::chain::chain;
use crate::archive::store::Store;
use crate::archive::volumes::Tally;
use crate::supervisor::beside::{Beside, Trouble};
use crate::supervisor::clock::{boottime_ms, new_id};
use crate::supervisor::control;
use crate::supervisor::fence::Fence;
use crate::supervisor::porter::restore::Restore;
use crate::supervisor::porter::store::{Copy, root};
use crate::supervisor::porter::wire::{Command, Order, Report, SOCKET, Tried, Way};
use crate::supervisor::run::Identity;

/// Interval of reports when nothing changes, and of looks at the work.
const REPORT: Duration = Duration::from_millis(200);
/// Looks between two reports of the same.
const SAME: u32 = 5;
/// Pause before something that was not possible is tried again, in milliseconds.
const AGAIN: u64 = 3_000;

/// Runs until SIGTERM.
pub async fn run(_: Identity) -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %chain(error.as_ref()), "the porter cannot work here");
            ExitCode::FAILURE
        }
    }
}

/// Errors occur only before the loop starts.
async fn serve() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (reports, seen) = watch::channel(Arc::from(""));
    let (said, mut commands) = mpsc::channel(8);
    let listener = control::bind(SOCKET.as_ref())?;
    tokio::spawn(control::serve(listener, Fence::unkept(), said, seen));
    let (results, mut tried) = mpsc::channel(8);
    let mut porter = Porter {
        boot: new_id(),
        order: None,
        trying: None,
        tried: None,
        results,
        work: None,
        tally: watch::Sender::new(None),
    };
    let (mut look, mut told, mut same) = (interval(REPORT), Report::default(), 0);
    look.set_missed_tick_behavior(MissedTickBehavior::Skip);
    tracing::info!("porter begins");
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(Command::Order(order)) = commands.recv() => porter.obey(*order),
            Some(result) = tried.recv() => porter.found(result),
            _ = look.tick() => {}
        }
        let report = porter.report();
        same = if report == told { same + 1 } else { 0 };
        if same == 0 || same >= SAME {
            if let Ok(text) = serde_json::to_string(&report) {
                reports.send_replace(Arc::from(text + "\n"));
            }
            (told, same) = (report, 1);
        }
    }
    tracing::info!("porter ends");
    Ok(())
}

struct Porter {
    boot: String,
    order: Option<Order>,
    trying: Option<AbortOnDropHandle<()>>,
    /// What was tried last, and when that ended.
    tried: Option<(Tried, u64)>,
    results: mpsc::Sender<Tried>,
    work: Option<Beside>,
    tally: watch::Sender<Option<Tally>>,
}

impl Porter {
    fn report(&self) -> Report {
        Report {
            boot: self.boot.clone(),
            tried: self.tried.as_ref().map(|(tried, _)| tried.clone()),
            work: self.work.as_ref().map(Beside::state),
            tally: *self.tally.borrow(),
        }
    }

    fn obey(&mut self, order: Order) {
        let same = |known: &Order| (&known.id, known.attempt) == (&order.id, order.attempt);
        if !self.order.as_ref().is_some_and(same) {
            (self.trying, self.tried, self.work) = (None, None, None);
            self.tally.send_replace(None);
        }
        self.order = Some(order.clone());
        if self.work.is_some() {
            return;
        }
        if order.begin {
            self.trying = None;
            let total = self.tried.as_ref().map_or(0, |(tried, _)| tried.bytes);
            return self.work = Some(begin(&order, total, self.tally.clone()));
        }
        let again = |(tried, at): &(Tried, u64)| {
            tried.problem.is_some() && !tried.lasting && boottime_ms().saturating_sub(*at) >= AGAIN
        };
        if self.trying.is_none() && self.tried.as_ref().is_none_or(again) {
            let results = self.results.clone();
            self.trying = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                // An error means that the porter ends.
                let _ = results.send(attempt(&order).await).await;
            })));
        }
    }

    fn found(&mut self, tried: Tried) {
        self.trying = None;
        if let Some(problem) = &tried.problem {
            tracing::warn!(problem, "it is not possible now");
        }
        self.tried = Some((tried, boottime_ms()));
    }
}

/// Tries whether the order can be carried out.
async fn attempt(order: &Order) -> Tried {
    let tried = match open(order) {
        Err(trouble) => Err(trouble),
        Ok(Work::Copy(copy)) => copy.attempt().await.map_err(|error| error.trouble()),
        Ok(Work::Restore(restore)) => restore.attempt().await.map_err(|error| error.trouble()),
    };
    let tried = tried.map_or_else(|trouble| (0, Some(trouble.words), trouble.lasting), |bytes| (bytes, None, false));
    Tried { id: order.id.clone(), attempt: order.attempt, bytes: tried.0, problem: tried.1, lasting: tried.2 }
}

fn begin(order: &Order, total: u64, tally: watch::Sender<Option<Tally>>) -> Beside {
    let ids = (order.id.as_str(), order.attempt);
    let work = open(order).map_err(|trouble| trouble.words);
    let work = work.map(|work| {
        move |progress: watch::Sender<_>| async move {
            progress.send_modify(|state: &mut crate::supervisor::wire::BackupState| state.total = total);
            match work {
                Work::Copy(copy) => {
                    tally.send_replace(Some(copy.take(&progress).await.map_err(|error| error.trouble())?));
                    Ok(())
                }
                Work::Restore(restore) => restore.run(&progress).await.map_err(|error| error.trouble()),
            }
        }
    });
    Beside::begin("volume", ids, work)
}

enum Work {
    Copy(Copy),
    Restore(Restore),
}

fn open(order: &Order) -> Result<Work, Trouble> {
    let store = Store::open_archive(&order.copy);
    let store = store.map_err(|error| Trouble { words: chain(&error), lasting: true })?;
    let (id, root) = (order.id.clone(), root().to_owned());
    Ok(match order.way {
        Way::Store => Work::Copy(Copy { store, id, claim: order.claim.clone(), root }),
        Way::Restore => Work::Restore(Restore { store, id, root }),
    })
}
