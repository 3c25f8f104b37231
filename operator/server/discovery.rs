//! Discovery: the served groups and resources, all from the registry.

use serde_json::{Value, json};

use super::openapi;
use super::reviews::{REVIEWS, VERSION};
use super::routes::Route;
use super::status::Refusal;
use crate::api::registry;
use crate::api::resource::Resource;

/// Minor version of Kubernetes whose conventions the API follows.
const MINOR: &str = "37";

/// The response to a discovery path.
pub fn answer(route: &Route<'_>) -> Result<Value, Refusal> {
    match route {
        Route::Root => Ok(json!({"paths": paths()})),
        Route::Version => Ok(version()),
        Route::CoreVersions => Ok(json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        })),
        Route::Groups => {
            let groups: Vec<Value> = groups().iter().map(|name| group(name)).collect();
            Ok(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        Route::Group(name) if groups().contains(name) => {
            let mut group = group(name);
            group["kind"] = "APIGroup".into();
            group["apiVersion"] = "v1".into();
            Ok(group)
        }
        Route::OpenApiIndex => Ok(openapi::index()),
        Route::OpenApi(name) => openapi::named(name),
        Route::Resources(group, version) => resource_list(group, version),
        _ => Err(Refusal::no_such_path()),
    }
}

/// Every path that can be read without a name.
fn paths() -> Vec<String> {
    let mut paths: Vec<String> =
        ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
            .map(str::to_owned)
            .into();
    for resource in registry::resources().iter().filter(|resource| !resource.group.is_empty()) {
        paths.extend([format!("/apis/{}", resource.group), format!("/apis/{}", resource.api_version())]);
    }
    paths.sort_unstable();
    paths.dedup();
    paths
}

fn version() -> Value {
    json!({
        "major": "1",
        "minor": MINOR,
        "gitVersion": format!("v1.{MINOR}.0+evenkeel.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// Named API groups, in the order of the registry.
fn groups() -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    let resources = registry::resources().iter().map(|resource| resource.group.as_str());
    for group in resources.chain(REVIEWS.iter().map(|review| review.group)) {
        if !group.is_empty() && !names.contains(&group) {
            names.push(group);
        }
    }
    names
}

fn group(name: &str) -> Value {
    let mut versions: Vec<Value> = Vec::new();
    for resource in registry::resources().iter().filter(|r| r.group == name) {
        let version = json!({"groupVersion": resource.api_version(), "version": resource.version});
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    if REVIEWS.iter().any(|review| review.group == name) {
        versions.push(json!({"groupVersion": format!("{name}/{VERSION}"), "version": VERSION}));
    }
    json!({"name": name, "preferredVersion": versions.first(), "versions": versions})
}

fn resource_list(group: &str, version: &str) -> Result<Value, Refusal> {
    let served: Vec<&Resource> =
        registry::resources().iter().filter(|r| r.group == group && r.version == version).collect();
    let reviews = REVIEWS.iter().filter(|review| review.group == group && VERSION == version);
    let reviews = reviews.map(|review| {
        json!({
            "name": review.plural, "singularName": review.kind.to_lowercase(), "namespaced": review.namespaced,
            "kind": review.kind, "verbs": ["create"],
        })
    });
    let resources: Vec<Value> = served.iter().flat_map(|resource| entries(resource)).chain(reviews).collect();
    if resources.is_empty() {
        return Err(Refusal::no_such_path());
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": resources,
    }))
}

fn entries(resource: &Resource) -> Vec<Value> {
    let verbs: &[&str] = match &resource.view {
        None => &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        Some(view) if view.is_writable() => &["get", "list", "patch", "update", "watch"],
        Some(_) => &["get", "list", "watch"],
    };
    let main = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": verbs,
        "shortNames": resource.short_names,
        "categories": resource.categories,
    });
    let status = resource.has_status.then(|| {
        json!({
            "name": format!("{}/status", resource.plural),
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": ["get"],
        })
    });
    let scale = resource.has_scale.then(|| {
        json!({
            "name": format!("{}/scale", resource.plural),
            "singularName": "",
            "namespaced": resource.namespaced,
            "group": "autoscaling",
            "version": "v1",
            "kind": "Scale",
            "verbs": ["get", "patch", "update"],
        })
    });
    let both: &[&str] = &["create", "get"];
    let inside =
        [("log", &["get"][..]), ("exec", both), ("attach", both), ("portforward", both)].map(|(part, verbs)| {
            json!({
                "name": format!("{}/{part}", resource.plural),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": resource.kind,
                "verbs": verbs,
            })
        });
    let eviction = json!({
        "name": format!("{}/eviction", resource.plural),
        "singularName": "",
        "namespaced": resource.namespaced,
        "group": "policy",
        "version": "v1",
        "kind": "Eviction",
        "verbs": ["create"],
    });
    let inside = resource.has_containers().then(|| inside.into_iter().chain([eviction]));
    std::iter::once(main).chain(status).chain(scale).chain(inside.into_iter().flatten()).collect()
}
