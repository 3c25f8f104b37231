//! Where the log goes: stderr, one compact line each, filtered by EVENKEEL_LOG, coloured only on a terminal.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The variable with the filter, e.g. `debug` or `evenkeel::engine=debug,info`.
const FILTER: &str = "EVENKEEL_LOG";

/// Begins logging to stderr; `default` is the level unless EVENKEEL_LOG says otherwise.
pub fn init(default: &str) {
    init_to(default, std::io::stderr);
}

/// As [`init`], by a writer that knows what else is on the terminal.
pub fn init_to<W: for<'a> MakeWriter<'a> + Send + Sync + 'static>(default: &str, writer: W) {
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new(default));
    let format = tracing_subscriber::fmt().compact().with_env_filter(filter).with_writer(writer);
    // A second call (in tests) keeps the first.
    let _ = format.with_ansi(std::io::stderr().is_terminal()).try_init();
}
