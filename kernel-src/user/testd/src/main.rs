//! Runs kernel tests for the lab: frames come from the shell, piece by piece,
//! and answers go to the console in frames of the same form, as
//! `docs/protocol.md` says.
//!
//! Nothing need be typed: `init` asks for the cases of the command line's
//! `run=`, where there is one.
//!
//! A frame is acknowledged before it is carried out. While cases run, the
//! shell waits in its call, and further input waits in the kernel.
#![no_std]
#![no_main]

mod frame;
mod run;

use frame::{Assembly, Frame, Sender};
use rt::call::{self, Message};
use rt::command_line::CommandLine;
use rt::println;
use rt::protocol::{FRAME, PING, Piece, RUN, TESTS, UNKNOWN};

rt::program!(main);

fn main(_argument: u64) -> u32 {
    let mut server = Server { assembly: Assembly::new(), sender: Sender::new(), last: None };
    let mut request = call::receive(TESTS);
    loop {
        request = match request {
            Ok(message) => call::reply_receive(TESTS, server.answer(&message)),
            Err(error) => {
                println!("testd: cannot receive: {error:?}");
                return 1;
            }
        };
    }
}

struct Server {
    assembly: Assembly,
    sender: Sender,
    /// Number of the frame that was carried out last.
    last: Option<u16>,
}

impl Server {
    fn answer(&mut self, message: &Message) -> Message {
        match message.info.label() {
            PING => Message::empty(PING),
            FRAME => {
                let Self { assembly, sender, last } = self;
                if let Some(frame) = assembly.add(&Piece::from_message(message)) {
                    carry_out(&frame, sender, last);
                }
                Message::empty(FRAME)
            }
            RUN => {
                if let Some(cases) = CommandLine::read().value("run") {
                    run::all(cases.split(','), &mut self.sender);
                }
                Message::empty(RUN)
            }
            _ => Message::empty(UNKNOWN),
        }
    }
}

/// Acknowledges a frame, and does what it says unless that was done already.
fn carry_out(frame: &Frame<'_>, sender: &mut Sender, last: &mut Option<u16>) {
    sender.send(format_args!("ack {:04x}", frame.number));
    if last.replace(frame.number) == Some(frame.number) {
        return;
    }
    match frame.payload.split_once(' ').unwrap_or((frame.payload, "")) {
        ("ping", "") => sender.send(format_args!("pong")),
        ("run", cases) => run::all(cases.split_ascii_whitespace(), sender),
        (verb, _) => println!("testd: unknown request '{verb}'"),
    }
}
