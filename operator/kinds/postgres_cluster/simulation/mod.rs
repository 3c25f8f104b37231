//! Deterministic simulation: production's loop, store, controller and conversations run over the tests' world in virtual
//! time, and a seed decides all that chance does. How to run and replay: `docs/testing.md`.

mod chance;
mod checks;
mod conversation;
mod driver;
mod engine;
mod faults;
mod gate;
mod operator;
mod pace;
mod regressions;
mod seeds;
mod sim;
mod store;
