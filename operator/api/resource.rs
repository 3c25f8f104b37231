//! The API's description of one kind: names, schema, table, rules. `registry.rs` lists them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use super::asks::Asks;
use super::claims::Claim;
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
    /// Categories: groups of kinds that can be listed together, e.g. `all`.
    pub categories: Vec<String>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether `/status` is a subresource, so that writers of the spec cannot change the status and vice versa.
    pub has_status: bool,
    /// Whether `/scale` is a subresource: `spec.replicas`, `status.replicas` and the pods of `spec.selector`.
    pub has_scale: bool,
    /// For kinds that accept strategic merge patches: the lists to merge, by field name, with the keys of their items (a
    /// strategic merge patch knows only the first).
    pub merge_keys: &'static [(&'static str, &'static [&'static str])],
    /// The sources of its objects, if they are not stored.
    pub view: Option<View>,
    /// Whether values are secret: then no message repeats one.
    pub sensitive: bool,
    /// Structural OpenAPI v3 schema of the whole object, metadata included.
    pub schema: Value,
    /// Columns of a table after the name.
    pub columns: Vec<Column>,
    /// Fields that a fieldSelector may use, besides `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [&'static str],
    /// Converts equivalent forms into the stored one, before validation.
    pub normalize: fn(&mut Value),
    /// Fills in defaults that the schema does not have.
    pub fill_in: fn(&mut Value),
    /// Problems that a schema cannot express.
    pub validate: Check,
    /// Problems of a new object, such as those of its name. An object that exists is not judged by them.
    pub validate_new: fn(&Value) -> Vec<Invalid>,
    /// The names that its objects take in Docker.
    pub claim: Option<Claim>,
    /// What an object asks of its host; its namespace may forbid it.
    pub asks: fn(&Value) -> Asks,
    /// Problems of a change from one object (first) to another (second).
    pub validate_change: fn(&Value, &Value) -> Vec<Invalid>,
    /// The CustomResourceDefinition, for Evenkeel's own kinds.
    pub definition: Option<CustomResourceDefinition>,
}

/// The sources of a kind that is not stored.
pub struct View {
    /// The resources that it is computed from.
    pub sources: Vec<Source>,
    /// What users can do instead of writing to it: a sentence for the refusal.
    pub instead: &'static str,
    /// Whether its objects are containers, with a `log` and an `exec`.
    pub containers: bool,
}

/// A resource whose objects the objects of a [`View`] are computed from.
pub struct Source {
    /// Its qualified name.
    pub resource: &'static str,
    /// The objects of the view for one of its objects.
    pub show: fn(&Value) -> Vec<Value>,
    /// How objects of the view are evicted. Without it they cannot be deleted.
    pub evict: Option<Evict>,
    /// Changes the object as its object of the view was changed. Without it the view cannot be written; a change of
    /// another part of the view is refused.
    pub accept: Option<fn(&mut Value, &Value)>,
}

/// How a source replaces objects of its view.
pub struct Evict {
    /// The annotation of the source that asks for it: names, comma-separated.
    pub annotation: &'static str,
    /// Why an eviction of this object of the view must wait, if it must. A deletion does not wait.
    pub too_soon: fn(&Value, &str) -> Option<String>,
}

impl View {
    /// Whether some parts of its objects can be changed.
    pub fn is_writable(&self) -> bool {
        self.sources.iter().any(|source| source.accept.is_some())
    }

    /// Names of the source resources.
    pub fn resources(&self) -> Vec<&'static str> {
        self.sources.iter().map(|source| source.resource).collect()
    }

    /// The source with this name.
    pub fn source(&self, resource: &str) -> Option<&Source> {
        self.sources.iter().find(|source| source.resource == resource)
    }

    /// The objects of the view for an object of `resource`.
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
    /// The source of the value.
    pub cell: Cell,
}

/// The source of a table's value.
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

/// The name of an object; empty if it has none.
pub(super) fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// Adds to a schema the properties that every object has: apiVersion, kind and metadata.
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
        "labels": texts, "annotations": texts,
        "finalizers": {"type": "array", "items": text(), "x-kubernetes-list-type": "set"},
        "ownerReferences": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["uid"], "items": {
            "type": "object",
            "required": ["apiVersion", "kind", "name", "uid"],
            "properties": {
                "apiVersion": text(), "kind": text(), "name": text(), "uid": text(),
                "controller": {"type": "boolean"}, "blockOwnerDeletion": {"type": "boolean"},
            },
        }},
        "managedFields": {"type": "array", "items": {"type": "object", "properties": {
            "manager": text(), "operation": {"type": "string", "enum": ["Apply", "Update"]}, "apiVersion": text(),
            "time": time(), "fieldsType": {"type": "string", "enum": ["FieldsV1"]}, "fieldsV1": open(),
            "subresource": text(),
        }}},
    }})
}

/// A kind of the core group, version `v1`, with these properties besides its metadata; the caller adds the rest.
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
        fill_in: |_| {},
        validate: Box::new(|_| Vec::new()),
        validate_new: |_| Vec::new(),
        claim: None,
        asks: |_| Asks::default(),
        validate_change: |_, _| Vec::new(),
        definition: None,
    }
}

/// The schema of a string.
pub(super) fn text() -> Value {
    json!({"type": "string"})
}

/// The schema of a time.
pub(super) fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

/// The schema of a list of strings.
pub(super) fn strings() -> Value {
    json!({"type": "array", "items": text()})
}

/// The schema of an object whose fields are not validated.
pub(super) fn open() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// A column with the value at a JSONPath.
pub(super) fn path(name: &str, kind: &str, path: &str) -> Column {
    Column { name: name.into(), kind: kind.into(), priority: 0, cell: Cell::Path(path.into()) }
}

/// A column that is shown only in wide output.
pub(super) fn wide(name: &str, at: &str) -> Column {
    Column { priority: 1, ..path(name, "string", at) }
}

/// A column with a value computed from the object.
pub(super) fn of(name: &str, kind: &str, cell: fn(&Value) -> Value) -> Column {
    Column { name: name.into(), kind: kind.into(), priority: 0, cell: Cell::Of(cell) }
}

/// The last column of every kind.
pub fn age_column() -> Column {
    Column {
        name: "Age".into(),
        kind: "date".into(),
        priority: 0,
        cell: Cell::Path(".metadata.creationTimestamp".into()),
    }
}
