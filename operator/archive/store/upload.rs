//! One large object, uploaded in parts while it is made: bounded memory, and nothing is left of an upload that is given up.

use bytes::{Bytes, BytesMut};
use object_store::{MultipartUpload, PutPayload};
use tokio::task::JoinSet;

use crate::archive::cipher::{Cipher, Sealing};
use crate::archive::store::failure::{Error, Kind, Speaker};

/// Bytes of a part at least, and of parts that are uploaded at the same time.
const USUAL: (u64, u64) = (16 << 20, 64 << 20);
/// The same where memory is scarce. A store takes parts of 5 MiB.
const LEAN: (u64, u64) = (8 << 20, 8 << 20);
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
    form: Form,
}

/// How the object is written.
enum Form {
    /// As it comes.
    Clear,
    /// Encrypted.
    Sealed(Sealing),
    /// Encrypted, until that failed or was cut off: nothing more is written.
    Ended,
}

impl Upload {
    /// Of an object of about `expected` bytes. Takes `max(80 MiB, expected / 5000)` of memory, and if it is `lean`
    /// `max(16 MiB, expected / 5000)`.
    pub(crate) fn new(
        upload: Box<dyn MultipartUpload>,
        speaker: Speaker,
        doing: String,
        (expected, lean): (u64, bool),
    ) -> Self {
        let (part, in_flight) = if lean { LEAN } else { USUAL };
        let size = (expected / PARTS).next_multiple_of(1 << 20).max(part);
        let parallel = usize::try_from(in_flight / size).unwrap_or(0);
        Self {
            upload: Some(upload),
            speaker,
            doing,
            part: BytesMut::new(),
            size: usize::try_from(size).unwrap_or(usize::MAX),
            parallel,
            flying: JoinSet::new(),
            stored: 0,
            form: Form::Clear,
        }
    }

    /// The same, encrypted as one age file.
    pub(crate) async fn sealed(mut self, cipher: &Cipher) -> Result<Self, Error> {
        let mut sealing = cipher.sealing().map_err(|error| self.failed(Kind::Config, error.to_string()))?;
        let header = sealing.write(&[]).map_err(|error| self.failed(Kind::Config, error.to_string()))?;
        self.add(&header).await?;
        self.form = Form::Sealed(sealing);
        Ok(self)
    }

    /// Bytes of the object before its content, if it is encrypted.
    pub fn header(&self) -> Option<u64> {
        match &self.form {
            Form::Sealed(sealing) => Some(sealing.header()),
            Form::Clear | Form::Ended => None,
        }
    }

    /// Adds this content. Waits while the store is slower than its caller.
    pub async fn write(&mut self, content: Bytes) -> Result<(), Error> {
        let mut sealing = match std::mem::replace(&mut self.form, Form::Ended) {
            Form::Sealed(sealing) => sealing,
            Form::Clear => {
                self.form = Form::Clear;
                return self.add(&content).await;
            }
            Form::Ended => return Err(self.ended()),
        };
        let work = tokio::task::spawn_blocking(move || sealing.write(&content).map(|sealed| (sealing, sealed)));
        let done = work.await.map_err(|panic| self.failed(Kind::Config, panic.to_string()))?;
        let (sealing, sealed) = done.map_err(|error| self.failed(Kind::Config, error.to_string()))?;
        self.form = Form::Sealed(sealing);
        self.add(&sealed).await
    }

    async fn add(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
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
        match std::mem::replace(&mut self.form, Form::Ended) {
            Form::Clear => {}
            Form::Sealed(sealing) => {
                let end = sealing.finish().map_err(|error| self.failed(Kind::Config, error.to_string()))?;
                self.add(&end).await?;
            }
            Form::Ended => return Err(self.ended()),
        }
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
