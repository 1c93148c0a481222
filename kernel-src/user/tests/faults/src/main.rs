//! What must not be done in the process that checks what becomes of it: the
//! argument names a way to break (`rt::probe::Break`) or another role. It has
//! no cases of its own; the program `user` starts it.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{Error, Info, Power};
use rt::call::{self, Capability};
use rt::probe::{Break, role};
use rt::protocol::RESOURCE;
use rt::{println, thread};

mod crowd;

rt::program!(main);

/// Exit status for an argument that means nothing.
const EXIT_NO_ROLE: u32 = 2;

static DATA: [AtomicU64; 512] = [const { AtomicU64::new(0) }; 512];

fn main(argument: u64) -> u32 {
    match argument {
        role::PANIC => panic!("on purpose"),
        role::SCRIBBLE => {
            DATA.iter().for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
            0
        }
        role::NO_AUTHORITY => no_authority(),
        role::LEAVE_THREADS => leave_threads(),
        role::CROWD => crowd::crowd().unwrap_or(1),
        _ => break_by(argument),
    }
}

fn no_authority() -> u32 {
    let refused = |by| {
        [
            call::spawn(by, "faults", role::SCRIBBLE, [Capability::NONE; 4]).err(),
            call::console_read(by, &mut [0; 8]).err(),
            Some(call::power(by, Power::Off)),
        ]
    };
    let nothing = refused(RESOURCE) == [Some(Error::InvalidCapability); 3];
    let Ok(endpoint) = call::endpoint_create() else { return 1 };
    u32::from(!nothing || refused(endpoint) != [Some(Error::WrongObject); 3])
}

fn leave_threads() -> u32 {
    let started = (0..call::info(Info::CpusOnline, 0).unwrap_or(0).min(8)).all(|cpu| {
        thread::spawn_on(cpu, || {
            DATA[0].fetch_add(1, Ordering::Relaxed);
            loop {
                core::hint::spin_loop();
            }
        })
        .is_ok_and(|_: thread::Thread<()>| true)
    });
    if started { 7 } else { 1 }
}

fn break_by(argument: u64) -> u32 {
    let Some(&way) = Break::ALL.iter().find(|&&way| way as u64 == argument) else {
        println!("no way to break has the number {argument}");
        return EXIT_NO_ROLE;
    };
    way.now();
    println!("{way:?} was let pass");
    1
}
