//! Deterministic simulation: production's loop, store, controller and links run over the test world in simulated time,
//! and a seed decides everything random. How to run and replay: `docs/testing.md`.

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
