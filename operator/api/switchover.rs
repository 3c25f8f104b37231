//! The request of a planned switchover: an annotation, which `status.lastSwitchover` answers. Pure.

use jiff::Timestamp;

use super::object::Object;

/// Requests a planned switchover: `TIMESTAMP` or `TIMESTAMP/MEMBER`.
pub const SWITCHOVER_ANNOTATION: &str = "evenkeel.dev/switchover";

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// The whole annotation.
    pub text: &'a str,
    /// The member that it names; empty: any.
    pub to: &'a str,
}

/// The request of an object that was not answered yet. `last`: the request that was answered last, and when its promotion
/// began.
pub fn open<'a>(object: &'a impl Object, last: Option<(&str, Option<Timestamp>)>) -> Option<Request<'a>> {
    let text = object.annotation(SWITCHOVER_ANNOTATION)?;
    let (stamp, to) = text.split_once('/').unwrap_or((text, ""));
    let asked: Option<Timestamp> = stamp.parse().ok();
    let answered = last.is_some_and(|(request, began)| {
        // One that is older than the last promotion came too late.
        request == text || asked.zip(began).is_some_and(|(asked, began)| asked <= began)
    });
    (!answered).then_some(Request { text, to })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::load_balancer::LoadBalancer;

    #[test]
    fn a_request_is_open_until_it_or_a_newer_one_was_answered() {
        let (before, asked, after) = ("2026-11-28T15:00:00Z", "2026-11-28T15:00:01Z", "2026-11-28T15:00:02Z");
        let metadata = json!({"name": "db", "annotations": {(SWITCHOVER_ANNOTATION): format!("{asked}/db-2")}});
        let object: LoadBalancer =
            serde_json::from_value(json!({"metadata": metadata, "spec": {"frontends": [], "backends": []}})).unwrap();
        let text = format!("{asked}/db-2");
        let open = |last| open(&object, last).map(|request| request.to);
        let at = |text: &str| text.parse().ok();
        assert_eq!(open(None), Some("db-2"));
        assert_eq!(open(Some((before, at(before)))), Some("db-2"));
        assert_eq!(open(Some(("restart for generation 2", None))), Some("db-2"));
        assert_eq!(open(Some((&text, None))), None, "it was refused");
        assert_eq!(open(Some((after, at(after)))), None, "it came too late");
    }
}
