//! `evenkeel up`: the operator in the foreground, the files applied, and progress until everything is Ready.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::{interval, timeout};

use super::apply::{self, Files, Options, Target};
use super::error::Error;
use super::operator::{self, Running};
use super::session::{Connection, Session, duration};

/// How often the applied objects are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Starts the operator here, applies files and shows progress until everything is Ready; then stays until Ctrl-C.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    operator: operator::Args,
    /// How long everything may take to be Ready
    #[arg(long, value_parser = duration, default_value = "15m", value_name = "TIME")]
    timeout: Duration,
}

/// Runs the verb.
pub async fn run(args: Args, connection: &Connection) -> Result<(), Error> {
    let running = operator::start(&args.operator).await?;
    let outcome = tokio::select! {
        outcome = foreground(&args, connection, &running) => outcome,
        () = operator::stopped() => Ok(()),
    };
    running.stop().await;
    outcome
}

async fn foreground(args: &Args, connection: &Connection, running: &Running) -> Result<(), Error> {
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let own = Connection { kubeconfig: Some(running.kubeconfig.clone()), namespace: connection.namespace.clone() };
    let mut session = own.open(Timestamp::now, &mut out, &mut err)?;
    let targets = apply::targets(&args.files.paths, &session).await?;
    apply::apply(&targets, Options::default(), &mut session).await?;
    let mut board = Board::new(&targets);
    match timeout(args.timeout, ready(&targets, &mut session, &mut board)).await {
        Ok(outcome) => outcome?,
        Err(_) => return Err(Error::TimedOut { what: "everything to be Ready".into(), after: args.timeout }),
    }
    board.end();
    writeln!(session.out, "Everything is Ready. Kubeconfig: {}", running.kubeconfig.display())?;
    writeln!(session.out, "The operator runs here until Ctrl-C; what it made goes on without it.")?;
    std::future::pending().await
}

async fn ready(targets: &[Target], session: &mut Session<'_>, board: &mut Board) -> Result<(), Error> {
    let mut turns = interval(LOOK);
    loop {
        turns.tick().await;
        let mut waiting = false;
        for (index, target) in targets.iter().enumerate() {
            let object = session.client.object(&target.resource, &target.namespace, target.document.name()).await?;
            let (line, done) = state(object.as_ref());
            board.show(index, &line, session.out)?;
            waiting |= !done;
        }
        if !waiting {
            return Ok(());
        }
    }
}

/// One line about an object, and whether nothing is waited for any more. Kinds without conditions are there as soon as they exist.
fn state(object: Option<&Value>) -> (String, bool) {
    let Some(object) = object else { return ("not there".into(), false) };
    let condition = |kind: &str| {
        let all = object["status"]["conditions"].as_array().into_iter().flatten();
        let mut all = all;
        all.find(|condition| condition["type"] == kind)
    };
    let reconciled = ["PostgresCluster", "DockerHost"].iter().any(|kind| object["kind"] == *kind);
    let Some(ready) = condition("Ready") else { return ("waiting".into(), !reconciled) };
    let current =
        ready["observedGeneration"].is_null() || ready["observedGeneration"] == object["metadata"]["generation"];
    let done = ready["status"] == "True" && current;
    let phase = object["status"]["phase"].as_str().unwrap_or(if done { "Ready" } else { "NotReady" });
    let problem = condition("Degraded").filter(|degraded| degraded["status"] == "True");
    let message = problem.or(condition("Progressing").filter(|_| !done)).unwrap_or(ready)["message"].as_str();
    (format!("{phase}: {}", message.unwrap_or_default()), done)
}

/// Progress: a line that changes in place on a terminal, else a line each time something changes.
struct Board {
    labels: Vec<String>,
    last: Vec<String>,
    bars: Option<Vec<ProgressBar>>,
}

impl Board {
    fn new(targets: &[Target]) -> Self {
        let labels: Vec<_> = targets.iter().map(Target::label).collect();
        let style = ProgressStyle::with_template("{spinner} {prefix}  {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bars = std::io::stdout().is_terminal().then(|| {
            let all = MultiProgress::new();
            let bar = |label: &String| {
                let bar = all.add(ProgressBar::new_spinner().with_style(style.clone()).with_prefix(label.clone()));
                bar.enable_steady_tick(Duration::from_millis(120));
                bar
            };
            labels.iter().map(bar).collect()
        });
        Self { last: vec![String::new(); labels.len()], labels, bars }
    }

    fn show(&mut self, index: usize, line: &str, out: &mut (dyn Write + Send)) -> Result<(), Error> {
        if self.last[index] == line {
            return Ok(());
        }
        line.clone_into(&mut self.last[index]);
        match &self.bars {
            Some(bars) => bars[index].set_message(line.to_owned()),
            None => writeln!(out, "{}  {line}", self.labels[index])?,
        }
        Ok(())
    }

    fn end(&self) {
        for bar in self.bars.iter().flatten() {
            bar.finish();
        }
    }
}
