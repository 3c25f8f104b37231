//! Named volumes. A volume of another owner is never taken over.

use std::collections::BTreeMap;

use bollard::models::{Volume, VolumeCreateRequest};
use bollard::query_parameters::{ListVolumesOptionsBuilder, RemoveVolumeOptions};

use super::super::{Error, VolumeSpec};
use super::{ANSWER, DockerEngine, any_owner_filter, owner_filter, owner_in_words, same_owner};
use crate::api::labels::Owner;

impl DockerEngine {
    pub(super) async fn volumes_of(&self, owner: &Owner) -> Result<Vec<String>, Error> {
        let doing = format!("listing the volumes of {} {}", owner.kind, owner.name);
        let options = ListVolumesOptionsBuilder::default().filters(&owner_filter(owner)).build();
        let found = self.call(&doing, ANSWER, |docker| docker.list_volumes(Some(options))).await?;
        let mut names: Vec<_> = found.volumes.unwrap_or_default().into_iter().map(|volume| volume.name).collect();
        names.sort();
        Ok(names)
    }

    pub(super) async fn volumes_of_all(&self) -> Result<BTreeMap<Owner, Vec<String>>, Error> {
        let options = ListVolumesOptionsBuilder::default().filters(&any_owner_filter()).build();
        let doing = "listing all volumes of ours";
        let found = self.call(doing, ANSWER, |docker| docker.list_volumes(Some(options))).await?;
        let mut all: BTreeMap<Owner, Vec<String>> = BTreeMap::new();
        for volume in found.volumes.unwrap_or_default() {
            if let Some(owner) = Owner::from_labels(|key| volume.labels.get(key).map(String::as_str)) {
                all.entry(owner).or_default().push(volume.name);
            }
        }
        all.values_mut().for_each(|list| list.sort());
        Ok(all)
    }

    /// The volume of exactly this name.
    pub(super) async fn volume_named(&self, name: &str, doing: &str) -> Result<Option<Volume>, Error> {
        match self.call(doing, ANSWER, |docker| docker.inspect_volume(name)).await {
            Err(Error::NotFound { .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    pub(super) async fn volume_ensured(&self, spec: &VolumeSpec) -> Result<(), Error> {
        let doing = format!("making volume {}", spec.name);
        let request = VolumeCreateRequest {
            name: Some(spec.name.clone()),
            labels: Some(spec.labels.clone().into_iter().collect()),
            ..Default::default()
        };
        // Docker answers a create of an existing volume with that volume.
        let volume = self.call(&doing, ANSWER, |docker| docker.create_volume(request)).await?;
        self.volume_of(&spec.labels, &volume, &doing)
    }

    /// [`Error::Conflict`] if the existing volume does not have the owner in these labels.
    pub(super) fn volume_of(
        &self,
        labels: &BTreeMap<String, String>,
        volume: &Volume,
        doing: &str,
    ) -> Result<(), Error> {
        if same_owner(labels, Some(&volume.labels)) {
            return Ok(());
        }
        let message = format!(
            "a volume of that name is there already and {}; rename it or remove it",
            owner_in_words(Some(&volume.labels))
        );
        Err(Error::conflict(&self.host, doing, message))
    }

    pub(super) async fn volume_removed(&self, name: &str) -> Result<(), Error> {
        let doing = format!("removing volume {name}");
        match self.call(&doing, ANSWER, |docker| docker.remove_volume(name, None::<RemoveVolumeOptions>)).await {
            Err(Error::NotFound { .. }) => Ok(()),
            other => other,
        }
    }
}
