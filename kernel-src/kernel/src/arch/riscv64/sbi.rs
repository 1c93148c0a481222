//! Calls to the firmware. Every extension is probed before it is used, and
//! every error code has a name.

use core::arch::asm;

/// Errors of SBI 2.0, chapter 3, table 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    Failed,
    NotSupported,
    InvalidParameter,
    Denied,
    InvalidAddress,
    AlreadyAvailable,
    AlreadyStarted,
    AlreadyStopped,
    NoSharedMemory,
    Unknown(i64),
}

impl Error {
    const fn new(code: i64) -> Self {
        match code {
            -1 => Self::Failed,
            -2 => Self::NotSupported,
            -3 => Self::InvalidParameter,
            -4 => Self::Denied,
            -5 => Self::InvalidAddress,
            -6 => Self::AlreadyAvailable,
            -7 => Self::AlreadyStarted,
            -8 => Self::AlreadyStopped,
            -9 => Self::NoSharedMemory,
            other => Self::Unknown(other),
        }
    }

    /// The firmware's own number.
    pub const fn code(self) -> i64 {
        match self {
            Self::Failed => -1,
            Self::NotSupported => -2,
            Self::InvalidParameter => -3,
            Self::Denied => -4,
            Self::InvalidAddress => -5,
            Self::AlreadyAvailable => -6,
            Self::AlreadyStarted => -7,
            Self::AlreadyStopped => -8,
            Self::NoSharedMemory => -9,
            Self::Unknown(code) => code,
        }
    }
}

/// Extension identifiers (SBI 2.0, chapters 4 to 12).
#[derive(Clone, Copy, PartialEq, Eq)]
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

fn raw(extension: Extension, function: u64, [a, b, c]: [u64; 3]) -> (i64, u64) {
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

fn call(extension: Extension, function: u64, arguments: [u64; 3]) -> Result<u64, Error> {
    match raw(extension, function, arguments) {
        (0, value) => Ok(value),
        (code, _) => Err(Error::new(code)),
    }
}

/// Whether the firmware has an extension; firmware before 0.2 has no base extension and answers with an error.
pub fn has(extension: Extension) -> bool {
    call(Extension::Base, 3, [extension as u64, 0, 0]).is_ok_and(|answer| answer != 0)
}

/// Timer interrupt of this hart at `time`; a pending one is cleared.
pub fn set_timer(time: u64) {
    // It has no error to return.
    let _ = call(Extension::Time, 0, [time, 0, 0]);
}

pub fn legacy_set_timer(time: u64) {
    raw(Extension::LegacySetTimer, 0, [time, 0, 0]);
}

/// Software interrupt for one hart: bit 0 of a mask that starts at `hart`, so any hart id will do.
pub fn send_ipi(hart: u64) -> Result<(), Error> {
    call(Extension::Ipi, 0, [1, hart, 0]).map(drop)
}

/// Starts a stopped hart at the physical address `at`, in supervisor mode, MMU off, `a0` its id, `a1` `opaque`.
pub fn start_hart(hart: u64, at: u64, opaque: u64) -> Result<(), Error> {
    if !has(Extension::Hart) {
        return Err(Error::NotSupported);
    }
    call(Extension::Hart, 0, [hart, at, opaque]).map(drop)
}

/// Type of a system reset (SBI chapter 10).
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Reset {
    Shutdown = 0,
    ColdReboot = 1,
}

/// Returns only if the firmware cannot do it.
pub fn reset(kind: Reset) -> Error {
    let failed = if has(Extension::Reset) {
        call(Extension::Reset, 0, [kind as u64, 0, 0]).err().unwrap_or(Error::Failed)
    } else {
        Error::NotSupported
    };
    if kind == Reset::Shutdown {
        raw(Extension::LegacyShutdown, 0, [0; 3]);
    }
    failed
}

pub fn console_write(byte: u8) {
    // A byte that the firmware refuses has nowhere else to go.
    let _ = call(Extension::Console, 2, [u64::from(byte), 0, 0]);
}

pub fn legacy_put_char(byte: u8) {
    raw(Extension::LegacyPutChar, 0, [u64::from(byte), 0, 0]);
}

pub fn legacy_get_char() -> Option<u8> {
    u8::try_from(raw(Extension::LegacyGetChar, 0, [0; 3]).0).ok()
}
