//! Asks an image, for example by which libraries it sorts text: runs programs of it once, in a container of their own without
//! network, without rights and without volumes of others. Decides nothing.

use std::time::Duration;

use futures::StreamExt as _;

use super::{ContainerSpec, Engine, Error, LogOptions, Output, Security};
use crate::api::labels::Owner;
use crate::api::libraries::{ASK, Libraries};

/// Kind in the owner labels of the container; no object of that kind exists.
const KIND: &str = "ImageQuestion";
/// Time-out of the programs.
const LIMIT: Duration = Duration::from_secs(60);
/// Bytes that are read of their output.
const KEPT: usize = 16 * 1024;

/// The libraries of the image with this ID on this host; `asker` is the object that asks.
pub async fn libraries(engine: &dyn Engine, host: &str, asker: &Owner, image: &str) -> Result<Libraries, Error> {
    let said = said(engine, host, asker, image, &ASK).await?;
    let refused = |why: String| Error::refused(host, format!("asking image {image} for its libraries"), why);
    Libraries::read(&said).ok_or_else(|| refused("neither getconf nor ldd in it says which C library it has".into()))
}

/// What these words print, run in the image on this host; `asker` is who asks.
pub async fn said(
    engine: &dyn Engine,
    host: &str,
    asker: &Owner,
    image: &str,
    words: &[&str],
) -> Result<String, Error> {
    let spec = question(asker, image, words);
    // One that an earlier operator left behind.
    engine.remove_container(&spec.name).await?;
    let answer = tokio::time::timeout(LIMIT, answer(engine, &spec)).await;
    engine.remove_container(&spec.name).await?;
    let late =
        || Error::refused(host, format!("asking image {image}"), format!("no answer within {} s", LIMIT.as_secs()));
    answer.map_err(|_| late())?
}

fn question(asker: &Owner, image: &str, words: &[&str]) -> ContainerSpec {
    let name = format!("evenkeel-ask.{}.{}", asker.namespace, asker.name);
    ContainerSpec {
        hostname: "question".into(),
        image: image.to_owned(),
        entrypoint: words.iter().map(|&word| word.to_owned()).collect(),
        labels: Owner { kind: KIND.to_owned(), ..asker.clone() }.labels(),
        network: "none".into(),
        user: Some("65534:65534".into()),
        memory_bytes: Some(128 << 20),
        pids_limit: Some(64),
        security: Security {
            cap_drop: vec!["ALL".into()],
            read_only: true,
            no_new_privileges: true,
            ..Default::default()
        },
        name,
        ..Default::default()
    }
}

async fn answer(engine: &dyn Engine, spec: &ContainerSpec) -> Result<String, Error> {
    engine.create_container(spec).await?;
    engine.start_container(&spec.name).await?;
    // The log ends with the container.
    let mut output = engine.logs(&spec.name, &LogOptions { follow: true, ..Default::default() }).await?;
    let mut said = Vec::new();
    while let Some(piece) = output.next().await {
        let (Output::Stdout(piece) | Output::Stderr(piece)) = piece?;
        said.extend_from_slice(&piece[..piece.len().min(KEPT - said.len())]);
        if said.len() == KEPT {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}
