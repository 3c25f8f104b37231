//! Where the log goes: stderr, one compact line each, filtered by EVENKEEL_LOG, coloured only on a terminal.

use std::io::IsTerminal;

use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The variable with the filter, e.g. `debug` or `evenkeel::engine=debug,info`.
const FILTER: &str = "EVENKEEL_LOG";

/// Begins logging to stderr; `default` is the level unless EVENKEEL_LOG says otherwise.
pub fn init(default: &str) {
    init_to(default, std::io::stderr);
}

/// As [`init`], by a writer that knows what else is on the terminal.
pub fn init_to<W: for<'a> MakeWriter<'a> + Send + Sync + 'static>(default: &str, writer: W) {
    let asked = std::env::var(FILTER).ok().filter(|text| !text.is_empty());
    let layer = tracing_subscriber::fmt::layer().compact().with_ansi(std::io::stderr().is_terminal());
    let layer = layer.with_writer(writer).with_filter(filter(asked.as_deref(), default));
    // A second call (in tests) keeps the first.
    let _ = tracing_subscriber::registry().with(layer).try_init();
}

/// Levels by module, as the variable asks for them; one that cannot be read counts as not set.
fn filter(asked: Option<&str>, default: &str) -> Targets {
    let read = |text: &str| text.parse::<Targets>().ok();
    asked.and_then(read).or_else(|| read(default)).unwrap_or_default()
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

        for asked in [None, Some("evenkeel=loud")] {
            let default = filter(asked, "warn");
            assert!(default.would_enable("evenkeel", &Level::WARN));
            assert!(!default.would_enable("evenkeel", &Level::INFO));
        }
    }
}
