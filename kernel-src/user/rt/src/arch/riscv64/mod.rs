//! RISC-V: `ecall`; registers as the table in `abi` gives them.

pub mod probe;
pub mod worker;

use abi::{Call, MESSAGE_WORDS, MessageInfo, Outcome};
use core::arch::{asm, naked_asm};

/// Entry of a program; a frame pointer and a return address of zero end backtraces.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start(argument: u64) -> ! {
    naked_asm!("li s0, 0", "li ra, 0", "tail {enter}", enter = sym crate::enter)
}

/// Entry of a thread; like `_start`.
#[unsafe(naked)]
pub extern "C" fn thread_start(argument: u64) -> ! {
    naked_asm!("li s0, 0", "li ra, 0", "tail {enter}", enter = sym crate::thread::enter)
}

/// Waits until someone calls on `endpoint`, then ends this thread, which that caller hears as `PartnerGone`.
/// It touches no memory: by then the stack may be gone.
pub fn finish(endpoint: u64) -> ! {
    // SAFETY: two system calls that take no address; the second does not come back.
    unsafe {
        asm!(
            "ecall", "li t0, {exit}", "ecall", "unimp",
            exit = const Call::ThreadExit as u64,
            in("t0") Call::Receive as u64, in("a0") endpoint, in("a1") 0_u64,
            options(noreturn),
        )
    }
}

macro_rules! plain_call {
    ($name:ident($($argument:ident),*), $status:ident, $value:ident: $($operands:tt)*) => {
        /// # Safety
        /// Memory that the call writes must be the caller's to write.
        #[inline(always)]
        pub unsafe fn $name(number: u64 $(, $argument: u64)*) -> Outcome {
            let ($status, $value);
            // SAFETY: the kernel changes no register but those named here, and no memory but what the
            // caller vouches for.
            unsafe { asm!("ecall", in("t0") number, $($operands)*, options(nostack)) }
            Outcome { status: $status, value: $value }
        }
    };
}

plain_call!(call0(), status, value: lateout("a0") status, lateout("a1") value);
plain_call!(call1(a), status, value: inlateout("a0") a => status, lateout("a1") value);
plain_call!(call2(a, b), status, value: inlateout("a0") a => status, inlateout("a1") b => value);
plain_call!(call3(a, b, c), status, value: inlateout("a0") a => status, inlateout("a1") b => value, in("a2") c);
plain_call!(call4(a, b, c, d), status, value: inlateout("a0") a => status, inlateout("a1") b => value, in("a2") c,
    in("a3") d);
plain_call!(call6(a, b, c, d, e, f), status, value: inlateout("a0") a => status, inlateout("a1") b => value,
    in("a2") c, in("a3") d, in("a4") e, in("a5") f);

/// Call `number` with two arguments and a deadline.
///
/// # Safety
/// As of the other calls.
pub unsafe fn call_until(number: u64, a: u64, b: u64, deadline: u64) -> Outcome {
    let (status, value);
    // SAFETY: as above.
    unsafe {
        asm!(
            "ecall", in("t0") number, inlateout("a0") a => status, inlateout("a1") b => value, in("t3") deadline,
            options(nostack),
        )
    }
    Outcome { status, value }
}

macro_rules! message_call {
    ($(#[$attribute:meta])* $name:ident($($deadline:ident)?): $($instructions:tt)*) => {
        $(#[$attribute])*
        #[inline(always)]
        pub fn $name(
            number: u64,
            capability: u64,
            $($deadline: u64,)?
            info: MessageInfo,
            words: &mut [u64; MESSAGE_WORDS],
        ) -> (u64, MessageInfo, u64) {
            let (status, received, badge);
            let [a, b, c, d, e, f, g, h] = words;
            // SAFETY: a message call writes registers only, all of them named here.
            unsafe {
                asm!(
                    $($instructions)*,
                    inlateout("t0") number => badge, inlateout("a0") capability => status, inlateout("a1") info.0 => received,
                    inlateout("a2") *a, inlateout("a3") *b, inlateout("a4") *c, inlateout("a5") *d,
                    inlateout("a6") *e, inlateout("a7") *f, inlateout("t1") *g, inlateout("t2") *h,
                    options(nostack),
                );
            }
            (status, MessageInfo(received), badge)
        }
    };
}

message_call! {
    /// A message call: `words` go out and are replaced by what came in; status, info and badge.
    message(): "ecall"
}
message_call! {
    /// The same, with a deadline.
    message_until(deadline): "ecall", in("t3") deadline
}

/// The clock that instruction counts are compared with: the kernel's, in nanoseconds, whose rate the
/// machine states.
pub fn counter() -> u64 {
    crate::call::clock_ns()
}

/// Executes `2 * turns` instructions, and next to nothing else.
pub fn spin(turns: u64) {
    // SAFETY: counts a register down.
    unsafe { asm!("2:", "addi {0}, {0}, -1", "bnez {0}, 2b", inout(reg) turns => _, options(nomem, nostack)) };
}

/// Executes the marker of that number: see [`crate::testing::marker`].
#[inline(always)]
pub fn marker<const NUMBER: u8>() {
    // SAFETY: a hint, which writes the zero register.
    unsafe { asm!("slti zero, zero, {}", const 0x700 + NUMBER as u32, options(nostack, preserves_flags)) };
}
