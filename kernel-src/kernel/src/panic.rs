//! The end: message, registers and backtrace of every CPU, and then all stops.

use crate::addr::VirtAddr;
use crate::config::{KERNEL_STACK_SIZE, PAGE_SIZE, PANIC_WAIT_NS};
use crate::mm::user::probe;
use crate::trap::Fault;
use crate::{arch, log, percpu};
use core::fmt::{self, Display, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

const NOBODY: usize = usize::MAX;
/// Frames that a backtrace shows at most.
const DEPTH: usize = 32;

/// The CPU that has panicked first: all others stop.
static PANICKING: AtomicUsize = AtomicUsize::new(NOBODY);
/// CPUs print one after the other: the one whose turn it is.
static TURN: AtomicUsize = AtomicUsize::new(NOBODY);

/// Whether some CPU has panicked; every spin asks.
pub fn stop_requested() -> bool {
    PANICKING.load(Ordering::Relaxed) != NOBODY
}

/// Stops here if some CPU has panicked.
pub fn heed() {
    if stop_requested() {
        stopped();
    }
}

fn cpu() -> usize {
    if percpu::all().is_empty() { 0 } else { percpu::this().id.0 }
}

#[panic_handler]
fn on_panic(info: &PanicInfo<'_>) -> ! {
    let place: &dyn Display = info.location().map_or(&"an unknown place", |place| place);
    end(&format_args!("{} at {place}", info.message()), None, None, arch::cpu::frame_pointer())
}

/// An exception in kernel mode that no fix-up covers, or one of the machine's. `frame` is the frame pointer where it was.
pub fn exception(fault: Fault, frame: VirtAddr, registers: &dyn Display) -> ! {
    let address = fault.address.map_or(0, |address| address.0);
    let what: &dyn Display = if fault.address.is_some_and(is_guard) { &"stack overflow" } else { &fault.cause };
    let message = format_args!("kernel {what} at address {address:#x} code {:#x} pc {:#x}", fault.code, fault.pc.0);
    end(&message, Some(registers), Some(fault.pc), frame.0)
}

/// Whether an address lies in the unmapped page below this CPU's stack.
fn is_guard(address: VirtAddr) -> bool {
    let bottom = percpu::all().get(cpu()).map_or(0, |cpu| cpu.stack_top.0 - KERNEL_STACK_SIZE);
    (bottom.wrapping_sub(PAGE_SIZE)..bottom).contains(&address.0)
}

fn end(message: &dyn Display, registers: Option<&dyn Display>, pc: Option<VirtAddr>, frame: usize) -> ! {
    let me = cpu();
    if let Err(other) = PANICKING.compare_exchange(NOBODY, me, Ordering::AcqRel, Ordering::Acquire) {
        if other != me {
            stopped()
        }
        log::forced(|out| writeln!(out, "PANIC cpu{me}: {message} (while panicking)\nPANIC end"));
        arch::cpu::halt()
    }
    log::forced(|out| writeln!(out, "PANIC cpu{me}: {message}"));
    log::forced(|out| report(out, me, registers, pc, frame));
    for other in percpu::all().iter().filter(|other| other.id.0 != me && other.online.load(Ordering::Acquire)) {
        TURN.store(other.id.0, Ordering::Release);
        arch::irq::send_stop(other.id);
        let deadline = arch::timer::now().0 + PANIC_WAIT_NS;
        while !other.reported.load(Ordering::Acquire) && arch::timer::now().0 < deadline {
            core::hint::spin_loop();
        }
        if !other.reported.load(Ordering::Acquire) {
            log::forced(|out| writeln!(out, "PANIC cpu{}: silent", other.id.0));
        }
    }
    log::forced(|out| writeln!(out, "PANIC end"));
    arch::cpu::halt()
}

/// What every other CPU does once it hears of a panic: tells where it was, in its turn, and stops.
pub fn stopped() -> ! {
    let me = percpu::this();
    if !me.reported.load(Ordering::Acquire) && PANICKING.load(Ordering::Acquire) != me.id.0 {
        while TURN.load(Ordering::Acquire) != me.id.0 {
            core::hint::spin_loop();
        }
        log::forced(|out| report(out, me.id.0, None, None, arch::cpu::frame_pointer()));
        me.reported.store(true, Ordering::Release);
    }
    arch::cpu::halt()
}

fn report(
    out: &mut dyn Write,
    cpu: usize,
    registers: Option<&dyn Display>,
    pc: Option<VirtAddr>,
    mut frame: usize,
) -> fmt::Result {
    write!(out, "PANIC cpu{cpu}: registers ")?;
    match percpu::all().get(cpu).and_then(|_| percpu::current()) {
        Some(thread) => write!(out, "in thread {} of {}", thread.id, thread.process.name)?,
        None => write!(out, "with no thread")?,
    }
    writeln!(out, ", frame {frame:#x}")?;
    if let Some(registers) = registers {
        writeln!(out, "{registers}")?;
    }
    if let Some(pc) = pc {
        writeln!(out, "PANIC cpu{cpu}: #0 {:#x}", pc.0)?;
    }
    for index in usize::from(pc.is_some())..DEPTH {
        let at = |offset: isize| probe(VirtAddr(frame.wrapping_add_signed(offset)));
        let (Some(caller @ 1..), Some(previous)) = (at(arch::cpu::FRAME_RETURN), at(arch::cpu::FRAME_PREVIOUS)) else {
            break;
        };
        writeln!(out, "PANIC cpu{cpu}: #{index} {caller:#x}")?;
        // Stacks grow down, so callers lie above; the step to another stack (an exception's) is the one exception.
        if previous == 0 || previous == frame {
            break;
        }
        frame = previous;
    }
    Ok(())
}
