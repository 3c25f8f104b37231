//! Where the operator's log goes: stderr, one compact line each, filtered by EVENKEEL_LOG, coloured only on a terminal.

use std::io::{IsTerminal, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The variable with the filter, e.g. `debug` or `evenkeel::engine=debug,info`.
const FILTER: &str = "EVENKEEL_LOG";

/// Begins logging to stderr; `default` is the level unless EVENKEEL_LOG says otherwise.
pub fn init(default: &str) {
    init_to(default, std::io::stderr);
}

/// As [`init`], past progress bars that are on the same terminal.
pub fn init_beside(default: &str, bars: indicatif::MultiProgress) {
    init_to(default, Beside(bars));
}

fn init_to<W: for<'a> MakeWriter<'a> + Send + Sync + 'static>(default: &str, writer: W) {
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new(default));
    let format = tracing_subscriber::fmt().compact().with_env_filter(filter).with_writer(writer);
    // A second call (in tests) keeps the first.
    let _ = format.with_ansi(std::io::stderr().is_terminal()).try_init();
}

/// Writes lines above the bars.
#[derive(Clone)]
struct Beside(indicatif::MultiProgress);

impl Write for Beside {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.suspend(|| std::io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Beside {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
