//! What the verbs about hosts tell people. `NAME` stands for the host.

use serde_json::Value;

pub(super) const CORDONED: &str =
    "NAME takes no new containers; those there stay. To take this back: evenkeel host uncordon NAME";
pub(super) const UNCORDONED: &str = "NAME takes new containers again, unless it is drained, in maintenance or lost";
pub(super) const DRAINING: &str = "\
NAME takes no new containers, and everything on it moves away: primaries and masters switch over, pods are started elsewhere
before they stop here, data is copied to another host before it is given up here. What has no other place stays.
To see what is left: evenkeel host check NAME. To take this back: evenkeel host undrain NAME";
pub(super) const UNDRAINED: &str = "NAME takes new containers again; what has moved away stays where it is";
pub(super) const MAINTENANCE: &str = "\
NAME takes no new containers; primaries and masters switch over, and pods move. Members keep their data there and stay.
When `evenkeel host check NAME` says that it can be restarted, restart it; afterwards: evenkeel host maintenance NAME --off";
pub(super) const BACK: &str =
    "NAME takes new containers again; its members catch up by themselves. Primaries do not move back";
pub(super) const LOST: &str = "\
NAME counts as dead: what it had is replaced now, where there is another place. If it comes back, turn it off first or
clean it, and then: evenkeel host found NAME";
pub(super) const FOUND: &str = "\
NAME is a host like any other again. The operator reads what is there before it does anything; what was replaced meanwhile
is not used again";
pub(super) const ACCEPTED: &str = "\
NAME is engine ENGINE now. What the old engine had counts as gone from here on, and is made again where its objects want it";

/// What it means to declare a host lost.
pub(super) fn meaning_of_lost(name: &str, object: &Value) -> String {
    let mut text = format!(
        "You say that {name} is off and stays off: no process of it runs any more, and none will. Evenkeel believes you.\n\
         It promotes standbys and starts replacements at once, also of pods and volumes that must never exist twice.\n\
         If {name} still runs, two primaries may take writes, and the writes of one of them are lost.\n"
    );
    if object["status"]["reachable"] == true {
        text += &format!("CAUTION: {name} answers at this moment. A host that answers is not lost; use drain.\n");
    }
    if let Some(containers) = object["status"]["containers"].as_u64().filter(|count| *count > 0) {
        let heard = object["status"]["lastHeard"].as_str().unwrap_or("never");
        text += &format!("It had {containers} managed containers and last answered at {heard}.\n");
    }
    text
}
