//! The manifests in `crds/` equal those that the types generate. `UPDATE_CRDS=1` writes them again.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use evenkeel::api::registry;

#[test]
fn the_manifests_are_those_that_the_types_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
    let update = std::env::var_os("UPDATE_CRDS").is_some();
    let mut wanted = BTreeSet::new();
    for (file, definition) in registry::crds() {
        let text = serde_saphyr::to_string(&definition).unwrap();
        let path = folder.join(&file);
        wanted.insert(file);
        if update {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &text).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(found == text, "{} is out of date: run the tests with UPDATE_CRDS=1", path.display());
        let read_back: serde_json::Value = serde_saphyr::from_str(&found).unwrap();
        assert_eq!(read_back, definition, "{} reads back as something else", path.display());
    }
    let found: BTreeSet<String> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(found, wanted, "every file in crds/ belongs to a kind");
}
