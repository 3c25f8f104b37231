//! PID 1 in the container of a Sentinel: it starts the Sentinel from its own file, sets it up, and does one act at a time.
//!
//! - `next`: what to do (pure), `acts`: whether an act may be done now (pure), `state` and `view`: their types.
//! - `run`: the loop; `shell`: its memory, and what it performs.
//! - `conf`: the first file, the arguments, the users (pure); `file`: the folder on the volume; `ask`: the Sentinel itself.

pub mod acts;
mod ask;
mod conf;
mod file;
pub mod next;
pub mod run;
mod shell;
pub mod state;
pub mod view;
