//! The architecture that this image is for.
//!
//! `arch/{x86_64,aarch64,riscv64}` hold the same files with the same names,
//! and offer the same functions:
//!
//! `boot`
//! - the entry point: clears `.bss`, relocates the image to where it lies,
//!   builds boot page tables (identity, high half, direct map), relocates
//!   again to `IMAGE_BASE + slide`, makes a `BootInfo`, calls `init::main`.
//!   All that is needed only until then is in `.init.text`, `.init.data`,
//!   `.init.bss`, given back afterwards.
//! - `DIRECT_LIMIT: PhysAddr`: how far the direct map of the boot tables reaches, from 0
//!
//! `console` (usable before anything else is set up)
//! - `early_init(&BootInfo)`: finds the UART in the machine's tables, through the direct map
//! - `remap()`: called when the final page tables are on; maps registers with `mm::map_device`
//! - `write(&[u8])`: polls; adds no carriage returns
//! - `read() -> Option<u8>`: takes a received byte
//! - `enable_input_interrupt()`: from then on `irq::console_input()` is called
//!
//! `cpu`
//! - `ArchCpu`: what this architecture keeps a CPU (`Default`); field `arch` of `PerCpu`
//! - `percpu() -> *const PerCpu` in one instruction; `install(&'static PerCpu)`
//! - `init_cpu()`: control registers, descriptor tables, vectors, protections; on every CPU, once `install` is done
//! - `start(HardwareId, &'static PerCpu) -> Result<(), StartError>`: returns when the CPU was told; it
//!   arrives in `smp::secondary_main` on its own kernel stack, final tables on, `install` done
//! - `relax()`: in every spin; `wait_for_interrupt()`: asleep until one is pending, handles it, returns
//!   with interrupts off (called only by the idle loop); `serve_interrupts()`: handles what is pending, with no lock
//!   held; `halt() -> !`
//! - `frame_pointer() -> usize`; `FRAME_RETURN`, `FRAME_PREVIOUS`: offsets (isize) from a frame pointer
//! - `power_off() -> abi::Error`, `reboot() -> abi::Error`: return only where the machine cannot
//! - `cpus(&BootInfo) -> impl Iterator<Item = HardwareId>`: all that may run, each once
//!
//! `irq`
//! - `init(&BootInfo)` once, `init_cpu()` on every CPU; `send_ipi(CpuId)`; `send_stop(CpuId)`: the strongest
//!   interrupt the machine has (NMI where there is one), for panics
//! - dispatches to `irq::timer()`, `irq::ipi()`, `irq::console_input()`, acknowledging by itself
//!
//! `mm`
//! - `layout() -> (VirtAddr, VirtAddr)`: where the direct map begins, and the first address that programs cannot have
//! - `levels() -> usize`; `SHARED_ROOT: bool`: a user's root table holds the kernel's half too
//! - `leaf(PhysAddr, MapFlags, level) -> u64`, `table(PhysAddr) -> u64`, `is_leaf(u64, level)`,
//!   `address(u64) -> PhysAddr`, `flags(u64) -> MapFlags` (level 0 is the 4 KiB leaf)
//! - `write_entry(*mut u64, u64)`: the one page-table write, with the manual's barriers
//! - `activate_kernel(root)`; `activate_user(root)`, which `SWITCHES_CHEAPLY`, or not; `flush_page(VirtAddr)`; `flush_all()`: this CPU only
//! - `code_written(VirtAddr, usize)`: makes written instructions visible to this CPU's fetch
//! - `copy_user(to: *mut u8, from: *const u8, bytes: usize) -> bool`: the one place that touches user memory; false if it faulted
//!
//! `task`
//! - `Frame`: all registers of a thread in user mode, at offset 0 of `Thread`, `#[repr(C)]`;
//!   `Frame::new(entry: VirtAddr, stack: VirtAddr, argument: u64, tls: u64) -> Frame` sets every register;
//!   `&self`: `call_number() -> u64`, `argument(usize) -> u64` (0 to 5), `capability() -> u64`, `info() -> u64`,
//!   `message_words() -> [u64; 8]`, `foreign_call() -> [u64; 8]` (number, arguments, pc), `pc() -> VirtAddr`; `&mut self`: `set_result(abi::Outcome)` (plain calls),
//!   `set_foreign_result(u64)`, `set_received(status: u64, badge: u64, info: u64)`, `set_words([u64; 8])`, `set_message` for both, `clear_word(usize)`, `restart_call()`: moves the pc back onto the call
//!   instruction (saved pc is after it; `turn_back()`), and a step is yet to come (`step_begins()`); `finish_call()`: behind it
//!   again, and the step is over (`step_is_over()`); `registers() -> abi::Registers`, `set_registers(&abi::Registers)`: what a program
//!   may have; `Display` prints all registers, several a line, each line indented by two blanks;
//!   `set_step(bool)`: one instruction, or all; `Unsupported` where there is no such mode
//! - `Fpu` (`frame`) has `FPU_WORDS`, at first `INITIAL_FPU`; `has_fpu() -> bool`; `exchange_extras(had: u32, from: *mut Fpu, has: u32,
//!   to: *const Fpu)`: what is on (`thread::FPU`, `thread::STEPS`), with the FPU's registers kept and loaded
//! - `ELF_MACHINE: u16`
//! - `on_stack(VirtAddr, extern "C" fn() -> !) -> !`: goes on there, on an empty stack
//! - `resume(&Thread) -> !`: leaves the kernel with exactly those registers;
//!   `resume_with(&PerCpu, &Thread, from: *const Frame, lock: &AtomicU32, [status, badge, info]) -> !`: the same, with a message, whose
//!   payload is in the registers of `from` until that word is 0
//!
//! `timer`
//! - `init(&BootInfo)`, `init_cpu()`; `now() -> Nanos`: the same on all CPUs; `arm(Option<Nanos>)`: writes the comparator every
//!   time; a deadline in the past fires at once; None stops it
//!
//! `trap`
//! - stubs: user mode is saved straight into `PerCpu::current`, then on the CPU's kernel stack one of
//!   `trap::system_call(_, _, &PerCpu, &Thread) -> !`, `trap::fault(Fault) -> !`, `trap::interrupted() -> !` (after `irq` dispatch);
//!   calls below `Thread::simple_calls` save only what the C ABI clobbers and call `syscall::SIMPLE[number]`, others go to
//!   `Thread::calls`
//! - traps in kernel mode: fix-up of `copy_user`, or a panic through `panic::exception(Fault, frame pointer, &dyn Display of registers)`
//!
//! `frame` has what is done to a `Frame` by the numbers of its registers; `risc` holds what AArch64 and RISC-V share: the
//! device tree, and its UART.
//!
//! besides, `NAME: &str` here, and `irq::name()`, `timer::name()`: `impl Display`, what was found and is used;
//! and a linker script `kernel.ld`, which defines `__build_id_start __build_id_end
//! (the note section .note.gnu.build-id) __image_start __text_start
//! __text_end __rodata_start __rodata_end __data_start __data_end (with .bss) __init_start
//! __init_end __image_end`, each page aligned.

#![allow(unsafe_code)]

use crate::addr::VirtAddr;

#[cfg(target_arch = "aarch64")]
mod aarch64;
pub mod frame;
#[cfg(not(target_arch = "x86_64"))]
mod risc;
#[cfg(target_arch = "riscv64")]
mod riscv64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

/// A device's registers.
#[derive(Clone, Copy)]
struct Registers(VirtAddr);

impl Registers {
    fn read<T>(self, offset: usize) -> T {
        // SAFETY: whoever made `Registers` mapped a device there, and asks for one of its registers, in its size.
        unsafe { ((self.0.0 + offset) as *mut T).read_volatile() }
    }

    fn write<T>(self, offset: usize, value: T) {
        // SAFETY: as in `read`; no driver here lets a device touch memory.
        unsafe { ((self.0.0 + offset) as *mut T).write_volatile(value) };
    }
}

/// What the boot CPU alone writes, before another CPU runs or an interrupt comes.
#[repr(transparent)]
struct Shared<T>(T);

// SAFETY: everything of this type is written by the boot CPU while nobody else is there, and only read from then on.
unsafe impl<T> Sync for Shared<T> {}

#[cfg(target_arch = "aarch64")]
pub use aarch64::*;
#[cfg(target_arch = "riscv64")]
pub use riscv64::*;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
