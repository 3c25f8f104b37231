//! In-process tests: one binary, one module per subject.

mod api;
mod api_lists;
mod api_names;
mod api_pods;
mod api_policy;
mod api_server;
mod api_streams;
mod builds;
mod circles;
mod cli;
mod cli_bench;
mod cli_operator;
mod cli_pods;
mod cli_verbs;
mod crds;
mod docker_ask;
mod docker_engine;
mod docker_fences;
mod docker_verbs;
mod r#loop;
mod objects_rules;
mod poll;
mod probe_verb;
mod store_contract;
mod supervisor_docker;
mod tidy;
