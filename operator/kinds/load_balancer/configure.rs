//! Performs the steps that bring a configuration into use. Each step may be repeated; `stages.rs` decides which one is
//! due. The results are files in the volume of the balancer, which [`files`] reads back.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::timeout;

use super::links::ContainerRef;
use super::names::CONFIG_DIR;
use super::render::Config;
use super::{ConfigFiles, Hidden, Refusal, Signalled};
use crate::api::failure::{Class, Failure};
use crate::api::sync::lock;
use crate::engine::{File, LogOptions, Output};
use crate::store::Clock;

/// Time-out of a script that checks, moves or copies files.
const EXEC: Duration = Duration::from_secs(20);
/// Time-out of a script that reads.
const READ: Duration = Duration::from_secs(5);
/// Longest text that is kept of an engine's message about a refusal, in characters.
const WORDS: usize = 600;
/// Lines of the container's log that are searched for an error.
const LOG_LINES: u64 = 12;
/// Bytes that are read with one command: Docker returns this much of a command's output, and a little more.
const PIECE: usize = 12_000;
/// Most pieces of one configuration.
const PIECES: usize = 100;
/// Exit code of [`write`]'s script when the engine refuses the configuration.
const REFUSED: i64 = 9;
/// Copies the file in use as the last good one.
const KEEP: &str = r#"cp -p "$1" "$1.good.new" && mv -f "$1.good.new" "$1.good""#;
/// Removes certificates that the file in use does not refer to.
const SWEEP: &str = r#"cd "${1%/*}" && for f in *.pem; do grep -q -F "$f" "$1" || rm -f "$f"; done"#;
/// Records the refused configuration (`$2`) and the engine's message (`$3`).
const REFUSE: &str = r#"printf '%s\n%s\n' "$2" "$3" > "$1.refused.new" && mv -f "$1.refused.new" "$1.refused""#;
/// Prints whether a last good file exists and whether it equals the file in use; then the refusal.
const STATE: &str = r#"if [ ! -e "$1.good" ]; then echo none; elif [ "$(cat "$1")" = "$(cat "$1.good")" ]; then echo same; else echo other; fi; [ ! -e "$1.refused" ] || head -c 4000 "$1.refused""#;

/// Writes a configuration into the volume, lets the engine check it, and makes it the file in use unless the engine
/// refuses it. A refusal is not a failure but a fact, recorded in the volume. `runs`: the running process has this
/// configuration except for its servers, so it becomes the last good one too.
pub async fn write(at: &ContainerRef, config: &Config, files: &[File], runs: bool) -> Result<(), Failure> {
    let mut put = files.to_vec();
    let (path, bytes) = (format!("{}.new", at.dialect.file), config.text.clone().into_bytes());
    put.push(File { path, mode: 0o600, owner: (0, 0), bytes });
    at.engine.put_files(&at.id.container, CONFIG_DIR, &put).await?;
    let check = (at.dialect.check)(r#""$1.new""#);
    let keep = if runs { format!(" && {KEEP}") } else { String::new() };
    let script = format!(
        r#"if said=$({check} 2>&1); then {{ [ -e "$1.good" ] || cp -p "$1" "$1.good"; }} && mv -f "$1.new" "$1"{keep}; else set -- "$1" "$2" "$said"; printf %s "$said"; {REFUSE}; exit {REFUSED}; fi"#
    );
    let known = forget(at);
    let (code, said) = run(at, &script, &[&refusal_key(at, &config.skeleton)], EXEC).await?;
    match (code, known) {
        (0, Some(known)) => {
            let current = Hidden(config.text.clone());
            let good = if runs { Some(current.clone()) } else { known.good.or(Some(known.current)) };
            remember(at, ConfigFiles { current, good, refused: known.refused });
        }
        (REFUSED, Some(known)) => {
            let refused = Refusal { skeleton: config.skeleton.clone(), words: in_one_line(&said) };
            tracing::warn!(container = at.id.container, words = refused.words, "a configuration was refused");
            remember(at, ConfigFiles { refused: Some(refused), ..known });
        }
        (0 | REFUSED, None) => {}
        _ => return Err(Failure::new(Class::Transient, format!("cannot write the configuration: {said}"))),
    }
    Ok(())
}

/// Tells the engine to run the file in use.
pub async fn reload(at: &ContainerRef, clock: &dyn Clock, hash: &str, failed: u32) -> Result<(), Failure> {
    at.engine.signal_container(&at.id.container, at.dialect.signal).await?;
    let signalled = Signalled { hash: hash.to_owned(), at: clock.now(), failed };
    lock(&at.link.known).signalled = Some(signalled);
    Ok(())
}

/// Ends processes from before a reload, with their connections. One that has ended already is fine.
pub async fn end(at: &ContainerRef, processes: &[u32]) -> Result<(), Failure> {
    let processes: Vec<String> = processes.iter().map(ToString::to_string).collect();
    let words: Vec<&str> = processes.iter().map(String::as_str).collect();
    succeed(run(at, r#"shift; kill -TERM "$@" 2>/dev/null; :"#, &words, EXEC).await?)
}

/// Keeps the file in use as the last good one. `accepted`: it is the desired one, so a recorded refusal is outdated and
/// is removed.
pub async fn keep(at: &ContainerRef, accepted: bool) -> Result<(), Failure> {
    let known = forget(at);
    let accept = if accepted { r#" && rm -f "$1.refused""# } else { "" };
    succeed(run(at, &format!("{KEEP}{accept} && {{ {SWEEP}; }}"), &[], EXEC).await?)?;
    if let Some(known) = known {
        let refused = known.refused.filter(|_| !accepted);
        remember(at, ConfigFiles { good: Some(known.current.clone()), current: known.current, refused });
    }
    Ok(())
}

/// Records in the volume that no process took up this configuration, with the engine's message.
pub async fn refuse(at: &ContainerRef, skeleton: &str) -> Result<(), Failure> {
    let words = in_one_line(&last_words(at).await);
    let known = forget(at);
    succeed(run(at, REFUSE, &[&refusal_key(at, skeleton), &words], EXEC).await?)?;
    tracing::warn!(container = at.id.container, words, "a configuration was not taken up");
    if let Some(known) = known {
        let refused = Some(Refusal { skeleton: skeleton.to_owned(), words });
        remember(at, ConfigFiles { refused, ..known });
    }
    Ok(())
}

/// The configuration files of a balancer: from memory if the last step left a known state, else read from the volume.
pub async fn files(at: &ContainerRef) -> Result<ConfigFiles, String> {
    let known = lock(&at.link.known).files.clone();
    if let Some(files) = known {
        return Ok(files);
    }
    let (current, state) = tokio::join!(text(at, ""), read(at, STATE, &[]));
    let (current, state) = (current?, state?);
    let (which, refused) = state.split_once('\n').unwrap_or((&state, ""));
    let good = match which {
        "same" => Some(current.clone()),
        "other" => Some(text(at, ".good").await?),
        _ => None,
    };
    let files = ConfigFiles { current: Hidden(current), good: good.map(Hidden), refused: refusal(at, refused) };
    remember(at, files.clone());
    Ok(files)
}

/// A refusal belongs to the container that refused: another image may accept the configuration.
fn refusal_key(at: &ContainerRef, skeleton: &str) -> String {
    format!("{} {skeleton}", at.id.id)
}

fn refusal(at: &ContainerRef, kept: &str) -> Option<Refusal> {
    let (key, words) = kept.split_once('\n')?;
    let (id, skeleton) = key.rsplit_once(' ')?;
    (id == at.id.id).then(|| Refusal { skeleton: skeleton.to_owned(), words: in_one_line(words) })
}

/// Forgets the files; they are read again unless the next step leaves them in a known state.
fn forget(at: &ContainerRef) -> Option<ConfigFiles> {
    lock(&at.link.known).files.take()
}

fn remember(at: &ContainerRef, files: ConfigFiles) {
    lock(&at.link.known).files = Some(files);
}

/// The engine's last messages about an error.
async fn last_words(at: &ContainerRef) -> String {
    let options = LogOptions { tail: Some(LOG_LINES), ..Default::default() };
    let mut log = String::new();
    if let Ok(mut outputs) = at.engine.logs(&at.id.container, &options).await {
        while let Ok(Some(Ok(Output::Stdout(bytes) | Output::Stderr(bytes)))) = timeout(EXEC, outputs.next()).await {
            log.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
    let told: Vec<_> = log.lines().filter(|line| line.contains("[ALERT]") || line.contains("[emerg]")).collect();
    if told.is_empty() { "no new process took it up; see the container's log".into() } else { told.join("\n") }
}

fn in_one_line(words: &str) -> String {
    let words = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" / ");
    words.chars().take(WORDS).collect()
}

/// The text of the file in use, or of a file beside it with this suffix.
async fn text(at: &ContainerRef, suffix: &str) -> Result<String, String> {
    let mut text = String::new();
    for _ in 0..PIECES {
        let (from, length) = ((text.len() + 1).to_string(), PIECE.to_string());
        let script = format!(r#"tail -c +"$2" "$1{suffix}" | head -c "$3""#);
        let piece = read(at, &script, &[&from, &length]).await?;
        text.push_str(&piece);
        if piece.len() < PIECE {
            break;
        }
    }
    Ok(text)
}

/// The output of a script that only reads; `$1` is the file in use.
pub async fn read(at: &ContainerRef, script: &str, more: &[&str]) -> Result<String, String> {
    match run(at, script, more, READ).await {
        Ok((0, said)) => Ok(said),
        Ok((_, said)) => Err(said),
        Err(failure) => Err(failure.message),
    }
}

fn succeed((code, said): (i64, String)) -> Result<(), Failure> {
    if code == 0 { Ok(()) } else { Err(Failure::new(Class::Transient, said)) }
}

/// Runs a script on the file in use, `$1`; returns its exit code and output.
async fn run(at: &ContainerRef, script: &str, more: &[&str], limit: Duration) -> Result<(i64, String), Failure> {
    let file = format!("{CONFIG_DIR}/{}", at.dialect.file);
    let command: Vec<String> =
        ["sh", "-c", script, "sh", &file].iter().chain(more).map(|word| (*word).to_owned()).collect();
    let result = at.engine.exec(&at.id.container, &command, limit).await?;
    Ok((result.code, result.output))
}
