//! `evenkeel host`: adds, checks, cordons, drains and gives up Docker hosts. Each verb changes one DockerHost and says what
//! happens next.

mod add;
mod check;
mod words;

use std::io::{BufRead as _, IsTerminal as _};
use std::time::Duration;

use serde_json::{Value, json};

use super::client::Answer;
use super::discovery::Resource;
use super::error::Error;
use super::follow::{Event, Follow};
use super::get;
use super::session::{Session, duration};
use super::wait::{self, Goal};
use crate::api::docker_host::ACCEPT_ANNOTATION;

const KIND: &str = "dockerhosts.evenkeel.dev";
const MANAGER: (&str, &str) = ("fieldManager", "evenkeel-host");
/// How long the operator is waited for when it only has to look.
const LOOK: Duration = Duration::from_secs(15);

/// Adds, checks, drains and gives up Docker hosts.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Adds a host, with a Secret of its keys if it needs one
    Add(add::Args),
    /// Says everything that is wrong with a host; exits with 1 if something is
    Check(Named),
    /// Lists the hosts
    List,
    /// Places no new containers on a host; those there stay
    Cordon(Named),
    /// Places containers on a host again
    Uncordon(Named),
    /// Moves everything off a host, data too, so that it can be taken away
    Drain(Awaited),
    /// Takes `drain` back
    Undrain(Named),
    /// Moves primaries, masters and pods off a host that is restarted soon; data stays there
    Maintenance(Maintenance),
    /// Declares a host dead for good: what it had is replaced at once
    Lost(Lost),
    /// Takes `lost` back
    Found(Named),
    /// Accepts that another engine is at a host's endpoint
    Accept(Named),
}

#[derive(Debug, clap::Args)]
struct Named {
    /// The DockerHost
    name: String,
}

#[derive(Debug, clap::Args)]
struct Awaited {
    /// The DockerHost
    name: String,
    /// Wait until it is done
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_parser = duration, default_value = "30m", value_name = "TIME")]
    timeout: Duration,
}

#[derive(Debug, clap::Args)]
struct Maintenance {
    #[command(flatten)]
    host: Awaited,
    /// The host is back: primaries, masters and pods may be placed there again
    #[arg(long, conflicts_with = "wait")]
    off: bool,
}

#[derive(Debug, clap::Args)]
struct Lost {
    /// The DockerHost
    name: String,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    match args.verb {
        Verb::Add(args) => add::run(args, session).await,
        Verb::Check(Named { name }) => check(&name, session).await,
        Verb::List => get::run(get::Args::all_of(KIND), session).await,
        Verb::Cordon(Named { name }) => wish(&name, json!({"unschedulable": true}), words::CORDONED, session).await,
        Verb::Uncordon(Named { name }) => {
            wish(&name, json!({"unschedulable": false}), words::UNCORDONED, session).await
        }
        Verb::Drain(host) => {
            wish(&host.name, json!({"drain": true, "maintenance": false}), words::DRAINING, session).await?;
            until_drained(&host, session).await
        }
        Verb::Undrain(Named { name }) => wish(&name, json!({"drain": false}), words::UNDRAINED, session).await,
        Verb::Maintenance(Maintenance { host, off: false }) => {
            wish(&host.name, json!({"maintenance": true, "drain": false}), words::MAINTENANCE, session).await?;
            until_drained(&host, session).await
        }
        Verb::Maintenance(Maintenance { host, off: true }) => {
            wish(&host.name, json!({"maintenance": false}), words::BACK, session).await
        }
        Verb::Lost(lost) => {
            confirm(&lost, session).await?;
            let spec = json!({"outOfService": true, "drain": false, "maintenance": false});
            wish(&lost.name, spec, words::LOST, session).await
        }
        Verb::Found(Named { name }) => wish(&name, json!({"outOfService": false}), words::FOUND, session).await,
        Verb::Accept(Named { name }) => accept(&name, session).await,
    }
}

/// The kind of hosts, as the server knows it.
async fn kind(session: &Session<'_>) -> Result<Resource, Error> {
    Ok(session.client.catalog().await?.resolve(KIND)?.clone())
}

async fn existing(resource: &Resource, name: &str, session: &Session<'_>) -> Result<Value, Error> {
    let found = session.client.object(resource, &session.namespace, name).await?;
    found.ok_or_else(|| Error::NotFound(format!("no DockerHost {name:?}")))
}

/// Changes a host by a merge patch.
async fn change(name: &str, patch: &Value, session: &mut Session<'_>) -> Result<Answer, Error> {
    let resource = kind(session).await?;
    existing(&resource, name, session).await?;
    let path = resource.path(None, Some(name));
    let answer = session.client.patch(&path, &[MANAGER], "application/merge-patch+json", patch).await?;
    session.warn(&answer.warnings)?;
    Ok(answer)
}

/// Records a wish about a host in its spec and says what happens next.
async fn wish(name: &str, spec: Value, next: &str, session: &mut Session<'_>) -> Result<(), Error> {
    change(name, &json!({"spec": spec}), session).await?;
    writeln!(session.out, "{}", next.replace("NAME", name))?;
    Ok(())
}

/// Waits until what `drain` or `maintenance` asked for is done, if that is wanted.
async fn until_drained(host: &Awaited, session: &mut Session<'_>) -> Result<(), Error> {
    if !host.wait {
        return Ok(());
    }
    let resource = kind(session).await?;
    let goal = Goal::Condition { kind: "Drained".to_owned(), status: "True".to_owned() };
    let mut last = None;
    let done = wait::until(&goal, &resource, &host.name, &mut last, session);
    match tokio::time::timeout(host.timeout, done).await {
        Ok(done) => done?,
        Err(_) => {
            let what = format!("{} to be drained; it goes on", host.name);
            return Err(session.timed_out(what, host.timeout, last.as_ref())?);
        }
    }
    let told =
        last.iter().filter_map(|object| check::condition(object, "Drained")).find_map(|one| one["message"].as_str());
    writeln!(session.out, "{}: {}", host.name, told.unwrap_or("done"))?;
    Ok(())
}

/// Lets a person confirm that a host is dead.
async fn confirm(lost: &Lost, session: &mut Session<'_>) -> Result<(), Error> {
    let object = existing(&kind(session).await?, &lost.name, session).await?;
    write!(session.err, "{}", words::meaning_of_lost(&lost.name, &object))?;
    if lost.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Error::Usage("nobody can confirm it here: say --yes".to_owned()));
    }
    write!(session.err, "Type the name of the host to go on: ")?;
    session.err.flush()?;
    let mut typed = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut typed)
        .map_err(|source| Error::Io { doing: "read the answer".into(), source })?;
    match typed.trim() == lost.name {
        true => Ok(()),
        false => Err(Error::Failed("not confirmed; nothing is changed".to_owned())),
    }
}

/// Accepts the engine that answers now.
async fn accept(name: &str, session: &mut Session<'_>) -> Result<(), Error> {
    let resource = kind(session).await?;
    let object = existing(&resource, name, session).await?;
    let Some(found) = object["status"]["foundEngineID"].as_str() else {
        writeln!(session.out, "{name} is the engine that it was; there is nothing to accept")?;
        return Ok(());
    };
    let patch = json!({"metadata": {"annotations": {ACCEPT_ANNOTATION: found}}});
    change(name, &patch, session).await?;
    let mut last = None;
    let used = follow(&resource, name, &mut last, session, |object| object["status"]["engineID"] == found);
    match tokio::time::timeout(LOOK, used).await {
        Ok(done) => done?,
        Err(_) => {
            let what = format!("the operator to use engine {found}; the word stays");
            return Err(session.timed_out(what, LOOK, last.as_ref())?);
        }
    }
    writeln!(session.out, "{}", words::ACCEPTED.replace("NAME", name).replace("ENGINE", found))?;
    Ok(())
}

/// Says what is wrong with a host, after the operator has looked at it.
async fn check(name: &str, session: &mut Session<'_>) -> Result<(), Error> {
    let resource = kind(session).await?;
    existing(&resource, name, session).await?;
    let mut last = None;
    // If nobody looks, the check says so.
    let _ = tokio::time::timeout(LOOK, follow(&resource, name, &mut last, session, check::was_looked_at)).await;
    let object = match last {
        Some(object) => object,
        None => existing(&resource, name, session).await?,
    };
    let all = session.client.get(&resource.path(None, None), &[], super::client::JSON).await?;
    let others = all["items"].as_array().cloned().unwrap_or_default();
    let check::Findings { facts, remarks, problems } = check::findings(&object, &others);
    facts.iter().try_for_each(|fact| writeln!(session.out, "{fact}"))?;
    remarks.iter().try_for_each(|remark| writeln!(session.out, "note: {remark}"))?;
    match problems.len() {
        0 => Ok(writeln!(session.out, "{name} is well")?),
        1 => Err(problem(name, &problems[0])),
        _ => Err(Error::Several(problems.iter().map(|one| problem(name, one)).collect())),
    }
}

fn problem(name: &str, problem: &str) -> Error {
    Error::Failed(format!("{name}: {problem}"))
}

/// Follows a host until it is as wanted; keeps its last state.
async fn follow(
    resource: &Resource,
    name: &str,
    last: &mut Option<Value>,
    session: &Session<'_>,
    wanted: impl Fn(&Value) -> bool,
) -> Result<(), Error> {
    let mut follow = Follow::object(&session.client, resource, &session.namespace, name);
    loop {
        match follow.next().await? {
            Event::Changed(object) => {
                let done = wanted(&object);
                *last = Some(object);
                if done {
                    return Ok(());
                }
            }
            Event::Deleted(_) => return Err(Error::NotFound(format!("DockerHost {name} was deleted meanwhile"))),
            Event::Restarted => {}
        }
    }
}
