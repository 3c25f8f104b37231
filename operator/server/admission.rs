//! What the namespace of an object lets it do on a host: Pod Security, host ports, code in servers,
//! directories of the host. Only what is new or changed
//! is judged: a stored object that was allowed before can still be scaled, labelled and deleted.

use axum::http::StatusCode;
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Value, json};

use super::Server;
use super::request::WriteError;
use super::status::Refusal;
use crate::api::core::NAMESPACES;
use crate::api::host_ports::Allowed;
use crate::api::pod_security::{ENFORCE, Level, WARN, violations};
use crate::api::registry;
use crate::api::resource::Resource;
use crate::store::Key;

/// What the objects of one namespace may do.
pub struct Policy {
    enforced: Level,
    warned: Level,
    allowed: Allowed,
    /// For a namespace: the pods of its objects, by kind and name.
    pods: Vec<(String, PodSpec)>,
    /// The level that a namespace gets when it is made without one, or loses its own.
    default: Level,
}

impl Policy {
    /// Of the namespace of an object; for objects without a namespace it forbids nothing.
    pub async fn read(server: &Server, resource: &Resource, key: &Key) -> Result<Self, WriteError> {
        let default = server.default_level;
        let pods = if resource.qualified() == NAMESPACES { pods(server, &key.name).await? } else { Vec::new() };
        let nothing =
            Self { enforced: Level::Privileged, warned: Level::Privileged, allowed: Allowed::default(), pods, default };
        if key.namespace.is_empty() {
            return Ok(nothing);
        }
        let (all, _) = server.objects.list::<Value>(NAMESPACES, None).await?;
        let own = all.iter().find(|one| one["metadata"]["name"] == *key.namespace);
        // A namespace that says nothing is privileged; its writers are told what a new one would say.
        let unsaid = if Level::labelled(own, ENFORCE).is_none() { default } else { Level::Privileged };
        Ok(Self {
            enforced: Level::enforced(own),
            warned: Level::labelled(own, WARN).unwrap_or(unsaid),
            allowed: Allowed::read(&key.namespace, &all),
            ..nothing
        })
    }

    /// What is told to the writer of a namespace whose new level is broken by what runs there already.
    fn existing(&self, old: Option<&Value>, new: &Value) -> Vec<String> {
        let level = Level::enforced(Some(new));
        if Level::enforced(old) == level || self.pods.is_empty() {
            return Vec::new();
        }
        let own =
            Allowed::read("", std::slice::from_ref(new)).taken.pop().map(|(_, ranges)| ranges).unwrap_or_default();
        let bad = self.pods.iter().map(|(name, pod)| (name, violations(pod, level, &own)));
        let told: Vec<_> = bad
            .filter(|(_, found)| !found.is_empty())
            .map(|(name, found)| format!("{name}: {}", found.join(", ")))
            .collect();
        let head =
            || format!("existing pods violate the new PodSecurity enforce level \"{level}:latest\"; they keep running");
        if told.is_empty() { told } else { [head()].into_iter().chain(told).collect() }
    }

    /// Refuses (403) what the object newly asks and may not have; otherwise returns warnings.
    pub fn judge(&self, resource: &Resource, old: Option<&Value>, new: &Value) -> Result<Vec<String>, Refusal> {
        let before = old.map(resource.asks).unwrap_or_default();
        let asks = (resource.asks)(new);
        let refused = |why: String| {
            let name = new["metadata"]["name"].as_str().unwrap_or_default();
            let message = format!("{} {name:?} is forbidden: {why}", resource.qualified());
            Err(Refusal::new(StatusCode::FORBIDDEN, "Forbidden", message))
        };
        let found = |level: Level| {
            let ports = self.allowed.ports.clone().unwrap_or_default();
            let mut found = match asks.pod.as_ref().filter(|_| asks.pod != before.pod) {
                Some(pod) => violations(pod, level, &ports),
                None => Vec::new(),
            };
            let code: Vec<_> = asks.code.difference(&before.code).map(|(path, _)| path.as_str()).collect();
            if level > Level::Privileged && !code.is_empty() {
                found.push(format!("code in the server ({} must not load or run it)", code.join(", ")));
            }
            let directories: Vec<_> =
                asks.directories.difference(&before.directories).map(|(path, _)| path.as_str()).collect();
            if level > Level::Privileged && !directories.is_empty() {
                found.push(format!("directories of the host ({} must not name one)", directories.join(", ")));
            }
            (!found.is_empty()).then(|| format!("violate PodSecurity \"{level}:latest\": {}", found.join(", ")))
        };
        if let Some(why) = found(self.enforced) {
            return refused(why.replacen("violate", "violates", 1));
        }
        let mut ports = asks.ports.iter().filter(|ports| !before.ports.contains(ports));
        if let Some(why) = ports.find_map(|ports| Some(format!("{}: {}", ports.path, self.allowed.problem(ports)?))) {
            return refused(why);
        }
        let would = found(self.warned).map(|why| format!("would {why}"));
        Ok(would.into_iter().chain(self.existing(old, new)).collect())
    }

    /// Writes the default level into a namespace that is made without one or loses its own. A namespace that never had one
    /// stays without: it is from before there were levels.
    pub fn complete(&self, resource: &Resource, old: Option<&Value>, new: &mut Value) {
        let is_new = old.is_none_or(|old| Level::labelled(Some(old), ENFORCE).is_some());
        if resource.qualified() != NAMESPACES || !is_new || Level::labelled(Some(new), ENFORCE).is_some() {
            return;
        }
        let labels = new["metadata"].as_object_mut().map(|metadata| metadata.entry("labels").or_insert(Value::Null));
        match labels {
            Some(labels @ Value::Null) => *labels = json!({(ENFORCE): self.default.word()}),
            Some(Value::Object(labels)) => drop(labels.entry(ENFORCE).or_insert_with(|| self.default.word().into())),
            // The schema refuses it.
            _ => {}
        }
    }
}

/// The pods that objects of a namespace describe.
async fn pods(server: &Server, namespace: &str) -> Result<Vec<(String, PodSpec)>, WriteError> {
    let mut found = Vec::new();
    for resource in registry::resources().iter().filter(|one| registry::has_pods(one)) {
        for object in server.objects.list::<Value>(&resource.qualified(), Some(namespace)).await?.0 {
            let name = format!("{} {}", resource.kind, object["metadata"]["name"].as_str().unwrap_or_default());
            found.extend((resource.asks)(&object).pod.map(|pod| (name, pod)));
        }
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::registry::find_kind;

    fn policy(enforced: Level, warned: Level) -> Policy {
        let allowed = Allowed { ports: Some("15000-15999".parse().unwrap()), ..Allowed::default() };
        Policy { enforced, warned, allowed, pods: Vec::new(), default: Level::Baseline }
    }

    fn deployment(image: &str, security: Value, port: u16) -> Value {
        let ports = json!([{"containerPort": 80, "hostPort": port}]);
        let container = json!({"name": "web", "image": image, "securityContext": security, "ports": ports});
        let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}});
        json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template}})
    }

    fn judged(policy: &Policy, kind: (&str, &str), old: Option<&Value>, new: &Value) -> String {
        match policy.judge(find_kind(kind.0, kind.1).unwrap(), old, new) {
            Ok(warnings) => warnings.join("; "),
            Err(refusal) => format!("{} {}", refusal.code.as_u16(), refusal.message),
        }
    }

    /// Regression 198: whoever could write a Deployment in any namespace was root on the host, by `privileged` or a host path.
    #[test]
    fn a_pod_is_refused_where_it_has_more_than_the_level_of_its_namespace() {
        let privileged = deployment("web:1", json!({"privileged": true}), 15000);
        let judge = |enforced, warned, old: Option<&Value>, new: &Value| {
            judged(&policy(enforced, warned), ("apps/v1", "Deployment"), old, new)
        };
        let why = "PodSecurity \"baseline:latest\": privileged (container \"web\" must not set securityContext.privileged=true)";
        let refused = format!("403 deployments.apps \"web\" is forbidden: violates {why}");
        assert_eq!(judge(Level::Baseline, Level::Baseline, None, &privileged), refused);
        assert_eq!(judge(Level::Privileged, Level::Baseline, None, &privileged), format!("would violate {why}"));
        assert_eq!(judge(Level::Privileged, Level::Privileged, None, &privileged), "");
        let mut scaled = privileged.clone();
        scaled["spec"]["replicas"] = json!(3);
        assert_eq!(judge(Level::Baseline, Level::Baseline, Some(&privileged), &scaled), "");
        let next = deployment("web:2", json!({"privileged": true}), 15000);
        assert_eq!(judge(Level::Baseline, Level::Baseline, Some(&privileged), &next), refused);
        assert_eq!(judge(Level::Baseline, Level::Baseline, None, &deployment("web:1", json!({}), 15000)), "");
        let outside = judge(Level::Privileged, Level::Privileged, None, &deployment("web:1", json!({}), 8080));
        assert!(
            outside.ends_with("ports[0].hostPort: host port 8080 is not in annotation evenkeel.dev/host-ports"),
            "{outside}"
        );
    }

    #[test]
    fn a_cluster_is_judged_by_its_ports_and_its_code_when_they_change() {
        let cluster = |libraries: &str, port: u16| {
            let spec = json!({"image": "postgres:15", "instances": 2, "parameters": {"dynamic_library_path": libraries},
                              "expose": {"hostPort": port, "bindAddress": "127.0.0.1"}});
            json!({"metadata": {"name": "db"}, "spec": spec})
        };
        let judge = |old: Option<&Value>, new: &Value| {
            let kind = ("evenkeel.dev/v1alpha1", "PostgresCluster");
            judged(&policy(Level::Baseline, Level::Baseline), kind, old, new)
        };
        let old = cluster("/tmp", 9000);
        assert_eq!(judge(Some(&old), &old), "");
        assert!(
            judge(None, &old)
                .contains("code in the server (spec.parameters[dynamic_library_path] must not load or run it)")
        );
        assert!(
            judge(None, &cluster("", 9000))
                .ends_with("spec.expose.hostPort: host port 9000 is not in annotation evenkeel.dev/host-ports")
        );
        assert_eq!(judge(None, &cluster("", 15998)), "");
        assert!(judge(Some(&old), &cluster("/tmp", 15999)).contains("host port 16000"));
    }

    /// Regression 369: a store in a directory of the host is mounted with its files into containers that the author of the
    /// PostgresCluster commands. Pod Security forbids that in most namespaces, and nobody asked it.
    #[test]
    fn a_store_in_a_directory_of_the_host_needs_a_privileged_namespace() {
        let cluster = |path: &str| {
            let store = json!({"directory": {"path": path}});
            let source = json!({"store": store, "path": "a/b"});
            let spec = json!({"image": "postgres:15", "backup": {"store": store},
                              "bootstrap": {"recovery": {"source": source}}});
            json!({"metadata": {"name": "db"}, "spec": spec})
        };
        let judge = |level: Level, old: Option<&Value>| {
            judged(&policy(level, level), ("evenkeel.dev/v1alpha1", "PostgresCluster"), old, &cluster("/etc"))
        };
        let told = judge(Level::Baseline, Some(&cluster("/srv/backups")));
        let fields = "spec.backup.store.directory, spec.bootstrap.recovery.source.store.directory";
        assert!(told.ends_with(&format!("directories of the host ({fields} must not name one)")), "{told}");
        assert_eq!(judge(Level::Baseline, Some(&cluster("/etc"))), "");
        assert_eq!(judge(Level::Privileged, None), "");
    }

    #[test]
    fn whoever_tightens_a_namespace_is_told_what_runs_there_already() {
        let namespace = |level: &str| json!({"metadata": {"name": "team", "labels": {(ENFORCE): level}}});
        let told = |old: Option<&Value>, new: &Value| {
            let pod = deployment("web:1", json!({"privileged": true}), 0)["spec"]["template"]["spec"].clone();
            let pods = vec![("Deployment web".to_owned(), serde_json::from_value(pod).unwrap())];
            judged(&Policy { pods, ..policy(Level::Privileged, Level::Privileged) }, ("v1", "Namespace"), old, new)
        };
        let (free, tight) = (namespace("privileged"), namespace("baseline"));
        let head = "existing pods violate the new PodSecurity enforce level \"baseline:latest\"; they keep running";
        let bad = "Deployment web: privileged (container \"web\" must not set securityContext.privileged=true)";
        assert_eq!(told(Some(&free), &tight), format!("{head}; {bad}"));
        assert_eq!((told(Some(&tight), &tight), told(Some(&tight), &free)), (String::new(), String::new()));
    }

    #[test]
    fn a_new_namespace_gets_the_default_level_and_an_old_one_stays_as_it_is() {
        let completed = |old: Option<Value>, labels: Value| {
            let mut new = json!({"metadata": {"name": "team", "labels": labels}});
            policy(Level::Privileged, Level::Privileged).complete(
                find_kind("v1", "Namespace").unwrap(),
                old.as_ref(),
                &mut new,
            );
            new["metadata"]["labels"][ENFORCE].as_str().unwrap_or("none").to_owned()
        };
        let stored = |labels: Value| Some(json!({"metadata": {"name": "team", "labels": labels}}));
        assert_eq!(completed(None, json!({})), "baseline");
        assert_eq!(completed(None, json!(null)), "baseline");
        assert_eq!(completed(None, json!({(ENFORCE): "privileged"})), "privileged");
        assert_eq!(completed(stored(json!({})), json!({"a": "b"})), "none");
        assert_eq!(completed(stored(json!({(ENFORCE): "restricted"})), json!({})), "baseline");
    }
}
