//! A directory that remembers every write and sync, and can say what a power cut might have left.

use std::collections::BTreeMap;
use std::io::Result;
use std::sync::{Arc, PoisonError};

use super::{Access, Media, MediaFile, MediaLock, MemoryMedia};
use crate::sync::{Mutex, MutexGuard};

/// What a disk writes as a whole.
const SECTOR: usize = 512;

/// A file is known by the number of its creation: names can be used again.
#[derive(Debug, Clone)]
enum Event {
    Create(u64, String),
    Remove(String),
    Write(u64, u64, Arc<[u8]>),
    SetLen(u64, u64),
    Sync(u64),
}

/// Files in memory, and all that happened to them.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecordingMedia {
    inner: MemoryMedia,
    journal: Arc<Mutex<Vec<Event>>>,
}

#[derive(Debug)]
struct RecordingFile {
    inner: Arc<dyn MediaFile>,
    id: u64,
    journal: Arc<Mutex<Vec<Event>>>,
}

/// A file after a power cut: what was synced, and what may be there or not.
#[derive(Debug, Default)]
struct Remains {
    synced: Vec<u8>,
    since: Vec<Event>,
}

impl Remains {
    fn apply(bytes: &mut Vec<u8>, event: &Event) {
        match event {
            Event::Write(_, offset, new) => {
                let at = *offset as usize;
                bytes.resize(bytes.len().max(at + new.len()), 0);
                bytes[at..at + new.len()].copy_from_slice(new);
            }
            Event::SetLen(_, len) => bytes.resize(*len as usize, 0),
            _ => {}
        }
    }

    /// The content with some of the sectors written since the last sync, in any order.
    fn after_cut(mut self, random: &mut impl FnMut() -> u64) -> Vec<u8> {
        let mut pieces = Vec::new();
        for event in self.since {
            match &event {
                Event::Write(id, offset, bytes) => {
                    let mut at = 0;
                    while at < bytes.len() {
                        let to_border = SECTOR - (*offset as usize + at) % SECTOR;
                        let end = bytes.len().min(at + to_border);
                        pieces.push(Event::Write(*id, offset + at as u64, bytes[at..end].into()));
                        at = end;
                    }
                }
                _ => pieces.push(event),
            }
        }
        // All of it, nothing, most of it or little.
        let share = [0, 256, 230, 128, 25][random() as usize % 5];
        pieces.retain(|_| random() % 256 < share);
        for i in (1..pieces.len()).rev() {
            if random().is_multiple_of(2) {
                pieces.swap(i, random() as usize % (i + 1));
            }
        }
        for piece in &pieces {
            Self::apply(&mut self.synced, piece);
        }
        self.synced
    }
}

impl RecordingMedia {
    fn journal(&self) -> MutexGuard<'_, Vec<Event>> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much has happened so far.
    pub(crate) fn now(&self) -> usize {
        self.journal().len()
    }

    /// What is left when the power is cut after the first `events`.
    pub(crate) fn after_cut(&self, events: usize, random: &mut impl FnMut() -> u64) -> MemoryMedia {
        let journal = self.journal()[..events].to_vec();
        let mut files = BTreeMap::<u64, Remains>::new();
        let mut names = BTreeMap::new();
        for event in journal {
            match event {
                Event::Create(id, name) => _ = names.insert(name, id),
                Event::Remove(name) => _ = names.remove(&name),
                Event::Write(id, ..) | Event::SetLen(id, _) => files.entry(id).or_default().since.push(event),
                Event::Sync(id) => {
                    let file = files.entry(id).or_default();
                    for event in std::mem::take(&mut file.since) {
                        Remains::apply(&mut file.synced, &event);
                    }
                }
            }
        }
        let media = MemoryMedia::default();
        for (name, id) in names {
            let content = files.remove(&id).unwrap_or_default().after_cut(random);
            // Into memory nothing fails.
            let _ = media.replace(&name, &content);
        }
        media
    }

    fn record(&self, inner: Arc<dyn MediaFile>, id: u64) -> Arc<dyn MediaFile> {
        let journal = self.journal.clone();
        Arc::new(RecordingFile { inner, id, journal })
    }
}

impl Media for RecordingMedia {
    fn list(&self) -> Result<Vec<(String, u64)>> {
        self.inner.list()
    }

    fn open(&self, name: &str, access: Access) -> Result<Arc<dyn MediaFile>> {
        let inner = self.inner.open(name, access)?;
        let mut created = 0;
        for event in &*self.journal() {
            if let Event::Create(id, created_name) = event
                && created_name == name
            {
                created = *id;
            }
        }
        Ok(self.record(inner, created))
    }

    fn create(&self, name: &str) -> Result<Arc<dyn MediaFile>> {
        let inner = self.inner.create(name)?;
        let id = self.now() as u64;
        self.journal().push(Event::Create(id, name.to_string()));
        Ok(self.record(inner, id))
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        self.inner.replace(name, content)?;
        let id = self.now() as u64;
        self.journal().extend([
            Event::Write(id, 0, content.into()),
            Event::Sync(id),
            Event::Create(id, name.to_string()),
        ]);
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.inner.remove(name)?;
        self.journal().push(Event::Remove(name.to_string()));
        Ok(())
    }

    fn lock(&self, name: &str) -> Result<Option<Box<dyn MediaLock>>> {
        self.inner.lock(name)
    }

    fn name(&self) -> String {
        "memory".to_string()
    }
}

impl RecordingFile {
    fn add(&self, event: Event) {
        self.journal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(event);
    }
}

impl MediaFile for RecordingFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> Result<usize> {
        self.inner.read_at(out, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize> {
        self.add(Event::Write(self.id, offset, bytes.into()));
        self.inner.write_at(bytes, offset)
    }

    fn len(&self) -> Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.add(Event::SetLen(self.id, len));
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> Result<()> {
        self.inner.sync_data()?;
        self.add(Event::Sync(self.id));
        Ok(())
    }
}
