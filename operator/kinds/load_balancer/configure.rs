//! How a configuration comes into use: put beside the old one, checked by the engine, renamed over it, taken up by a new process.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::{sleep, timeout};

use super::links::ContainerRef;
use super::names::CONFIG_DIR;
use super::render::{Config, config_file};
use super::{Controller, LoadBalancer, observe};
use crate::api::failure::{Class, Failure};
use crate::api::load_balancer::EngineKind;
use crate::engine::{File, LogOptions, Output};
use crate::runtime::clock;

/// A check takes no longer, nor does a rename.
const EXEC: Duration = Duration::from_secs(20);
/// A new process is there by then, or never.
const TAKE_UP: Duration = Duration::from_secs(10);
/// Between two looks whether it is.
const LOOK: Duration = Duration::from_millis(30);
/// Of what an engine says about a refusal this much is kept, in characters.
const WORDS: usize = 600;
/// What went wrong is within so many lines of the container's log.
const LOG_LINES: u64 = 12;
/// The old file is kept until the new one has proved itself.
const RENAME: &str = r#"cp -p "$1" "$1.last" && mv -f "$1.new" "$1""#;
const RESTORE: &str = r#"cp -p "$1.last" "$1.new" && mv -f "$1.new" "$1""#;
/// Certificates that the file does not name any more.
const SWEEP: &str = r#"cd "${1%/*}" && for f in *.pem; do grep -q -F "$f" "$1" || rm -f "$f"; done"#;

/// Gives a running balancer its configuration. That its engine refuses it is no failure but a fact, and remembered.
pub async fn configure(
    controller: &Controller,
    object: &LoadBalancer,
    at: &ContainerRef<'_>,
    config: &Config,
    files: &[File],
    reload: bool,
) -> Result<(), Failure> {
    let engine = object.spec.engine;
    let name = config_file(engine);
    let mut put = files.to_vec();
    put.push(File { path: format!("{name}.new"), mode: 0o600, owner: (0, 0), bytes: config.text.clone().into_bytes() });
    at.engine.put_files(at.container, CONFIG_DIR, &put).await?;
    let check = match engine {
        EngineKind::Haproxy => r#"haproxy -c -q -f "$1.new""#,
        EngineKind::Nginx => r#"nginx -t -q -c "$1.new""#,
    };
    if let Err(words) = script(at, engine, &format!("{check} || exit 9; {RENAME}")).await? {
        refuse(controller, at, config, &words);
        return Ok(());
    }
    let told = |file: Option<String>| controller.known(at.container, |known| known.file = file);
    told(Some(config.text.clone()));
    if !reload {
        return Ok(());
    }
    let signal = match engine {
        EngineKind::Haproxy => "SIGUSR2",
        EngineKind::Nginx => "SIGHUP",
    };
    let failed = observe::answer(controller, object, at).await.map(|answer| answer.failed).unwrap_or_default();
    at.engine.signal_container(at.container, signal).await?;
    if taken_up(controller, object, at, config, failed).await? {
        if !config.last_good {
            controller.known(at.container, |known| known.refused = None);
        }
        if let Err(words) = script(at, engine, SWEEP).await? {
            tracing::debug!(container = at.container, words, "old certificates were not swept");
        }
        return Ok(());
    }
    // Whoever runs goes on; it must also be what a restart begins with.
    told(None);
    if let Err(words) = script(at, engine, RESTORE).await? {
        return Err(Failure::new(Class::Transient, format!("cannot take the last good configuration back: {words}")));
    }
    if engine == EngineKind::Haproxy {
        // Its master waits for a configuration that it can take.
        at.engine.signal_container(at.container, signal).await?;
    }
    refuse(controller, at, config, &last_words(at).await);
    Ok(())
}

/// What the engine wrote last about something that went wrong.
async fn last_words(at: &ContainerRef<'_>) -> String {
    let options = LogOptions { tail: Some(LOG_LINES), ..Default::default() };
    let mut log = String::new();
    if let Ok(mut outputs) = at.engine.logs(at.container, &options).await {
        while let Ok(Some(Ok(Output::Stdout(bytes) | Output::Stderr(bytes)))) = timeout(EXEC, outputs.next()).await {
            log.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
    let told: Vec<_> = log.lines().filter(|line| line.contains("[ALERT]") || line.contains("[emerg]")).collect();
    if told.is_empty() { "no new process took it up; see the container's log".into() } else { told.join("\n") }
}

/// Waits until a process runs the configuration; `false` if another one still does.
async fn taken_up(
    controller: &Controller,
    object: &LoadBalancer,
    at: &ContainerRef<'_>,
    config: &Config,
    failed: u32,
) -> Result<bool, Failure> {
    let began = clock::instant();
    loop {
        let answer = observe::answer(controller, object, at).await;
        match answer {
            Ok(answer) if answer.hash == config.hash => return Ok(true),
            Ok(answer) if answer.failed > failed || began.elapsed() > TAKE_UP => return Ok(false),
            Err(why) if began.elapsed() > TAKE_UP => {
                return Err(Failure::new(Class::Transient, format!("{} does not answer: {why}", at.container)));
            }
            _ => sleep(LOOK).await,
        }
    }
}

fn refuse(controller: &Controller, at: &ContainerRef<'_>, config: &Config, words: &str) {
    let words: String = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" / ");
    let words: String = words.chars().take(WORDS).collect();
    tracing::warn!(container = at.container, words, "a configuration was refused");
    controller.known(at.container, |known| known.refused = Some((config.skeleton.clone(), words)));
}

/// Runs a script about the configuration; `Err` are its words if it did not end well.
async fn script(at: &ContainerRef<'_>, engine: EngineKind, script: &str) -> Result<Result<(), String>, Failure> {
    let file = format!("{CONFIG_DIR}/{}", config_file(engine));
    let command = ["sh", "-c", script, "sh", &file].map(str::to_owned);
    let result = at.engine.exec(at.container, &command, EXEC).await?;
    Ok(if result.code == 0 { Ok(()) } else { Err(result.output) })
}
