//! The rounds of [`crate::worker`]: what it knows is in `s2` to `s4`.

use crate::worker;

/// The registers that hold what it knows, by their numbers.
pub const STATE: [usize; 3] = [18, 19, 20];
/// Those that it neither reads nor writes.
pub const KEPT: &[usize] = &[1, 2, 3, 4, 8, 9, 21, 22, 23, 24, 25, 26, 27, 28, 31];

#[unsafe(naked)]
pub extern "C" fn run() -> ! {
    worker::rounds!(
        r"
.macro w_number twice, more
        slli t4, s2, 32
        srli t4, t4, 32
        .if \twice
        add t4, t4, t4
        .endif
        addi t4, t4, \more
.endm
.macro w_shift
        slli t4, t4, 16
.endm
.macro w_words
        mv a2, t4
        addi a3, t4, 1
        addi a4, t4, 2
        addi a5, t4, 3
        addi a6, t4, 4
        addi a7, t4, 5
        addi t1, t4, 6
        addi t2, t4, 7
.endm
.macro w_info info
        li a1, \info
.endm
.macro w_is register
        bne \register, t4, 9f
        addi t4, t4, 1
.endm
.macro w_expect info, badge
        li t5, \info
        bne a1, t5, 9f
        li t5, \badge
        bne t0, t5, 9f
        w_is a2
        w_is a3
        w_is a4
        w_is a5
        w_is a6
        w_is a7
        w_is t1
        w_is t2
.endm
.macro w_low register
        li t5, 0x0000ffff0000ffff
        and a0, t5, \register
.endm
.macro w_high register
        srli t4, \register, 16
        w_low t4
.endm
.macro w_name_calls
        w_low s3
.endm
.macro w_name_receives
        w_high s3
.endm
.macro w_name_waits
        w_low s4
.endm
.macro w_name_signals
        w_high s4
.endm
.macro w_name_sends
        srli t4, s2, 48
        slli t4, t4, 32
        slli a0, s2, 16
        srli a0, a0, 48
        or a0, a0, t4
.endm
.macro w_name_owed
        li a0, -1
.endm
.macro w_bit
        andi t5, s2, 31
        li t4, 1
        sll t4, t4, t5
.endm
.macro w_argument_bit
        mv a1, t4
.endm
.macro w_argument_any
        li a1, -1
.endm
.macro w_expect_bit
        bne a1, t4, 9f
.endm
.macro w_enter number
        li t0, \number
        ecall
.endm
.macro w_done
        bnez a0, 9f
.endm
.macro w_on error, to
        li t4, -\error
        beq a0, t4, \to
.endm
.macro w_idle turns
        li t4, \turns
6:      addi t4, t4, -1
        bnez t4, 6b
.endm
.macro w_next
        addi s2, s2, 1
.endm
.macro w_goto to
        j \to
.endm
.macro w_trap
        unimp
.endm
        "
    )
}
