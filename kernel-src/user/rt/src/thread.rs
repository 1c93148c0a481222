//! Threads of this process, on stacks from the heap (without guard pages: a
//! thread that recurses deeply belongs in a process of its own).

use crate::arch::{self, probe};
use crate::call::{self, Capability, Message};
use crate::sync::Mutex;
use abi::{Call, Error};
use alloc::alloc::{Layout, alloc, dealloc};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

/// Bytes of a thread's stack.
pub const STACK_SIZE: usize = 16 << 10;

struct Stack(NonNull<u8>);

impl Stack {
    const LAYOUT: Layout = match Layout::from_size_align(STACK_SIZE, 16) {
        Ok(layout) => layout,
        Err(_) => panic!("a stack is a multiple of its alignment"),
    };

    fn new() -> Result<Self, Error> {
        // SAFETY: the layout's size is not zero.
        NonNull::new(unsafe { alloc(Self::LAYOUT) }).map(Self).ok_or(Error::NoMemory)
    }

    fn top(&self) -> u64 {
        self.0.as_ptr() as u64 + STACK_SIZE as u64
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: `new` got it from `alloc` with this layout.
        unsafe { dealloc(self.0.as_ptr(), Self::LAYOUT) };
    }
}

/// What a new thread finds behind its argument.
struct Start {
    run: Box<dyn FnOnce() + Send>,
    done: Capability,
}

/// A thread, to be waited for. Dropped without that, it and its stack stay until the process ends.
pub struct Thread<T> {
    /// Its number; of one that was made suspended, the name of the capability to it.
    pub id: u64,
    result: Arc<Mutex<Option<T>>>,
    done: Capability,
    stack: ManuallyDrop<Stack>,
}

impl<T> Thread<T> {
    /// Waits for the thread's end, and gives what its function returned.
    pub fn join(self) -> Result<T, Error> {
        let Self { result, done, stack, .. } = self;
        // The thread takes this call as its last act, and ends without an answer.
        match call::call(done, Message::empty(0)) {
            Err(Error::PartnerGone) => {}
            Err(error) => return Err(error),
            Ok(_) => unreachable!("a thread that ends answers nobody"),
        }
        drop(ManuallyDrop::into_inner(stack));
        call::close(done)?;
        let value = result.lock().take();
        Ok(value.expect("a thread stores its result before it ends"))
    }
}

/// Starts a thread, on any CPU.
pub fn spawn<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Result<Thread<T>, Error> {
    start(0, Capability::OWN_QUOTA, run)
}

/// Starts a thread that runs on `cpu` only.
pub fn spawn_on<T: Send + 'static>(cpu: u64, run: impl FnOnce() -> T + Send + 'static) -> Result<Thread<T>, Error> {
    start(cpu + 1, Capability::OWN_QUOTA, run)
}

/// Starts a thread that is charged to that quota.
pub fn spawn_in<T: Send + 'static>(
    quota: Capability,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<Thread<T>, Error> {
    start(0, quota, run)
}

/// Makes a thread that runs once it is resumed, on any CPU or one; and the capability to it.
pub fn spawn_suspended<T: Send + 'static>(
    cpu: Option<u64>,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<(Thread<T>, Capability), Error> {
    let thread = prepare(run, |entry, stack, argument| {
        let thread = call::thread_make(None, cpu, Capability::OWN_QUOTA)?;
        let mut registers = call::thread_read(thread)?;
        registers.pc = entry;
        registers.general[probe::STACK] = stack;
        registers.general[probe::ARGUMENT] = argument;
        // SAFETY: `prepare` has made the stack and the argument for this one thread.
        unsafe { call::thread_write(thread, &registers) }?;
        Ok(thread.0)
    })?;
    let capability = Capability(thread.id);
    Ok((thread, capability))
}

fn start<T: Send + 'static>(
    place: u64,
    quota: Capability,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<Thread<T>, Error> {
    prepare(run, |entry, stack, argument| {
        // SAFETY: the stack is the new thread's alone until `join`; `entry` passes the argument to `enter`, which owns it
        // from then on.
        unsafe { create(entry, stack, argument, place, 0, quota.0) }
    })
}

/// Makes a stack, and what a thread finds there; `create` makes the thread of entry, stack and argument, and gives its
/// number.
fn prepare<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
    create: impl FnOnce(u64, u64, u64) -> Result<u64, Error>,
) -> Result<Thread<T>, Error> {
    let result = Arc::new(Mutex::new(None));
    let slot = result.clone();
    let stack = Stack::new()?;
    let done = call::endpoint_create()?;
    let run = Box::new(move || {
        let value = run();
        *slot.lock() = Some(value);
    });
    let start = Box::into_raw(Box::new(Start { run, done }));
    match create(arch::thread_start as *const () as u64, stack.top(), start as u64) {
        Ok(id) => Ok(Thread { id, result, done, stack: ManuallyDrop::new(stack) }),
        Err(error) => {
            // SAFETY: no thread was made, so the box is still this function's.
            drop(unsafe { Box::from_raw(start) });
            call::close(done)?;
            Err(error)
        }
    }
}

/// Makes a thread of raw parts.
///
/// # Safety
/// `entry` must be code that may run with this stack pointer and argument, on memory that no one else uses.
pub(crate) unsafe fn create(
    entry: u64,
    stack: u64,
    argument: u64,
    place: u64,
    tls: u64,
    quota: u64,
) -> Result<u64, Error> {
    // SAFETY: the call writes no memory; what the thread does is vouched for by the caller.
    let outcome = unsafe { arch::call6(Call::ThreadCreate as u64, entry, stack, argument, place, tls, quota) };
    match Error::from_status(outcome.status) {
        None => Ok(outcome.value),
        Some(error) => Err(error),
    }
}

/// First Rust code of a thread.
pub(crate) extern "C" fn enter(argument: u64) -> ! {
    // SAFETY: `start` made this pointer with `Box::into_raw`, for this thread only.
    let Start { run, done } = *unsafe { Box::from_raw(argument as *mut Start) };
    run();
    arch::finish(done.0)
}
