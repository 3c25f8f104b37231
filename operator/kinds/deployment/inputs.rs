//! Secrets and ConfigMaps that pods use: which exist, and a hash of each.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};

use super::blueprint;
use crate::api::endpoints::private_network;
use crate::api::hash::short_hash_of_parts;
use crate::kinds::containers::InputRef;
use crate::kinds::containers::inputs::{contents, object};
use crate::store::Error;
use crate::store::objects::Objects;

/// What is known of Secrets and ConfigMaps, without their values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Inputs(BTreeMap<InputRef, Input>);

/// One Secret or ConfigMap that exists; the others are not listed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Input {
    /// Hash of its contents.
    pub hash: String,
    /// Its keys.
    pub keys: BTreeSet<String>,
    /// The network of the database that this Secret belongs to: a pod that uses the Secret joins the network.
    pub network: Option<String>,
}

impl Inputs {
    /// The hash of its contents; empty if it does not exist.
    pub fn hash(&self, input: &InputRef) -> String {
        self.0.get(input).map(|known| known.hash.clone()).unwrap_or_default()
    }

    /// What a template needs and does not exist, as text for people.
    pub fn missing(&self, template: &PodTemplateSpec) -> Option<String> {
        let spec = template.spec.clone().unwrap_or_default();
        let used = blueprint::inputs(&spec);
        let absent = used.iter().find(|(input, optional)| !**optional && !self.0.contains_key(input));
        if let Some((input, _)) = absent {
            return Some(format!("{input} does not exist; create it"));
        }
        let keys = blueprint::keys(&spec);
        let lacking =
            keys.into_iter().find(|(input, key)| self.0.get(input).is_some_and(|known| !known.keys.contains(key)));
        lacking.map(|(input, key)| format!("{input} has no key {key}"))
    }

    /// The networks of databases that a pod joins because it uses their Secrets.
    pub fn networks(&self, spec: &PodSpec) -> BTreeSet<String> {
        let used = blueprint::inputs(spec);
        used.keys().filter_map(|input| self.0.get(input)?.network.clone()).collect()
    }
}

/// Reads the Secrets and ConfigMaps that exist.
pub async fn read(objects: &Objects, namespace: &str, used: BTreeSet<InputRef>) -> Result<Inputs, Error> {
    let mut known = BTreeMap::new();
    for input in used {
        let Some(value) = object(objects, namespace, &input).await? else { continue };
        let contents = contents(&value);
        let hash = short_hash_of_parts(contents.iter().flat_map(|(key, bytes)| [key.as_bytes(), bytes]), 16);
        let owners = value["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let mut owners = owners.filter_map(|owner| Some((owner["kind"].as_str()?, owner["name"].as_str()?)));
        let network = owners.find_map(|(kind, name)| private_network(kind, namespace, name));
        known.insert(input, Input { hash, keys: contents.into_keys().collect(), network });
    }
    Ok(Inputs(known))
}
