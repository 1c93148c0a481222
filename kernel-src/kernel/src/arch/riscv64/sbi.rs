//! Calls to the firmware. Every extension is probed before it is used.

use sbi_rt::{HartMask, NoReason, SbiRet};
use sbi_spec::binary::Error;
use sbi_spec::{base, dbcn, legacy, srst};

/// For the calls of before 0.2, and for what both have.
pub fn call(extension: usize, function: usize, argument: usize) -> SbiRet {
    // SAFETY: the firmware changes `a0` and `a1` alone (SBI chapter 3), and no call made here hands it memory.
    unsafe { sbi_rt::raw::sbi_call_1(extension, function, argument) }
}

/// Whether the firmware has an extension; firmware before 0.2 has no base extension and answers with an error.
pub fn has(extension: usize) -> bool {
    call(base::EID_BASE, base::PROBE_EXTENSION, extension).is_ok_and(|answer| answer != 0)
}

/// Software interrupt for one hart: bit 0 of a mask that starts at `hart`, so any hart id will do.
pub fn send_ipi(hart: u64) -> Result<usize, Error> {
    sbi_rt::send_ipi(HartMask::from_mask_base(1, hart as usize)).into_result()
}

/// Returns only if the firmware cannot do it.
pub fn reset(kind: u32) -> abi::Error {
    if has(srst::EID_SRST) {
        sbi_rt::system_reset(kind, NoReason);
    }
    if kind == srst::RESET_TYPE_SHUTDOWN {
        call(legacy::LEGACY_SHUTDOWN, 0, 0);
    }
    abi::Error::Unsupported
}

/// By the debug console extension or by the legacy calls. A byte that the firmware refuses has nowhere else to go.
pub fn console_write(bytes: &[u8]) {
    let modern = (dbcn::EID_DBCN, dbcn::CONSOLE_WRITE_BYTE);
    let (extension, function) = if has(modern.0) { modern } else { (legacy::LEGACY_CONSOLE_PUTCHAR, 0) };
    bytes.iter().for_each(|&byte| _ = call(extension, function, byte.into()));
}

pub fn console_read() -> Option<u8> {
    if has(dbcn::EID_DBCN) {
        return None;
    }
    u8::try_from(call(legacy::LEGACY_CONSOLE_GETCHAR, 0, 0).error).ok()
}
