//! Access to the world as in production: Docker by its calls, a supervisor by its link.

use super::{Command, DockerSeen, HOME, Letter, Report, World};

impl World {
    /// The result of Docker's lists.
    pub fn seen_by_docker(&self) -> DockerSeen {
        self.observe(0).hosts.remove(HOME).unwrap_or_else(DockerSeen::nothing)
    }

    /// The current report of the supervisor in a container.
    pub fn says(&mut self, container: &str) -> Report {
        let report = self.report(container);
        let before = self.promised.entry(container.to_owned()).or_default();
        if report.promised < *before {
            self.broken.insert("I3 promises are monotonic and durable");
        }
        *before = report.promised.max(*before);
        report
    }

    /// A command arrives at that boot of a container, if it still runs.
    pub fn hears(&mut self, container: &str, to: (u32, u32), command: Command) {
        self.deliver(&Letter { member: Self::member(container), to, command });
    }
}
