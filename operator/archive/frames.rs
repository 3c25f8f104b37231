//! A long stream as one `.zst` object of independent frames, with an index: they are compressed, checked and decompressed in
//! parallel, and what is damaged has a name.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::api::hash::short_hash;
use crate::archive::store::{Error, Kind, Store, Upload};

/// Bytes of a frame before compression.
pub const FRAME: usize = 8 << 20;
/// Frames in work at the same time, besides the one that is being filled or used.
const WORKERS: usize = 2;
/// Compresses more than 200 MB a second on one core.
const LEVEL: i32 = 1;
/// Bytes of an index at most: that of 20 TiB.
const INDEX: u64 = 512 << 20;

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Where its content begins in the stream.
    pub tar: u64,
    /// Where it begins in the object.
    pub at: u64,
    /// Its bytes there.
    pub length: u64,
    /// SHA-256 of these.
    pub sha256: String,
}

/// The frames of an object, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Index {
    /// Bytes of the stream.
    pub size: u64,
    /// Bytes of the object.
    pub stored: u64,
    /// The frames.
    pub frames: Vec<Frame>,
}

impl Index {
    /// As JSON.
    pub fn render(&self) -> Bytes {
        // Plain data always has a JSON form.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// The index of an object, read from a store. `Broken` if it is none; `NotFound` if there is none.
    pub async fn load(store: &Store, key: &str) -> Result<Self, Error> {
        let text = store.get(key, INDEX).await?.ok_or_else(|| store.missing(key))?;
        Self::parse(&text).map_err(|said| store.broken(key, &said))
    }

    /// The same of an index with this SHA-256; `Broken` if it has another.
    pub async fn load_checked(store: &Store, key: &str, sha256: &str) -> Result<Self, Error> {
        let text = store.get(key, INDEX).await?.ok_or_else(|| store.missing(key))?;
        match short_hash(&text, 64) == sha256 {
            true => Self::parse(&text).map_err(|said| store.broken(key, &said)),
            false => Err(store.broken(key, "it has another content than was written")),
        }
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let index: Self = serde_json::from_slice(text).map_err(|error| format!("no index: {error}"))?;
        match index.is_whole() {
            true => Ok(index),
            false => Err("its frames do not follow one another".to_owned()),
        }
    }

    /// Each frame begins where the one before ends, and none is larger than frames are.
    fn is_whole(&self) -> bool {
        let (mut tar, mut at) = (0, 0_u64);
        for (number, frame) in self.frames.iter().enumerate() {
            let is_last = number + 1 == self.frames.len();
            if frame.tar != tar || frame.at != at || frame.length > 2 * FRAME as u64 || frame.length == 0 {
                return false;
            }
            at += frame.length;
            tar = if is_last { self.size } else { tar + FRAME as u64 };
            if tar.checked_sub(frame.tar).is_none_or(|content| content > FRAME as u64) {
                return false;
            }
        }
        (tar, at) == (self.size, self.stored)
    }
}

/// A frame that is compressed, with its SHA-256.
type Compressing = JoinHandle<std::io::Result<(Vec<u8>, String)>>;

/// Writes a stream as frames. Dropped before [`Writer::finish`], nothing of it is left in the store.
pub struct Writer {
    upload: Upload,
    filling: Vec<u8>,
    working: VecDeque<Compressing>,
    index: Index,
}

impl Writer {
    /// Begins.
    pub fn new(upload: Upload) -> Self {
        Self { upload, filling: Vec::with_capacity(FRAME), working: VecDeque::new(), index: Index::default() }
    }

    /// Adds these bytes. Waits while the store or the processor is slower than its caller.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(FRAME - self.filling.len()));
            self.filling.extend_from_slice(now);
            bytes = later;
            if self.filling.len() == FRAME {
                self.compress().await?;
            }
        }
        Ok(())
    }

    /// Bytes of the stream and of the object, so far.
    pub fn progress(&self) -> (u64, u64) {
        (self.index.size + self.filling.len() as u64, self.index.stored)
    }

    /// The object exists with the success of this; its index is not stored by it.
    pub async fn finish(mut self) -> Result<Index, Error> {
        if !self.filling.is_empty() {
            self.compress().await?;
        }
        while self.append().await? {}
        self.upload.finish().await?;
        Ok(self.index)
    }

    async fn compress(&mut self) -> Result<(), Error> {
        let content = std::mem::replace(&mut self.filling, Vec::with_capacity(FRAME));
        let frame = Frame { tar: self.index.size, at: 0, length: 0, sha256: String::new() };
        self.index.size += content.len() as u64;
        self.index.frames.push(frame);
        self.working.push_back(tokio::task::spawn_blocking(move || {
            let compressed = zstd::bulk::compress(&content, LEVEL)?;
            let sha256 = short_hash(&compressed, 64);
            Ok((compressed, sha256))
        }));
        if self.working.len() > WORKERS {
            self.append().await?;
        }
        Ok(())
    }

    /// Uploads the oldest frame in work; false if there is none.
    async fn append(&mut self) -> Result<bool, Error> {
        let Some(work) = self.working.pop_front() else { return Ok(false) };
        let number = self.index.frames.len() - self.working.len() - 1;
        let done = work.await.map_err(|panic| self.upload.failed(Kind::Config, panic.to_string()))?;
        let (compressed, sha256) = done.map_err(|error| self.upload.failed(Kind::Config, error.to_string()))?;
        self.upload.write(&compressed).await?;
        if let Some(frame) = self.index.frames.get_mut(number) {
            (frame.at, frame.length, frame.sha256) = (self.index.stored, compressed.len() as u64, sha256);
        }
        self.index.stored += compressed.len() as u64;
        Ok(true)
    }
}

/// Reads a stream of frames, each checked before any of it is given out.
pub struct Reader {
    store: Store,
    key: String,
    left: VecDeque<Frame>,
    size: u64,
    working: VecDeque<JoinHandle<Result<Vec<u8>, Error>>>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.working.iter().for_each(JoinHandle::abort);
    }
}

impl Reader {
    /// Of the object with this key and index.
    pub fn new(store: Store, key: &str, index: Index) -> Self {
        Self { store, key: key.to_owned(), size: index.size, left: index.frames.into(), working: VecDeque::new() }
    }

    /// The content of the next frame; `None` at the end. `Broken` names the frame that is damaged.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        while self.working.len() <= WORKERS
            && let Some(frame) = self.left.pop_front()
        {
            let content = self.left.front().map_or(self.size, |next| next.tar) - frame.tar;
            let (store, key) = (self.store.clone(), self.key.clone());
            self.working.push_back(tokio::spawn(read(store, key, frame, content)));
        }
        match self.working.pop_front() {
            None => Ok(None),
            Some(work) => match work.await {
                Ok(content) => content.map(Some),
                Err(panic) => Err(self.store.broken(&self.key, &panic.to_string())),
            },
        }
    }
}

async fn read(store: Store, key: String, frame: Frame, content: u64) -> Result<Vec<u8>, Error> {
    let compressed = store.get_range(&key, frame.at..frame.at + frame.length).await?;
    let place = format!("the frame at {} of {} bytes", frame.at, frame.length);
    let checked = tokio::task::spawn_blocking(move || {
        if short_hash(&compressed, 64) != frame.sha256 {
            return Err("has another content than was written".to_owned());
        }
        zstd::bulk::decompress(&compressed, FRAME).map_err(|error| format!("cannot be decompressed: {error}"))
    });
    match checked.await {
        Ok(Ok(found)) if found.len() as u64 == content => Ok(found),
        Ok(Ok(found)) => Err(store.broken(&key, &format!("{place} has {} bytes of content", found.len()))),
        Ok(Err(said)) => Err(store.broken(&key, &format!("{place} {said}"))),
        Err(panic) => Err(store.broken(&key, &format!("{place}: {panic}"))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::archive::access::{Store as Where, StoreAccess};

    fn store(folder: &std::path::Path) -> Store {
        let path = folder.to_str().unwrap().to_owned();
        Store::open(&StoreAccess { hash: String::new(), store: Where::Directory { path } }).unwrap()
    }

    /// 20 MiB and a little, in which each frame differs.
    fn stream() -> Vec<u8> {
        (0..(20 << 20) + 77_u32).map(|at| (at / 5 % 251) as u8 ^ (at >> 22) as u8).collect()
    }

    async fn write(store: &Store) -> Index {
        let mut writer = Writer::new(store.upload("data", 0).await.unwrap());
        for piece in stream().chunks(1_000_003) {
            writer.write(piece).await.unwrap();
        }
        let index = writer.finish().await.unwrap();
        store.put("frames.json", index.render()).await.unwrap();
        index
    }

    #[tokio::test]
    async fn a_stream_comes_back_and_any_tool_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let index = write(&store).await;
        assert_eq!((index.frames.len(), index.size), (3, (20 << 20) + 77));
        assert_eq!(Index::load(&store, "frames.json").await, Ok(index.clone()));
        let (mut reader, mut found) = (Reader::new(store, "data", index), Vec::new());
        while let Some(content) = reader.next().await.unwrap() {
            found.extend(content);
        }
        assert!(found == stream());
        let file = std::fs::File::open(folder.path().join("data")).unwrap();
        assert!(zstd::decode_all(file).unwrap() == stream());
    }

    #[tokio::test]
    async fn a_damaged_frame_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let index = write(&store).await;
        let mut bytes = std::fs::read(folder.path().join("data")).unwrap();
        bytes[usize::try_from(index.frames[1].at).unwrap() + 9] ^= 1;
        std::fs::write(folder.path().join("data"), bytes).unwrap();
        let mut reader = Reader::new(store, "data", index.clone());
        assert!(reader.next().await.unwrap().is_some());
        let error = reader.next().await.unwrap_err();
        let named =
            format!("the frame at {} of {} bytes has another content", index.frames[1].at, index.frames[1].length);
        assert!(error.kind == Kind::Broken && error.to_string().contains(&named), "{error}");
    }

    #[tokio::test]
    async fn an_index_whose_frames_do_not_follow_one_another_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let index = write(&store).await;
        for change in [
            (|index| index.frames[1].at += 1) as fn(&mut Index),
            |index| index.frames[2].tar = u64::MAX,
            |index| index.size = u64::MAX,
            |index| drop(index.frames.pop()),
            |index| index.frames[1].length = u64::MAX,
        ] {
            let mut index = index.clone();
            change(&mut index);
            store.put("frames.json", index.render()).await.unwrap();
            assert_eq!(Index::load(&store, "frames.json").await.unwrap_err().kind, Kind::Broken);
        }
    }
}
