//! System calls, each a safe function: addresses come from slices, so what
//! the kernel writes is the caller's to write.

use crate::arch;
use abi::{
    ADDRESS_BITS, ANY_SLOT, BUFFER_WORDS, Call, CapabilityInfo, DEADLINE, Error, Info, MESSAGE_WORDS, MessageInfo,
    NAME_MAX, NO_CAPABILITY, OWED, OWN_PROCESS, OWN_QUOTA, Outcome, Power, QuotaInfo, RECEIVE_SLOTS, REPLY_LOST,
    Registers, Rights, SIGNALLED, SPAWN_CAPABILITIES, SpawnRequest, ThreadAction, ThreadInfo, copy_how,
};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU64, Ordering};

/// A name of a capability: an address, and above it the generation of the filling of its slot, or 0 for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability(pub u64);

impl Capability {
    /// In a list of capabilities to give: none.
    pub const NONE: Self = Self(NO_CAPABILITY);
    /// In place of a quota: the one of this process.
    pub const OWN_QUOTA: Self = Self(OWN_QUOTA);

    /// The slot, whatever it holds.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.0 & u32::MAX as u64
    }
}

/// A slot: of this process's own names, or by index within one of its CNodes. `abi::copy_how` has the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    node: Capability,
    index: u64,
    depth: u32,
}

impl Place {
    /// Slot `index`, of `depth` bits, as seen from a CNode.
    #[must_use]
    pub const fn within(node: Capability, index: u64, depth: u32) -> Self {
        Self { node, index, depth }
    }

    /// To be filled as the filling of that generation.
    #[must_use]
    pub const fn at_generation(self, generation: u64) -> Self {
        let generation = generation << ADDRESS_BITS;
        match self.depth {
            0 => Self { node: Capability(self.node.address() | generation), ..self },
            _ => Self { index: self.index & u32::MAX as u64 | generation, ..self },
        }
    }
}

impl From<Capability> for Place {
    fn from(name: Capability) -> Self {
        Self { node: name, index: 0, depth: 0 }
    }
}

/// A message: label, count of words, the words, and of one received the badge of the capability that it came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub info: MessageInfo,
    pub words: [u64; MESSAGE_WORDS],
    pub badge: u64,
}

impl Message {
    /// A message of `label` and no words.
    #[must_use]
    pub const fn empty(label: u64) -> Self {
        Self { info: MessageInfo::new(label, 0), words: [0; MESSAGE_WORDS], badge: 0 }
    }

    /// The bits, where a receive tells of the bound notification.
    #[must_use]
    pub const fn bits(&self) -> Option<u64> {
        if self.info.0 == SIGNALLED.0 { Some(self.words[0]) } else { None }
    }

    #[must_use]
    pub const fn new(label: u64, words: [u64; MESSAGE_WORDS]) -> Self {
        Self { info: MessageInfo::new(label, MESSAGE_WORDS), words, badge: 0 }
    }
}

/// A page through which a thread's long messages and capabilities go. The kernel writes it whenever a message comes, so
/// its words are atomic.
#[repr(C, align(4096))]
pub struct Buffer([AtomicU64; BUFFER_WORDS]);

const _: () = assert!(size_of::<Buffer>() == 4096);

impl Buffer {
    #[must_use]
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; BUFFER_WORDS])
    }

    /// Word `index` of a message, from [`MESSAGE_WORDS`] on; those before travel in registers.
    #[must_use]
    pub fn word(&self, index: usize) -> u64 {
        self.0[index].load(Ordering::Relaxed)
    }

    pub fn set_word(&self, index: usize, value: u64) {
        self.0[index].store(value, Ordering::Relaxed);
    }

    /// What goes with the next message, if it says so, as the capability of that number.
    pub fn give(&self, number: usize, capability: Capability) {
        self.set_word(number, capability.0);
    }

    /// What came with the last message as the capability of that number, if so many came.
    #[must_use]
    pub fn given(&self, number: usize) -> Capability {
        Capability(self.word(number))
    }

    /// Where the capability of that number goes: an empty slot, [`ANY_SLOT`], or 0 for nowhere.
    pub fn receive_at(&self, number: usize, place: u64) {
        self.set_word(RECEIVE_SLOTS + number, place);
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself.
    Status(u32),
    /// The kernel ended it; the architecture's number of the exception.
    Fault(u32),
    /// With the quota that it was charged to.
    Quota,
}

impl Exit {
    const fn from_word(word: u64) -> Self {
        match word {
            abi::EXIT_QUOTA => Self::Quota,
            word if word & abi::EXIT_FAULT == 0 => Self::Status(word as u32),
            word => Self::Fault(word as u32),
        }
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

/// Copies from a member of the boot archive; returns the number of bytes, at most `PIECE_MAX`.
pub fn archive_read(index: u64, offset: u64, to: &mut [u8]) -> Result<usize, Error> {
    call!(call4, ArchiveRead, index, offset, to.as_mut_ptr() as u64, to.len() as u64).map(|count| count as usize)
}

/// Makes an endpoint.
pub fn endpoint_create() -> Result<Capability, Error> {
    endpoint_create_at(ANY_SLOT)
}

/// Makes an endpoint in that slot.
pub fn endpoint_create_at(place: u64) -> Result<Capability, Error> {
    call!(call2, EndpointCreate, place, OWN_QUOTA).map(Capability)
}

/// Makes a CNode of `1 << bits` slots.
pub fn cnode_create(bits: u64) -> Result<Capability, Error> {
    call!(call3, CNodeCreate, bits, ANY_SLOT, OWN_QUOTA).map(Capability)
}

/// Derives a capability with at most those rights, and with that badge (of a CNode: guard), or with its own where
/// `badge` is 0. The generation of the slot's filling.
pub fn cap_mint(to: impl Into<Place>, from: impl Into<Place>, rights: Rights, badge: u64) -> Result<u64, Error> {
    let (to, from) = (to.into(), from.into());
    let how = copy_how(rights, to.depth, from.depth);
    call!(call6, CapCopy, to.node.0, to.index, from.node.0, from.index, how, badge)
}

/// Derives a capability with the same rights and badge.
pub fn cap_copy(to: impl Into<Place>, from: impl Into<Place>) -> Result<u64, Error> {
    cap_mint(to, from, Rights::ALL, 0)
}

/// Moves a capability with its place among its relatives.
pub fn cap_move(to: impl Into<Place>, from: impl Into<Place>) -> Result<u64, Error> {
    let (to, from) = (to.into(), from.into());
    let how = copy_how(Rights::NONE, to.depth, from.depth);
    call!(call6, CapMove, to.node.0, to.index, from.node.0, from.index, how, 0)
}

/// Calls again until a long call says that it is done.
fn in_steps(mut step: impl FnMut() -> Result<u64, Error>) -> Result<(), Error> {
    while step()? != 0 {}
    Ok(())
}

/// Empties a slot; what was derived from the capability there is derived from its parent then.
pub fn cap_delete(slot: impl Into<Place>) -> Result<(), Error> {
    let Place { node, index, depth } = slot.into();
    let first = call!(call3, CapDelete, node.0, index, u64::from(depth))?;
    match first {
        0 => Ok(()),
        // Others may have finished it.
        _ => match in_steps(|| call!(call3, CapDelete, node.0, index, u64::from(depth))) {
            Err(Error::InvalidCapability) => Ok(()),
            done => done,
        },
    }
}

/// Takes away all that was derived from a capability, everywhere.
pub fn cap_revoke(slot: impl Into<Place>) -> Result<(), Error> {
    let slot = slot.into();
    in_steps(|| cap_revoke_step(slot))
}

/// A bounded piece of [`cap_revoke`]: 0 when nothing is left to do.
pub fn cap_revoke_step(slot: impl Into<Place>) -> Result<u64, Error> {
    let Place { node, index, depth } = slot.into();
    call!(call3, CapRevoke, node.0, index, u64::from(depth))
}

/// What a slot holds.
pub fn cap_read(slot: impl Into<Place>) -> Result<CapabilityInfo, Error> {
    let Place { node, index, depth } = slot.into();
    let mut info = CapabilityInfo { kind: 0, rights: 0, badge: 0, generation: 0, object: 0 };
    call!(call4, CapRead, node.0, index, u64::from(depth), &raw mut info as u64)?;
    Ok(info)
}

/// What a thread of this process, or of another, does; None past the last.
pub fn thread_info(process: Option<Capability>, index: u64) -> Result<Option<ThreadInfo>, Error> {
    let mut info = ThreadInfo { id: 0, state: 0, object: 0, priority: 0, time: 0 };
    let process = process.map_or(OWN_PROCESS, |process| process.0);
    let found = call!(call3, ThreadInfo, process, index, &raw mut info as u64)?;
    Ok((found != 0).then_some(info))
}

/// Makes a thread in this process, or another, that is suspended, on any CPU or one. What it runs is said with
/// [`thread_write`].
pub fn thread_make(process: Option<Capability>, cpu: Option<u64>, quota: Capability) -> Result<Capability, Error> {
    let process = process.map_or(OWN_PROCESS, |process| process.0);
    call!(call4, ThreadMake, process, cpu.map_or(0, |cpu| cpu + 1), ANY_SLOT, quota.0).map(Capability)
}

/// The registers of a thread that is stopped, or of which the kernel has told somebody who has not answered yet.
pub fn thread_read(thread: Capability) -> Result<Registers, Error> {
    let mut registers = Registers { general: [0; 32], pc: 0, flags: 0, tls: 0 };
    call!(call2, ThreadRead, thread.0, &raw mut registers as u64)?;
    Ok(registers)
}

/// Sets the registers of such a thread.
///
/// # Safety
/// If the thread is one of this process, it may go on with those registers.
pub unsafe fn thread_write(thread: Capability, registers: &Registers) -> Result<(), Error> {
    call!(call2, ThreadWrite, thread.0, core::ptr::from_ref(registers) as u64).map(drop)
}

/// Makes a thread stop or go on, or changes its priority; see [`ThreadAction`].
///
/// It is safe because what is suspended keeps what it has: a thread of this process that is killed frees nothing.
pub fn thread_control(thread: Capability, action: ThreadAction, value: u64) -> Result<u64, Error> {
    call!(call3, ThreadControl, thread.0, action as u64, value)
}

/// Names of this process, or of another, start at that CNode from now on.
pub fn set_root(process: Option<Capability>, root: Capability, guard: u64) -> Result<(), Error> {
    call!(call3, SetRoot, process.map_or(OWN_PROCESS, |process| process.0), root.0, guard).map(drop)
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
    spawn_in(Capability::OWN_QUOTA, resource, program, argument, give)
}

/// Starts a program in a process of its own, which has that quota, and is charged to it.
pub fn spawn_in(
    quota: Capability,
    resource: Capability,
    program: &str,
    argument: u64,
    give: [Capability; SPAWN_CAPABILITIES],
) -> Result<Capability, Error> {
    spawn_suspended(Capability(0), quota, resource, program, argument, give)
}

/// The same, with a capability to its first thread in that slot, which is suspended; unless that is 0.
pub fn spawn_suspended(
    thread: Capability,
    quota: Capability,
    resource: Capability,
    program: &str,
    argument: u64,
    give: [Capability; SPAWN_CAPABILITIES],
) -> Result<Capability, Error> {
    let mut name = [0; NAME_MAX];
    name.get_mut(..program.len()).ok_or(Error::NotFound)?.copy_from_slice(program.as_bytes());
    let request = SpawnRequest {
        name,
        name_length: program.len() as u64,
        argument,
        capabilities: give.map(|slot| slot.0),
        quota: quota.0,
        thread: thread.0,
    };
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
    cap_delete(capability)
}

/// How long a call may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// For ever.
    Done,
    /// Until the clock reads so many nanoseconds; in the past, as [`Until::NOW`], not at all.
    Clock(u64),
}

impl Until {
    /// What can be done at once.
    pub const NOW: Self = Self::Clock(0);

    const fn flag_and_deadline(self) -> (u64, u64) {
        match self {
            Self::Done => (0, 0),
            Self::Clock(deadline) => (DEADLINE, deadline),
        }
    }
}

/// The status, which may be [`REPLY_LOST`], and the message that came.
fn message(call: Call, endpoint: Capability, message: Message, until: Until) -> Result<(u64, Message), Error> {
    let Message { info, mut words, .. } = message;
    let (status, info, badge) = match until {
        Until::Done => arch::message(call as u64, endpoint.0, info, &mut words),
        Until::Clock(deadline) => arch::message_until(call as u64 | DEADLINE, endpoint.0, deadline, info, &mut words),
    };
    let received = Message { info, words, badge };
    if status == REPLY_LOST {
        return Ok((status, received));
    }
    result(Outcome { status, value: 0 }).map(|_| (0, received))
}

/// Sends, and waits for the reply.
pub fn call(endpoint: Capability, request: Message) -> Result<Message, Error> {
    call_until(endpoint, request, Until::Done)
}

/// Sends, and waits for the reply, both within a time. A poll waits for the reply of one that took the call at once.
pub fn call_until(endpoint: Capability, request: Message, until: Until) -> Result<Message, Error> {
    message(Call::Call, endpoint, request, until).map(|(_, reply)| reply)
}

/// Sends, and waits only until it is received.
pub fn send(endpoint: Capability, sent: Message, until: Until) -> Result<(), Error> {
    message(Call::Send, endpoint, sent, until).map(drop)
}

/// Waits for a message.
pub fn receive(endpoint: Capability) -> Result<Message, Error> {
    receive_until(endpoint, Until::Done)
}

/// Waits for a message, for a time.
pub fn receive_until(endpoint: Capability, until: Until) -> Result<Message, Error> {
    message(Call::Receive, endpoint, Message::empty(0), until).map(|(_, received)| received)
}

/// Answers the message received last, and waits for the next.
pub fn reply_receive(endpoint: Capability, reply: Message) -> Result<Message, Error> {
    reply_receive_until(endpoint, reply, Until::Done).map(|(_, received)| received)
}

/// Answers the message received last, and waits for the next, for a time; with it, whether the answer was heard.
pub fn reply_receive_until(endpoint: Capability, reply: Message, until: Until) -> Result<(bool, Message), Error> {
    message(Call::ReplyReceive, endpoint, reply, until).map(|(status, received)| (status != REPLY_LOST, received))
}

/// Answers the message received last.
pub fn reply(answer: Message) -> Result<(), Error> {
    reply_to(Capability(OWED), answer)
}

/// Answers the caller of a Reply.
pub fn reply_to(reply: Capability, answer: Message) -> Result<(), Error> {
    message(Call::Reply, reply, answer, Until::Done).map(drop)
}

/// Makes a Reply of what this thread owes for the message received last.
pub fn save_reply() -> Result<Capability, Error> {
    call!(call2, SaveReply, ANY_SLOT, OWN_QUOTA).map(Capability)
}

/// Gives this thread a buffer page, or none.
pub fn buffer_set(buffer: Option<&'static Buffer>) -> Result<(), Error> {
    call!(call1, BufferSet, buffer.map_or(0, |buffer| &raw const *buffer as u64)).map(drop)
}

/// Makes a notification.
pub fn notification_create() -> Result<Capability, Error> {
    call!(call2, NotificationCreate, ANY_SLOT, OWN_QUOTA).map(Capability)
}

/// Sets bits, as far as the capability's badge has them. It never waits.
pub fn signal(notification: Capability, bits: u64) -> Result<(), Error> {
    call!(call2, NotificationSignal, notification.0, bits).map(drop)
}

/// Waits until one of the bits in `mask` is set, and clears and gives those that are.
pub fn wait_bits(notification: Capability, mask: u64, until: Until) -> Result<u64, Error> {
    let (flag, deadline) = until.flag_and_deadline();
    // SAFETY: the call takes and writes no address.
    result(unsafe { arch::call_until(Call::NotificationWait as u64 | flag, notification.0, mask, deadline) })
}

/// Receives of this thread give the notification's bits, too.
pub fn bind(notification: Capability) -> Result<(), Error> {
    call!(call2, NotificationBind, notification.0, 1).map(drop)
}

/// Receives give messages only.
pub fn unbind(notification: Capability) -> Result<(), Error> {
    call!(call2, NotificationBind, notification.0, 0).map(drop)
}

/// Makes an endpoint that is charged to that quota.
pub fn endpoint_create_in(quota: Capability) -> Result<Capability, Error> {
    call!(call2, EndpointCreate, ANY_SLOT, quota.0).map(Capability)
}

/// Makes a notification that is charged to that quota.
pub fn notification_create_in(quota: Capability) -> Result<Capability, Error> {
    call!(call2, NotificationCreate, ANY_SLOT, quota.0).map(Capability)
}

/// Makes a CNode that is charged to that quota.
pub fn cnode_create_in(quota: Capability, bits: u64) -> Result<Capability, Error> {
    call!(call3, CNodeCreate, bits, ANY_SLOT, quota.0).map(Capability)
}

/// Makes a Reply that is charged to that quota.
pub fn save_reply_in(quota: Capability) -> Result<Capability, Error> {
    call!(call2, SaveReply, ANY_SLOT, quota.0).map(Capability)
}

/// Makes a quota that has so much of that one.
pub fn quota_create(parent: Capability, bytes: u64, objects: u64) -> Result<Capability, Error> {
    call!(call4, QuotaCreate, parent.0, bytes, objects, ANY_SLOT).map(Capability)
}

/// Limits and use of a quota.
pub fn quota_read(quota: Capability) -> Result<QuotaInfo, Error> {
    let mut info = QuotaInfo { bytes: 0, bytes_used: 0, objects: 0, objects_used: 0 };
    call!(call2, QuotaRead, quota.0, &raw mut info as u64)?;
    Ok(info)
}

/// Ends all that is charged to a quota, and gives what it had to its parent.
pub fn quota_destroy(quota: Capability) -> Result<(), Error> {
    in_steps(|| quota_destroy_step(quota))
}

/// A bounded piece of [`quota_destroy`]: 0 when nothing is left to do.
pub fn quota_destroy_step(quota: Capability) -> Result<u64, Error> {
    call!(call1, QuotaDestroy, quota.0)
}
