//! The member of etcd that a node runs in a container: what is there, what should be, and the steps between. Level-triggered:
//! the same call finishes what was begun, and does nothing where nothing is to do.
//!
//! - [`member`]: what a node keeps about its member.
//! - [`container`]: the container of a member.
//! - [`plan`]: the steps, or why there are none. Pure.
//! - [`act`]: looks, and performs steps.

pub mod act;
pub mod container;
pub mod member;
pub mod plan;
