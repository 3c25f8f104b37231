//! The query parameters of a request, parsed once.

use std::time::Duration;

use axum::extract::Query;
use axum::http::{HeaderMap, Uri, header};

use super::selectors::Selector;
use super::status::{Cause, Refusal};
use crate::api::resource::Resource;

/// The query parameters; of repeated ones the last counts, except where all are requested.
#[derive(Debug, Clone, Default)]
pub struct Params(Vec<(String, String)>);

/// Whether a write is stored, or only validated (`dryRun`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Stored.
    Store,
    /// `dryRun=All`: validated and not stored.
    DryRun,
}

/// How to treat fields that the kind does not have, and fields that were sent twice (`fieldValidation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    /// 400.
    Strict,
    /// Left out (of a field that was sent twice, the first one), with a `Warning` header. The default.
    Warn,
    /// Left out.
    Ignore,
}

/// Options of a write.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteOptions {
    /// Whether it is stored.
    pub effect: Effect,
    /// How to treat unknown and repeated fields.
    pub validation: FieldValidation,
    /// The field manager: `fieldManager`, else the first word of the User-Agent; may be empty.
    pub manager: String,
    /// Whether an apply takes over fields of other managers.
    pub force: bool,
}

/// Options of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchOptions {
    /// Where to start.
    pub from: WatchFrom,
    /// Duration of the stream; `None`: the server's own limit.
    pub timeout: Option<Duration>,
    /// Whether the client understands BOOKMARK events.
    pub bookmarks: bool,
}

/// Where a watch starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchFrom {
    /// All objects as ADDED, then changes.
    Snapshot,
    /// All objects as ADDED, then a BOOKMARK that says so, then changes.
    MarkedSnapshot,
    /// Changes from now on.
    Now,
    /// Changes strictly after this revision.
    Revision(u64),
}

impl Params {
    /// Parses the query of a URI.
    pub fn parse(uri: &Uri) -> Result<Self, Refusal> {
        let pairs: Query<Vec<(String, String)>> =
            Query::try_from_uri(uri).map_err(|e| Refusal::bad_request(e.body_text()))?;
        Ok(Self(pairs.0))
    }

    /// A parameter, if it is present and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).last().filter(|value| !value.is_empty())
    }

    /// All values of a parameter, in order.
    pub fn all<'a>(&'a self, name: &str) -> impl DoubleEndedIterator<Item = &'a str> {
        self.0.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// A boolean parameter; false by default.
    pub fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.get(name) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => Err(wrong(name, other, "true or false")),
        }
    }

    /// Both selectors.
    pub fn selector(&self, resource: &Resource) -> Result<Selector, Refusal> {
        Selector::parse(resource, self.get("labelSelector"), self.get("fieldSelector"))
    }

    /// `dryRun`.
    pub fn effect(&self) -> Result<Effect, Refusal> {
        match self.get("dryRun") {
            None => Ok(Effect::Store),
            Some("All") => Ok(Effect::DryRun),
            Some(other) => Err(wrong("dryRun", other, "All")),
        }
    }

    /// All options of a write.
    pub fn write_options(&self, headers: &HeaderMap) -> Result<WriteOptions, Refusal> {
        let validation = match self.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Strict") => FieldValidation::Strict,
            Some("Ignore") => FieldValidation::Ignore,
            Some(other) => return Err(wrong("fieldValidation", other, "Strict, Warn or Ignore")),
        };
        let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let manager = self.get("fieldManager").unwrap_or(agent.split('/').next().unwrap_or_default());
        if manager.len() > 128 || manager.contains(char::is_control) {
            return Err(wrong("fieldManager", manager, "at most 128 printable characters"));
        }
        Ok(WriteOptions { effect: self.effect()?, validation, manager: manager.to_owned(), force: self.flag("force")? })
    }

    /// All options of a watch.
    pub fn watch_options(&self) -> Result<WatchOptions, Refusal> {
        let revision = self.revision()?;
        let from = match (self.get("sendInitialEvents"), self.get("resourceVersionMatch"), revision) {
            (Some(_), None | Some("Exact"), _) => {
                let message = "sendInitialEvents needs resourceVersionMatch=NotOlderThan";
                return Err(refused("resourceVersionMatch", message));
            }
            (None, Some(_), _) => {
                let message = "resourceVersionMatch is only for watches with sendInitialEvents";
                return Err(refused("resourceVersionMatch", message));
            }
            (Some("true" | "1"), Some(_), _) => WatchFrom::MarkedSnapshot,
            (Some(_), Some(_), None | Some(0)) => WatchFrom::Now,
            (_, _, None | Some(0)) => WatchFrom::Snapshot,
            (_, _, Some(revision)) => WatchFrom::Revision(revision),
        };
        let timeout = match self.get("timeoutSeconds") {
            None | Some("0") => None,
            Some(text) => match text.parse::<u32>() {
                Ok(seconds) => Some(Duration::from_secs(seconds.into())),
                Err(_) => return Err(Refusal::bad_request(format!("timeoutSeconds {text:?} is not a number"))),
            },
        };
        Ok(WatchOptions { from, timeout, bookmarks: self.flag("allowWatchBookmarks")? })
    }

    /// Checks the parameters of a list.
    pub fn check_list(&self) -> Result<(), Refusal> {
        if let Some(text) = self.get("limit").filter(|text| text.parse::<i64>().is_err()) {
            return Err(Refusal::bad_request(format!("limit {text:?} is not a number")));
        }
        match self.get("resourceVersionMatch") {
            None | Some("Exact" | "NotOlderThan") => Ok(()),
            Some(other) => {
                let message = format!("resourceVersionMatch {other:?} must be Exact or NotOlderThan");
                Err(Refusal::bad_request(message))
            }
        }
    }

    /// `resourceVersion`, if one was given.
    pub fn revision(&self) -> Result<Option<u64>, Refusal> {
        let parse =
            |text: &str| text.parse().map_err(|_| Refusal::bad_request(format!("invalid resource version {text:?}")));
        self.get("resourceVersion").map(parse).transpose()
    }
}

fn wrong(name: &str, value: &str, wanted: &str) -> Refusal {
    refused(name, &format!("Invalid value: {value:?}: must be {wanted}"))
}

fn refused(name: &str, message: &str) -> Refusal {
    Refusal::unprocessable(format!("{name}: {message}")).because(vec![Cause::invalid(name, message)])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn from(query: &str) -> Result<WatchFrom, u16> {
        let uri = format!("/x?watch=true&{query}").parse().unwrap();
        let options = Params::parse(&uri).unwrap().watch_options();
        options.map(|o| o.from).map_err(|refusal| refusal.code.as_u16())
    }

    #[test]
    fn a_watch_starts_where_it_is_asked_to() {
        assert_eq!(from(""), Ok(WatchFrom::Snapshot));
        assert_eq!(from("resourceVersion=0"), Ok(WatchFrom::Snapshot));
        assert_eq!(from("resourceVersion=7"), Ok(WatchFrom::Revision(7)));
        assert_eq!(from("sendInitialEvents=true&resourceVersionMatch=NotOlderThan"), Ok(WatchFrom::MarkedSnapshot));
        assert_eq!(from("sendInitialEvents=false&resourceVersionMatch=NotOlderThan"), Ok(WatchFrom::Now));
        assert_eq!(from("sendInitialEvents=true"), Err(422));
        assert_eq!(from("resourceVersion=x"), Err(400));
    }

    #[test]
    fn a_list_is_asked_for_with_numbers_and_known_words() {
        let check = |query: &str| Params::parse(&format!("/x?{query}").parse().unwrap()).unwrap().check_list().is_ok();
        assert!(check("limit=500") && check("") && check("resourceVersionMatch=Exact"));
        assert!(!check("limit=abc") && !check("resourceVersionMatch=Foo"));
    }

    #[test]
    fn the_field_manager_defaults_to_the_user_agent() {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, "kubectl/v1.37 (linux)".parse().unwrap());
        let manager =
            |uri: &'static str| Params::parse(&Uri::from_static(uri)).unwrap().write_options(&headers).unwrap().manager;
        assert_eq!(manager("/x"), "kubectl");
        assert_eq!(manager("/x?fieldManager=me"), "me");
    }
}
