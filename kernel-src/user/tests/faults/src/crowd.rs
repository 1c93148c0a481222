//! Many threads that wait for the same thing, and all get it at once.

use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{Error, Info, ThreadAction};
use rt::call::{self, Capability, Until};
use rt::probe;

/// Far more than are woken before the kernel lets interrupts in.
const MEMBERS: usize = 128;
/// Long enough for all to have been made.
const SLEEP_NS: u64 = 50_000_000;
/// A process that has not run, and its thread.
const PROCESS: Capability = Capability(1);
const THREAD: Capability = Capability(2);

static STACKS: [[AtomicU64; 512]; MEMBERS] = [const { [const { AtomicU64::new(0) }; 512] }; MEMBERS];
static WAKE: AtomicU64 = AtomicU64::new(0);
static SLEPT: AtomicU64 = AtomicU64::new(0);
static HEARD: AtomicU64 = AtomicU64::new(0);
/// A notification: its name, and how many have had a bit of it.
static NAME: AtomicU64 = AtomicU64::new(0);
static TOLD: AtomicU64 = AtomicU64::new(0);
/// The bit that most wait for; behind them one waits for each of the others.
const LAST: u64 = 1 << 63;
const OTHERS: usize = 63;

/// Ends with status 7 while they wait, once all have slept till the same time, heard of the same end, and had a bit each:
/// of one signal, as far as that has them.
pub fn crowd() -> Result<u32, Error> {
    let cpu = call::info(Info::CpusOnline, 0)? - 1;
    WAKE.store(call::clock_ns() + SLEEP_NS, Ordering::SeqCst);
    let notification = call::notification_create()?;
    NAME.store(notification.0, Ordering::SeqCst);
    for (number, stack) in STACKS.iter().enumerate() {
        let thread = call::thread_make(None, Some(cpu), Capability::OWN_QUOTA)?;
        let mut registers = call::thread_read(thread)?;
        registers.pc = member as *const () as u64;
        // As a call leaves it: on x86_64 with a return address.
        registers.general[probe::STACK] =
            stack.as_ptr_range().end as u64 - if cfg!(target_arch = "x86_64") { 8 } else { 0 };
        registers.general[probe::ARGUMENT] =
            (number as u64).checked_sub((MEMBERS - OTHERS) as u64).map_or(LAST, |bit| 1 << bit);
        // SAFETY: the stack is this thread's alone.
        unsafe { call::thread_write(thread, &registers) }?;
        call::thread_control(thread, ThreadAction::Resume, 0)?;
        call::close(thread)?;
    }
    all(&SLEPT, MEMBERS)?;
    call::thread_control(THREAD, ThreadAction::Resume, 0)?;
    all(&HEARD, MEMBERS)?;
    call::signal(notification, !LAST)?;
    all(&TOLD, OTHERS)?;
    (OTHERS..MEMBERS).try_for_each(|_| call::signal(notification, LAST))?;
    all(&TOLD, MEMBERS)?;
    Ok(7)
}

fn all(count: &AtomicU64, members: usize) -> Result<(), Error> {
    while count.load(Ordering::SeqCst) < members as u64 {
        call::sleep_until(call::clock_ns() + 1_000_000)?;
    }
    // Those on other CPUs may be on their way to wait.
    call::sleep_until(call::clock_ns() + 10_000_000)
}

extern "C" fn member(bit: u64) -> ! {
    if call::sleep_until(WAKE.load(Ordering::SeqCst)).is_ok() && call::clock_ns() >= WAKE.load(Ordering::SeqCst) {
        SLEPT.fetch_add(1, Ordering::SeqCst);
    }
    if call::wait(PROCESS).is_ok() {
        HEARD.fetch_add(1, Ordering::SeqCst);
    }
    if call::wait_bits(Capability(NAME.load(Ordering::SeqCst)), bit, Until::Done) == Ok(bit) {
        TOLD.fetch_add(1, Ordering::SeqCst);
    }
    loop {
        _ = call::sleep_until(u64::MAX);
    }
}
