//! What differs between the engines: files, commands, signals, the text of a configuration, and how servers are changed. Pure.

use super::inputs::Inputs;
use super::routing::{DesiredServer, Servers};
use crate::api::load_balancer::Backend;

/// How an engine is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Commands at the socket of HAProxy's master.
    MasterSocket,
    /// A page of the configuration itself.
    StatePage,
}

/// An engine as its configuration and its container have it.
pub struct Dialect {
    /// Name of the program, and of its container in the pod.
    pub name: &'static str,
    /// File name of the configuration.
    pub file: &'static str,
    /// Shell command that checks a configuration, by its file.
    pub check: fn(&str) -> String,
    /// Shell command that runs a configuration, by its file.
    pub run: fn(&str) -> String,
    /// Configuration until the first one is written.
    pub bootstrap: &'static str,
    /// Signal that makes it reload.
    pub signal: &'static str,
    /// Linux capabilities that it needs.
    pub capabilities: &'static [&'static str],
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Servers are added, checked, drained and removed without a reload. Else each change is a reload.
    pub live_servers: bool,
    /// The configuration without its servers and its hash.
    pub skeleton: fn(&Inputs) -> String,
    /// Lines of the servers of a backend.
    pub server_lines: fn(&Backend, &[DesiredServer]) -> Vec<String>,
    /// The skeleton's hole that is about all servers, if there is one, and the line in it.
    pub summary: fn(&Servers) -> Option<(&'static str, String)>,
    /// Files beside the configuration, certificates left aside: name and text.
    pub files: fn(&Inputs) -> Vec<(&'static str, String)>,
}
