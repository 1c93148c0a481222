//! What can be typed.

use rt::abi::{Error, Info, Power, ProcessInfo};
use rt::call::{self, Exit};
use rt::protocol::RESOURCE;
use rt::{archive, print, println, testing};

const HELP: &str = "\
help                this list
ps                  processes
mem                 memory
cpus                CPUs and their interrupts
test list           test cases of the boot archive
test run [TEXT]     run the cases whose PROGRAM:CASE contains TEXT, or all
log                 the kernel's log
sleep MS            nothing, for so many milliseconds
reboot              start the machine anew
poweroff            switch it off";

/// Carries out a line.
pub fn execute(line: &str) {
    let (command, rest) = split(line);
    let done = match (command, rest) {
        ("", _) => Ok(()),
        ("help", "") => {
            println!("{HELP}");
            Ok(())
        }
        ("ps", "") => ps(),
        ("mem", "") => mem(),
        ("cpus", "") => cpus(),
        ("test", rest) => match split(rest) {
            ("list", "") => {
                test_list();
                Ok(())
            }
            ("run", pattern) => test_run(pattern),
            _ => {
                println!("test: say 'test list' or 'test run [TEXT]'");
                Ok(())
            }
        },
        ("log", "") => log(),
        ("sleep", text) => match text.parse::<u32>() {
            Ok(length_ms) => call::sleep_until(call::clock_ns() + u64::from(length_ms) * 1_000_000),
            Err(_) => {
                println!("sleep: say how many milliseconds");
                Ok(())
            }
        },
        ("reboot", "") => Err(call::power(RESOURCE, Power::Reboot)),
        ("poweroff", "") => Err(call::power(RESOURCE, Power::Off)),
        ("help" | "ps" | "mem" | "cpus" | "log" | "reboot" | "poweroff", extra) => {
            println!("{command} takes nothing behind it, found '{extra}'");
            Ok(())
        }
        _ => {
            println!("unknown command '{command}'; 'help' lists them");
            Ok(())
        }
    };
    if let Err(error) = done {
        println!("{command}: the kernel answered {error:?}");
    }
}

/// The first word, and the rest.
fn split(line: &str) -> (&str, &str) {
    let line = line.trim();
    line.split_once(' ').map_or((line, ""), |(word, rest)| (word, rest.trim_start()))
}

fn ps() -> Result<(), Error> {
    println!("{:>4} {:>7} {:>6} {:8} NAME", "PID", "THREADS", "PAGES", "STATE");
    for index in 0.. {
        let Some(ProcessInfo { id, threads, pages, ended, name, name_length }) = call::process_info(index)? else {
            break;
        };
        let name = name.get(..name_length as usize).and_then(|name| str::from_utf8(name).ok()).unwrap_or("?");
        let state = if ended == 0 { "running" } else { "ended" };
        println!("{id:>4} {threads:>7} {pages:>6} {state:8} {name}");
    }
    Ok(())
}

fn mem() -> Result<(), Error> {
    for (name, what) in [
        ("total", Info::MemoryTotal),
        ("free", Info::MemoryFree),
        ("kernel", Info::MemoryKernel),
        ("given back", Info::MemoryGivenBack),
    ] {
        println!("{name:10} {:>9} KiB", call::info(what, 0)? >> 10);
    }
    Ok(())
}

fn cpus() -> Result<(), Error> {
    println!("{} of {} CPUs online", call::info(Info::CpusOnline, 0)?, call::info(Info::CpusPresent, 0)?);
    println!("{:>3} {:>8} {:>10} {:>10} {:>10} {:>10}", "CPU", "HARDWARE", "TIMER", "IPIS IN", "IPIS OUT", "IDLE");
    for cpu in 0..call::info(Info::CpusPresent, 0)? {
        print!("{cpu:>3} {:>8x}", call::info(Info::HardwareId, cpu)?);
        for what in [Info::TimerInterrupts, Info::IpisReceived, Info::IpisSent, Info::IdleEntries] {
            print!(" {:>10}", call::info(what, cpu)?);
        }
        println!();
    }
    Ok(())
}

fn test_list() {
    for program in archive::programs() {
        for case in program.cases() {
            println!("{}:{}", program.name.as_str(), case.as_str());
        }
    }
}

fn test_run(pattern: &str) -> Result<(), Error> {
    let (mut run, mut failed) = (0, 0);
    for program in archive::programs() {
        let name = program.name.as_str();
        for (number, case) in (0..).zip(program.cases()) {
            let case = case.as_str();
            // `PROGRAM:CASE` is not in one piece anywhere, so a pattern with a colon is split like it.
            let wanted = match pattern.split_once(':') {
                Some((in_program, in_case)) => name.ends_with(in_program) && case.starts_with(in_case),
                None => name.contains(pattern) || case.contains(pattern),
            };
            if !wanted {
                continue;
            }
            run += 1;
            match testing::run(RESOURCE, name, number)? {
                Exit::Status(testing::EXIT_PASSED) => println!("ok {name}:{case}"),
                exit => {
                    failed += 1;
                    println!("not ok {name}:{case} {exit:?}");
                }
            }
        }
    }
    println!("{run} run, {failed} failed");
    Ok(())
}

fn log() -> Result<(), Error> {
    let mut piece = [0; 512];
    let mut offset = 0;
    // What is printed here goes into the log too: only what was there at the start is shown.
    let mut end = 0;
    let mut at_start = true;
    loop {
        match call::log_read(end, &mut piece)? {
            0 => break,
            count => end += count as u64,
        }
    }
    while offset < end {
        let count = call::log_read(offset, &mut piece)?;
        if count == 0 {
            break;
        }
        let text = &piece[..count.min((end - offset) as usize)];
        // Behind a bar a prompt of old is no prompt.
        for part in text.utf8_chunks() {
            for piece in part.valid().split_inclusive('\n') {
                if at_start {
                    print!("| ");
                }
                at_start = piece.ends_with('\n');
                print!("{piece}");
            }
        }
        offset += count as u64;
    }
    if !at_start {
        println!();
    }
    Ok(())
}
