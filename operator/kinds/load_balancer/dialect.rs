//! What differs between the engines: files, commands, signals, the text of a configuration, and how servers are changed. Pure.

use std::collections::BTreeMap;

use super::inputs::Inputs;
use super::routing::DesiredServer;
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
pub trait Dialect: Sync {
    /// Name of the program, and of its container in the pod.
    fn name(&self) -> &'static str;

    /// File name of the configuration.
    fn file(&self) -> &'static str;

    /// Shell command that checks the configuration `file`.
    fn check(&self, file: &str) -> String;

    /// Shell command that runs the configuration `file`.
    fn run(&self, file: &str) -> String;

    /// Configuration until the first one is written.
    fn bootstrap(&self) -> &'static str;

    /// Signal that makes it reload.
    fn signal(&self) -> &'static str;

    /// Linux capabilities that it needs.
    fn capabilities(&self) -> Vec<String>;

    /// How it is spoken to.
    fn protocol(&self) -> Protocol;

    /// Servers are added, checked, drained and removed without a reload. Else each change is a reload.
    fn live_servers(&self) -> bool;

    /// The configuration without its servers and its hash.
    fn skeleton(&self, inputs: &Inputs) -> String;

    /// Lines of the servers of a backend.
    fn server_lines(&self, backend: &Backend, servers: &[DesiredServer]) -> Vec<String>;

    /// Lines of other holes of the skeleton, by hole.
    fn other_lines(&self, servers: &BTreeMap<String, Vec<DesiredServer>>) -> BTreeMap<String, Vec<String>>;

    /// Files beside the configuration, certificates left aside: name and text.
    fn files(&self, inputs: &Inputs) -> Vec<(&'static str, String)>;
}
