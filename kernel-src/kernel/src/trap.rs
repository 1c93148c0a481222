//! Traps from user mode, once the architecture has saved and decoded them.

use crate::addr::VirtAddr;
use crate::mm::paging;
use crate::object::{self, Thread};
use crate::percpu::{self, PerCpu};
use crate::{arch, sched};
pub use abi::Cause;
use arrayvec::ArrayString;

/// Longer than any architecture's registers in text.
const REGISTERS_SIZE: usize = 2048;

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
    let process = &thread.process;
    crate::log::locked(|out| {
        use core::fmt::Write;
        let address = fault.address.map_or(0, |address| address.0);
        writeln!(
            out,
            "fault: {}[{}] thread {}: {} at address {address:#x} pc {:#x}",
            process.name, process.id, thread.id, fault.cause, fault.pc.0
        )?;
        writeln!(out, "fault:   cpu {} code {:#x}", percpu::this().id.0, fault.code)?;
        let mut registers = ArrayString::<REGISTERS_SIZE>::new();
        // There is room for all of them.
        let _ = thread.frame.with(|frame| write!(registers, "{frame}"));
        registers.lines().try_for_each(|line| writeln!(out, "fault: {line}"))
    });
    object::end_process(process, abi::EXIT_FAULT | u64::from(fault.code as u32));
}

/// An interrupt came in user mode, and was served.
pub extern "C" fn interrupted() -> ! {
    crate::jitter::pause();
    sched::leave()
}

/// The kernel's own promise to trap stubs: a thread's registers are at its start.
const _: () = assert!(core::mem::offset_of!(object::Thread, frame) == 0);
const _: usize = core::mem::size_of::<arch::task::Frame>();
