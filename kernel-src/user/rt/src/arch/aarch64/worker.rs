//! The rounds of [`crate::worker`]: what it knows is in `x19` to `x21`.

use crate::worker;

/// The registers that hold what it knows, by their numbers.
pub const STATE: [usize; 3] = [19, 20, 21];
/// Those that it neither reads nor writes.
pub const KEPT: &[usize] = &[11, 12, 13, 14, 15, 18, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31];

#[unsafe(naked)]
pub extern "C" fn run() -> ! {
    worker::rounds!(
        r"
.macro w_constant register, value
        movz \register, #(\value & 0xffff)
        movk \register, #(\value >> 16), lsl #16
.endm
.macro w_number twice, more
        mov w16, w19
        .if \twice
        add x16, x16, x16
        .endif
        add x16, x16, #\more
.endm
.macro w_shift
        lsl x16, x16, #16
.endm
.macro w_words
        mov x2, x16
        add x3, x16, #1
        add x4, x16, #2
        add x5, x16, #3
        add x6, x16, #4
        add x7, x16, #5
        add x8, x16, #6
        add x9, x16, #7
.endm
.macro w_info info
        w_constant x1, \info
.endm
.macro w_is register
        cmp \register, x16
        b.ne 9f
        add x16, x16, #1
.endm
.macro w_expect info, badge
        w_constant x17, \info
        cmp x1, x17
        b.ne 9f
        cmp x10, #\badge
        b.ne 9f
        w_is x2
        w_is x3
        w_is x4
        w_is x5
        w_is x6
        w_is x7
        w_is x8
        w_is x9
.endm
.macro w_low register
        movz x17, #0xffff
        movk x17, #0xffff, lsl #32
        and x0, x17, \register
.endm
.macro w_high register
        lsr x16, \register, #16
        w_low x16
.endm
.macro w_name_calls
        w_low x20
.endm
.macro w_name_receives
        w_high x20
.endm
.macro w_name_waits
        w_low x21
.endm
.macro w_name_signals
        w_high x21
.endm
.macro w_name_sends
        lsr x16, x19, #48
        ubfx x0, x19, #32, #16
        orr x0, x0, x16, lsl #32
.endm
.macro w_name_owed
        mov x0, #-1
.endm
.macro w_bit
        and x17, x19, #31
        mov x16, #1
        lsl x16, x16, x17
.endm
.macro w_argument_bit
        mov x1, x16
.endm
.macro w_argument_any
        mov x1, #-1
.endm
.macro w_expect_bit
        cmp x1, x16
        b.ne 9f
.endm
.macro w_enter number
        mov x10, #\number
        svc #0
.endm
.macro w_done
        cbnz x0, 9f
.endm
.macro w_on error, to
        cmn x0, #\error
        b.eq \to
.endm
.macro w_idle turns
        mov x16, #\turns
6:      subs x16, x16, #1
        b.ne 6b
.endm
.macro w_next
        add x19, x19, #1
.endm
.macro w_goto to
        b \to
.endm
.macro w_trap
        udf #0
.endm
        "
    )
}
