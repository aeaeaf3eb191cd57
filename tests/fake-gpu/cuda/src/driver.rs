//! The state of the driver in this process, and the gate that every call passes.
//!
//! One lock guards all; a call holds it for as long as it lasts. Only a caller that waits for a hanging kernel leaves it
//! and never comes back. Invariants: handles are numbers that are never given twice; a handle that is not in its
//! table is refused and never followed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fake_gpu_script::{Fault, Gpu, Script, trailer};

use crate::code::{Answer, Code};
use crate::context::{Context, Work};
use crate::device;
use crate::module::Module;

/// Handles start here, so that a small number taken for a handle is none.
const FIRST_HANDLE: usize = 0x1000;

static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);
/// Nobody ever signals it: who waits here waits for a kernel that never ends.
static NEVER: Condvar = Condvar::new();

thread_local! {
    /// The thread's contexts, the current one last.
    static CURRENT: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// What a call needs before it may do anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing; `cuInit` itself.
    Nothing,
    /// That `cuInit` succeeded.
    Init,
}

/// A recorded or still blank event.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) timing: bool,
    pub(crate) recorded: Option<Instant>,
}

/// A kernel of a loaded module.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    pub(crate) module: usize,
    pub(crate) kernel: String,
    pub(crate) dynamic_shared_max: u32,
}

/// Everything that the process did with the driver.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) script: Script,
    /// Those that `CUDA_VISIBLE_DEVICES` shows, by ordinal.
    pub(crate) gpus: Vec<Gpu>,
    pub(crate) initialised: bool,
    /// The GPU fell off the bus: no call works any more.
    pub(crate) lost: bool,
    pub(crate) launches: u64,
    pub(crate) contexts: BTreeMap<usize, Context>,
    pub(crate) modules: BTreeMap<usize, Module>,
    pub(crate) functions: BTreeMap<usize, Function>,
    pub(crate) streams: BTreeMap<usize, usize>,
    pub(crate) events: BTreeMap<usize, Event>,
    /// Host memory that was handed out, by address.
    pub(crate) pinned: BTreeMap<usize, Vec<u8>>,
    next_handle: usize,
}

/// Runs one call under the lock and turns its end into a `CUresult`. `name` is the exported name, for the script.
pub(crate) fn call(name: &str, needs: Needs, body: impl FnOnce(&mut Driver) -> Answer) -> i32 {
    let mut guard = DRIVER.lock().unwrap_or_else(PoisonError::into_inner);
    let driver = guard.get_or_insert_with(Driver::from_own_file);
    let delay = driver.script.cuda.delay_ms.get(name).copied().map(Duration::from_millis);
    let answer = driver.gate(name, needs).and_then(|()| body(driver));
    match answer {
        Err(Code::HANG) => hang(guard),
        Err(Code(code)) => code,
        Ok(()) => {
            drop(guard);
            if let Some(delay) = delay {
                std::thread::sleep(delay);
            }
            0
        }
    }
}

/// Runs a call that only adds work to a stream: after a fault that nobody met yet it succeeds and does nothing.
pub(crate) fn enqueue(name: &str, body: impl FnOnce(&mut Driver, usize) -> Answer) -> i32 {
    call(name, Needs::Init, |driver| {
        let handle = driver.current()?;
        match driver.context(handle)?.work {
            Work::Done => body(driver, handle),
            Work::Ended(_) => Ok(()),
            Work::Broken(code) => Err(code),
        }
    })
}

/// Runs a call that waits for all work first, so that a fault shows here.
pub(crate) fn wait(name: &str, body: impl FnOnce(&mut Driver, usize) -> Answer) -> i32 {
    call(name, Needs::Init, |driver| {
        let handle = driver.current()?;
        driver.settle(handle)?;
        body(driver, handle)
    })
}

/// Runs a call that neither adds work nor waits, but needs a context that is not broken.
pub(crate) fn beside(name: &str, body: impl FnOnce(&mut Driver, usize) -> Answer) -> i32 {
    call(name, Needs::Init, |driver| {
        let handle = driver.current()?;
        match driver.context(handle)?.work {
            Work::Done | Work::Ended(_) => body(driver, handle),
            Work::Broken(code) => Err(code),
        }
    })
}

/// Asks whether the work is over, without waiting.
pub(crate) fn query(name: &str) -> i32 {
    call(name, Needs::Init, |driver| {
        let handle = driver.current()?;
        match driver.context(handle)?.work {
            Work::Ended(Fault::Hang) => Err(Code::NOT_READY),
            Work::Done | Work::Ended(_) | Work::Broken(_) => driver.settle(handle),
        }
    })
}

fn hang(guard: MutexGuard<'_, Option<Driver>>) -> ! {
    let mut guard = guard;
    loop {
        guard = NEVER.wait(guard).unwrap_or_else(PoisonError::into_inner);
    }
}

// === impl Driver ===

impl Driver {
    /// A library whose script cannot be read behaves as one that cannot start: `cuInit` gives 999.
    fn from_own_file() -> Driver {
        let read = fake_gpu_edge::own_path().map(|path| trailer::read(&path));
        let script = match read {
            Some(Ok(script)) => script,
            Some(Err(error)) => broken_script(&error.to_string()),
            None => broken_script("the library does not know its own file"),
        };
        let gpus = device::visible(&script.gpus, std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref());
        Driver {
            lost: script.cuda.lost_after_launches == Some(0),
            script,
            gpus,
            initialised: false,
            launches: 0,
            contexts: BTreeMap::new(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            pinned: BTreeMap::new(),
            next_handle: FIRST_HANDLE,
        }
    }

    fn gate(&mut self, name: &str, needs: Needs) -> Answer {
        if self.lost {
            return Err(Code::DEVICE_UNAVAILABLE);
        }
        match self.script.cuda.fail.get(name) {
            None | Some(0) => {}
            Some(code) => return Err(Code(*code)),
        }
        match needs {
            Needs::Nothing => Ok(()),
            Needs::Init if self.initialised => Ok(()),
            Needs::Init => Err(Code::NOT_INITIALIZED),
        }
    }

    pub(crate) fn fresh_handle(&mut self) -> usize {
        self.next_handle += 0x10;
        self.next_handle
    }

    pub(crate) fn gpu(&self, ordinal: i32) -> Answer<&Gpu> {
        usize::try_from(ordinal).ok().and_then(|ordinal| self.gpus.get(ordinal)).ok_or(Code::INVALID_DEVICE)
    }

    /// The handle of the thread's current context.
    pub(crate) fn current(&self) -> Answer<usize> {
        match CURRENT.with_borrow(|stack| stack.last().copied()) {
            Some(handle) if self.contexts.contains_key(&handle) => Ok(handle),
            Some(_) | None => Err(Code::INVALID_CONTEXT),
        }
    }

    pub(crate) fn context(&mut self, handle: usize) -> Answer<&mut Context> {
        self.contexts.get_mut(&handle).ok_or(Code::INVALID_CONTEXT)
    }

    /// Waits for the context's work: a fault that waited becomes its state.
    pub(crate) fn settle(&mut self, handle: usize) -> Answer {
        let context = self.context(handle)?;
        match context.work {
            Work::Done => Ok(()),
            Work::Broken(code) => Err(code),
            Work::Ended(fault) => match fault.code() {
                None => Err(Code::HANG),
                Some(code) => {
                    context.work = Work::Broken(Code(code));
                    self.lost |= fault == Fault::Lost;
                    Err(Code(code))
                }
            },
        }
    }
}

fn broken_script(why: &str) -> Script {
    eprintln!("fake libcuda: {why}");
    let mut script = Script::default();
    script.cuda.init = 999;
    script
}

/// Makes `handle` (0: none) the thread's current context.
pub(crate) fn make_current(handle: usize) {
    CURRENT.with_borrow_mut(|stack| {
        stack.pop();
        if handle != 0 {
            stack.push(handle);
        }
    });
}

/// Puts `handle` above the thread's current context.
pub(crate) fn push_current(handle: usize) {
    CURRENT.with_borrow_mut(|stack| stack.push(handle));
}

/// Takes the thread's current context away and gives its handle.
pub(crate) fn pop_current() -> Option<usize> {
    CURRENT.with_borrow_mut(Vec::pop)
}
