//! What a program needs to run on Quoin: its start, system calls, heap,
//! threads, and the registry of test cases.
//!
//! The only user crate with unsafe code. It keeps no state that a program did
//! not ask for: a program that allocates nothing has no heap.
//!
//! | module | for |
//! |---|---|
//! | [`call`] | system calls, each a safe function |
//! | [`console`] | `print!` and `println!` |
//! | [`archive`] | programs of the boot archive, and the test cases in them |
//! | [`thread`], [`sync`] | threads of this process, and what they share |
//! | [`testing`] | test cases, assertions, measurements |
//! | [`protocol`] | what the first programs say to each other |
//! | [`random`] | numbers that look like chance |
//! | [`worker`] | a thread without memory, to be saved and rebuilt |
//! | [`probe`] | what only tests do: look at raw registers, and break on purpose |
#![cfg(target_os = "none")]
#![no_std]

extern crate alloc;

pub use abi;

mod arch;
pub mod archive;
pub mod call;
pub mod command_line;
pub mod console;
mod heap;
pub mod probe;
pub mod protocol;
pub mod random;
pub mod sync;
pub mod testing;
pub mod thread;
pub mod worker;

/// Names a program's main function, `fn(argument: u64) -> u32`: the exit status.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        /// What a panic calls this program.
        #[unsafe(no_mangle)]
        static PROGRAM_NAME: &str = env!("CARGO_PKG_NAME");

        #[unsafe(no_mangle)]
        fn program_main(argument: u64) -> u32 {
            $main(argument)
        }
    };
}

unsafe extern "Rust" {
    // Both come from `program!`, which gives them these types.
    safe static PROGRAM_NAME: &'static str;
    safe fn program_main(argument: u64) -> u32;
}

/// Exit status of a program that panicked.
pub const EXIT_PANIC: u32 = 101;

/// First Rust code of a program; `_start` calls it with the argument that the kernel gave.
extern "C" fn enter(argument: u64) -> ! {
    call::exit(program_main(argument))
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let location = info.location().expect("the compiler gives every panic its place");
    println!("panic: {PROGRAM_NAME}: {} at {location}", console::OneLine(info.message()));
    call::exit(EXIT_PANIC)
}
