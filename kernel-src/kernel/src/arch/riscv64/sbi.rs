//! Calls to the firmware. Every extension is probed before it is used.

use core::arch::asm;

// Errors of SBI 2.0, chapter 3, table 1.
pub const NOT_SUPPORTED: i64 = -2;
/// A hart that runs, or is about to.
pub const ALREADY_AVAILABLE: i64 = -6;
pub const ALREADY_STARTED: i64 = -7;

/// Extension identifiers (SBI 2.0, chapters 4 to 12).
#[derive(Clone, Copy)]
#[repr(u64)]
pub enum Extension {
    LegacySetTimer = 0x00,
    LegacyPutChar = 0x01,
    LegacyGetChar = 0x02,
    LegacyShutdown = 0x08,
    Base = 0x10,
    Time = 0x5449_4D45,
    Ipi = 0x73_5049,
    Hart = 0x48_534D,
    Reset = 0x5352_5354,
    Console = 0x4442_434E,
}

pub fn raw(extension: Extension, function: u64, [a, b, c]: [u64; 3]) -> (i64, u64) {
    let (error, value);
    // SAFETY: the firmware changes `a0` and `a1` alone (SBI chapter 3); no call made here hands it memory
    // to write, and those that start or stop CPUs have safety arguments of their own.
    unsafe {
        asm!(
            "ecall",
            inlateout("a0") a => error, inlateout("a1") b => value, in("a2") c,
            in("a6") function, in("a7") extension as u64,
            options(nostack),
        );
    }
    (error, value)
}

/// The firmware's value, or its error.
pub fn call(extension: Extension, function: u64, arguments: [u64; 3]) -> Result<u64, i64> {
    match raw(extension, function, arguments) {
        (0, value) => Ok(value),
        (code, _) => Err(code),
    }
}

/// Whether the firmware has an extension; firmware before 0.2 has no base extension and answers with an error.
pub fn has(extension: Extension) -> bool {
    call(Extension::Base, 3, [extension as u64, 0, 0]).is_ok_and(|answer| answer != 0)
}

/// Software interrupt for one hart: bit 0 of a mask that starts at `hart`, so any hart id will do.
pub fn send_ipi(hart: u64) -> Result<u64, i64> {
    call(Extension::Ipi, 0, [1, hart, 0])
}

// Types of a system reset (SBI chapter 10).
pub const SHUTDOWN: u64 = 0;
pub const COLD_REBOOT: u64 = 1;

/// Returns only if the firmware cannot do it.
pub fn reset(kind: u64) -> abi::Error {
    if has(Extension::Reset) {
        raw(Extension::Reset, 0, [kind, 0, 0]);
    }
    if kind == SHUTDOWN {
        raw(Extension::LegacyShutdown, 0, [0; 3]);
    }
    abi::Error::Unsupported
}

/// By the debug console extension or by the legacy calls. A byte that the firmware refuses has nowhere else to go.
pub fn console_write(bytes: &[u8]) {
    let (extension, function) =
        if has(Extension::Console) { (Extension::Console, 2) } else { (Extension::LegacyPutChar, 0) };
    for &byte in bytes {
        raw(extension, function, [byte.into(), 0, 0]);
    }
}

pub fn console_read() -> Option<u8> {
    if has(Extension::Console) {
        return None;
    }
    u8::try_from(raw(Extension::LegacyGetChar, 0, [0; 3]).0).ok()
}
