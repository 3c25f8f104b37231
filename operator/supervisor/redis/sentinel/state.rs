//! What the supervisor of a Sentinel knows, and what it does next, as values. Pure.

use serde::{Deserialize, Serialize};

use crate::supervisor::redis::sentinel::view::View;
use crate::supervisor::redis::wire::{Act, Address, Server, Watch};

/// What survives: `durable.json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Durable {
    /// The order in force.
    pub watch: Option<Watch>,
    /// The group of the Sentinel's file, if there is one.
    pub group: Option<String>,
}

/// All that a decision needs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Seen {
    /// What survives.
    pub durable: Durable,
    /// The order in force came in this boot. An older one may name a master that is none any more.
    pub ordered: bool,
    /// There are credentials.
    pub credentials: bool,
    /// There is a sentinel.conf.
    pub file: bool,
    /// The Sentinel.
    pub server: Server,
    /// The pause after the last end, or after a failure, is over.
    pub due: bool,
    /// Polls in a row that had no answer.
    pub silent: u32,
    /// SIGTERM was received.
    pub terminating: bool,
    /// A restart was asked for, or other certificates must be loaded.
    pub restart: bool,
    /// The passwords and the users in force are those that are wanted.
    pub passwords: bool,
    /// What the Sentinel knows; `None` while it does not answer.
    pub view: Option<View>,
    /// An act that is not done yet.
    pub act: Option<(String, Act)>,
    /// [`Seen::view`] was read after the act came.
    pub fresh: bool,
}

/// What the supervisor does next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Ask the Sentinel at once.
    Poll,
    /// Put its file of another group aside, write the first file of this one, with this master.
    Render(Address),
    /// Start it from its file.
    Start,
    /// Stop it; it writes its file first.
    Stop,
    /// It hangs: SIGKILL.
    Kill,
    /// Make these changes.
    Settle(Vec<Change>),
    /// Send the command of the act, of these words.
    Perform(Vec<String>),
    /// The act ends here; with a reason: it is refused.
    Answer(Option<String>),
    /// End: the Sentinel has ended.
    Exit,
}

/// One change of a running Sentinel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Change {
    /// `SENTINEL MONITOR`: it does not know the name.
    Monitor(Address),
    /// `SENTINEL SET` of an option.
    Set(&'static str, u64),
    /// The address that it announces.
    Announce(Address),
    /// Users and passwords.
    Passwords,
}
