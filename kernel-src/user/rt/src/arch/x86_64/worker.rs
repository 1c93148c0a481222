//! The rounds of [`crate::worker`]: what it knows is in `rbx`, `rbp` and `rsp`, which alone a message call leaves as they
//! are.

use crate::worker;

/// The registers that hold what it knows, by their numbers.
pub const STATE: [usize; 3] = [3, 5, 4];
/// Those that it neither reads nor writes: none is left.
pub const KEPT: &[usize] = &[];

#[unsafe(naked)]
pub extern "C" fn run() -> ! {
    worker::rounds!(
        r"
.macro w_number twice, more
        mov ecx, ebx
        .if \twice
        add rcx, rcx
        .endif
        add rcx, \more
.endm
.macro w_shift
        shl rcx, 16
.endm
.macro w_words
        mov rdx, rcx
        lea r8, [rcx + 1]
        lea r9, [rcx + 2]
        lea r10, [rcx + 3]
        lea r12, [rcx + 4]
        lea r13, [rcx + 5]
        lea r14, [rcx + 6]
        lea r15, [rcx + 7]
.endm
.macro w_info info
        mov esi, \info
.endm
.macro w_is register
        cmp \register, rcx
        jne 9f
        inc rcx
.endm
.macro w_expect info, badge
        cmp rsi, \info
        jne 9f
        cmp rdi, \badge
        jne 9f
        w_is rdx
        w_is r8
        w_is r9
        w_is r10
        w_is r12
        w_is r13
        w_is r14
        w_is r15
.endm
.macro w_low register
        movabs rdi, 0x0000ffff0000ffff
        and rdi, \register
.endm
.macro w_high register
        mov rcx, \register
        shr rcx, 16
        w_low rcx
.endm
.macro w_name_calls
        w_low rbp
.endm
.macro w_name_receives
        w_high rbp
.endm
.macro w_name_waits
        w_low rsp
.endm
.macro w_name_signals
        w_high rsp
.endm
.macro w_name_sends
        mov rcx, rbx
        shr rcx, 48
        shl rcx, 32
        mov rdi, rbx
        shr rdi, 32
        movzx edi, di
        or rdi, rcx
.endm
.macro w_name_owed
        mov rdi, -1
.endm
.macro w_bit
        mov ecx, ebx
        and ecx, 31
        mov r11d, 1
        shl r11, cl
.endm
.macro w_argument_bit
        mov rsi, r11
.endm
.macro w_argument_any
        mov rsi, -1
.endm
.macro w_expect_bit
        cmp rdx, r11
        jne 9f
.endm
.macro w_enter number
        mov eax, \number
        syscall
.endm
.macro w_done
        test rax, rax
        jne 9f
.endm
.macro w_on error, to
        cmp rax, -\error
        je \to
.endm
.macro w_idle turns
        mov ecx, \turns
6:      dec ecx
        jne 6b
.endm
.macro w_next
        add rbx, 1
.endm
.macro w_goto to
        jmp \to
.endm
.macro w_trap
        ud2
.endm
        "
    )
}
