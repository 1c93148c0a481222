//! From the boot hand-over to the first user program, one stage after the other.

use crate::bootinfo::BootInfo;
use crate::cmdline::{self, Options};
use crate::config::{LOG_SIZE, MAX_CPUS};
use crate::cpio::{Archive, Member};
use crate::mm::ring::Ring;
use crate::mm::{self, frames, paging};
use crate::object::{self, Resource};
use crate::sync::{Quota, Slot, tree};
use crate::{arch, irq, jitter, log, percpu, sched, smp};
use abi::Rights;
use core::fmt::Write;
use spin::Once;

static ARCHIVE: Once<Archive<'static>> = Once::new();
static COMMAND_LINE: Once<&'static str> = Once::new();

/// Files of the boot archive; `NotFound` if there is none, or if it is broken. Interrupts are served between two.
pub fn members() -> Result<impl Iterator<Item = Member<'static>>, abi::Error> {
    let archive = ARCHIVE.get().ok_or(abi::Error::NotFound)?;
    Ok(archive.members().inspect(|_| irq::serve()))
}

/// The kernel's command line; empty until it is known. Where it lies nothing is given away.
pub fn command_line() -> &'static str {
    COMMAND_LINE.get().copied().unwrap_or("")
}

/// What the command line asks for.
pub fn options() -> Options {
    Options::parse(command_line()).unwrap_or_default()
}

/// The kernel proper, on the boot stack and the boot tables, with one CPU.
///
/// # Panics
/// Wherever the machine lacks what the kernel cannot do without; the message says what.
pub fn main(info: BootInfo) -> ! {
    paging::set_layout(&info);
    arch::console::early_init(&info);
    let place = frames::init(&info, LOG_SIZE);
    let ring = Ring::at(place);
    let boots = ring.boots();
    log::adopt(ring);
    log::locked(|out| {
        write!(out, "quoin {} {} slide={:#x} build=", env!("CARGO_PKG_VERSION"), arch::NAME, paging::slide())?;
        mm::build_id().iter().try_for_each(|byte| write!(out, "{byte:02x}"))?;
        writeln!(out)
    });
    let options = Options::parse(info.command_line)
        .unwrap_or_else(|error| panic!("kernel command line '{}': {error}", info.command_line));
    COMMAND_LINE.call_once(|| info.command_line);
    log::stage(format_args!("entry: command line '{}'", info.command_line));
    for word in cmdline::unknown(info.command_line) {
        log::stage(format_args!("entry: ignored unknown option '{word}'"));
    }

    let usage = frames::usage();
    let (total, free) = (usage.total >> 10, usage.free >> 10);
    log::stage(format_args!("memory: {total} KiB, {free} KiB free, boot {boots} in this log at {:#x}", place.start.0));

    paging::init(&info).expect("memory for the kernel's page tables");
    arch::console::remap();
    let leaves =
        paging::audit().unwrap_or_else(|at| panic!("page at {at:?} is writable and executable, or the user's"));
    if let Some(archive) = info.archive.and_then(|range| Archive::parse(mm::firmware_bytes(range))) {
        ARCHIVE.call_once(|| archive);
    }
    log::stage(format_args!("paging: {} levels, {leaves} mappings, none writable and executable", arch::mm::levels()));

    smp::allocate(info.boot_cpu, arch::cpu::cpus(&info)).expect("memory for per-CPU data");
    arch::cpu::install(percpu::all()[0]);
    percpu::this().active_root.set(paging::kernel_root());
    jitter::init(options.seed);
    arch::cpu::init_cpu();
    arch::irq::init(&info);
    arch::irq::init_cpu();
    log::stage(format_args!("interrupts: {}", arch::irq::name()));
    arch::timer::init(&info);
    arch::timer::init_cpu();
    log::stage(format_args!("timer: {}", arch::timer::name()));
    arch::task::on_stack(percpu::this().stack_top, rest)
}

/// What follows once the boot CPU is on its own guarded stack: boot memory goes, the other CPUs and user space come.
extern "C" fn rest() -> ! {
    smp::start(options().cpus.unwrap_or(MAX_CPUS));
    log::stage(format_args!("cpus: {} of {} online", smp::online(), percpu::all().len()));
    paging::give_back_boot_memory();
    let usage = frames::usage();
    let (kernel, given_back) = (usage.kernel >> 10, usage.given_back >> 10);
    log::stage(format_args!("user: kernel holds {kernel} KiB, gave back {given_back} KiB of boot memory"));
    arch::console::enable_input_interrupt();
    assert!(ARCHIVE.is_completed(), "no boot archive: give the kernel boot.cpio as initrd");
    let root = Quota::root(usage.free).expect("memory for the root quota");
    let give = |slots: &[Slot]| {
        let [first, second, ..] = slots else { return Err(abi::Error::NoSlot) };
        tree::originate(Resource::new(root.payer())?, object::claim(first, 0)?, 0, Rights::ALL);
        tree::originate(root.clone(), object::claim(second, 0)?, 0, Rights::ALL);
        Ok(())
    };
    // The process lives on by its threads; nobody waits for it.
    let init = object::spawn("init", 0, root.payer(), false, give);
    drop(init.unwrap_or_else(|error| panic!("init cannot be started from the boot archive: {error:?}")));
    sched::leave()
}
