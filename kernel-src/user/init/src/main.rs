//! Process 1: starts the others, says when the system is ready, and starts
//! again what ends.
//!
//! It holds all authority (slot 0) and hands it on. The shell reports to
//! `init` before its first prompt, so that the ready line comes when everybody
//! waits, and stands on a line of its own.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use rt::abi::{Error, Info};
use rt::call::{self, Capability, Exit, Message};
use rt::{println, protocol, thread};

rt::program!(main);

/// How often in a row a program is started again after it ended.
const RESTARTS: u32 = 5;
/// A program that lived this long starts a new row.
const STEADY_NS: u64 = 10_000_000_000;

fn main(_argument: u64) -> u32 {
    match run() {
        Ok(never) => match never {},
        Err(error) => {
            println!("init: cannot go on: {error:?}");
            1
        }
    }
}

fn run() -> Result<core::convert::Infallible, Error> {
    let resource = protocol::RESOURCE;
    let tests = call::endpoint_create()?;
    let own = call::endpoint_create()?;
    thread::spawn(move || keep("testd", [resource, tests, Capability::NONE, Capability::NONE]))?;
    call::call(tests, Message::empty(protocol::PING))?;
    thread::spawn(move || keep("shell", [resource, tests, own, Capability::NONE]))?;

    call::receive(own)?;
    report()?;
    call::call(tests, Message::empty(protocol::RUN))?;
    loop {
        call::reply_receive(own, Message::empty(0))?;
    }
}

/// Says that the system is ready, in the words of `docs/protocol.md`.
fn report() -> Result<(), Error> {
    println!(
        "init: ready cpus={} free={} kernel={} time_ns={}",
        call::info(Info::CpusOnline, 0)?,
        call::info(Info::MemoryFree, 0)?,
        call::info(Info::MemoryKernel, 0)?,
        call::clock_ns(),
    );
    Ok(())
}

/// Starts a program, and starts it again whenever it ends.
fn keep(program: &str, give: [Capability; 4]) {
    let mut row = 0;
    loop {
        let started = call::clock_ns();
        let end = match start(program, give) {
            Ok(Exit::Status(status)) => format!("ended with {status}"),
            Ok(Exit::Fault(code)) => format!("ended by fault {code:#x}"),
            Ok(Exit::Quota) => "ended with its quota".into(),
            Err(error) => format!("could not be started: {error:?}"),
        };
        row = if call::clock_ns() - started > STEADY_NS { 1 } else { row + 1 };
        if row > RESTARTS {
            println!("init: {program} {end}; given up after {RESTARTS} restarts in a row");
            return;
        }
        println!("init: {program} {end}; starting it again");
    }
}

/// Runs a program to its end.
fn start(program: &str, give: [Capability; 4]) -> Result<Exit, Error> {
    let process = call::spawn(protocol::RESOURCE, program, 0, give)?;
    let exit = call::wait(process)?;
    call::close(process)?;
    Ok(exit)
}
