//! What a request wants, in the words of RBAC: a verb and an object, or a verb and a path. Pure.

use axum::http::Method;
use serde_json::Value;

use crate::api::core::DEFAULT_NAMESPACE;
use crate::api::registry;
use crate::server::params::Params;
use crate::server::reviews;
use crate::server::routes::{Part, Route, Target};
use crate::server::status::Refusal;

/// Resources of Evenkeel whose writers decide who somebody is. Only who may do everything may write them.
const IDENTITIES: [&str; 3] = ["tokens", "clientcertificates", JOINS];
/// The keys of all operators, for a node that joins them.
pub const JOINS: &str = "joins";
/// The group of [`IDENTITIES`].
const OURS: &str = "evenkeel.dev";

/// What a request wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for a path, the method.
    pub verb: String,
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// `pods`; empty for a path.
    pub resource: String,
    /// `log`; empty for the object itself.
    pub subresource: String,
    /// The namespace; empty for all, and for what is in none.
    pub namespace: String,
    /// The object; empty for all.
    pub name: String,
    /// The path, if it is not of objects.
    pub path: String,
}

impl Attributes {
    /// What a request to this path wants.
    pub fn of(route: &Result<Route<'_>, Refusal>, method: &Method, params: &Params, path: &str) -> Self {
        match route {
            Ok(Route::Objects(target)) => Self::of_objects(target, method, params),
            Ok(Route::Review { review, namespace }) => Self {
                verb: if method == Method::POST { "create" } else { "get" }.to_owned(),
                group: review.group.to_owned(),
                version: reviews::VERSION.to_owned(),
                resource: review.plural.to_owned(),
                namespace: namespace.clone().unwrap_or_default(),
                ..Self::default()
            },
            _ => Self { verb: method.as_str().to_lowercase(), path: path.to_owned(), ..Self::default() },
        }
    }

    /// What a plan of this object needs: the verb on its kind. Only who may do everything plans what is of no kind.
    pub fn of_plan(verb: &str, object: &Value) -> Self {
        let said = |field: &Value| field.as_str().unwrap_or_default().to_owned();
        let resource =
            registry::resources().iter().find(|r| object["kind"] == r.kind && object["apiVersion"] == r.api_version());
        let namespace = match said(&object["metadata"]["namespace"]) {
            empty if empty.is_empty() => DEFAULT_NAMESPACE.to_owned(),
            namespace => namespace,
        };
        Self {
            verb: verb.to_owned(),
            group: resource.map(|r| r.group.clone()).unwrap_or_default(),
            version: resource.map(|r| r.version.clone()).unwrap_or_default(),
            resource: resource.map_or_else(|| "*".to_owned(), |r| r.plural.clone()),
            namespace: resource.filter(|r| r.namespaced).map(|_| namespace).unwrap_or_default(),
            name: said(&object["metadata"]["name"]),
            ..Self::default()
        }
    }

    fn of_objects(target: &Target, method: &Method, params: &Params) -> Self {
        let (subresource, enters) = match target.part {
            Part::Main => ("", false),
            Part::Status => ("status", false),
            Part::Scale => ("scale", false),
            Part::Log => ("log", false),
            // Clients enter a container by GET as well as by POST; it is never only a look.
            Part::Exec => ("exec", true),
            Part::Attach => ("attach", true),
            Part::PortForward => ("portforward", true),
            Part::Eviction => ("eviction", false),
        };
        let named = target.name.is_some();
        // A watch that cannot be understood is refused later; until then it is the stronger of the two.
        let watches = params.flag("watch").unwrap_or(true) && target.part == Part::Main;
        let verb = match method.as_str() {
            _ if enters => "create",
            "GET" | "HEAD" if watches => "watch",
            "GET" | "HEAD" if named => "get",
            "GET" | "HEAD" => "list",
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" if named => "delete",
            "DELETE" => "deletecollection",
            // No rule has such a verb but by `*`, and no path serves the method.
            other => return Self { verb: other.to_lowercase(), ..Self::of_objects(target, &Method::POST, params) },
        };
        // As in Kubernetes: who may see one object may also wait for it.
        let one = || params.get("fieldSelector")?.strip_prefix("metadata.name=").filter(|name| !name.contains(','));
        let selected = one().filter(|_| matches!(verb, "list" | "watch")).map(|name| name.trim_start_matches('='));
        Self {
            verb: verb.to_owned(),
            group: target.resource.group.clone(),
            version: target.resource.version.clone(),
            resource: target.resource.plural.clone(),
            subresource: subresource.to_owned(),
            // A namespace is inside itself: who has a role in it may see it.
            namespace: match &target.name {
                Some(name) if target.resource.kind == "Namespace" => name.clone(),
                _ => target.namespace.clone().unwrap_or_default(),
            },
            name: target.name.clone().or(selected.map(str::to_owned)).unwrap_or_default(),
            path: String::new(),
        }
    }

    /// Whether it decides who somebody is.
    pub fn gives_identity(&self) -> bool {
        let reads = matches!(self.verb.as_str(), "get" | "list" | "watch");
        self.group == OURS && IDENTITIES.contains(&self.resource.as_str()) && !reads
    }

    /// Whether a node joins the operators.
    pub fn joins(&self) -> bool {
        self.group == OURS && self.resource == JOINS && self.verb == "create"
    }

    /// Why the user may not do this, in the words of Kubernetes.
    pub fn refusal(&self, user: &str) -> Refusal {
        let Self { verb, group, resource, namespace, name, path, .. } = self;
        if resource.is_empty() {
            return Refusal::forbidden(format!("forbidden: User {user:?} cannot {verb} path {path:?}"));
        }
        let whole = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
        let subject = if name.is_empty() { whole } else { format!("{whole} {name:?}") };
        let resource = match self.subresource.as_str() {
            "" => resource.clone(),
            subresource => format!("{resource}/{subresource}"),
        };
        let place = match namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        Refusal::forbidden(format!(
            "{subject} is forbidden: User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {place}"
        ))
    }
}
