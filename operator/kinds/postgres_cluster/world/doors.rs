//! The world's doors for those who reach it as production does: Docker by its verbs, a supervisor by its conversation.

use super::{Command, DockerSeen, HOME, Letter, Report, World};

impl World {
    /// What Docker's lists say.
    pub fn seen_by_docker(&self) -> DockerSeen {
        self.observe(0).hosts.remove(HOME).unwrap_or_else(DockerSeen::nothing)
    }

    /// What the supervisor in a container says now.
    pub fn says(&mut self, container: &str) -> Report {
        let report = self.report(container);
        let before = self.promised.entry(container.to_owned()).or_default();
        if report.promised < *before {
            self.broken.insert("I3 promises are monotonic and durable");
        }
        *before = report.promised.max(*before);
        report
    }

    /// A command comes to that boot of a container, if it still runs.
    pub fn hears(&mut self, container: &str, to: (u32, u32), command: Command) {
        self.deliver(&Letter { member: Self::member(container), to, command });
    }
}
