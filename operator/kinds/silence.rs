//! Counts how long each host has been silent, by the time that this process has waited.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tokio::time::Instant;

use super::containers::DockerSeen;
use super::loss::Silent;
use crate::api::sync::lock;
use crate::runtime::clock;

/// Since when each silent host has not answered. One for all objects of a kind.
#[derive(Default)]
pub struct Silence(Mutex<BTreeMap<String, Instant>>);

impl Silence {
    /// Takes note of what was observed, and returns the silent ones among these hosts.
    pub fn note<'a>(&self, hosts: impl IntoIterator<Item = (&'a String, &'a DockerSeen)>) -> Silent {
        let (mut since, mut silent) = (lock(&self.0), Silent::new());
        for (host, seen) in hosts {
            if seen.containers.known().is_some() {
                since.remove(host);
            } else {
                let began = *since.entry(host.clone()).or_insert_with(clock::instant);
                silent.insert(host.clone(), began.elapsed());
            }
        }
        silent
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_by_who_waits_and_ends_with_an_answer() {
        let (silence, host) = (Silence::default(), "a".to_owned());
        let note = |seen: DockerSeen| silence.note([(&host, &seen)]).get("a").map(Duration::as_secs);
        let mut told = vec![note(DockerSeen::unknown("away"))];
        tokio::time::advance(Duration::from_secs(30)).await;
        told.push(note(DockerSeen::unknown("away")));
        told.push(note(DockerSeen::nothing()));
        told.push(note(DockerSeen::unknown("away")));
        assert_eq!(told, [Some(0), Some(30), None, Some(0)]);
    }
}
