//! In-process tests: one binary, one module a subject.

mod cli;
mod objects_rules;
mod store_contract;
