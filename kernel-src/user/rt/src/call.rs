//! System calls, each a safe function: addresses come from slices, so what
//! the kernel writes is the caller's to write.

use crate::arch;
use abi::{
    Call, Error, Info, MESSAGE_WORDS, MessageInfo, NAME_MAX, NO_CAPABILITY, Outcome, Power, SPAWN_CAPABILITIES,
    SpawnRequest,
};
use core::mem::MaybeUninit;

/// A slot of this process's capability table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability(pub u64);

impl Capability {
    /// In a list of capabilities to give: none.
    pub const NONE: Self = Self(NO_CAPABILITY);
}

/// A message: label, count of words and the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub info: MessageInfo,
    pub words: [u64; MESSAGE_WORDS],
}

impl Message {
    /// A message of `label` and no words.
    #[must_use]
    pub const fn empty(label: u64) -> Self {
        Self { info: MessageInfo::new(label, 0), words: [0; MESSAGE_WORDS] }
    }

    #[must_use]
    pub const fn new(label: u64, words: [u64; MESSAGE_WORDS]) -> Self {
        Self { info: MessageInfo::new(label, MESSAGE_WORDS), words }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself.
    Status(u32),
    /// The kernel ended it; the architecture's number of the exception.
    Fault(u32),
}

impl Exit {
    const fn from_word(word: u64) -> Self {
        if word & abi::EXIT_FAULT == 0 { Self::Status(word as u32) } else { Self::Fault(word as u32) }
    }
}

fn result(outcome: Outcome) -> Result<u64, Error> {
    match outcome.status {
        0 => Ok(outcome.value),
        status => Err(Error::from_status(status).expect("the kernel gives only statuses that abi lists")),
    }
}

macro_rules! call {
    ($function:ident, $call:ident $(, $argument:expr)*) => {
        // SAFETY: the only addresses among the arguments are those of borrowed buffers, which the kernel
        // writes only where they were borrowed to be written.
        result(unsafe { arch::$function(Call::$call as u64 $(, $argument)*) })
    };
}

/// Enters the kernel and leaves it again.
#[inline(always)]
pub fn null() {
    // SAFETY: the call takes nothing and writes nothing.
    unsafe { arch::call0(Call::Null as u64) };
}

/// Nanoseconds since boot.
#[must_use]
pub fn clock_ns() -> u64 {
    call!(call0, Clock).unwrap_or_else(|error| panic!("the clock answered {error:?}"))
}

/// Writes to the console and the log; returns how many bytes were taken.
pub fn debug_write(bytes: &[u8]) -> Result<u64, Error> {
    call!(call2, DebugWrite, bytes.as_ptr() as u64, bytes.len() as u64)
}

/// A number that the kernel keeps; `index` is a CPU where it is kept by CPU.
pub fn info(what: Info, index: u64) -> Result<u64, Error> {
    call!(call2, Info, what as u64, index)
}

/// The process of that number in the list of all; None past the last.
pub fn process_info(index: u64) -> Result<Option<abi::ProcessInfo>, Error> {
    let mut process = MaybeUninit::<abi::ProcessInfo>::zeroed();
    let found = call!(call2, ProcessInfo, index, process.as_mut_ptr() as u64)?;
    // SAFETY: all zeros is a valid ProcessInfo, and so is what the kernel writes: words and bytes.
    Ok((found != 0).then(|| unsafe { process.assume_init() }))
}

/// Copies from the log ring; returns the number of bytes, 0 at its end.
pub fn log_read(offset: u64, to: &mut [u8]) -> Result<usize, Error> {
    call!(call3, LogRead, offset, to.as_mut_ptr() as u64, to.len() as u64).map(|count| count as usize)
}

/// Name (padded with zeros) and size of a member of the boot archive; `NotFound` past the last.
pub fn archive_member(index: u64) -> Result<([u8; NAME_MAX], u64), Error> {
    let mut name = [0; NAME_MAX];
    let size = call!(call3, ArchiveMember, index, name.as_mut_ptr() as u64, NAME_MAX as u64)?;
    Ok((name, size))
}

/// Copies from a member of the boot archive; returns the number of bytes.
pub fn archive_read(index: u64, offset: u64, to: &mut [u8]) -> Result<usize, Error> {
    call!(call4, ArchiveRead, index, offset, to.as_mut_ptr() as u64, to.len() as u64).map(|count| count as usize)
}

/// Makes an endpoint.
pub fn endpoint_create() -> Result<Capability, Error> {
    call!(call0, EndpointCreate).map(Capability)
}

/// Switches the machine off, or starts it anew. It returns only if that does not work.
pub fn power(resource: Capability, how: Power) -> Error {
    match call!(call2, Power, resource.0, how as u64) {
        Ok(_) => Error::Unsupported,
        Err(error) => error,
    }
}

/// Ends this process.
pub fn exit(status: u32) -> ! {
    let outcome = call!(call1, Exit, u64::from(status));
    unreachable!("exit returned {outcome:?}")
}

/// Lets others of the same priority run.
pub fn yield_now() {
    call!(call0, Yield).unwrap_or_else(|error| panic!("yield answered {error:?}"));
}

/// Sleeps until the clock reads `deadline_ns`.
pub fn sleep_until(deadline_ns: u64) -> Result<(), Error> {
    call!(call1, Sleep, deadline_ns).map(drop)
}

/// Starts a program of the boot archive in a process of its own.
pub fn spawn(
    resource: Capability,
    program: &str,
    argument: u64,
    give: [Capability; SPAWN_CAPABILITIES],
) -> Result<Capability, Error> {
    let mut name = [0; NAME_MAX];
    name.get_mut(..program.len()).ok_or(Error::NotFound)?.copy_from_slice(program.as_bytes());
    let request =
        SpawnRequest { name, name_length: program.len() as u64, argument, capabilities: give.map(|slot| slot.0) };
    call!(call2, Spawn, resource.0, &raw const request as u64).map(Capability)
}

/// Waits for the end of a process.
pub fn wait(process: Capability) -> Result<Exit, Error> {
    call!(call1, Wait, process.0).map(Exit::from_word)
}

/// Waits for console input; returns how many bytes came.
pub fn console_read(resource: Capability, to: &mut [u8]) -> Result<usize, Error> {
    call!(call3, ConsoleRead, resource.0, to.as_mut_ptr() as u64, to.len() as u64).map(|count| count as usize)
}

/// Empties a slot.
pub fn close(capability: Capability) -> Result<(), Error> {
    call!(call1, Close, capability.0).map(drop)
}

fn message(call: Call, endpoint: Capability, message: Message) -> Result<Message, Error> {
    let Message { info, mut words } = message;
    let (status, info) = arch::message(call, endpoint.0, info, &mut words);
    result(Outcome { status, value: 0 }).map(|_| Message { info, words })
}

/// Sends, and waits for the reply.
pub fn call(endpoint: Capability, request: Message) -> Result<Message, Error> {
    message(Call::Call, endpoint, request)
}

/// Waits for a message.
pub fn receive(endpoint: Capability) -> Result<Message, Error> {
    message(Call::Receive, endpoint, Message::empty(0))
}

/// Answers the message received last, and waits for the next.
pub fn reply_receive(endpoint: Capability, reply: Message) -> Result<Message, Error> {
    message(Call::ReplyReceive, endpoint, reply)
}
