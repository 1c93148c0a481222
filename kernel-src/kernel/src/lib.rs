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

#[cfg(target_os = "none")]
mod arch;
#[cfg(target_os = "none")]
mod init;
#[cfg(target_os = "none")]
mod irq;
#[cfg(target_os = "none")]
mod jitter;
#[cfg(target_os = "none")]
mod log;
#[cfg(target_os = "none")]
pub mod mm;
#[cfg(target_os = "none")]
mod object;
#[cfg(target_os = "none")]
mod panic;
#[cfg(target_os = "none")]
mod percpu;
#[cfg(target_os = "none")]
mod sched;
#[cfg(target_os = "none")]
mod smp;
#[cfg(target_os = "none")]
mod syscall;
#[cfg(target_os = "none")]
mod trap;
