//! The machine and the programs as the boot leaves them.

use alloc::vec::Vec;
use rt::abi::{Info, PROGRAM_BASE, STACK_TOP};
use rt::{assert_ok, call, kernel_assert, kernel_assert_eq, probe, test, thread};

/// Most bytes that the kernel may hold after a boot of four CPUs.
const KERNEL_MEMORY_MAX: u64 = 4 << 20;

test! {
    fn new_thread_finds_every_register_defined() requires("PRC-14 PRC-19") {
        for _ in 0..4 {
            let start = assert_ok!(probe::registers_at_start());
            kernel_assert_eq!(start.first_wrong(), None);
            kernel_assert_eq!(start.registers.thread_pointer, start.argument, "the thread pointer");
        }
    }
}

test! {
    fn threads_get_their_arguments() requires("PRC-14") {
        for round in 0..8_u64 {
            let threads: Vec<_> = (0..4).map(|n| assert_ok!(thread::spawn(move || n * 1000 + round))).collect();
            for (n, thread) in (0..).zip(threads) {
                kernel_assert_eq!(assert_ok!(thread.join()), n * 1000 + round);
            }
        }
    }
}

test! {
    fn image_and_stack_lie_where_the_abi_says() requires("BTC-07") {
        let local = 0_u8;
        let stack = &raw const local as u64;
        kernel_assert_eq!(probe::image_start(), PROGRAM_BASE);
        kernel_assert!((STACK_TOP - rt::abi::STACK_SIZE..STACK_TOP).contains(&stack), "stack at {stack:#x}");
        let limit = assert_ok!(call::info(Info::UserLimit, 0));
        kernel_assert!(limit == 1 << 38 || limit == 1 << 47 || limit == 1 << 48, "user limit {limit:#x}");
    }
}

test! {
    fn iterators_and_loops_compute() requires("BTA-09") {
        let mut state = 1_u64;
        let mut numbers: Vec<u64> = (0..2000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state >> 33
            })
            .collect();
        let sum: u64 = numbers.iter().sum();
        let by_chunks: u64 = numbers.chunks(7).flat_map(|part| part.iter().copied()).sum();
        kernel_assert_eq!(sum, by_chunks);
        numbers.sort_unstable();
        kernel_assert!(numbers.windows(2).all(|pair| pair[0] <= pair[1]));
        kernel_assert_eq!(numbers.iter().rev().step_by(2).chain(numbers.iter().rev().skip(1).step_by(2)).sum::<u64>(), sum);

        let squares: u128 = (1..=1000_u128).map(|n| n * n).sum();
        kernel_assert_eq!(squares, 1000 * 1001 * 2001 / 6);
        let mut copy = [0_u8; 1031];
        let bytes: [u8; 1031] = core::array::from_fn(|n| n as u8);
        for length in [0, 1, 7, 8, 15, 16, 17, 63, 64, 65, 1023] {
            copy.fill(0xa5);
            copy[3..3 + length].copy_from_slice(&bytes[5..5 + length]);
            kernel_assert_eq!(&copy[3..3 + length], &bytes[5..5 + length]);
            kernel_assert!(copy[..3].iter().chain(&copy[3 + length..]).all(|&byte| byte == 0xa5));
        }
    }
}

test! {
    fn init_and_its_children_run() requires("BTC-01 BTC-04") {
        let mut names = Vec::new();
        for index in 0.. {
            let Some(process) = assert_ok!(call::process_info(index)) else { break };
            if process.id == 1 {
                kernel_assert_eq!(&process.name[..process.name_length as usize], b"init");
            }
            if process.ended == 0 {
                kernel_assert!(process.threads > 0 && process.pages > 0, "process {} has nothing", process.id);
                names.push(process.name);
            }
        }
        for wanted in ["init", "testd", "shell", "boot"] {
            kernel_assert!(names.iter().any(|name| name.starts_with(wanted.as_bytes())), "{wanted} does not run");
        }
    }
}

test! {
    fn log_holds_the_boot_stages_in_order() requires("BTC-02") {
        let mut log = Vec::new();
        let mut piece = [0; 512];
        loop {
            match assert_ok!(call::log_read(log.len() as u64, &mut piece)) {
                0 => break,
                count => log.extend_from_slice(&piece[..count]),
            }
        }
        // The ring outlives resets: the last first line counts.
        let log = alloc::string::String::from_utf8_lossy(&log);
        let mut rest = log.rsplit_once("quoin ").expect("the log holds the kernel's first line").1;
        for stage in ["entry", "memory", "paging", "interrupts", "timer", "cpus", "user"] {
            let line = alloc::format!("boot: {stage}: ");
            let at = rest.find(&line);
            kernel_assert!(at.is_some(), "no stage '{stage}' in its place");
            rest = &rest[at.unwrap_or(0)..];
        }
    }
}

test! {
    fn boot_memory_was_given_back() requires("BTC-05") {
        kernel_assert!(assert_ok!(call::info(Info::MemoryGivenBack, 0)) > 0);
    }
}

test! {
    fn memory_adds_up_and_the_kernel_is_small() requires("PRF-02 BTC-06") {
        let [total, free, kernel] =
            [Info::MemoryTotal, Info::MemoryFree, Info::MemoryKernel].map(|what| assert_ok!(call::info(what, 0)));
        kernel_assert!(free + kernel <= total, "{free} free and {kernel} of the kernel, of {total}");
        if assert_ok!(call::info(Info::CpusPresent, 0)) <= 4 {
            kernel_assert!(kernel <= KERNEL_MEMORY_MAX, "the kernel holds {kernel} bytes");
        }
    }
}
