//! The microkernel: the only privileged code.
//!
//! It starts CPUs, owns page tables, switches threads, passes messages and
//! guards capabilities. Everything else is a user program. Modules that are
//! plain logic compile for the host too, and are tested there.
#![no_std]
#![deny(unsafe_code)]

pub mod acpi;
pub mod addr;
pub mod bootinfo;
pub mod buddy;
pub mod cmdline;
pub mod config;
pub mod cpio;
pub mod elf;
pub mod fdt;
pub mod multiboot;
pub mod sync;

/// Modules under a condition, in the one shape in which `rustfmt` looks for them.
macro_rules! cfg_if {
    (if #[$condition:meta] { $($module:item)* }) => { $(#[$condition] $module)* };
}

cfg_if! {
    if #[cfg(target_os = "none")] {
        mod arch;
        mod init;
        mod irq;
        mod jitter;
        mod log;
        pub mod mm;
        mod object;
        mod panic;
        mod percpu;
        mod sched;
        mod smp;
        mod syscall;
        mod trap;
    }
}
