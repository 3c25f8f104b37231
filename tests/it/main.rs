//! In-process tests: one binary, one module a subject.

mod api;
mod api_server;
mod crds;
mod r#loop;
mod objects_rules;
mod store_contract;
mod tidy;
