//! Traps from user mode, once the architecture has saved and decoded them.

use crate::addr::VirtAddr;
use crate::mm::paging;
use crate::object::{self, Thread};
use crate::percpu::{self, PerCpu};
use crate::{irq, log, sched};
pub use abi::Cause;
use arrayvec::ArrayString;
use core::fmt::{self, Write};

/// Longer than any line of a report.
const LINE_MAX: usize = 256;

/// What went wrong in user mode, in words that all architectures share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub cause: Cause,
    /// The address that could not be reached, where there is one.
    pub address: Option<VirtAddr>,
    pub pc: VirtAddr,
    /// The architecture's own number of the exception (vector and error code, ESR, scause).
    pub code: u64,
}

/// A system call that may block; the caller's registers are saved, the pc behind the instruction. The first two argument
/// registers are left free, since a message goes to the program in them.
#[inline(always)]
pub extern "C" fn system_call(_: u64, _: u64, cpu: &'static PerCpu, thread: &'static Thread) -> ! {
    crate::jitter::pause();
    object::carry_out::<true>(cpu, thread)
}

/// A system call of a foreign thread: whoever serves those hears of it.
#[inline(always)]
pub extern "C" fn foreign_call(_: u64, _: u64, cpu: &'static PerCpu, thread: &'static Thread) -> ! {
    crate::jitter::pause();
    object::tell_of::<{ object::FOREIGN }>(cpu, thread, object::unserved)
}

/// A fault of the current thread's program: whom it named hears of it.
pub fn fault(mut fault: Fault) -> ! {
    crate::jitter::pause();
    // What is mapped in the kernel's half is nobody's to know.
    if fault.address.is_some_and(|address| address >= paging::user_limit()) {
        fault.code = 0;
    }
    let (cpu, thread) = (percpu::this(), sched::current());
    if fault.cause == Cause::SingleStep {
        thread.set_extra(object::STEPS, false);
        // Where there are steps, they end, also those that the program has turned on itself.
        let _ = thread.frame.with(|frame| frame.set_step(false));
        percpu::exchange_extras(cpu, Some(thread), Some(thread));
    }
    object::tell_of::<{ object::FAULTS }>(cpu, thread, |_| fault)
}

/// A fault of which nobody hears: the thread's process ends, nothing else does.
pub fn unhandled(thread: &Thread, fault: &Fault) {
    let (process, address) = (&thread.process, fault.address.map_or(0, |address| address.0));
    let (name, id, cpu) = (&process.name, process.id, percpu::this().id.0);
    let (cause, pc, code) = (fault.cause, fault.pc.0, fault.code);
    let mut report = Report(ArrayString::new());
    // It takes all text.
    let _ = writeln!(report, "{name}[{id}] thread {}: {cause} at address {address:#x} pc {pc:#x}", thread.id)
        .and_then(|()| writeln!(report, "  cpu {cpu} code {code:#x}"))
        .and_then(|()| thread.frame.with(|frame| write!(report, "{frame}")));
    object::end_process(process, abi::EXIT_FAULT | u64::from(fault.code as u32));
}

/// Lines, each logged by itself, with interrupts served between them. A line ends where a piece of text does.
struct Report(ArrayString<LINE_MAX>);

impl Write for Report {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.try_push_str(text).map_err(|_| fmt::Error)?;
        if text.ends_with('\n') {
            log::locked(|out| write!(out, "fault: {}", self.0));
            self.0.clear();
            irq::serve();
        }
        Ok(())
    }

    /// Numbers are filled so: three times as fast.
    fn write_char(&mut self, fill: char) -> fmt::Result {
        self.0.try_push(fill).map_err(|_| fmt::Error)
    }
}

/// An interrupt came in user mode, and was served.
pub extern "C" fn interrupted() -> ! {
    crate::jitter::pause();
    sched::leave()
}

/// The kernel's own promise to trap stubs: a thread's registers are at its start.
const _: () = assert!(core::mem::offset_of!(object::Thread, frame) == 0);
