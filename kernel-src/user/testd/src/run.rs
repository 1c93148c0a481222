//! Running cases: each in a process of its own, results as KTAP.

use crate::frame::Sender;
use rt::abi::Error;
use rt::call::{self, Exit};
use rt::protocol::RESOURCE;
use rt::{archive, testing};

/// Runs cases, each `PROGRAM:CASE`, in that order.
pub fn all<'a>(cases: impl Iterator<Item = &'a str> + Clone, sender: &mut Sender) {
    sender.send(format_args!("KTAP version 1"));
    sender.send(format_args!("1..{}", cases.clone().count()));
    for (number, case) in (1..).zip(cases) {
        sender.send(format_args!("# start {case}"));
        let started = call::clock_ns();
        match one(case) {
            Ok(Exit::Status(testing::EXIT_PASSED)) => {
                sender.send(format_args!("ok {number} {case} # time_ns={}", call::clock_ns() - started));
            }
            Ok(Exit::Status(status)) => sender.send(format_args!("not ok {number} {case} # exit {status}")),
            Ok(Exit::Fault(_)) => sender.send(format_args!("not ok {number} {case} # fault")),
            Ok(Exit::Quota) => sender.send(format_args!("not ok {number} {case} # error quota")),
            Err(Error::NotFound) => sender.send(format_args!("not ok {number} {case} # unknown")),
            Err(error) => sender.send(format_args!("not ok {number} {case} # error {error:?}")),
        }
    }
}

fn one(case: &str) -> Result<Exit, Error> {
    let (program, name) = case.split_once(':').ok_or(Error::NotFound)?;
    let index = archive::program(program)
        .and_then(|program| program.cases().position(|case| case.as_str() == name))
        .ok_or(Error::NotFound)?;
    testing::run(RESOURCE, program, index as u64)
}
