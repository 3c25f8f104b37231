//! The list of kinds that the API serves; discovery, tables, validation and `crds/` are generated from it.
//!
//! Adding a kind is one line in [`RESOURCES`].

use std::sync::LazyLock;

use kube::CustomResourceExt;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::core;
use super::deployment_rules;
use super::docker_host::DockerHost;
use super::invalid::Invalid;
use super::load_balancer::LoadBalancer;
use super::object::Object as _;
use super::postgres_cluster::PostgresCluster;
use super::resource::{Cell, Column, Resource, age_column, with_metadata};
use super::views;

/// Everything served, in the order of discovery.
static RESOURCES: LazyLock<Vec<Resource>> = LazyLock::new(|| {
    vec![
        core::namespace(),
        core::secret(),
        core::config_map(),
        core::event(),
        views::node(),
        views::service(),
        views::pod(),
        views::replica_set(),
        deployment_rules::resource(),
        custom::<DockerHost>(|host| host.spec.validate()),
        custom::<PostgresCluster>(|cluster| [name_problems(cluster.name()), cluster.spec.validate()].concat()),
        custom::<LoadBalancer>(|balancer| [name_problems(balancer.name()), balancer.spec.validate()].concat()),
    ]
});

/// Longest name of an object whose members are called `NAME-1`, `NAME-2` and so on, in characters. A member's name is a
/// host name and, for a database, PostgreSQL's `cluster_name`: up to 63 characters. Two digits have room.
const LONGEST_NAME: usize = 60;

fn name_problems(name: &str) -> Vec<Invalid> {
    let message = || {
        format!(
            "must be no more than {LONGEST_NAME} characters: its instances are called NAME-1, NAME-2 ..., and a host name has up to 63"
        )
    };
    (name.len() > LONGEST_NAME).then(|| Invalid::new("metadata.name", message())).into_iter().collect()
}

/// Every served resource.
pub fn resources() -> &'static [Resource] {
    &RESOURCES
}

/// The resource at a group, version and plural.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    resources().iter().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// The resource for a manifest's `apiVersion` and `kind`.
#[cfg(test)]
pub fn find_kind(api_version: &str, kind: &str) -> Option<&'static Resource> {
    resources().iter().find(|r| r.kind == kind && r.api_version() == api_version)
}

/// The generated manifests: (file name under `crds/`, definition).
pub fn crds() -> Vec<(String, Value)> {
    let named = |r: &Resource| {
        let definition = r.definition.as_ref()?;
        Some((format!("{}.{}.yaml", r.plural, r.group), tidy(json!(definition))))
    };
    resources().iter().filter_map(named).collect()
}

/// A custom kind, from its derived CustomResourceDefinition and its own validation.
fn custom<K: CustomResourceExt + DeserializeOwned + 'static>(check: fn(&K) -> Vec<Invalid>) -> Resource {
    let definition = K::crd();
    let spec = &definition.spec;
    let version = spec.versions.first().expect("a derived definition has one version");
    let schema = version.schema.as_ref().map(|s| json!(s.open_api_v3_schema)).unwrap_or_default();
    let mut columns: Vec<Column> = version.additional_printer_columns.iter().flatten().map(column).collect();
    if !columns.iter().any(|c| c.name == "Age") {
        columns.push(age_column());
    }
    Resource {
        group: spec.group.clone(),
        version: version.name.clone(),
        kind: spec.names.kind.clone(),
        plural: spec.names.plural.clone(),
        singular: spec.names.singular.clone().unwrap_or_else(|| spec.names.kind.to_lowercase()),
        short_names: spec.names.short_names.clone().unwrap_or_default(),
        categories: spec.names.categories.clone().unwrap_or_default(),
        namespaced: spec.scope == "Namespaced",
        has_status: version.subresources.as_ref().is_some_and(|s| s.status.is_some()),
        has_scale: false,
        merge_keys: &[],
        view: None,
        sensitive: false,
        schema: with_metadata(tidy(schema)),
        columns,
        selectable: &[],
        normalize: |_| {},
        validate: Box::new(move |object| match serde_json::from_value::<K>(object.clone()) {
            Ok(typed) => check(&typed),
            // Without a path: shown only if the schema, which knows the path, found nothing.
            Err(error) => vec![Invalid { path: String::new(), message: error.to_string() }],
        }),
        validate_change: |_, _| Vec::new(),
        definition: Some(definition),
    }
}

fn column(
    derived: &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition,
) -> Column {
    Column {
        name: derived.name.clone(),
        kind: derived.type_.clone(),
        priority: derived.priority.unwrap_or(0).into(),
        cell: Cell::Path(derived.json_path.clone()),
    }
}

/// Writes whole numbers as integers: the typed schema stores limits as floats, and `minimum: 1.0` is hard to read.
fn tidy(value: Value) -> Value {
    match value {
        Value::Number(n) if n.is_f64() => {
            let float = n.as_f64().unwrap_or_default();
            let whole = float.fract() == 0.0 && float.abs() < 9e15;
            if whole { json!(float as i64) } else { Value::Number(n) }
        }
        Value::Array(items) => items.into_iter().map(tidy).collect(),
        Value::Object(fields) => fields.into_iter().map(|(k, v)| (k, tidy(v))).collect::<Map<_, _>>().into(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Regression 41: a PostgresCluster with a name of 63 characters was accepted and never became ready, because the host
    /// names of its instances were too long for Docker.
    #[test]
    fn a_name_that_is_too_long_for_the_host_names_of_its_instances_is_refused() {
        let paths = |length: usize| {
            let name = "n".repeat(length);
            let object = json!({
                "apiVersion": "evenkeel.dev/v1alpha1", "kind": "PostgresCluster",
                "metadata": {"name": name}, "spec": {"image": "postgres:15"},
            });
            let problems = (find_kind("evenkeel.dev/v1alpha1", "PostgresCluster").unwrap().validate)(&object);
            problems.into_iter().map(|problem| problem.path).collect::<Vec<_>>()
        };
        assert_eq!(paths(60), Vec::<String>::new());
        assert_eq!(paths(61), ["metadata.name"]);
    }

    #[test]
    fn names_are_unique_and_every_kind_can_be_found_both_ways() {
        for resource in resources() {
            assert_eq!(find(&resource.group, &resource.version, &resource.plural), Some(resource));
            assert_eq!(find_kind(&resource.api_version(), &resource.kind), Some(resource));
        }
    }

    #[test]
    fn every_kind_of_ours_has_a_table_ending_with_its_age() {
        for resource in resources().iter().filter(|r| r.definition.is_some()) {
            assert!(resource.columns.iter().any(|c| c.name == "Age"), "{resource:?}");
        }
    }
}
