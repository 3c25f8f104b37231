//! A long stream as one `.zst` object of independent frames, with an index: they are compressed, checked and decompressed in
//! parallel, and what is damaged has a name. An encrypted one is one age file around that, of which parts can be read, too; its index
//! is encrypted as well, so nobody can exchange a frame.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

use crate::api::hash::short_hash;
use crate::archive::cipher::{self, Closed, HEADER, Window};
use crate::archive::names::sealed;
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
    /// Where it begins in the object; if that is encrypted, in its content.
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
    /// Bytes of the object; if that is encrypted, of its content.
    pub stored: u64,
    /// Bytes of the object before its content; `None`: it is not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_header: Option<u64>,
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
        let found = store.get_content(key, INDEX, store.cipher().is_some()).await?;
        let (text, _) = found.ok_or_else(|| store.missing(key))?;
        Self::parse(&text).map_err(|said| store.broken(key, &said))
    }

    /// The same of an index with this SHA-256; `Broken` if it has another.
    pub async fn load_checked(store: &Store, key: &str, sha256: &str) -> Result<Self, Error> {
        let found = store.get_content(key, INDEX, store.cipher().is_some()).await?;
        let (text, _) = found.ok_or_else(|| store.missing(key))?;
        match short_hash(&text, 64) == sha256 {
            true => Self::parse(&text).map_err(|said| store.broken(key, &said)),
            false => Err(store.broken(key, "it has another content than was written")),
        }
    }

    /// The key of the object, of which this is the key without encryption.
    pub fn key(&self, key: &str) -> String {
        match self.age_header {
            Some(_) => sealed(key),
            None => key.to_owned(),
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
        (tar, at) == (self.size, self.stored) && self.age_header.is_none_or(|header| header <= HEADER)
    }
}

/// A frame that is compressed, with its SHA-256.
type Compressing = JoinHandle<std::io::Result<(Vec<u8>, String)>>;

/// Writes a stream as frames. Dropped before [`Writer::finish`], nothing of it is left in the store.
pub struct Writer {
    upload: Upload,
    filling: Vec<u8>,
    working: VecDeque<Compressing>,
    /// Frames in work at the same time.
    workers: usize,
    index: Index,
}

impl Writer {
    /// Begins.
    pub fn new(upload: Upload) -> Self {
        let (filling, working) = (Vec::with_capacity(FRAME), VecDeque::new());
        let index = Index { age_header: upload.header(), ..Index::default() };
        Self { upload, filling, working, workers: WORKERS, index }
    }

    /// Begins, and has one frame in work at a time: takes 24 MiB of memory besides the upload.
    pub fn lean(upload: Upload) -> Self {
        Self { workers: 0, ..Self::new(upload) }
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
        if self.working.len() > self.workers {
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
        let length = compressed.len() as u64;
        self.upload.write(compressed.into()).await?;
        if let Some(frame) = self.index.frames.get_mut(number) {
            (frame.at, frame.length, frame.sha256) = (self.index.stored, length, sha256);
        }
        self.index.stored += length;
        Ok(true)
    }
}

/// Reads a stream of frames, each checked before any of it is given out.
pub struct Reader {
    object: Object,
    left: VecDeque<Frame>,
    size: u64,
    working: VecDeque<JoinHandle<Result<Vec<u8>, Error>>>,
}

/// An object of frames.
#[derive(Clone)]
struct Object {
    store: Store,
    key: String,
    stored: u64,
    age_header: Option<u64>,
    /// The bytes before the content, once they were read.
    header: Arc<OnceCell<Bytes>>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.working.iter().for_each(JoinHandle::abort);
    }
}

impl Reader {
    /// Of the object with this index, and this key without encryption.
    pub fn new(store: Store, key: &str, index: Index) -> Self {
        let (key, header) = (index.key(key), Arc::default());
        let object = Object { store, key, stored: index.stored, age_header: index.age_header, header };
        Self { object, size: index.size, left: index.frames.into(), working: VecDeque::new() }
    }

    /// The content of the next frame; `None` at the end. `Broken` names the frame that is damaged.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        while self.working.len() <= WORKERS
            && let Some(frame) = self.left.pop_front()
        {
            let content = self.left.front().map_or(self.size, |next| next.tar) - frame.tar;
            let object = self.object.clone();
            self.working.push_back(tokio::spawn(async move { object.read(frame, content).await }));
        }
        match self.working.pop_front() {
            None => Ok(None),
            Some(work) => match work.await {
                Ok(content) => content.map(Some),
                Err(panic) => Err(self.object.store.broken(&self.object.key, &panic.to_string())),
            },
        }
    }
}

impl Object {
    /// The content of a frame, which has so many bytes.
    async fn read(&self, frame: Frame, content: u64) -> Result<Vec<u8>, Error> {
        let compressed = self.compressed(frame.at..frame.at + frame.length).await?;
        let place = format!("the frame at {} of {} bytes", frame.at, frame.length);
        let checked = tokio::task::spawn_blocking(move || {
            if short_hash(&compressed, 64) != frame.sha256 {
                return Err("has another content than was written".to_owned());
            }
            zstd::bulk::decompress(&compressed, FRAME).map_err(|error| format!("cannot be decompressed: {error}"))
        });
        let broken = |said: String| self.store.broken(&self.key, &format!("{place} {said}"));
        match checked.await {
            Ok(Ok(found)) if found.len() as u64 == content => Ok(found),
            Ok(Ok(found)) => Err(broken(format!("has {} bytes of content", found.len()))),
            Ok(Err(said)) => Err(broken(said)),
            Err(panic) => Err(broken(format!("was not checked: {panic}"))),
        }
    }

    /// A part of the object; of its content, if it is encrypted.
    async fn compressed(&self, range: Range<u64>) -> Result<Bytes, Error> {
        let Some(length) = self.age_header else { return self.store.get_range(&self.key, range).await };
        let Some(cipher) = self.store.cipher().cloned() else { return Err(self.store.no_key(&self.key)) };
        let header = self.header.get_or_try_init(|| self.store.get_range(&self.key, 0..length)).await?.clone();
        let parts = cipher::parts(length, self.stored, &range);
        let window = Window::new(header, parts.start, self.store.get_range(&self.key, parts).await?);
        let place = format!("the part at {} of {} bytes", range.start, range.end - range.start);
        let opened = tokio::task::spawn_blocking(move || cipher.open_range(window, range)).await;
        match opened {
            Ok(Ok(content)) => Ok(content.into()),
            Ok(Err(Closed::Damaged(said))) => Err(self.store.broken(&self.key, &format!("{place}: {said}"))),
            Ok(Err(closed)) => Err(self.store.closed(&self.key, &closed)),
            Err(panic) => Err(self.store.broken(&self.key, &format!("{place}: {panic}"))),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::archive::access::{Identities, Store as Where, StoreAccess};
    use crate::archive::cipher::Cipher;
    use crate::archive::tests::{ONE, TWO};

    fn store(folder: &std::path::Path) -> Store {
        let path = folder.to_str().unwrap().to_owned();
        Store::open(&StoreAccess { hash: String::new(), store: Where::Directory { path }, encryption: None }).unwrap()
    }

    fn encrypted(folder: &std::path::Path, keys: &str) -> Store {
        let store = Where::Directory { path: folder.to_str().unwrap().to_owned() };
        let encryption = Some(Identities(keys.to_owned()));
        Store::open(&StoreAccess { hash: String::new(), store, encryption }).unwrap()
    }

    /// 20 MiB and a little, in which each frame differs.
    fn stream() -> Vec<u8> {
        (0..(20 << 20) + 77_u32).map(|at| (at / 5 % 251) as u8 ^ (at >> 22) as u8).collect()
    }

    /// As much that cannot be compressed: a frame has many parts of an age file.
    fn noise() -> Vec<u8> {
        let mut state = 0x9E37_79B9_u32;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        };
        (0..(20 << 20) + 77).map(|_| next()).collect()
    }

    async fn write(store: &Store) -> Index {
        write_of(store, &stream()).await
    }

    async fn write_of(store: &Store, stream: &[u8]) -> Index {
        let mut writer = Writer::new(store.upload("data", 0).await.unwrap());
        for piece in stream.chunks(1_000_003) {
            writer.write(piece).await.unwrap();
        }
        let index = writer.finish().await.unwrap();
        store.put_content("frames.json", index.render()).await.unwrap();
        index
    }

    async fn read(store: Store) -> Result<Vec<u8>, Error> {
        let index = Index::load(&store, "frames.json").await?;
        let (mut reader, mut found) = (Reader::new(store, "data", index), Vec::new());
        while let Some(content) = reader.next().await? {
            found.extend(content);
        }
        Ok(found)
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

    /// One age file, so that `age -d -i key.txt data.age | zstd -d` gives the stream; frames are read from parts of it all the same.
    #[tokio::test]
    async fn an_encrypted_stream_is_one_age_file_and_comes_back_by_its_frames() {
        let folder = tempfile::tempdir().unwrap();
        let stream = noise();
        let index = write_of(&encrypted(folder.path(), ONE), &stream).await;
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        names.sort();
        assert_eq!((index.frames.len(), names), (3, vec!["data.age".into(), "frames.json.age".into()]));
        assert!(read(encrypted(folder.path(), &format!("{TWO}\n{ONE}"))).await.unwrap() == stream);
        let file = std::fs::read(folder.path().join("data.age")).unwrap();
        let opened = Cipher::try_from(&Identities(ONE.to_owned())).unwrap().open(&file).unwrap();
        assert!(zstd::decode_all(opened.as_slice()).unwrap() == stream);
        assert_eq!(opened.len() as u64, index.stored);
        for store in [encrypted(folder.path(), TWO), store(folder.path())] {
            assert_eq!(read(store).await.unwrap_err().kind, Kind::KeyMissing);
        }
        let damaged = usize::try_from(index.age_header.unwrap() + index.frames[1].at).unwrap() + 1_000_000;
        let mut bytes = file.clone();
        bytes[damaged] ^= 1;
        std::fs::write(folder.path().join("data.age"), bytes).unwrap();
        let error = read(encrypted(folder.path(), ONE)).await.unwrap_err();
        let named = format!("the part at {} of {} bytes", index.frames[1].at, index.frames[1].length);
        assert!(error.kind == Kind::Broken && error.to_string().contains(&named), "{error}");
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
