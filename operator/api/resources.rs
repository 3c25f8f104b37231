//! Resources of containers, as in Kubernetes: limits and requests, the same for all kinds that have containers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::invalid::Invalid;
use super::quantity;

/// Limit of processes and threads.
pub const PIDS: &str = "evenkeel.dev/pids";
/// Docker makes no container with a lower memory limit, in bytes.
const LEAST_MEMORY: i64 = 6 << 20;
/// Docker makes no container with a lower CPU limit, in thousandths.
const LEAST_CPU: i64 = 10;

/// What a container may use.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// What it gets at most: `memory`, `cpu`, `evenkeel.dev/pids`. Without a limit it may use all that the host has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "amounts")]
    pub limits: BTreeMap<String, Quantity>,
    /// `cpu`: its share of CPU time when the host is busy.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "amounts")]
    pub requests: BTreeMap<String, Quantity>,
}

/// The schema of a quantity.
pub fn amount(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"x-kubernetes-int-or-string": true})
}

fn amounts(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "additionalProperties": amount(generator)})
}

impl From<&ResourceRequirements> for Resources {
    fn from(of: &ResourceRequirements) -> Self {
        Self { limits: of.limits.clone().unwrap_or_default(), requests: of.requests.clone().unwrap_or_default() }
    }
}

impl Resources {
    /// Whether nothing is declared.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The memory limit in bytes.
    pub fn memory(&self) -> Option<i64> {
        quantity::whole(&self.limits.get("memory")?.0).ok()
    }

    /// The CPU limit in thousandths of a CPU.
    pub fn milli_cpus(&self) -> Option<i64> {
        quantity::milli(&self.limits.get("cpu")?.0).ok()
    }

    /// The requested CPU time in thousandths of a CPU.
    pub fn requested_milli_cpus(&self) -> Option<i64> {
        quantity::milli(&self.requests.get("cpu")?.0).ok()
    }

    /// The limit of processes and threads.
    pub fn pids(&self) -> Option<i64> {
        quantity::whole(&self.limits.get(PIDS)?.0).ok()
    }

    /// Every problem; `path` is that of the resources.
    pub fn problems(&self, path: &str) -> Vec<Invalid> {
        let mut problems = Vec::new();
        for (part, quantities) in [("limits", &self.limits), ("requests", &self.requests)] {
            for (name, amount) in quantities {
                let message = match quantity::milli(&amount.0) {
                    _ if !["cpu", "memory", PIDS].contains(&name.as_str()) => {
                        format!("is not supported: only cpu, memory and {PIDS} are")
                    }
                    Err(message) => message,
                    Ok(_) => continue,
                };
                problems.push(Invalid::new(format!("{path}.{part}.{name}"), message));
            }
        }
        if self.memory().is_some_and(|bytes| bytes < LEAST_MEMORY) {
            let message = "must be at least 6Mi: Docker makes no container with less";
            problems.push(Invalid::new(format!("{path}.limits.memory"), message));
        }
        if self.milli_cpus().is_some_and(|milli| milli < LEAST_CPU) {
            let message = "must be at least 10m: Docker makes no container with less";
            problems.push(Invalid::new(format!("{path}.limits.cpu"), message));
        }
        problems
    }
}
