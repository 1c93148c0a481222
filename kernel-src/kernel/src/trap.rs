//! Traps from user mode, once the architecture has saved and decoded them.

use crate::{
    addr::VirtAddr,
    arch,
    object::{self, Thread},
    percpu::{self, PerCpu},
    sched,
};
use core::fmt;

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86_64 has exceptions of every kind"))]
pub enum Cause {
    ReadFault,
    WriteFault,
    FetchFault,
    Misaligned,
    IllegalInstruction,
    PrivilegedInstruction,
    Breakpoint,
    SingleStep,
    DivideError,
    FloatingPoint,
    FloatingPointDisabled,
    BoundsOrOverflow,
    StackOrSegment,
    HardwareError,
    DoubleFault,
    NonMaskable,
    /// Known to the architecture, and none of the above: its own name.
    Other(&'static str),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadFault => "read fault",
            Self::WriteFault => "write fault",
            Self::FetchFault => "fetch fault",
            Self::Misaligned => "misaligned access",
            Self::IllegalInstruction => "illegal instruction",
            Self::PrivilegedInstruction => "privileged instruction",
            Self::Breakpoint => "breakpoint",
            Self::SingleStep => "single step",
            Self::DivideError => "divide error",
            Self::FloatingPoint => "floating-point exception",
            Self::FloatingPointDisabled => "floating point disabled",
            Self::BoundsOrOverflow => "bounds or overflow",
            Self::StackOrSegment => "stack or segment fault",
            Self::HardwareError => "hardware error",
            Self::DoubleFault => "double fault",
            Self::NonMaskable => "non-maskable interrupt",
            Self::Other(name) => name,
        })
    }
}

/// A system call that may block; the caller's registers are saved, the pc behind the instruction.
pub extern "C" fn system_call(cpu: &'static PerCpu, thread: &'static Thread) -> ! {
    crate::jitter::pause();
    object::carry_out(cpu, thread)
}

/// A fault of the current thread's program: it ends, nothing else does.
pub fn fault(fault: Fault) -> ! {
    crate::jitter::pause();
    let thread = sched::current();
    let process = thread.process();
    crate::log::locked(|out| {
        use fmt::Write;
        let address = fault.address.map_or(0, |address| address.0);
        writeln!(
            out,
            "fault: {}[{}] thread {}: {} at address {address:#x} pc {:#x}",
            process.name(),
            process.id(),
            thread.id(),
            fault.cause,
            fault.pc.0
        )?;
        writeln!(out, "fault:   cpu {} code {:#x}", percpu::this().id.0, fault.code)?;
        thread.frame.with(|frame| write!(log_indent(out), "{frame}"))
    });
    object::end_process(process, abi::EXIT_FAULT | u64::from(fault.code as u32));
    sched::leave()
}

/// An interrupt came in user mode, and was served.
pub extern "C" fn interrupted() -> ! {
    crate::jitter::pause();
    sched::leave()
}

/// Puts `fault: ` before each line.
fn log_indent<W: fmt::Write>(out: &mut W) -> Indent<'_, W> {
    Indent { out, at_start: true }
}

struct Indent<'a, W> {
    out: &'a mut W,
    at_start: bool,
}

impl<W: fmt::Write> fmt::Write for Indent<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive('\n') {
            if self.at_start {
                self.out.write_str("fault: ")?;
            }
            self.out.write_str(piece)?;
            self.at_start = piece.ends_with('\n');
        }
        Ok(())
    }
}

/// The kernel's own promise to trap stubs: a thread's registers are at its start.
const _: () = assert!(core::mem::offset_of!(object::Thread, frame) == 0);
const _: usize = core::mem::size_of::<arch::task::Frame>();
