//! The one list of kinds that the API serves; discovery, tables, validation and `crds/` are all driven from it.
//!
//! Adding a kind is one line in [`RESOURCES`].

use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::core;
use super::deployment_rules;
use super::docker_host::DockerHost;
use super::invalid::Invalid;
use super::load_balancer::LoadBalancer;
use super::postgres_cluster::PostgresCluster;
use super::views;

/// Everything served, in the order of discovery.
static RESOURCES: LazyLock<Vec<Resource>> = LazyLock::new(|| {
    vec![
        core::namespace(),
        core::secret(),
        core::config_map(),
        core::event(),
        views::pod(),
        views::replica_set(),
        deployment_rules::resource(),
        custom::<DockerHost>(|host| host.spec.validate()),
        custom::<PostgresCluster>(|cluster| cluster.spec.validate()),
        custom::<LoadBalancer>(|balancer| balancer.spec.validate()),
    ]
});

/// Judges an object that fits its schema; says every problem.
pub type Check = Box<dyn Fn(&Value) -> Vec<Invalid> + Send + Sync>;

/// One served kind, in one version.
pub struct Resource {
    /// API group; empty for the core group.
    pub group: String,
    /// API version, e.g. `v1alpha1`.
    pub version: String,
    /// CamelCase, singular: `PostgresCluster`.
    pub kind: String,
    /// Lower-case plural, as in paths: `postgresclusters`.
    pub plural: String,
    /// Lower-case singular: `postgrescluster`.
    pub singular: String,
    /// What people type: `pg`.
    pub short_names: Vec<String>,
    /// Groups of kinds that people list together: `all`.
    pub categories: Vec<String>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether `/status` is a subresource, so that writers of the spec cannot touch the status and the other way round.
    pub has_status: bool,
    /// Whether `/scale` is a subresource: `spec.replicas`, `status.replicas` and the pods of `spec.selector`.
    pub has_scale: bool,
    /// For kinds that take strategic merge patches: the lists that are merged, by field name, with the key of their items.
    pub merge_keys: &'static [(&'static str, &'static str)],
    /// Where its objects are read from, if they are not stored.
    pub view: Option<View>,
    /// Whether values are secrets: then no message repeats one.
    pub sensitive: bool,
    /// Structural OpenAPI v3 schema of the whole object, metadata included.
    pub schema: Value,
    /// What a table shows after the name.
    pub columns: Vec<Column>,
    /// Fields that a fieldSelector may name, beyond `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [&'static str],
    /// Brings equivalent forms into the stored one, before anything is judged.
    pub normalize: fn(&mut Value),
    /// Problems that a schema cannot express.
    pub validate: Check,
    /// Problems of changing one object (first) into another (second).
    pub validate_change: fn(&Value, &Value) -> Vec<Invalid>,
    /// The CustomResourceDefinition, for kinds of ours.
    pub definition: Option<CustomResourceDefinition>,
}

/// Where the objects of a kind that is not stored are read from.
pub struct View {
    /// The resources they are read from.
    pub sources: &'static [Source],
    /// What to do instead of writing one, for people.
    pub instead: &'static str,
    /// Whether its objects are containers, with a `log` and an `exec`.
    pub containers: bool,
}

/// A resource that shows objects of a [`View`].
pub struct Source {
    /// Its qualified name.
    pub resource: &'static str,
    /// What one object of it shows.
    pub show: fn(&Value) -> Vec<Value>,
    /// The annotation of it that takes the names of shown objects which are to be replaced; without one they cannot be deleted.
    pub evict: Option<&'static str>,
}

impl View {
    /// Names of the resources it is read from.
    pub fn resources(&self) -> Vec<&'static str> {
        self.sources.iter().map(|source| source.resource).collect()
    }

    /// The source of this name.
    pub fn source(&self, resource: &str) -> Option<&Source> {
        self.sources.iter().find(|source| source.resource == resource)
    }

    /// What an object of `resource` shows.
    pub fn of(&self, resource: &str, object: &Value) -> Vec<Value> {
        self.source(resource).map(|source| (source.show)(object)).unwrap_or_default()
    }
}

/// One column of a table.
pub struct Column {
    /// Heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date` (shown as an age).
    pub kind: String,
    /// 0: always shown; 1: only in wide output.
    pub priority: i64,
    /// Where the value comes from.
    pub cell: Cell,
}

/// Where a table's value comes from.
pub enum Cell {
    /// A JSONPath such as `.status.phase`.
    Path(String),
    /// Computed from the object.
    Of(fn(&Value) -> Value),
}

impl Resource {
    /// Whether its objects are containers, with a `log` and an `exec`.
    pub fn has_containers(&self) -> bool {
        self.view.as_ref().is_some_and(|view| view.containers)
    }

    /// `plural.group`, or the bare plural in the core group; also the store's name for the resource.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `Kind.group`, or the bare kind in the core group.
    pub fn qualified_kind(&self) -> String {
        if self.group.is_empty() { self.kind.clone() } else { format!("{}.{}", self.kind, self.group) }
    }

    /// `group/version`, or the bare version in the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        (&self.group, &self.version, &self.plural) == (&other.group, &other.version, &other.plural)
    }
}

impl std::fmt::Debug for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Resource({})", self.qualified())
    }
}

/// Every served resource.
pub fn resources() -> &'static [Resource] {
    &RESOURCES
}

/// The resource at a group, version and plural.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    resources().iter().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// The resource that a manifest's `apiVersion` and `kind` name.
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

/// The columns that every kind ends with.
pub fn age_column() -> Column {
    Column {
        name: "Age".into(),
        kind: "date".into(),
        priority: 0,
        cell: Cell::Path(".metadata.creationTimestamp".into()),
    }
}

/// A kind of ours, wholly described by its derived definition and its own judgement.
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
        schema: core::with_metadata(tidy(schema)),
        columns,
        selectable: &[],
        normalize: |_| {},
        validate: Box::new(move |object| match serde_json::from_value::<K>(object.clone()) {
            Ok(typed) => check(&typed),
            // Without a path: only shown if the schema found nothing, which knows the path.
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

/// Writes whole numbers as such: the typed schema keeps bounds as floats, and `minimum: 1.0` reads badly.
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
