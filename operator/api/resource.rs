//! What the API knows of one served kind: names, schema, table, rules. The list of them is `registry.rs`.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use super::invalid::Invalid;

/// Validates an object that fits its schema; returns every problem.
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
    /// Short names: `pg`.
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
    /// What people can do instead of writing one: a sentence for the refusal.
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
    /// The annotation that evicts shown objects: names, comma-separated. Without one they cannot be deleted.
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

/// A schema with the properties that every object has: apiVersion, kind and metadata.
pub fn with_metadata(mut schema: Value) -> Value {
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("apiVersion".into(), text());
        properties.insert("kind".into(), text());
        properties.insert("metadata".into(), metadata());
    }
    schema
}

fn metadata() -> Value {
    let texts = json!({"type": "object", "additionalProperties": text()});
    json!({"type": "object", "properties": {
        "name": text(), "generateName": text(), "namespace": text(), "selfLink": text(),
        "uid": text(), "resourceVersion": text(), "generation": {"type": "integer"},
        "creationTimestamp": text(), "deletionTimestamp": text(),
        "deletionGracePeriodSeconds": {"type": "integer"},
        "labels": texts, "annotations": texts, "finalizers": strings(),
        "ownerReferences": {"type": "array", "items": {
            "type": "object",
            "required": ["apiVersion", "kind", "name", "uid"],
            "properties": {
                "apiVersion": text(), "kind": text(), "name": text(), "uid": text(),
                "controller": {"type": "boolean"}, "blockOwnerDeletion": {"type": "boolean"},
            },
        }},
        "managedFields": {"type": "array", "items": open()},
    }})
}

/// A kind of the core group, of `v1`, with these properties beside its metadata; the caller adds the rest.
pub(super) fn plain(kind: &str, plural: &str, properties: Value, required: &[&str]) -> Resource {
    Resource {
        group: String::new(),
        version: "v1".into(),
        kind: kind.into(),
        plural: plural.into(),
        singular: kind.to_lowercase(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: true,
        has_status: false,
        has_scale: false,
        merge_keys: &[],
        view: None,
        sensitive: false,
        schema: with_metadata(json!({"type": "object", "properties": properties, "required": required})),
        columns: vec![age_column()],
        selectable: &[],
        normalize: |_| {},
        validate: Box::new(|_| Vec::new()),
        validate_change: |_, _| Vec::new(),
        definition: None,
    }
}

/// The schema of a text.
pub(super) fn text() -> Value {
    json!({"type": "string"})
}

/// The schema of a list of texts.
pub(super) fn strings() -> Value {
    json!({"type": "array", "items": text()})
}

/// The schema of an object whose fields are not judged.
pub(super) fn open() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// A column with the value at a JSONPath.
pub(super) fn path(name: &str, kind: &str, path: &str) -> Column {
    Column { name: name.into(), kind: kind.into(), priority: 0, cell: Cell::Path(path.into()) }
}

/// A column that only wide output shows.
pub(super) fn wide(name: &str, at: &str) -> Column {
    Column { priority: 1, ..path(name, "string", at) }
}

/// A column with a value computed from the object.
pub(super) fn of(name: &str, kind: &str, cell: fn(&Value) -> Value) -> Column {
    Column { name: name.into(), kind: kind.into(), priority: 0, cell: Cell::Of(cell) }
}

/// The column that every kind ends with.
pub fn age_column() -> Column {
    Column {
        name: "Age".into(),
        kind: "date".into(),
        priority: 0,
        cell: Cell::Path(".metadata.creationTimestamp".into()),
    }
}
