//! Starting the other CPUs.

use crate::addr::{CpuId, HardwareId};
use crate::config::{CPU_START_WAIT_NS, KERNEL_STACK_SIZE, MAX_CPUS};
use crate::mm::{frames, paging};
use crate::percpu::{self, PerCpu};
use crate::{arch, log, sched};
use arrayvec::ArrayVec;
use core::iter;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

/// Why a CPU could not be told to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// Firmware's own error number, or 0 where a CPU did not react.
    Refused(i64),
    /// The machine names no way that this kernel knows.
    Unsupported,
    /// It was started, and did not arrive.
    Late,
}

/// CPUs that run.
pub fn online() -> usize {
    percpu::all().iter().filter(|cpu| cpu.online.load(Ordering::Acquire)).count()
}

/// Gives every CPU its data and a guarded stack: first `boot`, which runs this, then the others of `cpus`.
pub fn allocate(boot: HardwareId, cpus: impl Iterator<Item = HardwareId>) -> Result<(), abi::Error> {
    let mut made = ArrayVec::<_, MAX_CPUS>::new();
    let others = cpus.filter(|cpu| *cpu != boot).take(MAX_CPUS - 1);
    for (index, hardware) in iter::once(boot).chain(others).enumerate() {
        let stack = paging::allocate_stack(KERNEL_STACK_SIZE)?;
        let cpu = frames::place(|| PerCpu::new(CpuId(index), hardware, stack))?;
        cpu.this = Some(NonNull::from(&*cpu));
        made.push(&*cpu);
    }
    percpu::publish(&made);
    Ok(())
}

/// Starts up to `limit` CPUs in all, one after the other. One that fails is named on the console and left off.
pub fn start(limit: usize) {
    percpu::this().online.store(true, Ordering::Release);
    for cpu in percpu::all().iter().skip(1).take(limit.saturating_sub(1)) {
        let arrives = || wait_until(|| cpu.online.load(Ordering::Acquire), CPU_START_WAIT_NS);
        let started = arch::cpu::start(cpu.hardware, cpu);
        if let Err(error) = started.and_then(|()| if arrives() { Ok(()) } else { Err(StartError::Late) }) {
            let (id, hardware) = (cpu.id.0, cpu.hardware.0);
            log::stage(format_args!("cpus: cpu{id} (hardware {hardware:#x}) did not start: {error:?}"));
        }
    }
}

/// Waits until `done`, for `wait_ns` at most, and tells whether it is.
pub fn wait_until(done: impl Fn() -> bool, wait_ns: u64) -> bool {
    let end = arch::timer::now().0 + wait_ns;
    while !done() && arch::timer::now().0 < end {
        arch::cpu::relax();
    }
    done()
}

/// Where a started CPU arrives, on its own kernel stack, with the final tables on.
pub extern "C" fn secondary_main() -> ! {
    arch::cpu::init_cpu();
    arch::irq::init_cpu();
    arch::timer::init_cpu();
    percpu::this().active_root.set(paging::kernel_root());
    percpu::this().online.store(true, Ordering::Release);
    sched::leave()
}
