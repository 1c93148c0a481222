//! Mistakes on purpose, for the lab to find. No suite lists this program.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicBool, Ordering};
use rt::abi::Info;
use rt::call::{self, Message};
use rt::{assert_ok, println, test, thread};

rt::test_main!();

static DONE: AtomicBool = AtomicBool::new(false);
static WAITING: AtomicBool = AtomicBool::new(false);

test! {
    /// A lost wake-up: who waits looks first whether it must, and says so only later. If the other finishes in
    /// between, it finds nobody to wake, and the wait never ends.
    fn lost_wake_up() requires("TST-30") needs("smp>=2") {
        let bell = assert_ok!(call::endpoint_create());
        let elsewhere = (assert_ok!(call::info(Info::CurrentCpu, 0)) + 1) % assert_ok!(call::info(Info::CpusOnline, 0));
        let worker = assert_ok!(thread::spawn_on(elsewhere, move || {
            DONE.store(true, Ordering::SeqCst);
            if WAITING.load(Ordering::SeqCst) {
                assert_ok!(call::call(bell, Message::empty(0)));
            }
        }));
        if !DONE.load(Ordering::SeqCst) {
            // What stands between check and announcement in real programs: a look at the clock, a log line.
            println!("planted: waits from {} ns on", call::clock_ns());
            WAITING.store(true, Ordering::SeqCst);
            assert_ok!(call::receive(bell));
        }
        // It may wait for a reply: the process ends it.
        drop(worker);
    }
}

test! {
    /// A hang: nothing that it waits for can come.
    fn spins_for_ever() requires("TST-30") {
        println!("planted: spins");
        while !DONE.load(Ordering::SeqCst) {
            core::hint::spin_loop();
        }
    }
}
