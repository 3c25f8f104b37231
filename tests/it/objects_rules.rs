//! The Kubernetes rules as a client sees them, over the memory store.
