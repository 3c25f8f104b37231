//! In-process tests: one binary, one module a subject.

mod objects_rules;
mod store_contract;
