//! Ctrl-C for commands that stop what they compute before they leave, or stay.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use infer::engine::Request;

use crate::exit::{Failure, INTERRUPTED};

/// What Ctrl-C does while nothing is computed, or when it comes a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// Ends the program.
    Leave,
    /// Nothing: whoever reads the terminal decides.
    Stay,
}

/// The state the handler of the signal shares with the command.
pub struct Interrupt {
    otherwise: Otherwise,
    asked: AtomicBool,
    busy: AtomicBool,
    request: Mutex<Option<Arc<Request>>>,
}

impl Interrupt {
    /// Takes the signal over. Once per process.
    pub fn install(otherwise: Otherwise) -> Result<Arc<Self>, Failure> {
        let this = Arc::new(Self {
            otherwise,
            asked: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            request: Mutex::default(),
        });
        let handler = Arc::clone(&this);
        ctrlc::set_handler(move || handler.signalled())
            .map_err(|e| Failure::Failed(format!("cannot handle Ctrl-C: {e}")))?;
        Ok(this)
    }

    fn signalled(&self) {
        let again = self.asked.swap(true, SeqCst);
        if self.otherwise == Otherwise::Leave && (again || !self.busy.load(SeqCst)) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        if let Some(request) = &*self.request.lock().unwrap_or_else(PoisonError::into_inner) {
            request.cancel();
        }
    }

    /// Something begins that Ctrl-C shall stop.
    pub fn begin(&self) {
        self.asked.store(false, SeqCst);
        self.busy.store(true, SeqCst);
    }

    /// Ctrl-C cancels this request, also when it came a moment ago.
    pub fn cancels(&self, request: &Arc<Request>) {
        *self.request.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(request));
        if self.is_asked() {
            request.cancel();
        }
    }

    /// It is over.
    pub fn end(&self) {
        self.busy.store(false, SeqCst);
        *self.request.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether Ctrl-C came since [`Interrupt::begin`].
    pub fn is_asked(&self) -> bool {
        self.asked.load(SeqCst)
    }
}
