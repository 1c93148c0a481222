//! Programs that panic, and who has started them.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use rt::call::{self, Capability, Exit};
use rt::probe::role;
use rt::protocol::RESOURCE;
use rt::{EXIT_PANIC, assert_ok, kernel_assert, kernel_assert_eq, test};

/// More than the log ring holds.
const LOG: usize = 80 << 10;

/// The last line of the log that tells of a panic.
fn last_panic() -> Option<String> {
    let (mut log, mut piece) = (Vec::with_capacity(LOG), [0; 512]);
    loop {
        match assert_ok!(call::log_read(log.len() as u64, &mut piece)) {
            0 => break,
            count => log.extend_from_slice(&piece[..count]),
        }
    }
    let mut lines = log.rsplit(|&byte| byte == b'\n').map(String::from_utf8_lossy);
    lines.find(|line| line.contains("panic: ")).map(Cow::into_owned)
}

test! {
    // CASE-FLT-018, by the exit word and the log: a panic sends no message.
    fn a_program_that_panics_is_reported_and_started_again() requires("PRC-22") {
        let run = |role| {
            let process = assert_ok!(call::spawn(RESOURCE, "faults", role, [Capability::NONE; 4]));
            let exit = assert_ok!(call::wait(process));
            assert_ok!(call::close(process));
            exit
        };
        for _ in 0..3 {
            kernel_assert_eq!(run(role::PANIC), Exit::Status(EXIT_PANIC));
            let told = last_panic().unwrap_or_default();
            kernel_assert!(told.contains("panic: faults: on purpose at ") && told.contains("main.rs:"), "{told}");
        }
        // What it does well it does well after that.
        kernel_assert_eq!(run(role::SCRIBBLE), Exit::Status(0));
    }
}
