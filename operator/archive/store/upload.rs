//! One large object, uploaded in parts while it is made: bounded memory, and nothing is left of an upload that is given up.

use bytes::{Bytes, BytesMut};
use object_store::{MultipartUpload, PutPayload};
use tokio::task::JoinSet;

use crate::archive::store::failure::{Error, Kind, Speaker};

/// Bytes of a part at least.
const PART: u64 = 16 << 20;
/// Bytes of parts that are uploaded at the same time.
const IN_FLIGHT: u64 = 64 << 20;
/// A store takes 10,000 parts; expected sizes are wrong by less than half.
const PARTS: u64 = 5_000;

/// An upload. Dropped before [`Upload::finish`], it is aborted.
pub struct Upload {
    upload: Option<Box<dyn MultipartUpload>>,
    speaker: Speaker,
    doing: String,
    /// The part that is being filled.
    part: BytesMut,
    /// Bytes of a part; all but the last have the same, which some stores demand.
    size: usize,
    /// Parts that may be in flight beside it.
    parallel: usize,
    flying: JoinSet<Result<(), object_store::Error>>,
    stored: u64,
}

impl Upload {
    /// Of an object of about `expected` bytes. Takes `max(80 MiB, expected / 5000)` of memory.
    pub(crate) fn new(upload: Box<dyn MultipartUpload>, speaker: Speaker, doing: String, expected: u64) -> Self {
        let size = (expected / PARTS).next_multiple_of(1 << 20).max(PART);
        let parallel = usize::try_from(IN_FLIGHT / size).unwrap_or(0);
        Self {
            upload: Some(upload),
            speaker,
            doing,
            part: BytesMut::new(),
            size: usize::try_from(size).unwrap_or(usize::MAX),
            parallel,
            flying: JoinSet::new(),
            stored: 0,
        }
    }

    /// Adds these bytes. Waits while the store is slower than its caller.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.size - self.part.len()));
            self.part.extend_from_slice(now);
            bytes = later;
            if self.part.len() == self.size {
                self.send().await?;
            }
        }
        Ok(())
    }

    /// Bytes that were written so far.
    pub fn stored(&self) -> u64 {
        self.stored + self.part.len() as u64
    }

    /// The object exists with the success of this.
    pub async fn finish(mut self) -> Result<u64, Error> {
        if !self.part.is_empty() {
            self.send().await?;
        }
        while self.one_landed().await? {}
        let Some(upload) = &mut self.upload else { return Err(self.ended()) };
        let completed = upload.complete().await;
        completed.map_err(|error| self.speaker.explain(&self.doing, &error))?;
        self.upload = None;
        Ok(self.stored)
    }

    async fn send(&mut self) -> Result<(), Error> {
        while self.flying.len() > self.parallel.saturating_sub(1) && self.one_landed().await? {}
        let part: Bytes = self.part.split().freeze();
        self.stored += part.len() as u64;
        let Some(upload) = &mut self.upload else { return Err(self.ended()) };
        self.flying.spawn(upload.put_part(PutPayload::from(part)));
        if self.parallel == 0 {
            self.one_landed().await?;
        }
        Ok(())
    }

    /// Waits for one of the parts in flight; false if there is none.
    async fn one_landed(&mut self) -> Result<bool, Error> {
        match self.flying.join_next().await {
            None => Ok(false),
            Some(Ok(Ok(()))) => Ok(true),
            Some(Ok(Err(error))) => Err(self.speaker.explain(&self.doing, &error)),
            Some(Err(panic)) => Err(self.failed(Kind::Unreachable, panic.to_string())),
        }
    }

    fn ended(&self) -> Error {
        self.failed(Kind::Config, "the upload has ended already")
    }

    /// A failure of what was to be uploaded.
    pub(crate) fn failed(&self, kind: Kind, said: impl Into<String>) -> Error {
        self.speaker.fail(kind, &self.doing, said)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut upload) = self.upload.take() else { return };
        self.flying.abort_all();
        // Without a runtime the program ends; the store deletes the parts by its rules for unfinished uploads.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let doing = std::mem::take(&mut self.doing);
            runtime.spawn(async move {
                if upload.abort().await.is_err() {
                    tracing::warn!("{doing}: the parts of the upload that was given up could not be deleted");
                }
            });
        }
    }
}
