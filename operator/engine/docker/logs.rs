//! Logs of containers.

use std::collections::VecDeque;

use bollard::models::ContainerState;
use bollard::query_parameters::LogsOptionsBuilder;
use bytes::Bytes;
use futures::{StreamExt as _, future, stream};
use jiff::Timestamp;

use super::super::{Error, LogOptions, Output, Outputs};
use super::execs::output;
use super::{ANSWER, DockerEngine, classify};

impl DockerEngine {
    pub(super) async fn logs_of(&self, container: &str, options: &LogOptions) -> Result<Outputs, Error> {
        let doing = format!("reading the log of container {container}");
        // The log stream reports a missing container only in place of the first line.
        let seen = self.call(&doing, ANSWER, |docker| docker.inspect_container(container, None)).await?;
        if options.previous {
            let ended = seen.state.as_ref().and_then(end_of_previous);
            let ended = ended.ok_or_else(|| Error::not_found(&self.host, &doing, "it was started only once"))?;
            // Docker cuts at whole seconds, so each line is asked for with its time.
            let all = LogOptions { follow: false, tail: None, timestamps: true, ..options.clone() };
            return Ok(before(ended, self.stream_of(container, &all, doing).await?, options).await);
        }
        self.stream_of(container, options, doing).await
    }

    async fn stream_of(&self, container: &str, options: &LogOptions, doing: String) -> Result<Outputs, Error> {
        let mut query = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .follow(options.follow)
            .timestamps(options.timestamps)
            .since(options.since.map_or(0, |since| i32::try_from(since).unwrap_or(i32::MAX)));
        if let Some(lines) = options.tail {
            query = query.tail(&lines.to_string());
        }
        let client = self.client(&doing).await?.clone();
        let (host, pieces) = (self.host.clone(), client.logs(container, Some(query.build())));
        Ok(Box::pin(pieces.map(move |piece| match piece {
            Ok(piece) => Ok(output(piece)),
            Err(error) => Err(classify::classify(&host, &doing, error)),
        })))
    }
}

/// The time that separates the log of the run before from the current one; `None` if there was none. Docker notes both
/// times a little beside the lines, so it is the middle between them. A container that does not run has only past runs.
fn end_of_previous(state: &ContainerState) -> Option<Timestamp> {
    let time = |text: &Option<String>| text.as_deref()?.parse::<Timestamp>().ok();
    let ended = time(&state.finished_at).filter(|ended| *ended > Timestamp::UNIX_EPOCH)?;
    match time(&state.started_at).filter(|_| state.running == Some(true)) {
        Some(started) => Some(ended + started.duration_since(ended) / 2),
        None => Some(Timestamp::MAX),
    }
}

/// The lines, each with its time, before `end`; the last ones if only those are asked for.
async fn before(end: Timestamp, lines: Outputs, options: &LogOptions) -> Outputs {
    let timestamps = options.timestamps;
    let lines = lines.map(move |line| {
        Ok(match line? {
            Output::Stdout(bytes) => timed(&bytes, timestamps).map(|(at, bytes)| (at, Output::Stdout(bytes))),
            Output::Stderr(bytes) => timed(&bytes, timestamps).map(|(at, bytes)| (at, Output::Stderr(bytes))),
        })
    });
    let lines = lines.take_while(move |line| future::ready(!matches!(line, Ok(Some((at, _))) if *at >= end)));
    let mut lines = lines.filter_map(|line| future::ready(line.map(|line| line.map(|(_, line)| line)).transpose()));
    let Some(tail) = options.tail else { return Box::pin(lines) };
    let mut last = VecDeque::new();
    while let Some(line) = lines.next().await {
        last.push_back(line);
        if last.len() as u64 > tail {
            last.pop_front();
        }
    }
    Box::pin(stream::iter(last))
}

/// The time of a line, and the line with or without it.
fn timed(line: &Bytes, keep: bool) -> Option<(Timestamp, Bytes)> {
    let space = line.iter().position(|byte| *byte == b' ')?;
    let at = std::str::from_utf8(&line[..space]).ok()?.parse().ok()?;
    Some((at, if keep { line.clone() } else { line.slice(space + 1..) }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn state(running: bool, started: &str, finished: &str) -> ContainerState {
        ContainerState {
            running: Some(running),
            started_at: Some(started.to_owned()),
            finished_at: Some(finished.to_owned()),
            ..ContainerState::default()
        }
    }

    async fn previous(state: &ContainerState, options: LogOptions) -> Option<Vec<String>> {
        let lines = ["2026-01-01T00:00:01.1Z one\n", "2026-01-01T00:00:02.01Z two\n", "2026-01-01T00:00:02.9Z three\n"];
        let lines = lines.map(|line| Ok(Output::Stdout(Bytes::from_static(line.as_bytes()))));
        let cut = before(end_of_previous(state)?, Box::pin(stream::iter(lines)), &options).await;
        let text = |line: Result<Output, Error>| match line.unwrap() {
            Output::Stdout(bytes) | Output::Stderr(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        };
        Some(cut.map(text).collect().await)
    }

    /// Regression 67: `logs -p` was refused, although Docker has the log of the run before in the same container. A crash
    /// was over before anyone could read why, because its last lines were mixed with those of the new run.
    #[tokio::test]
    async fn the_log_of_the_run_before_ends_between_its_end_and_the_next_start() {
        let all = LogOptions::default;
        // Docker noted the end before the last line, and the start after the first.
        let again = state(true, "2026-01-01T00:00:03Z", "2026-01-01T00:00:02Z");
        assert_eq!(previous(&again, all()).await.unwrap(), ["one\n", "two\n"]);
        let last = LogOptions { tail: Some(1), timestamps: true, ..all() };
        assert_eq!(previous(&again, last).await.unwrap(), ["2026-01-01T00:00:02.01Z two\n"]);
        let down = state(false, "2026-01-01T00:00:01Z", "2026-01-01T00:00:03Z");
        assert_eq!(previous(&down, all()).await.unwrap(), ["one\n", "two\n", "three\n"]);
        let once = state(true, "2026-01-01T00:00:01Z", "0001-01-01T00:00:00Z");
        assert_eq!(previous(&once, all()).await, None);
    }
}
