//! Lists in pieces: `limit` and `continue`. A later piece shows the objects as they were for the first one. Pure.

use std::sync::Arc;

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::params::Params;
use super::status::Refusal;
use crate::store::Error;

/// The piece of a list that a request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The revision of the list; `None`: now.
    pub at: Option<u64>,
    /// Limit of the number of objects.
    limit: Option<usize>,
    /// Namespace and name of the last object of the piece before; only with a continue token.
    after: Option<(String, String)>,
}

impl Page {
    /// Reads `limit`, `continue`, `resourceVersion` and `resourceVersionMatch`.
    pub fn read(params: &Params) -> Result<Self, Refusal> {
        let limit = match params.get("limit").map(str::parse::<i64>) {
            None => None,
            Some(Ok(limit)) => usize::try_from(limit).ok().filter(|limit| *limit > 0),
            Some(Err(_)) => return Err(Refusal::bad_request("limit is not a number")),
        };
        let revision = params.revision()?;
        let matching = params.get("resourceVersionMatch");
        if let Some(token) = params.get("continue") {
            if revision.is_some_and(|revision| revision > 0) || matching.is_some() {
                let message =
                    "resourceVersion and resourceVersionMatch are not allowed with continue: the token has them";
                return Err(Refusal::bad_request(message));
            }
            let (at, after) = parse(token).ok_or_else(foreign)?;
            return Ok(Self { at: Some(at).filter(|at| *at > 0), limit, after: Some(after) });
        }
        let at = match (matching, revision) {
            (None, _) | (Some("NotOlderThan"), Some(_)) => None,
            (Some("Exact"), Some(revision)) if revision > 0 => Some(revision),
            (Some("Exact" | "NotOlderThan"), _) => {
                return Err(Refusal::bad_request("resourceVersionMatch needs a resourceVersion"));
            }
            (Some(_), _) => return Err(Refusal::bad_request("resourceVersionMatch must be Exact or NotOlderThan")),
        };
        Ok(Self { at, limit, after: None })
    }

    /// This piece of all `objects`, which are ordered by key, and the metadata of its list. `counted`: whether the
    /// metadata says how many follow.
    pub fn cut(&self, mut objects: Vec<Arc<Value>>, revision: u64, counted: bool) -> (Vec<Arc<Value>>, Value) {
        if let Some((namespace, name)) = &self.after {
            let before = objects.partition_point(|object| place(object) <= (namespace, name));
            objects.drain(..before);
        }
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        let rest = self.limit.and_then(|limit| objects.len().checked_sub(limit)).unwrap_or(0);
        objects.truncate(objects.len() - rest);
        if let Some(last) = objects.last().filter(|_| rest > 0) {
            metadata["continue"] = token(revision, place(last)).into();
            if counted {
                metadata["remainingItemCount"] = rest.into();
            }
        }
        (objects, metadata)
    }

    /// The refusal of a piece whose list cannot be read any more; `None` for other errors. It has a token that continues
    /// with the objects as they are now.
    pub fn refusal(&self, error: &Error) -> Option<Refusal> {
        let (namespace, name) = self.after.as_ref()?;
        match error {
            Error::Compacted { .. } => {
                let message = "The provided continue parameter is too old to display a consistent list result. You can \
                    start a new list without the continue parameter, or use the continue token in this response to \
                    retrieve the remainder of the results as they are now.";
                let mut refusal = Refusal::new(StatusCode::GONE, "Expired", message);
                refusal.metadata["continue"] = token(0, (namespace, name)).into();
                Some(refusal)
            }
            Error::Future { .. } => Some(foreign()),
            _ => None,
        }
    }
}

/// A continue token: the revision of the list (0: now) and the last object.
fn token(revision: u64, (namespace, name): (&str, &str)) -> String {
    URL_SAFE_NO_PAD.encode(json!([revision, namespace, name]).to_string())
}

fn parse(token: &str) -> Option<(u64, (String, String))> {
    let (revision, namespace, name) = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    Some((revision, (namespace, name)))
}

fn foreign() -> Refusal {
    Refusal::bad_request("continue key is not valid: this server did not give it")
}

/// Namespace and name.
fn place(object: &Value) -> (&str, &str) {
    let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    (field("namespace"), field("name"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(query: &str) -> Result<Page, u16> {
        let uri = format!("/x?{query}").parse().unwrap();
        Page::read(&Params::parse(&uri).unwrap()).map_err(|refusal| refusal.code.as_u16())
    }

    fn objects(names: &[&str]) -> Vec<Arc<Value>> {
        names.iter().map(|name| Arc::new(json!({"metadata": {"namespace": "n", "name": name}}))).collect()
    }

    #[test]
    fn a_piece_has_at_most_its_limit_and_a_token_for_the_next() {
        let names = |found: &[Arc<Value>]| found.iter().map(|o| place(o).1.to_owned()).collect::<Vec<_>>().join(" ");
        let all = || objects(&["a", "b", "c", "d", "e"]);
        let (found, metadata) = read("limit=2").unwrap().cut(all(), 7, true);
        assert_eq!((names(&found).as_str(), &metadata["remainingItemCount"]), ("a b", &json!(3)));
        let next = |metadata: &Value| read(&format!("limit=2&continue={}", metadata["continue"].as_str().unwrap()));
        let second = next(&metadata).unwrap();
        assert_eq!(second.at, Some(7));
        let (found, metadata) = second.cut(all(), 7, false);
        assert_eq!((names(&found).as_str(), metadata.get("remainingItemCount")), ("c d", None));
        let (found, metadata) = next(&metadata).unwrap().cut(all(), 7, true);
        assert_eq!((names(&found).as_str(), metadata), ("e", json!({"resourceVersion": "7"})));
        let (found, metadata) = read("limit=5").unwrap().cut(all(), 7, true);
        assert_eq!((found.len(), metadata.get("continue")), (5, None));
    }

    #[test]
    fn an_expired_token_is_answered_with_one_that_continues_now() {
        let page = read(&format!("continue={}", token(3, ("n", "b")))).unwrap();
        let refusal = page.refusal(&Error::Compacted { since: 3, oldest: 9 }).unwrap();
        assert_eq!((refusal.code.as_u16(), refusal.reason), (410, "Expired"));
        let fresh = read(&format!("continue={}", refusal.status()["metadata"]["continue"].as_str().unwrap())).unwrap();
        assert_eq!((fresh.at, fresh.after), (None, Some(("n".into(), "b".into()))));
        assert_eq!(page.refusal(&Error::Future { since: 3, newest: 1 }).unwrap().code.as_u16(), 400);
        assert_eq!(read("limit=2").unwrap().refusal(&Error::Compacted { since: 3, oldest: 9 }), None);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let good = token(3, ("n", "b"));
        for bad in [
            "limit=abc",
            "continue=nonsense",
            "continue=e30",
            "resourceVersionMatch=Foo&resourceVersion=1",
            "resourceVersionMatch=Exact",
            "resourceVersionMatch=Exact&resourceVersion=0",
            &format!("continue={good}&resourceVersion=3"),
        ] {
            assert_eq!(read(bad), Err(400), "{bad}");
        }
        assert_eq!(read("resourceVersionMatch=Exact&resourceVersion=5").unwrap().at, Some(5));
        assert_eq!(read("limit=-1&resourceVersionMatch=NotOlderThan&resourceVersion=5").unwrap(), Page::default());
    }
}
