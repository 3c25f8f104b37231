//! The supervisor's end of a link, in the wire protocol: reports out, commands in, as long as that boot of the
//! container runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex, split};
use tokio::time::sleep_until;

use super::gate::Gate;
use super::sim::{Away, Sim, State};
use crate::engine::ContainerState;
use crate::kinds::postgres_cluster::world::World;
use crate::runtime::clock;
use crate::supervisor::wire::{Command, Report, significant};

/// Buffer of a link, in bytes.
const BUFFER: usize = 64 * 1024;
/// Interval of reports without a change.
const EVERY: Duration = Duration::from_secs(1);
/// Longest latency of a line, in milliseconds.
const WAY_MS: u64 = 15;

/// The state of the connection between an operator and a supervisor.
#[derive(PartialEq, Eq)]
enum Way {
    Clear,
    /// No data passes, and neither side gets an error.
    Silent,
    Over,
}

impl State {
    fn way(&self, container: &str, boot: (u32, u32)) -> Way {
        let Some(one) = self.world.boxes.get(container).filter(|one| (one.id, one.boot) == boot) else {
            return Way::Over;
        };
        let there = match one.state {
            ContainerState::Running => Way::Clear,
            ContainerState::Paused => Way::Silent,
            _ => return Way::Over,
        };
        match (self.away, self.world.cut.get(&World::member(container))) {
            (Some(Away::Refuses), _) | (_, Some(true)) => Way::Over,
            (Some(Away::Hangs), _) | (_, Some(false)) => Way::Silent,
            (None, None) => there,
        }
    }

    fn report(&mut self, container: &str, boot: (u32, u32)) -> Report {
        let mut report = self.world.says(container);
        if report.credentials.is_some() {
            report.credentials = self.credentials.get(&(container.to_owned(), boot)).cloned();
        }
        if let Some((_, forge)) = self.forged.as_ref().filter(|(forged, _)| forged == container) {
            forge(&mut report);
        }
        report
    }
}

/// The operator's end of a new link.
pub fn open(sim: &Arc<Sim>, gate: &Arc<Gate>, container: &str, boot: (u32, u32)) -> DuplexStream {
    let (ours, theirs) = duplex(BUFFER);
    let talk = Talk { sim: sim.clone(), gate: gate.clone(), container: container.to_owned(), boot };
    tokio::spawn(async move {
        // A dead operator is not an error here.
        let _ = talk.run(theirs).await;
    });
    ours
}

struct Talk {
    sim: Arc<Sim>,
    gate: Arc<Gate>,
    container: String,
    boot: (u32, u32),
}

impl Talk {
    async fn run(self, stream: DuplexStream) -> std::io::Result<()> {
        let (reader, mut writer) = split(stream);
        let mut lines = BufReader::new(reader).lines();
        let mut told: Option<Report> = None;
        let mut due = clock::instant();
        loop {
            if !self.clear().await {
                return Ok(());
            }
            let changed = self.sim.changed.notified();
            let report = self.sim.change_quietly(|state| state.report(&self.container, self.boot));
            let light = significant(&report);
            if due <= clock::instant() || told.as_ref() != Some(&light) {
                self.sim.latency(WAY_MS).await;
                let mut line = serde_json::to_vec(&report)?;
                line.push(b'\n');
                writer.write_all(&line).await?;
                told = Some(light);
                due = clock::instant() + EVERY;
            }
            tokio::select! {
                biased;
                line = lines.next_line() => match line? {
                    None => return Ok(()),
                    Some(line) => self.obey(serde_json::from_str(&line)?).await,
                },
                () = changed => {}
                () = sleep_until(due) => {}
            }
        }
    }

    /// Waits until data can pass; `false`: the link is over.
    async fn clear(&self) -> bool {
        loop {
            let changed = self.sim.changed.notified();
            match self.sim.look(|state| state.way(&self.container, self.boot)) {
                Way::Clear => return true,
                Way::Over => return false,
                Way::Silent => changed.await,
            }
        }
    }

    /// A command that was sent arrives even if its sender dies in the meantime.
    async fn obey(&self, command: Command) {
        let what = match &command {
            Command::Order(order) => format!("order {}: {order}", self.container),
            Command::Credentials(_) => format!("credentials for {}", self.container),
            Command::Restart { run } => format!("restart run {run} of {}", self.container),
            Command::Renew { term, .. } => format!("renew term {term} of {}", self.container),
            Command::Archives(_)
            | Command::Backup(_)
            | Command::RestoreDump(_)
            | Command::SwitchWal { .. }
            | Command::RestorePoint(_) => {
                format!("about the archive to {}", self.container)
            }
        };
        let idle = matches!(command, Command::Renew { .. });
        // No caller waits for the answer to a command, so it is sent even if the operator dies at this effect.
        if !self.sim.send(&self.gate, &what, idle) {
            return;
        }
        self.sim.latency(WAY_MS).await;
        if !self.clear().await {
            return;
        }
        self.sim.change(|state| {
            if let Command::Credentials(credentials) = &command {
                state.credentials.insert((self.container.clone(), self.boot), credentials.hash.clone());
            }
            state.world.hears(&self.container, self.boot, command);
        });
    }
}
