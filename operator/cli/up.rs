//! `evenkeel up`: runs an operator in the foreground, applies the files, and shows progress until everything is Ready.

use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::mpsc;

use super::apply::{self, Files, Target};
use super::client::Client;
use super::error::Error;
use super::follow::{Event, Follow};
use super::operator::{self, Signals};
use super::progress::{AboveBars, Display, problem, standing};
use super::session::{Session, duration};
use super::{kubeconfig, logging, manifest};

/// Starts an operator in the foreground, applies files and shows progress until everything is ready.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    operator: operator::Args,
    /// Fail if not everything is ready within this time
    #[arg(long, value_parser = duration, default_value = "10m", value_name = "TIME")]
    timeout: Duration,
}

/// Runs the verb until SIGTERM or SIGINT.
pub fn run(args: &Args, namespace: Option<&str>, now: fn() -> Timestamp) -> Result<(), Error> {
    let documents = manifest::read(&args.files.paths, &mut std::io::stdin())?;
    let display = Display::new();
    match display.bars() {
        Some(bars) => logging::init_to("error", AboveBars(bars)),
        None => logging::init("warn"),
    }
    operator::runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        let mut running = operator::start(&args.operator).await?;
        if let Some(why) = running.closed.take() {
            running.stop().await;
            return Err(Error::Failed(why));
        }
        let kubeconfig = running.kubeconfig.clone();
        let ended = tokio::select! {
            ended = bring_up(args, documents, namespace, now, display, &kubeconfig) => ended,
            _ = signals.next() => Ok(false),
            error = running.ended() => Err(error),
        };
        // When everything is ready, the operator runs until a signal.
        let ended = match ended {
            Ok(true) => tokio::select! {
                _ = signals.next() => Ok(()),
                error = running.ended() => Err(error),
            },
            other => other.map(drop),
        };
        tokio::select! {
            () = running.stop() => ended,
            _ = signals.next() => Err(Error::Failed("ended before everything was finished".to_owned())),
        }
    })
}

/// Applies the files, and returns when everything is ready.
async fn bring_up(
    args: &Args,
    documents: Vec<manifest::Document>,
    namespace: Option<&str>,
    now: fn() -> Timestamp,
    mut display: Display,
    kubeconfig: &Path,
) -> Result<bool, Error> {
    let config = kubeconfig::load(kubeconfig)?;
    let namespace = namespace.unwrap_or(&config.namespace).to_owned();
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let mut session = Session { client: Client::new(config)?, namespace, now, out: &mut out, err: &mut err };
    writeln!(session.out, "operator at {}", session.client.kubeconfig().server)?;
    let targets = apply::identify(documents, &session).await?;
    apply::apply(&targets, apply::Options::default(), &mut session).await?;
    // Namespaces and Secrets are ready when they exist; custom kinds have a Ready condition.
    let watched: Vec<&Target> = targets.iter().filter(|target| target.resource.group == "evenkeel.dev").collect();
    let mut last = vec![Value::Null; watched.len()];
    let all = until_ready(&watched, &mut last, &mut display, &mut session);
    let Ok(result) = tokio::time::timeout(args.timeout, all).await else {
        let late = last.iter().position(|object| !standing(object).ready).unwrap_or_default();
        let what = watched.get(late).map(|target| format!("{} to be ready", target.label())).unwrap_or_default();
        return Err(session.timed_out(what, args.timeout, last.get(late))?);
    };
    result?;
    let path = kubeconfig.display();
    let farewell = format!("everything is ready; look at it with `evenkeel --kubeconfig {path} get all`");
    display.say(&farewell, session.out)?;
    display.say("the operator runs here until Ctrl-C; the containers keep running after it", session.out)?;
    session.out.flush()?;
    Ok(true)
}

/// Shows every change of the objects until all of them are ready. `last` keeps the last state of each.
async fn until_ready(
    watched: &[&Target],
    last: &mut [Value],
    display: &mut Display,
    session: &mut Session<'_>,
) -> Result<(), Error> {
    display.begin(&watched.iter().map(|target| target.label()).collect::<Vec<_>>());
    let (tell, mut told) = mpsc::channel(16);
    let client = session.client.clone();
    let following = join_all(watched.iter().enumerate().map(|(index, target)| {
        let (tell, client) = (tell.clone(), &client);
        async move {
            let (resource, name) = (&target.resource, target.document.name());
            let mut follow = Follow::object(client, resource, &target.namespace, name);
            loop {
                let seen = match follow.next().await {
                    Ok(Event::Changed(object)) => Ok((index, object)),
                    Ok(Event::Restarted) => continue,
                    Ok(Event::Deleted(_)) => Err(Error::NotFound(format!("{} was deleted meanwhile", target.label()))),
                    Err(error) => Err(error),
                };
                let failed = seen.is_err();
                // The receiver is gone once all are ready.
                if tell.send(seen).await.is_err() || failed {
                    return;
                }
            }
        }
    }));
    let showing = async {
        let mut problems = vec![None; watched.len()];
        while last.iter().any(|object| !standing(object).ready) {
            let Some(seen) = told.recv().await else { return Ok(()) };
            let (index, object) = seen?;
            display.show(index, &standing(&object), session.out)?;
            let now = problem(&object);
            if now != problems[index] {
                if let Some(problem) = &now {
                    display.say(&format!("{}: {problem}", watched[index].label()), session.out)?;
                }
                problems[index] = now;
            }
            last[index] = object;
        }
        Ok(())
    };
    tokio::select! {
        result = showing => result,
        // A follower that failed has told `showing`, which ends this.
        () = async { following.await; std::future::pending().await } => Ok(()),
    }
}
