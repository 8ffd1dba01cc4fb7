//! Several processes in one directory: who writes, what the others notice, and the secret that they share.

use std::collections::HashMap;
use std::io::{Error, ErrorKind, Result};
use std::time::Duration;

use super::index::Record;
use super::load::{Foreign, load, load_slab, read_table};
use super::media::{Access, Media, MediaLock};
use super::notices::Notices;
use super::slab::{self, CHANGES_AT};
use super::store::SlabStore;
use crate::kv::prefix::{Key, Secret};

const LOCK: &str = "lock";
const SECRET: &str = "secret";
/// How often, every 10 ms, to look for the secret that another process is about to write.
const LOOKS: u32 = 200;

type Lock = Option<Box<dyn MediaLock>>;

/// Takes the lock if it can be had, and reads the secret, which the first that writes creates.
pub(super) fn enter(media: &dyn Media, notices: &mut Notices) -> Result<(Lock, Secret)> {
    let mut looks = 0;
    loop {
        let lock = take_lock(media)?;
        match read_secret(media) {
            Ok(Some(secret)) => return Ok((lock, secret)),
            Ok(None) if lock.is_some() => {
                notices.add(format!("{SECRET} is damaged: blocks stored under it are lost"));
                return Ok((lock, create_secret(media)?));
            }
            Err(e) if e.kind() == ErrorKind::NotFound && lock.is_some() => {
                return Ok((lock, create_secret(media)?));
            }
            Err(e) if e.kind() != ErrorKind::NotFound || looks == LOOKS => return Err(e),
            Ok(None) if looks == LOOKS => {
                let text = format!("{SECRET} in {} is damaged", media.name());
                return Err(Error::new(ErrorKind::InvalidData, text));
            }
            _ => {
                looks += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// The lock, unless another process has it or nothing can be written.
fn take_lock(media: &dyn Media) -> Result<Lock> {
    match media.lock(LOCK) {
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied
            ) =>
        {
            Ok(None)
        }
        lock => lock,
    }
}

/// The stored secret; `None` when it is damaged.
fn read_secret(media: &dyn Media) -> Result<Option<Secret>> {
    let file = media.open(SECRET, Access::Read)?;
    let mut bytes = [0; 32];
    if file.len()? != 32 {
        return Ok(None);
    }
    file.read_all_at(&mut bytes, 0)?;
    Ok(Some(Secret::fixed(bytes)))
}

fn create_secret(media: &dyn Media) -> Result<Secret> {
    let secret = Secret::random();
    media.replace(SECRET, secret.as_bytes())?;
    Ok(secret)
}

impl SlabStore {
    /// See [`super::Backend::maintain`].
    pub(super) fn look_around(&self) -> Result<()> {
        let _writing = self.writing();
        let (lock, uncleared) = {
            let state = self.state();
            (state.lock.clone(), state.uncleared)
        };
        if let Some(lock) = lock {
            if lock.is_current() {
                if uncleared {
                    self.clear()?;
                }
                return self.sync_slabs(Vec::new());
            }
            let mut state = self.state();
            state.lock = None;
            let text = format!(
                "the lock in {} is gone: was the directory removed?",
                self.media.name()
            );
            state.notices.add(text);
        }
        match take_lock(&*self.media)? {
            Some(lock) => self.take_over(lock),
            None => self.refresh(),
        }
    }

    /// Becomes the one that writes.
    fn take_over(&self, lock: Box<dyn MediaLock>) -> Result<()> {
        match read_secret(&*self.media) {
            Ok(Some(secret)) if secret.as_bytes() == self.secret.as_bytes() => {}
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            // Somebody began anew in this directory: keys that are in use here would never be found there.
            Ok(Some(_)) => {
                let text = format!("{SECRET} in {} was replaced: open it again", self.media.name());
                return Err(Error::new(ErrorKind::InvalidData, text));
            }
            Ok(None) | Err(_) => self.media.replace(SECRET, self.secret.as_bytes())?,
        }
        let loaded = load(&*self.media, &self.identity, Access::Write)?;
        self.install(loaded, Some(lock))?;
        self.shrink();
        let uncleared = {
            let mut state = self.state();
            state.forgotten.clear();
            state.uncleared
        };
        if uncleared { self.clear() } else { Ok(()) }
    }

    /// Reads what another process wrote since the last time.
    fn refresh(&self) -> Result<()> {
        let files = self.media.list()?;
        let files: HashMap<u64, u64> = files
            .into_iter()
            .filter_map(|(name, len)| Some((slab::file_number(&name)?, len)))
            .collect();
        let known: Vec<_> = {
            let mut state = self.state();
            state.foreign.retain(|number, _| files.contains_key(number));
            let slabs = state.slabs.iter();
            slabs
                .map(|(&number, slab)| (number, slab.file.clone(), slab.changes))
                .collect()
        };
        for (number, file, changes) in &known {
            let mut now = [0; 8];
            let there = files.contains_key(number) && file.read_all_at(&mut now, CHANGES_AT).is_ok();
            if !there {
                let mut state = self.state();
                state.slabs.remove(number);
                state.index.remove_where(|record| record.place.slab == *number);
            } else if u64::from_le_bytes(now) != *changes {
                self.refresh_slab(*number, u64::from_le_bytes(now))?;
            }
        }
        for (number, len) in files {
            let seen = {
                let state = self.state();
                let foreign = state.foreign.get(&number).is_some_and(|f| f.len == len);
                foreign || state.slabs.contains_key(&number)
            };
            if seen {
                continue;
            }
            let found = load_slab(&*self.media, &self.identity, number, Access::Read);
            let mut state = self.state();
            match found {
                Ok((slab, blocks, _)) => {
                    state.foreign.remove(&number);
                    state.slabs.insert(number, slab);
                    drop(state);
                    self.learn(number, blocks)?;
                }
                // It may be one that is about to be made.
                Err(_) => _ = state.foreign.insert(number, Foreign { len, stuck: false }),
            }
        }
        Ok(())
    }

    fn refresh_slab(&self, number: u64, changes: u64) -> Result<()> {
        let Some((file, layout)) = self
            .state()
            .slabs
            .get(&number)
            .map(|s| (s.file.clone(), s.layout))
        else {
            return Ok(());
        };
        let len = file.len()?;
        let mut slab = super::load::Slab::new(file, layout, len, changes);
        let (blocks, _) = read_table(&mut slab, number)?;
        self.state().slabs.insert(number, slab);
        self.learn(number, blocks)
    }

    /// Takes over what the table of a slab says now.
    fn learn(&self, number: u64, blocks: Vec<(Record, Key)>) -> Result<()> {
        let mut state = self.state();
        let state = &mut *state;
        let now: HashMap<u32, u64> = blocks.iter().map(|(r, _)| (r.place.slot, r.generation)).collect();
        state.index.remove_where(|old| {
            old.place.slab == number && now.get(&old.place.slot) != Some(&old.generation)
        });
        let mut new = blocks;
        new.retain(|(record, _)| {
            let known = state.index.get(&record.key);
            known.is_none_or(|known| known.generation < record.generation) && !state.is_forgotten(record)
        });
        new.sort_by_key(|(record, _)| record.generation);
        for (record, _) in &new {
            state.see(record.generation);
        }
        state.index.insert(&new)?;
        Ok(())
    }
}
