//! A directory that fails on demand.

use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::{Access, Media, MediaFile, MediaLock};

/// What can be asked of a directory and its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    List,
    Open,
    Create,
    Replace,
    Remove,
    Lock,
    Read,
    Write,
    Len,
    SetLen,
    Sync,
}

impl Call {
    pub(crate) const ALL: [Self; 11] = [
        Self::List,
        Self::Open,
        Self::Create,
        Self::Replace,
        Self::Remove,
        Self::Lock,
        Self::Read,
        Self::Write,
        Self::Len,
        Self::SetLen,
        Self::Sync,
    ];
}

/// What is wrong now, and what was called.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Bit `call` is set when it fails.
    failing: AtomicUsize,
    /// The error of the system it fails with.
    code: AtomicUsize,
    /// The next calls that are to fail succeed so often.
    spared: AtomicUsize,
    /// At most so many bytes are read or written at once; 0 for all.
    short: AtomicUsize,
    /// Milliseconds that each write takes.
    write_delay: AtomicU64,
    /// Whether locks are those of another directory now.
    exchanged: AtomicBool,
    calls: [AtomicU64; Call::ALL.len()],
}

impl Faults {
    /// From now on these calls fail with an error of the system.
    pub(crate) fn fail(&self, calls: &[Call], code: i32) {
        self.fail_after(0, calls, code);
    }

    /// The same after some that succeed.
    pub(crate) fn fail_after(&self, spared: usize, calls: &[Call], code: i32) {
        self.spared.store(spared, Ordering::SeqCst);
        self.code.store(code as usize, Ordering::SeqCst);
        let bits = calls.iter().fold(0, |bits, &call| bits | 1 << call as usize);
        self.failing.store(bits, Ordering::SeqCst);
    }

    /// Everything works again.
    pub(crate) fn heal(&self) {
        self.failing.store(0, Ordering::SeqCst);
        self.short.store(0, Ordering::SeqCst);
        self.write_delay.store(0, Ordering::SeqCst);
        self.exchanged.store(false, Ordering::SeqCst);
    }

    /// Reads and writes are cut into pieces.
    pub(crate) fn shorten(&self, bytes: usize) {
        self.short.store(bytes, Ordering::SeqCst);
    }

    pub(crate) fn delay_writes(&self, ms: u64) {
        self.write_delay.store(ms, Ordering::SeqCst);
    }

    /// The directory is gone; open files are still there.
    pub(crate) fn vanish(&self) {
        self.exchanged.store(true, Ordering::SeqCst);
        let names = [
            Call::List,
            Call::Open,
            Call::Create,
            Call::Replace,
            Call::Remove,
            Call::Lock,
        ];
        self.fail(&names, libc::ENOENT);
    }

    /// How often it was called.
    pub(crate) fn calls(&self, call: Call) -> u64 {
        self.calls[call as usize].load(Ordering::SeqCst)
    }

    fn pass(&self, call: Call) -> Result<()> {
        self.calls[call as usize].fetch_add(1, Ordering::SeqCst);
        if self.failing.load(Ordering::SeqCst) & 1 << call as usize == 0 {
            return Ok(());
        }
        let spared = self
            .spared
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if spared.is_ok() {
            return Ok(());
        }
        Err(Error::from_raw_os_error(self.code.load(Ordering::SeqCst) as i32))
    }

    fn length(&self, len: usize) -> usize {
        match self.short.load(Ordering::SeqCst) {
            0 => len,
            short => len.min(short),
        }
    }
}

/// Another directory, with faults.
#[derive(Debug)]
pub(crate) struct FaultyMedia<M> {
    inner: M,
    faults: Arc<Faults>,
}

#[derive(Debug)]
struct FaultyFile {
    inner: Arc<dyn MediaFile>,
    faults: Arc<Faults>,
}

#[derive(Debug)]
struct FaultyLock {
    inner: Box<dyn MediaLock>,
    faults: Arc<Faults>,
}

impl<M> FaultyMedia<M> {
    /// The directory, and the switches of its faults.
    pub(crate) fn new(inner: M) -> (Self, Arc<Faults>) {
        let faults = Arc::<Faults>::default();
        let media = Self {
            inner,
            faults: faults.clone(),
        };
        (media, faults)
    }

    fn file(&self, inner: Arc<dyn MediaFile>) -> Arc<dyn MediaFile> {
        let faults = self.faults.clone();
        Arc::new(FaultyFile { inner, faults })
    }
}

impl<M: Media> Media for FaultyMedia<M> {
    fn list(&self) -> Result<Vec<(String, u64)>> {
        self.faults.pass(Call::List)?;
        self.inner.list()
    }

    fn open(&self, name: &str, access: Access) -> Result<Arc<dyn MediaFile>> {
        self.faults.pass(Call::Open)?;
        Ok(self.file(self.inner.open(name, access)?))
    }

    fn create(&self, name: &str) -> Result<Arc<dyn MediaFile>> {
        self.faults.pass(Call::Create)?;
        Ok(self.file(self.inner.create(name)?))
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        self.faults.pass(Call::Replace)?;
        self.inner.replace(name, content)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.faults.pass(Call::Remove)?;
        self.inner.remove(name)
    }

    fn lock(&self, name: &str) -> Result<Option<Box<dyn MediaLock>>> {
        self.faults.pass(Call::Lock)?;
        let lock = self.inner.lock(name)?;
        Ok(lock.map(|inner| {
            let faults = self.faults.clone();
            Box::new(FaultyLock { inner, faults }) as Box<dyn MediaLock>
        }))
    }

    fn name(&self) -> String {
        format!("faulty {}", self.inner.name())
    }
}

impl MediaLock for FaultyLock {
    fn is_current(&self) -> bool {
        self.inner.is_current() && !self.faults.exchanged.load(Ordering::SeqCst)
    }
}

impl MediaFile for FaultyFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> Result<usize> {
        self.faults.pass(Call::Read)?;
        let n = self.faults.length(out.len());
        self.inner.read_at(&mut out[..n], offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize> {
        let n = self.faults.length(bytes.len());
        let delay = self.faults.write_delay.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(delay));
        if let Err(e) = self.faults.pass(Call::Write) {
            // Half of it may be there all the same.
            self.inner.write_at(&bytes[..n / 2], offset)?;
            return Err(e);
        }
        if n < bytes.len() && self.faults.calls(Call::Write).is_multiple_of(3) {
            return Err(ErrorKind::Interrupted.into());
        }
        self.inner.write_at(&bytes[..n], offset)
    }

    fn len(&self) -> Result<u64> {
        self.faults.pass(Call::Len)?;
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.faults.pass(Call::SetLen)?;
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> Result<()> {
        self.faults.pass(Call::Sync)?;
        self.inner.sync_data()
    }
}
