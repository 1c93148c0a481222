//! AArch64: machines with a device tree, entered as a Linux Image.
//!
//! Sources: Arm Architecture Reference Manual for A-profile (DDI 0487), GICv2
//! (IHI 0048) and GICv3 (IHI 0069) architecture, PSCI (DEN 0022), PL011
//! (DDI 0183), the device-tree bindings and arm64/booting.rst of Linux.

mod bcm2836;
pub mod boot;
pub mod console;
pub mod cpu;
pub mod irq;
pub mod mm;
mod stub;
pub mod task;
pub mod timer;
pub mod trap;

pub const NAME: &str = "aarch64";

/// The value of a system register. Reading one has no effect.
macro_rules! read_register {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reads a register that this exception level has, and changes nothing.
        unsafe { core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }};
}
pub(crate) use read_register;

/// Writes a system register; what that does is for the caller to prove.
macro_rules! write_register {
    ($name:expr, $value:expr) => {
        core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) u64::from($value), options(nostack, preserves_flags))
    };
}
pub(crate) use write_register;

/// Loads or stores (`ldp`, `stp`) pairs of registers at their places in a table of all, by their numbers.
macro_rules! pairs {
    ($instruction:literal, $table:literal: $($low:literal $high:literal),+) => {
        concat!($($instruction, " x", $low, ", x", $high, ", [", $table, ", #8 * ", $low, "]\n"),+)
    };
}
pub(crate) use pairs;
