//! x86_64: `syscall`; registers as the table in `abi` gives them.

pub mod probe;
pub mod worker;

use abi::{Call, MESSAGE_WORDS, MessageInfo, Outcome};
use core::arch::{asm, naked_asm};

/// Entry of a program: the stack is aligned, so that the call leaves it as the C ABI wants it;
/// a frame pointer of zero ends backtraces.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start(argument: u64) -> ! {
    naked_asm!("xor ebp, ebp", "call {enter}", "ud2", enter = sym crate::enter)
}

/// Entry of a thread; like `_start`.
#[unsafe(naked)]
pub extern "C" fn thread_start(argument: u64) -> ! {
    naked_asm!("xor ebp, ebp", "call {enter}", "ud2", enter = sym crate::thread::enter)
}

/// Waits until someone calls on `endpoint`, then ends this thread, which that caller hears as `PartnerGone`.
/// It touches no memory: by then the stack may be gone.
pub fn finish(endpoint: u64) -> ! {
    // SAFETY: two system calls that take no address; the second does not come back.
    unsafe {
        asm!(
            "syscall", "mov eax, {exit}", "syscall", "ud2",
            exit = const Call::ThreadExit as u64,
            in("rax") Call::Receive as u64, in("rdi") endpoint, in("rsi") 0_u64,
            options(noreturn),
        )
    }
}

macro_rules! plain_call {
    ($name:ident($($argument:ident),*), $value:ident: $($operands:tt)*) => {
        /// # Safety
        /// Memory that the call writes must be the caller's to write.
        #[inline(always)]
        pub unsafe fn $name(number: u64 $(, $argument: u64)*) -> Outcome {
            let (status, $value);
            // SAFETY: the kernel changes no register but those named here, and no memory but what the
            // caller vouches for.
            unsafe {
                asm!("syscall", inlateout("rax") number => status, $($operands)*,
                    lateout("rcx") _, lateout("r11") _, options(nostack))
            }
            Outcome { status, value: $value }
        }
    };
}

plain_call!(call0(), value: lateout("rdx") value);
plain_call!(call1(a), value: in("rdi") a, lateout("rdx") value);
plain_call!(call2(a, b), value: in("rdi") a, in("rsi") b, lateout("rdx") value);
plain_call!(call3(a, b, c), value: in("rdi") a, in("rsi") b, inlateout("rdx") c => value);
plain_call!(call4(a, b, c, d), value: in("rdi") a, in("rsi") b, inlateout("rdx") c => value, in("r10") d);
plain_call!(call6(a, b, c, d, e, f), value: in("rdi") a, in("rsi") b, inlateout("rdx") c => value, in("r10") d,
    in("r8") e, in("r9") f);

/// Call `number` with two arguments and a deadline.
///
/// # Safety
/// As of the other calls.
pub unsafe fn call_until(number: u64, a: u64, b: u64, deadline: u64) -> Outcome {
    let (status, value);
    // SAFETY: as above.
    unsafe {
        asm!(
            "xchg rbx, {deadline}", "syscall", "xchg rbx, {deadline}", deadline = inout(reg) deadline => _,
            inlateout("rax") number => status, in("rdi") a, in("rsi") b, lateout("rdx") value,
            lateout("rcx") _, lateout("r11") _, options(nostack),
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
                    inlateout("rax") number => status, inlateout("rdi") capability => badge, inlateout("rsi") info.0 => received,
                    inlateout("rdx") *a, inlateout("r8") *b, inlateout("r9") *c, inlateout("r10") *d,
                    inlateout("r12") *e, inlateout("r13") *f, inlateout("r14") *g, inlateout("r15") *h,
                    lateout("rcx") _, lateout("r11") _, options(nostack),
                );
            }
            (status, MessageInfo(received), badge)
        }
    };
}

message_call! {
    /// A message call: `words` go out and are replaced by what came in; status, info and badge.
    message(): "syscall"
}
message_call! {
    /// The same, with a deadline.
    message_until(deadline): "xchg rbx, {deadline}", "syscall", "xchg rbx, {deadline}", deadline = inout(reg) deadline => _
}

/// The clock that instruction counts are compared with: the time-stamp counter itself, because the kernel only
/// measures its rate, to some parts in a million.
pub fn counter() -> u64 {
    let ticks: u64;
    // In one piece, and in order with markers.
    // SAFETY: reads a counter.
    unsafe { asm!("rdtsc", "shl rdx, 32", "or rax, rdx", out("rax") ticks, out("rdx") _, options(nostack)) };
    ticks
}

/// Executes `2 * turns` instructions, and next to nothing else.
pub fn spin(turns: u64) {
    // SAFETY: counts a register down.
    unsafe { asm!("2:", "dec {0}", "jnz 2b", inout(reg) turns => _, options(nomem, nostack)) };
}

/// Executes the marker of that number: see [`crate::testing::marker`].
#[inline(always)]
pub fn marker<const NUMBER: u8>() {
    // SAFETY: a no-op, whose address is not used.
    unsafe {
        asm!(".byte 0x0f, 0x1f, 0x80", ".4byte {}", const 0x716f_7000 + NUMBER as u32, options(nostack, preserves_flags))
    };
}
