//! RISC-V (RV64GC, supervisor mode under an SBI firmware), Sv39 or Sv48.
//!
//! "Privileged" in comments is the RISC-V Instruction Set Manual, volume II;
//! "SBI" is the RISC-V Supervisor Binary Interface Specification.
//!
//! While a program runs, `sscratch` holds the CPU's `PerCpu`; in the kernel
//! it is 0 and `tp` holds it. Interrupts are never taken in the kernel: the
//! idle loop looks at `sip` itself, so every trap from supervisor mode is an
//! exception.

#![allow(unsafe_code)]

pub mod boot;
pub mod console;
pub mod cpu;
pub mod irq;
pub mod mm;
mod sbi;
pub mod task;
pub mod timer;
mod trap;

/// As the first line on the console names it.
pub const NAME: &str = "riscv64";

/// The value of a control and status register. Reading one has no effect.
macro_rules! read_csr {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reads a register that supervisor mode has, and changes nothing.
        unsafe { core::arch::asm!(concat!("csrr {}, ", $name), out(reg) value, options(nomem, nostack)) };
        value
    }};
}
pub(crate) use read_csr;
