//! Logging to stderr: one compact line per event, filtered by EVENKEEL_LOG, coloured only on a terminal.

use std::io::IsTerminal;

use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The beginning of the targets of this program's own lines.
const OURS: &str = "evenkeel";
/// The variable with the filter, e.g. `debug` or `evenkeel::engine=debug,info`.
const FILTER: &str = "EVENKEEL_LOG";

/// Starts logging to stderr; `default` is the level if EVENKEEL_LOG is not set.
pub fn init(default: &str) {
    init_to(default, std::io::stderr);
}

/// Like [`init`], with a writer that cooperates with progress bars on the terminal.
pub fn init_to<W: for<'a> MakeWriter<'a> + Send + Sync + 'static>(default: &str, writer: W) {
    let asked = std::env::var(FILTER).ok().filter(|text| !text.is_empty());
    let layer = tracing_subscriber::fmt::layer().compact().with_ansi(std::io::stderr().is_terminal());
    let layer = layer.with_writer(writer).with_filter(filter(asked.as_deref(), default));
    // A second call (in tests) has no effect.
    let _ = tracing_subscriber::registry().with(layer).try_init();
}

/// Levels by module from the variable; an invalid value counts as not set. A level without a module is for our own
/// lines: libraries log whole requests at `debug`, with the values of Secrets, so they log more than `info` only if the
/// variable names them.
fn filter(asked: Option<&str>, default: &str) -> Targets {
    let read = |text: &str| text.parse::<Targets>().ok();
    let asked = asked.and_then(read).or_else(|| read(default)).unwrap_or_default();
    let Some(level) = asked.default_level() else { return asked };
    let named = asked.iter().any(|(target, _)| target == OURS);
    let ours = (!named).then_some((OURS, level));
    asked.with_default(level.min(LevelFilter::INFO)).with_targets(ours)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn the_variable_sets_levels_by_module_and_one_that_cannot_be_read_counts_as_not_set() {
        let asked = filter(Some("evenkeel::engine=debug,info"), "warn");
        assert!(asked.would_enable("evenkeel::engine::docker", &Level::DEBUG));
        assert!(!asked.would_enable("evenkeel::store", &Level::DEBUG));
        assert!(asked.would_enable("evenkeel::store", &Level::INFO));

        assert!(!filter(Some("evenkeel=warn,debug"), "info").would_enable("evenkeel::store", &Level::INFO));

        for asked in [None, Some("evenkeel=loud")] {
            let default = filter(asked, "warn");
            assert!(default.would_enable("evenkeel", &Level::WARN));
            assert!(!default.would_enable("evenkeel", &Level::INFO));
        }
    }

    /// Regression 180: `debug` and `trace` went to all crates, and bollard logs each request at `debug`: the environment
    /// of every container that was made, with the values of Secrets, was in the journal.
    #[test]
    fn a_library_logs_more_than_info_only_if_it_is_named() {
        for level in ["debug", "trace"] {
            let asked = filter(Some(level), "info");
            assert!(asked.would_enable("evenkeel::engine::docker", &Level::DEBUG));
            for library in ["bollard::docker", "hyper::proto", "h2", "rustls::conn", "sqlx::query", "reqwest", "log"] {
                assert!(asked.would_enable(library, &Level::INFO));
                assert!(!asked.would_enable(library, &Level::DEBUG), "{library} at {level}");
            }
        }
        assert!(filter(Some("info,bollard=debug"), "info").would_enable("bollard::docker", &Level::DEBUG));
        assert!(!filter(Some("error"), "info").would_enable("bollard", &Level::WARN));
    }
}
