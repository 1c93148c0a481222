//! Addresses that a program gives to the kernel are allegations.

use rt::abi::{Call, Error, Info};
use rt::protocol::RESOURCE;
use rt::{assert_err, assert_ok, call, kernel_assert_eq, probe, test};

/// Where the kernel is linked (`IMAGE_BASE` in its linker scripts).
const KERNEL_IMAGE: u64 = 0xffff_ffff_8000_0000;

fn limit() -> u64 {
    assert_ok!(call::info(Info::UserLimit, 0))
}

/// Ranges that leave the user half or wrap.
fn out_of_range() -> [(u64, u64); 8] {
    let limit = limit();
    [
        // The kernel's own text, which is mapped and which the kernel can read.
        (KERNEL_IMAGE + assert_ok!(call::info(Info::Slide, 0)), 64),
        (limit, 1),
        (limit - 1, 2),
        (limit + 4096, 16),
        (limit.wrapping_neg(), 16),
        (1 << 63, 16),
        (u64::MAX - 7, 16),
        (0xffff_ffff_8000_0000, 64),
    ]
}

/// Ranges in the user half in which something is not mapped.
fn unmapped() -> [(u64, u64); 4] {
    let end = probe::image_end();
    [(0, 16), (end, 16), (end - 8, 16), (limit() - 16, 16)]
}

test! {
    fn reading_out_of_range_is_refused() requires("UMA-01 UMA-02") {
        for (address, length) in out_of_range() {
            assert_err!(probe::debug_write_at(address, length), Error::InvalidAddress);
        }
    }
}

test! {
    fn reading_unmapped_memory_is_an_error_and_no_fault() requires("UMA-02 UMA-03") {
        for (address, length) in unmapped() {
            assert_err!(probe::debug_write_at(address, length), Error::InvalidAddress);
        }
    }
}

/// Calls that write to memory, with the place of the address among the arguments.
fn writers(address: u64, length: u64) -> [(Call, [u64; 6]); 4] {
    [
        (Call::LogRead, [0, address, length, 0, 0, 0]),
        (Call::ArchiveRead, [0, 0, address, length, 0, 0]),
        (Call::ArchiveMember, [0, address, length, 0, 0, 0]),
        (Call::ProcessInfo, [0, address & !7, 0, 0, 0, 0]),
    ]
}

fn each_writer_refuses(address: u64, length: u64) {
    for (call, arguments) in writers(address, length) {
        let outcome = probe::raw_call(call as u64, arguments);
        let error = Error::from_status(outcome.status);
        kernel_assert_eq!(error, Some(Error::InvalidAddress), "{call:?} at {address:#x}, {length} bytes");
        kernel_assert_eq!(outcome.value, 0);
    }
}

test! {
    fn writing_out_of_range_is_refused() requires("UMA-01 UMA-02") {
        let limit = limit();
        for address in [limit, limit + 4096, limit.wrapping_neg(), 1 << 63, u64::MAX - 7, 0xffff_ffff_8000_0000] {
            each_writer_refuses(address, 256);
        }
    }
}

test! {
    fn writing_unmapped_memory_is_an_error_and_no_fault() requires("UMA-02 UMA-03") {
        for address in [0, probe::image_end(), limit() - 4096] {
            each_writer_refuses(address, 256);
        }
    }
}

test! {
    fn the_kernel_writes_no_page_that_the_program_may_not() requires("UMA-02 UMA-03 HRD-07") {
        each_writer_refuses(probe::code_address(), 64);
        each_writer_refuses(probe::image_start(), 64);
    }
}

test! {
    fn misaligned_structures_are_refused() requires("UMA-02") {
        let outcome = probe::raw_call(Call::ProcessInfo as u64, [0, probe::image_start() + 1, 0, 0, 0, 0]);
        kernel_assert_eq!(Error::from_status(outcome.status), Some(Error::InvalidAddress));
        for request in [1, probe::image_start() + 4, limit(), limit() - 8, u64::MAX - 15] {
            let outcome = probe::raw_call(Call::Spawn as u64, [RESOURCE.0, request, 0, 0, 0, 0]);
            kernel_assert_eq!(Error::from_status(outcome.status), Some(Error::InvalidAddress), "at {request:#x}");
        }
    }
}

test! {
    fn console_input_goes_to_no_bad_address() requires("UMA-02") {
        for (address, length) in out_of_range() {
            let outcome = probe::raw_call(Call::ConsoleRead as u64, [RESOURCE.0, address, length, 0, 0, 0]);
            kernel_assert_eq!(Error::from_status(outcome.status), Some(Error::InvalidAddress), "at {address:#x}");
        }
    }
}
