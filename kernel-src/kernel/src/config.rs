//! Every tunable of the kernel, once.

/// Bytes of a page on all three architectures.
pub const PAGE_SIZE: usize = 4096;
pub const PAGE_SHIFT: usize = 12;

/// Most CPUs of one machine; per-CPU data itself is sized by the machine's tables.
pub const MAX_CPUS: usize = 256;

/// Where the image is linked; the slide is added to it.
pub const IMAGE_BASE: usize = 0xFFFF_FFFF_8000_0000;
/// The slide is a multiple of this, and below [`SLIDE_LIMIT`].
pub const SLIDE_ALIGN: usize = 2 << 20;
pub const SLIDE_LIMIT: usize = 512 << 20;
/// Window below the image for device registers and guarded stacks.
pub const VMAP_BASE: usize = 0xFFFF_FFFF_0000_0000;
pub const VMAP_SIZE: usize = 1 << 30;

/// Stack of a CPU in the kernel, and of each of its exception stacks.
pub const KERNEL_STACK_SIZE: usize = 32 << 10;
pub const EXCEPTION_STACK_SIZE: usize = 16 << 10;

/// How long a thread runs while others of its priority wait.
pub const TIME_SLICE_NS: u64 = 10_000_000;
/// How long a panic waits for another CPU's registers.
pub const PANIC_WAIT_NS: u64 = 20_000_000;
/// How long a started CPU may take to answer.
pub const CPU_START_WAIT_NS: u64 = 1_000_000_000;

/// Priorities of threads; the highest number runs first.
pub const PRIORITIES: usize = 256;
pub const DEFAULT_PRIORITY: u8 = 128;
/// So many calls within each other pass time and priority on; what runs deeper runs on its own.
pub const CHAIN_MAX: usize = 32;

/// A process's first capability table has this power of two slots.
pub const CSPACE_BITS: u32 = 6;
/// Steps of a long operation on capabilities, each some hundred instructions, before interrupts are let in.
pub const CAPABILITY_STEPS: usize = 16;
/// Threads that are made ready before interrupts are served.
pub const THREADS_AT_ONCE: usize = 32;
/// Objects that may wait for their memory before CPUs in user mode are asked to come by.
pub const RETIRED_BATCH: usize = 32;

/// Bytes of the log ring.
pub const LOG_SIZE: usize = 64 << 10;
/// Bytes that it keeps away from the top of memory: U-Boot, which reads it after a reset, moves itself there (35 MiB).
pub const LOG_BELOW_TOP: usize = 48 << 20;
/// Bytes of console input that wait for a reader.
pub const CONSOLE_INPUT_SIZE: usize = 4096;
/// Larger device trees are refused: boot code maps this much (arm64/booting.rst, 2; Linux takes no more on RISC-V either).
pub const DEVICE_TREE_MAX: usize = 2 << 20;
/// Longest kernel command line.
pub const COMMAND_LINE_MAX: usize = 1024;
/// Most ranges of memory that boot tables may list.
pub const MAX_RANGES: usize = 64;
