//! The session of a verb: connection, namespace, clock and output.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::client::Client;
use super::error::Error;
use super::kubeconfig::{self, Kubeconfig};
use super::render;

/// Server and namespace; accepted before and after every verb.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Connection {
    /// File with the server's address, CA and token [default: EVENKEEL_KUBECONFIG, KUBECONFIG, for root the operator's unix socket, the data directory's]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the objects [default: the kubeconfig's, else `default`]
    #[arg(short, long, global = true, value_name = "NS", help_heading = "Connection")]
    pub namespace: Option<String>,
}

impl Connection {
    /// The path of the kubeconfig that will be used.
    pub fn kubeconfig(&self) -> PathBuf {
        kubeconfig::locate(self.kubeconfig.as_deref(), |name| std::env::var(name).ok())
    }

    /// The server to talk to.
    pub fn server(&self) -> Result<Kubeconfig, Error> {
        kubeconfig::find(self.kubeconfig.as_deref(), |name| std::env::var(name).ok())
    }

    /// Prepares the client; connects to nothing yet.
    pub fn open<'a>(
        &self,
        now: fn() -> Timestamp,
        out: &'a mut (dyn Write + Send),
        err: &'a mut (dyn Write + Send),
    ) -> Result<Session<'a>, Error> {
        let config = self.server()?;
        let namespace = self.namespace.clone().unwrap_or_else(|| config.namespace.clone());
        Ok(Session { client: Client::new(config)?, namespace, now, out, err })
    }
}

/// One run of one verb.
pub struct Session<'a> {
    /// The server.
    pub client: Client,
    /// The namespace of namespaced objects.
    pub namespace: String,
    /// The current time, for ages.
    pub now: fn() -> Timestamp,
    /// Results go here.
    pub out: &'a mut (dyn Write + Send),
    /// Warnings and remarks go here.
    pub err: &'a mut (dyn Write + Send),
}

impl Session<'_> {
    /// Prints the server's warnings.
    pub fn warn(&mut self, warnings: &[String]) -> Result<(), Error> {
        for warning in warnings {
            writeln!(self.err, "Warning: {warning}")?;
        }
        Ok(())
    }

    /// The error of a wait that timed out; prints the conditions first.
    pub fn timed_out(&mut self, what: String, after: Duration, last: Option<&Value>) -> Result<Error, Error> {
        if let Some(phase) = last.and_then(|object| object["status"]["phase"].as_str()) {
            writeln!(self.err, "phase: {phase}")?;
        }
        if let Some(object) = last.filter(|object| object["status"]["conditions"].is_array()) {
            write!(self.err, "{}", render::conditions(object, (self.now)()))?;
        }
        Ok(Error::TimedOut { what, after })
    }
}

/// Parses a duration: `90s`, `5m`, `1h 30m`, or a bare number of seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text).map_err(|error| format!("{error}; write 90s, 5m or 1h")),
    }
}
