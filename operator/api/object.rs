//! What every object has, whatever its kind: namespace, name, annotations, and the desired existence. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::backup::Backup;
use super::database_restore::DatabaseRestore;
use super::deployment::Deployment;
use super::docker_host::DockerHost;
use super::labels::Owner;
use super::load_balancer::LoadBalancer;
use super::port_reservation::PortReservation;
use super::postgres_cluster::PostgresCluster;
use super::redis_cluster::RedisCluster;
use super::redis_sentinel::RedisSentinel;
use super::scheduled_backup::ScheduledBackup;
use super::token::Token;
use super::volume_restore::VolumeRestore;

/// Pauses the reconciliation of an object while its value is `paused`.
pub const RECONCILE_ANNOTATION: &str = "evenkeel.dev/reconcile";

/// What users want of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// It should exist as in its spec.
    Present,
    /// Paused by annotation: nothing is changed.
    Paused,
    /// The object is being deleted. A paused object is deleted, too.
    Absent,
}

/// An object of any kind.
pub trait Object {
    /// Its kind, e.g. `PostgresCluster`.
    const KIND: &'static str;
    /// Its resource in the store, e.g. `postgresclusters.evenkeel.dev`.
    const RESOURCE: &'static str;
    /// Whether objects of this kind live in a namespace.
    const NAMESPACED: bool = true;

    /// `metadata`.
    fn metadata(&self) -> &ObjectMeta;

    /// `metadata.name`.
    fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    /// `metadata.namespace`, `default` if there is none; empty for a cluster-scoped kind.
    fn namespace(&self) -> &str {
        let absent = if Self::NAMESPACED { "default" } else { "" };
        self.metadata().namespace.as_deref().unwrap_or(absent)
    }

    /// The value of an annotation.
    fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata().annotations.as_ref()?.get(name).map(String::as_str)
    }

    /// The owner that the labels of its containers, volumes and networks name.
    fn owner(&self) -> Owner {
        Owner { kind: Self::KIND.into(), namespace: self.namespace().into(), name: self.name().into() }
    }

    /// What users want of it.
    fn want(&self) -> Want {
        match (&self.metadata().deletion_timestamp, self.annotation(RECONCILE_ANNOTATION)) {
            (Some(_), _) => Want::Absent,
            (None, Some("paused")) => Want::Paused,
            (None, _) => Want::Present,
        }
    }
}

impl Object for Deployment {
    const KIND: &'static str = "Deployment";
    const RESOURCE: &'static str = "deployments.apps";

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Object for PostgresCluster {
    const KIND: &'static str = "PostgresCluster";
    const RESOURCE: &'static str = "postgresclusters.evenkeel.dev";

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Object for Backup {
    const KIND: &'static str = "Backup";
    const RESOURCE: &'static str = "backups.evenkeel.dev";

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Object for DatabaseRestore {
    const KIND: &'static str = "DatabaseRestore";
    const RESOURCE: &'static str = "databaserestores.evenkeel.dev";

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Object for VolumeRestore {
    const KIND: &'static str = "VolumeRestore";
    const RESOURCE: &'static str = "volumerestores.evenkeel.dev";

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Object for ScheduledBackup {
    const KIND: &'static str = "ScheduledBackup";
    const RESOURCE: &'static str = "scheduledbackups.evenkeel.dev";

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Object for RedisSentinel {
    const KIND: &'static str = "RedisSentinel";
    const RESOURCE: &'static str = "redissentinels.evenkeel.dev";

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Object for RedisCluster {
    const KIND: &'static str = "RedisCluster";
    const RESOURCE: &'static str = "redisclusters.evenkeel.dev";

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Object for LoadBalancer {
    const KIND: &'static str = "LoadBalancer";
    const RESOURCE: &'static str = "loadbalancers.evenkeel.dev";

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Object for DockerHost {
    const KIND: &'static str = "DockerHost";
    const RESOURCE: &'static str = "dockerhosts.evenkeel.dev";
    const NAMESPACED: bool = false;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Object for PortReservation {
    const KIND: &'static str = "PortReservation";
    const RESOURCE: &'static str = "portreservations.evenkeel.dev";
    const NAMESPACED: bool = false;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Object for Token {
    const KIND: &'static str = "Token";
    const RESOURCE: &'static str = "tokens.evenkeel.dev";
    const NAMESPACED: bool = false;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_paused_object_that_is_deleted_goes() {
        let want = |metadata: serde_json::Value| {
            let object = json!({"metadata": metadata, "spec": {"selector": {}, "template": {}}});
            serde_json::from_value::<Deployment>(object).unwrap().want()
        };
        let paused = json!({(RECONCILE_ANNOTATION): "paused"});
        assert_eq!(want(json!({})), Want::Present);
        assert_eq!(want(json!({"annotations": {(RECONCILE_ANNOTATION): "go on"}})), Want::Present);
        assert_eq!(want(json!({"annotations": paused})), Want::Paused);
        assert_eq!(want(json!({"annotations": paused, "deletionTimestamp": "2026-01-01T00:00:00Z"})), Want::Absent);
    }
}
