//! Follows a watch across its time-outs and restarts of the server. Returns the server's events unchanged.

use std::collections::VecDeque;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use serde_json::Value;
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::io::StreamReader;

use super::client::{Client, JSON};
use super::discovery::Resource;
use super::error::{Error, Refusal};

/// Time-out of one watch request in seconds; then the next one is sent. This also ends dead connections.
const WATCH_SECONDS: &str = "290";
/// Attempts to reconnect, 0.2 s to 3 s apart; after the last one the server counts as unreachable.
const TRIES: u32 = 10;
/// Limit of one line in bytes; no object is larger.
const LINE_LIMIT: usize = 16 << 20;

/// An event of a watch.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The object (or one-row Table) is new or changed.
    Changed(Value),
    /// The object is gone; its last state.
    Deleted(Value),
    /// Changes were missed (the resourceVersion is too old): every existing object follows as a change.
    Restarted,
}

type Lines = futures::stream::BoxStream<'static, Result<String, std::io::Error>>;

/// A watch that continues until it is dropped.
pub struct Follow<'a> {
    client: &'a Client,
    path: String,
    query: Vec<(String, String)>,
    accept: &'static str,
    since: String,
    lines: Option<Lines>,
    failures: u32,
    pending: VecDeque<Event>,
}

impl<'a> Follow<'a> {
    /// Follows a collection from a resourceVersion; an empty one starts with all existing objects.
    pub fn new(client: &'a Client, path: String, query: &[(&str, &str)], accept: &'static str, since: &str) -> Self {
        let query = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (lines, failures, pending) = (None, 0, VecDeque::new());
        Self { client, path, query, accept, since: since.to_owned(), lines, failures, pending }
    }

    /// Follows one object, starting with its current state.
    pub fn object(client: &'a Client, resource: &Resource, namespace: &str, name: &str) -> Self {
        let selector = format!("metadata.name={name}");
        Self::new(client, resource.path(Some(namespace), None), &[("fieldSelector", &selector)], JSON, "")
    }

    /// The same from this resourceVersion on.
    pub fn since(self, resource_version: &str) -> Self {
        Self { since: resource_version.to_owned(), ..self }
    }

    /// The next event. Fails only if the server stays unreachable or refuses.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            let Some(lines) = &mut self.lines else {
                self.connect().await?;
                continue;
            };
            match lines.next().await {
                Some(Ok(line)) if line.is_empty() => {}
                Some(Ok(line)) => self.take(&line)?,
                // Time-out or broken connection: the next request starts at the last resourceVersion.
                Some(Err(_)) | None => {
                    self.lines = None;
                    self.pause().await;
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<(), Error> {
        let mut query = vec![("watch", "true"), ("allowWatchBookmarks", "true"), ("timeoutSeconds", WATCH_SECONDS)];
        query.extend(self.query.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        if !self.since.is_empty() {
            query.push(("resourceVersion", &self.since));
        }
        match self.client.open_watch(&self.path, &query, self.accept).await {
            Ok(response) => {
                let bytes = response.bytes_stream().map_err(std::io::Error::other);
                let codec = LinesCodec::new_with_max_length(LINE_LIMIT);
                let lines = FramedRead::new(StreamReader::new(bytes), codec).map_err(std::io::Error::other);
                self.lines = Some(lines.boxed());
                Ok(())
            }
            Err(Error::Refused(Refusal { code: 410, .. })) => {
                self.restart();
                Ok(())
            }
            Err(error @ Error::Unreachable { .. }) if self.failures >= TRIES => Err(error),
            Err(Error::Unreachable { .. }) => {
                self.pause().await;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Waits before the next attempt; the delay grows until an event arrives.
    async fn pause(&mut self) {
        self.failures += 1;
        let pause = Duration::from_millis(200 * u64::from(self.failures)).min(Duration::from_secs(3));
        tokio::time::sleep(pause).await;
    }

    fn restart(&mut self) {
        self.since.clear();
        self.lines = None;
        self.pending.push_back(Event::Restarted);
    }

    fn take(&mut self, line: &str) -> Result<(), Error> {
        let Ok(mut event) = serde_json::from_str::<Value>(line) else {
            // A line was cut off: the connection is broken.
            self.lines = None;
            return Ok(());
        };
        let object = event["object"].take();
        let kind = event["type"].as_str().unwrap_or_default();
        if kind == "ERROR" {
            let refusal = Refusal::from_body(object["code"].as_u64().unwrap_or(500) as u16, &object.to_string());
            if refusal.code == 410 {
                self.restart();
                return Ok(());
            }
            return Err(refusal.into());
        }
        self.failures = 0;
        // In a Table, the object of the row has the resourceVersion.
        let version = object["metadata"]["resourceVersion"].as_str().filter(|version| !version.is_empty());
        let version = version.or_else(|| object["rows"][0]["object"]["metadata"]["resourceVersion"].as_str());
        if let Some(version) = version {
            self.since = version.to_owned();
        }
        match kind {
            "ADDED" | "MODIFIED" => self.pending.push_back(Event::Changed(object)),
            "DELETED" => self.pending.push_back(Event::Deleted(object)),
            _ => {}
        }
        Ok(())
    }
}
