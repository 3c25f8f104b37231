//! The list of kinds that the API serves; discovery, tables, validation and `crds/` are generated from it.
//!
//! Adding a kind is one line in [`RESOURCES`].

use std::sync::LazyLock;

use kube::CustomResourceExt;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::asks::Asks;
use super::backup::{self, Backup};
use super::claims::Claim;
use super::core;
use super::database_restore::{self, DatabaseRestore};
use super::deployment_rules;
use super::docker_host::{self, DockerHost};
use super::invalid::Invalid;
use super::load_balancer::LoadBalancer;
use super::port_reservation::PortReservation;
use super::postgres_bootstrap;
use super::postgres_cluster::PostgresCluster;
use super::rbac;
use super::redis_cluster::{self, RedisCluster};
use super::redis_sentinel::{self, RedisSentinel};
use super::resource::{Cell, Column, Resource, age_column, name_of, with_metadata};
use super::scheduled_backup::{self, ScheduledBackup};
use super::token::Token;
use super::views;
use super::volume_restore::{self, VolumeRestore};

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
        Resource { asks: |object| asks(object, Asks::of_deployment), ..deployment_rules::resource() },
        Resource {
            validate_new: |host| docker_host::transport_problems(None, host),
            validate_change: |old, host| docker_host::transport_problems(Some(old), host),
            ..custom::<DockerHost>(|host| host.spec.validate())
        },
        custom::<PortReservation>(|port| port.spec.validate(port.metadata.name.as_deref().unwrap_or_default())),
        Resource {
            asks: |object| asks(object, Asks::of_cluster),
            validate_change: postgres_bootstrap::change_problems,
            ..with_members(custom::<PostgresCluster>(|cluster| cluster.spec.validate(cluster.metadata.name.as_deref())))
        },
        Resource { validate_change: backup::change_problems, ..custom::<Backup>(|backup| backup.spec.validate()) },
        Resource {
            validate_new: scheduled_backup::name_problems,
            ..custom::<ScheduledBackup>(|schedule| schedule.spec.validate())
        },
        Resource {
            validate_change: database_restore::change_problems,
            ..custom::<DatabaseRestore>(|restore| restore.spec.validate())
        },
        Resource {
            validate_change: volume_restore::change_problems,
            ..custom::<VolumeRestore>(|restore| restore.spec.validate())
        },
        Resource {
            asks: |object| asks(object, Asks::of_balancer),
            ..with_members(custom::<LoadBalancer>(|balancer| balancer.spec.validate()))
        },
        Resource {
            validate_new: |redis| name_problems(redis, LONGEST_NAME - "-sentinel".len()),
            validate_change: redis_sentinel::change_problems,
            claim: Some(Claim::MembersAndSentinels),
            asks: |object| asks(object, Asks::of_redis),
            ..custom::<RedisSentinel>(|redis| redis.spec.validate())
        },
        Resource {
            validate_change: redis_cluster::change_problems,
            ..with_members(custom::<RedisCluster>(|redis| redis.spec.validate()))
        },
        core::lease(),
        rbac::role(),
        rbac::role_binding(),
        rbac::cluster_role(),
        rbac::cluster_role_binding(),
        custom::<Token>(|token| token.spec.validate()),
        views::definition(definitions),
    ]
});

/// What a valid object asks of its host.
fn asks<K: DeserializeOwned>(object: &Value, of: fn(&K) -> Asks) -> Asks {
    serde_json::from_value(object.clone()).map(|typed| of(&typed)).unwrap_or_default()
}

/// Longest name of an object whose members are called `NAME-1`, `NAME-2` and so on, in characters. A member's name is a
/// host name and, for a database, PostgreSQL's `cluster_name`: up to 63 characters. Two digits have room.
const LONGEST_NAME: usize = 60;

/// A kind whose members are called `NAME-1`, `NAME-2` and so on.
fn with_members(kind: Resource) -> Resource {
    Resource { validate_new: |object| name_problems(object, LONGEST_NAME), claim: Some(Claim::Members), ..kind }
}

fn name_problems(object: &Value, longest: usize) -> Vec<Invalid> {
    let name = name_of(object);
    let message = || {
        format!(
            "must be no more than {longest} characters: its instances are called NAME-1, NAME-2 ..., and a host name has up to 63"
        )
    };
    (name.len() > longest).then(|| Invalid::new("metadata.name", message())).into_iter().collect()
}

/// Every served resource.
pub fn resources() -> &'static [Resource] {
    &RESOURCES
}

/// Whether objects of the resource have pods.
pub fn has_pods(resource: &Resource) -> bool {
    let name = resource.qualified();
    let shows =
        |view: &Resource| view.has_containers() && view.view.as_ref().is_some_and(|v| v.source(&name).is_some());
    resources().iter().any(shows)
}

/// The definitions of Evenkeel's own kinds. They do not change while the operator runs, so the default namespace, which
/// always exists, stands for them.
fn definitions(namespace: &Value) -> Vec<Value> {
    if namespace["metadata"]["name"] != core::DEFAULT_NAMESPACE {
        return Vec::new();
    }
    crds().into_iter().map(|(_, definition)| views::show_definition(namespace, definition)).collect()
}

/// The resource at a group, version and plural.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    resources().iter().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// The resource for a manifest's `apiVersion` and `kind`.
#[cfg(any(test, fuzzing))]
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
        fill_in: |_| {},
        validate: Box::new(move |object| match serde_json::from_value::<K>(object.clone()) {
            Ok(typed) => check(&typed),
            // Without a path: shown only if the schema, which knows the path, found nothing.
            Err(error) => vec![Invalid { path: String::new(), message: error.to_string() }],
        }),
        validate_new: |_| Vec::new(),
        claim: None,
        asks: |_| Asks::default(),
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
        let new = find_kind("evenkeel.dev/v1alpha1", "PostgresCluster").unwrap().validate_new;
        let named = |length: usize| json!({"metadata": {"name": "n".repeat(length)}});
        let paths = |length: usize| new(&named(length)).into_iter().map(|one| one.path).collect::<Vec<_>>();
        assert_eq!(paths(60), Vec::<String>::new());
        assert_eq!(paths(61), ["metadata.name"]);
        let new = find_kind("evenkeel.dev/v1alpha1", "RedisSentinel").unwrap().validate_new;
        let problems = |length: usize| new(&json!({"metadata": {"name": "n".repeat(length)}})).len();
        assert_eq!((problems(51), problems(52)), (0, 1));
    }

    /// Regression 98: the name of a volume was not judged. With a name that Docker does not take, no pod ever started.
    #[test]
    fn a_volume_that_docker_cannot_name_is_refused() {
        let kind = find_kind("apps/v1", "Deployment").unwrap();
        let paths = |volume: Value| {
            let (labels, container) = (json!({"app": "web"}), json!({"name": "web", "image": "web:1"}));
            let pod = json!({"containers": [container], "volumes": [volume]});
            let spec =
                json!({"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}});
            let problems = (kind.validate)(&json!({"metadata": {"name": "web"}, "spec": spec}));
            problems.into_iter().map(|one| one.path.replace("spec.template.spec.volumes[0].", "")).collect::<Vec<_>>()
        };
        assert_eq!(paths(json!({"name": "my_data.1", "emptyDir": {}})), Vec::<String>::new());
        assert_eq!(paths(json!({"name": "my data", "emptyDir": {}})), ["name"]);
        assert_eq!(paths(json!({"name": "n".repeat(121), "emptyDir": {}})), ["name"]);
        let claim = json!({"name": "data", "persistentVolumeClaim": {"claimName": "../etc"}});
        assert_eq!(paths(claim), ["persistentVolumeClaim.claimName"]);
    }

    /// The problems of a pod spec, without the path of the template.
    fn pod_problems(pod: Value) -> String {
        let labels = json!({"app": "web"});
        let template = json!({"metadata": {"labels": labels}, "spec": pod});
        let spec = json!({"selector": {"matchLabels": labels}, "template": template});
        let problems = (find_kind("apps/v1", "Deployment").unwrap().validate)(&json!({"metadata": {}, "spec": spec}));
        problems.into_iter().map(|one| format!("{one}\n").replace("spec.template.spec.", "")).collect()
    }

    /// Regression 192: what a pod hands on to Docker was not judged. `items[].path` could leave its volume, a variable `A=B`
    /// became `A`, a comma in `nfs.server` added mount options, and an image could be any text.
    #[test]
    fn what_a_pod_hands_on_to_docker_is_judged_with_its_path() {
        let image = |image: &str| json!({"name": "web", "image": image});
        let items =
            json!([{"key": "a", "path": "../../etc/x"}, {"key": "a", "path": "/x"}, {"key": "a", "path": "c/a.ini"}]);
        let pod = json!({
            "containers": [{
                "name": "web", "image": "10.0.0.1:22/x y",
                "env": [{"name": "A=B"}, {"name": ""}, {"name": "A B.c-d"}],
                "envFrom": [{"prefix": "A=", "configMapRef": {"name": "m"}}, {"configMapRef": {"name": "m"}}],
            }],
            "volumes": [
                {"name": "map", "configMap": {"name": "m", "items": items}},
                {"name": "word", "secret": {"secretName": "s", "defaultMode": 0o4755, "items": [{"key": "a", "path": "."}]}},
                {"name": "far", "nfs": {"server": "nas,nolock", "path": "srv"}},
            ],
        });
        expect_test::expect![[r#"
            volumes[0].configMap.items[0].path: "../../etc/x" must be a relative path in the volume, such as conf/app.ini, without `..`
            volumes[0].configMap.items[1].path: "/x" must be a relative path in the volume, such as conf/app.ini, without `..`
            volumes[1].secret.defaultMode: must be from 0 to 0777 (octal), which is 511
            volumes[1].secret.items[0].path: "." must be a relative path in the volume, such as conf/app.ini, without `..`
            volumes[2].nfs.server: must be a host name or an IP address
            volumes[2].nfs.path: must be absolute and have no control characters
            containers[0].image: "10.0.0.1:22/x y" is not an image reference such as postgres:15: repository names are lower-case letters, digits, '.', '_' and '-'
            containers[0].env[0].name: must be given, and must have printable ASCII characters only, and no '='
            containers[0].env[1].name: must be given, and must have printable ASCII characters only, and no '='
            containers[0].envFrom[0].prefix: must have printable ASCII characters only, and no '='
        "#]]
        .assert_eq(&pod_problems(pod));
        let good = json!({"containers": [image("r.example:5000/a/b@sha256:0123456789012345678901234567890123456789012345678901234567890123")]});
        assert_eq!(pod_problems(good), "");
    }

    /// Regression 95: a Deployment with `cpu: 0.5`, without quotes, was refused. Kubernetes takes it.
    #[test]
    fn a_quantity_may_be_a_number() {
        let kind = find_kind("apps/v1", "Deployment").unwrap();
        let spec = |cpu: Value| {
            let container = json!({"name": "web", "resources": {"limits": {"cpu": cpu}}});
            json!({"spec": {"template": {"spec": {"containers": [container]}}}})
        };
        let containers = |object: Value| object["spec"]["template"]["spec"]["containers"].clone();
        let mut object = spec(json!(0.5));
        (kind.normalize)(&mut object);
        assert_eq!(containers(object), containers(spec(json!("0.5"))));
    }

    #[test]
    fn names_are_unique_and_every_kind_can_be_found_both_ways() {
        for resource in resources() {
            assert_eq!(find(&resource.group, &resource.version, &resource.plural), Some(resource));
            assert_eq!(find_kind(&resource.api_version(), &resource.kind), Some(resource));
        }
    }

    /// Regression 340: `rs` was the short name of two kinds, so `kubectl get rs` showed those of the first one only.
    #[test]
    fn no_short_name_is_that_of_two_kinds() {
        let mut names: Vec<_> =
            resources().iter().flat_map(|r| r.short_names.iter().chain([&r.singular, &r.plural])).collect();
        let before = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), before);
    }

    #[test]
    fn every_kind_of_ours_has_a_table_ending_with_its_age() {
        for resource in resources().iter().filter(|r| r.definition.is_some()) {
            assert!(resource.columns.iter().any(|c| c.name == "Age"), "{resource:?}");
        }
    }
}
