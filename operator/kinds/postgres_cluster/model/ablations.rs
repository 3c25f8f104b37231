//! What each part of the protocol is there for: without it the checker finds a counterexample.
