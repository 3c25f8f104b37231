//! The differences between the engines: files, commands, signals, configuration text, and how servers are changed.
//! Pure.

use super::inputs::Inputs;
use super::routing::{DesiredServer, Servers};
use crate::api::load_balancer::Backend;

/// How the operator talks to an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Commands on the socket of HAProxy's master process.
    MasterSocket,
    /// A page that the configuration itself serves.
    StatePage,
}

/// The engine-specific parts of a configuration and its container.
pub struct Dialect {
    /// Name of the program, and of its container in the pod.
    pub name: &'static str,
    /// File name of the configuration.
    pub file: &'static str,
    /// Shell command that checks the configuration in this file.
    pub check: fn(&str) -> String,
    /// Shell command that runs the configuration in this file.
    pub run: fn(&str) -> String,
    /// The configuration before the first one is written.
    pub bootstrap: &'static str,
    /// Signal that triggers a reload.
    pub signal: &'static str,
    /// Linux capabilities that it needs.
    pub capabilities: &'static [&'static str],
    /// Most processes that one reload leaves behind.
    pub left_by_reload: usize,
    /// How the operator talks to it.
    pub protocol: Protocol,
    /// Servers are added, checked, drained and removed without a reload. Otherwise each change needs a reload.
    pub live_servers: bool,
    /// The configuration without its servers and its hash.
    pub skeleton: fn(&Inputs) -> String,
    /// The lines of a backend's servers.
    pub server_lines: fn(&Backend, &[DesiredServer]) -> Vec<String>,
    /// The skeleton's hole about all servers, if it has one, and the line for it.
    pub summary: fn(&Servers) -> Option<(&'static str, String)>,
    /// Files beside the configuration, without certificates: name and text.
    pub files: fn(&Inputs) -> Vec<(&'static str, String)>,
}
