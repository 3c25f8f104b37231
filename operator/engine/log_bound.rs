//! The bound of a container's log. Pure.

use super::{ContainerSpec, Daemon};

/// The log driver that keeps everything in one file for ever, unless it is told otherwise.
const UNBOUNDED: &str = "json-file";
/// Most bytes of one log file, and most files of one container: 100 MB, as much as Docker's driver `local` keeps.
const OPTIONS: [(&str, &str); 2] = [("max-size", "20m"), ("max-file", "5")];

/// The spec with a bound on the container's log. Only `json-file` has none of its own: `local` and `journald` have, and
/// the other drivers send the log elsewhere; they know other options or none.
pub fn bounded(spec: &ContainerSpec, daemon: &Daemon) -> ContainerSpec {
    let mut spec = spec.clone();
    if daemon.log_driver == UNBOUNDED {
        spec.chosen.log_options = OPTIONS.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression 90: Docker's `json-file` driver has no bound of its own, and no container was made with one. The log of
    /// a database that ran for months filled the disk of its host.
    #[test]
    fn a_log_is_bounded_where_the_driver_does_not_bound_it_and_the_hash_stays() {
        let spec = ContainerSpec { name: "db-1".into(), ..Default::default() };
        let options = |driver: &str| {
            let bounded = bounded(&spec, &Daemon { log_driver: driver.into(), memory_bytes: 4 << 30 });
            assert_eq!(bounded.hash(), spec.hash());
            bounded.chosen.log_options.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        };
        assert_eq!(options("json-file"), ["max-file=5", "max-size=20m"]);
        for other in ["local", "journald", "syslog", "none"] {
            assert_eq!(options(other), Vec::<String>::new(), "{other}");
        }
    }
}
