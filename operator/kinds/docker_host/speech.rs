//! What the operator and an agent say to each other, and the bounds of an agent's report: it comes from a container on the host's
//! network, and is believed only within them. Pure.

use crate::kinds::links::Speech;
use crate::supervisor::agent::wire::{Command, Report, SOCKET};

/// Most bytes of a report: some hundred peers and a thousand ports.
const LINE: usize = 128 << 10;
/// Length of a boot id, which is a UUID.
const BOOT_ID: usize = 36;

/// The speech of agents.
pub struct AgentSpeech;

impl Speech for AgentSpeech {
    type Command = Command;
    type Report = Report;
    const SOCKET: &'static str = SOCKET;
    const LINE: usize = LINE;

    fn bounded(report: Report) -> Result<Report, String> {
        let id = &report.boot_id;
        let is_one = id.len() == BOOT_ID && id.bytes().all(|one| one.is_ascii_hexdigit() || one == b'-');
        // What else it names is compared with what the operator knows: ports with the range, peers with the hosts.
        if is_one { Ok(report) } else { Err("its boot id is none".to_owned()) }
    }

    fn significant(report: &Report) -> Report {
        report.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_without_a_boot_id_is_refused() {
        let told =
            |boot_id: &str| AgentSpeech::bounded(Report { boot_id: boot_id.into(), ..Default::default() }).is_ok();
        assert!(told("65f3d8c7-0a41-4c8e-9d3b-0c1b5a3f2e10"));
        assert_eq!(["", "65f3d8c7", "<script>alert(1)</script>------------"].map(told), [false; 3]);
    }
}
