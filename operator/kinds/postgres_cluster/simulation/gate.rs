//! Counts one operator's effects, and ends the operator at one of them.

use std::future::pending;
use std::sync::{Mutex, MutexGuard};

use crate::api::sync::lock;

/// The death of an operator at one of its next effects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fuse {
    /// Effects that still succeed.
    pub effects: u64,
    /// Whether the effect after those is performed; its answer never arrives in either case.
    pub performed: bool,
}

/// The outcome of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Done,
    /// Performed; the caller never gets the answer.
    LastDone,
    /// Not performed: the operator died before it.
    NotDone,
    /// The operator was dead already.
    Dead,
}

/// The gate of one operator.
pub struct Gate {
    /// From 1; 0 is the user, whose gate never dies.
    pub number: u32,
    state: Mutex<State>,
}

struct State {
    alive: bool,
    fuse: Option<Fuse>,
}

impl Gate {
    pub fn new(number: u32) -> Self {
        Self { number, state: Mutex::new(State { alive: true, fuse: None }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub fn alive(&self) -> bool {
        self.state().alive
    }

    pub fn kill(&self) {
        self.state().alive = false;
    }

    pub fn light(&self, fuse: Fuse) {
        self.state().fuse = Some(fuse);
    }

    pub fn put_out(&self) {
        self.state().fuse = None;
    }

    /// Counts an effect that is about to happen.
    pub fn effect(&self) -> Fate {
        let mut state = self.state();
        if !state.alive {
            return Fate::Dead;
        }
        match &mut state.fuse {
            None => Fate::Done,
            Some(fuse) if fuse.effects > 0 => {
                fuse.effects -= 1;
                Fate::Done
            }
            Some(fuse) => {
                let fate = if fuse.performed { Fate::LastDone } else { Fate::NotDone };
                state.alive = false;
                fate
            }
        }
    }

    /// Returns at once; never, if the operator is dead.
    pub async fn open(&self) {
        if !self.alive() {
            pending().await
        }
    }
}
