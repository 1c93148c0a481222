//! The shell: owns console input. What begins with SOH is a frame of the lab's
//! and goes to `testd` unechoed; the rest is typed by people.
#![no_std]
#![no_main]

mod commands;
mod line;

use line::{Event, Line};
use rt::abi::Error;
use rt::call::{self, Message};
use rt::protocol::{self, INIT, PING, RESOURCE, TESTS};
use rt::{print, println};

rt::program!(main);

const PROMPT: &str = "$ ";

fn main(_argument: u64) -> u32 {
    // `init` prints the ready line before it answers; a shell that runs without it needs no answer.
    if let Err(error) = call::call(INIT, Message::empty(PING)) {
        println!("shell: init does not answer: {error:?}");
    }
    match serve() {
        Ok(never) => match never {},
        Err(error) => {
            println!("shell: the console cannot be read: {error:?}");
            1
        }
    }
}

fn serve() -> Result<core::convert::Infallible, Error> {
    let mut line = Line::new();
    let mut input = [0; 64];
    print!("{PROMPT}");
    loop {
        let count = call::console_read(RESOURCE, &mut input)?;
        for &byte in &input[..count] {
            match line.key(byte) {
                Event::None => {}
                Event::Frame => forward(line.frame()),
                Event::Cancelled => print!("^C\n{PROMPT}"),
                Event::Entered => {
                    println!();
                    commands::execute(line.text());
                    line.clear();
                    print!("{PROMPT}");
                }
            }
        }
    }
}

/// Hands a frame to `testd`, in pieces. The host sends it again if this fails.
fn forward(frame: &[u8]) {
    for piece in protocol::pieces(frame) {
        if let Err(error) = call::call(TESTS, piece.message()) {
            println!("shell: testd does not answer: {error:?}");
            return;
        }
    }
}
