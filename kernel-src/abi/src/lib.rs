//! What the kernel and user programs agree on: call numbers, error codes,
//! register and structure layouts. No logic lives here.
//!
//! Registers of a system call:
//!
//! | | x86_64 (`syscall`) | AArch64 (`svc #0`) | RISC-V (`ecall`) |
//! |---|---|---|---|
//! | number | `rax` | `x10` | `t0` |
//! | arguments 0 to 5 of a plain call | `rdi rsi rdx r10 r8 r9` | `x0` to `x5` | `a0` to `a5` |
//! | status, value of a plain call | `rax rdx` | `x0 x1` | `a0 a1` |
//! | capability, info of a message call | `rdi rsi` | `x0 x1` | `a0 a1` |
//! | payload words 0 to 7 | `rdx r8 r9 r10 r12 r13 r14 r15` | `x2` to `x9` | `a2` to `a7`, `t1`, `t2` |
//! | status, info of a message call | `rax rsi` | `x0 x1` | `a0 a1` |
//! | badge of a message received | `rdi` | `x10` | `t0` |
//! | deadline of a message call | `rbx` | `x11` | `t3` |
//!
//! Every other register is preserved, but `rcx` and `r11` on x86_64.
//! A status is 0 or the negative of an [`Error`].
#![no_std]

use core::mem::offset_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, TryFromBytes, try_transmute};

/// Calls below this number never block and are plain functions of six words.
pub const SIMPLE_CALLS: u64 = 32;

/// Numbers of the system calls, each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `() -> 0`: does nothing; the price of entering the kernel.
    Null = 0,
    /// `() -> nanoseconds` since boot, monotonic over all CPUs.
    Clock = 1,
    /// `(address, length) -> bytes written`: whole lines to the console and the log ring.
    DebugWrite = 2,
    /// `(Info, index) -> value`.
    Info = 3,
    /// `(index, address of ProcessInfo) -> 1, or 0 past the last`.
    ProcessInfo = 4,
    /// `(offset, address, length) -> bytes`: the log ring, oldest byte at offset 0.
    LogRead = 5,
    /// `(index, address of name buffer, its length) -> size of the member`; the name is padded with zero
    /// bytes to [`NAME_MAX`]. `NotFound` past the last.
    ArchiveMember = 6,
    /// `(index, offset, address, length) -> bytes` of a member of the boot archive, at most [`PIECE_MAX`].
    ArchiveRead = 7,
    /// `(slot, or ANY_SLOT; quota, or OWN_QUOTA) -> capability` of a new endpoint.
    EndpointCreate = 8,
    /// `(resource, Power)`: does not return when it works. Right: manage.
    Power = 9,
    /// `(bits; slot, or ANY_SLOT; quota, or OWN_QUOTA) -> capability` of a new CNode with `1 << bits` slots.
    CNodeCreate = 10,
    /// `(to: CNode, index, from: CNode, index, how, badge) -> generation` of the filling: see [`copy_how`].
    /// Rights: write in the CNode of `to`, read in that of `from`.
    CapCopy = 11,
    /// `(to: CNode, index, from: CNode, index, how) -> generation` of the filling; of `how` the depths count.
    /// Right: write in both CNodes.
    CapMove = 12,
    /// `(CNode, index, depth) -> 1: call again, 0: the slot is empty`. Right: write.
    CapDelete = 13,
    /// `(CNode, index, depth) -> 1: call again, 0: nothing is left that came from this capability`. Right: manage, in
    /// the capability.
    CapRevoke = 14,
    /// `(CNode, index, depth, address of CapabilityInfo)`. Right: read.
    CapRead = 15,
    /// `(process, or OWN_PROCESS; CNode; guard)`: names of its threads start at that CNode. Right: manage, in the
    /// process.
    SetRoot = 16,
    /// `(slot, or ANY_SLOT; quota, or OWN_QUOTA) -> capability` of a Reply to the caller owed, which is owed no more.
    SaveReply = 17,
    /// `(slot, or ANY_SLOT; quota, or OWN_QUOTA) -> capability` of a new notification.
    NotificationCreate = 18,
    /// `(notification, 1: bind, 0: unbind)`: receives of this thread see its bits too. Right: read.
    NotificationBind = 19,
    /// `(process, or OWN_PROCESS; index; address of ThreadInfo) -> 1, or 0 past the last`. Right: read.
    ThreadInfo = 20,
    /// `(address of a page, or 0 for none) -> 0`: the page through which long messages and capabilities of this thread
    /// go; see [`BUFFER_WORDS`].
    BufferSet = 21,
    /// `(process, or OWN_PROCESS; CPU + 1, or 0 for any; slot, or ANY_SLOT; quota, or OWN_QUOTA) -> capability` of a new
    /// thread, which is suspended, and whose registers are 0. Right: manage, in the process.
    ThreadMake = 22,
    /// `(thread, address of Registers)`, of a thread that is stopped. Right: read.
    ThreadRead = 23,
    /// `(thread, address of Registers)`, of a thread that is stopped. Right: write.
    ThreadWrite = 24,
    /// `(quota, or OWN_QUOTA; bytes; objects; slot, or ANY_SLOT) -> capability` of a new quota, which has so much of
    /// that one's. Right: write.
    QuotaCreate = 27,
    /// `(quota, or OWN_QUOTA; address of QuotaInfo)`. Right: read.
    QuotaRead = 28,
    /// `(quota) -> 1: call again, 0: nothing is charged to it any more`, and what it had is its parent's. Right: manage.
    QuotaDestroy = 29,

    /// `(status)`: ends the process.
    Exit = 32,
    /// `()`: ends the thread; the process ends with its last thread.
    ThreadExit = 33,
    /// `()`: gives the CPU to the next thread of the same priority.
    Yield = 34,
    /// `(nanoseconds since boot)`: waits until then.
    Sleep = 35,
    /// `(entry, stack pointer, argument, CPU + 1, or 0 for any, tls; quota, or OWN_QUOTA) -> thread id`.
    ThreadCreate = 36,
    /// `(resource, address of SpawnRequest) -> capability` of the new process. Right: write.
    Spawn = 37,
    /// `(process) -> exit word`: waits for the end of a process; see [`exit_word`]. Right: read.
    Wait = 38,
    /// `(resource, address, length) -> bytes`: waits for console input. Right: read.
    ConsoleRead = 39,
    /// Message call: sends to the endpoint and waits for the reply. Rights: write, call.
    Call = 40,
    /// Message call: waits for a message; where it was called, a reply is owed to its caller then. Right: read.
    Receive = 41,
    /// Message call: answers the caller owed, then waits for the next message. Right: read.
    ReplyReceive = 42,
    /// Message call: sends to the endpoint, and goes on once somebody has received. Right: write.
    Send = 43,
    /// Message call: answers the caller of a Reply, or with [`OWED`] the one owed.
    Reply = 44,
    /// `(notification, mask) -> bits`: waits until one of these bits is set, and clears those that are. Right: read.
    /// Takes a deadline like a message call.
    NotificationWait = 45,
    /// `(notification, bits)`: sets those of the bits that the badge has, or all where it is 0. Never blocks. Right: write.
    NotificationSignal = 46,
    /// `(thread, ThreadAction, value) -> value`; see there.
    ThreadControl = 47,
}

/// What [`Call::ThreadControl`] does, and what it gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadAction {
    /// It runs again, if it was suspended. Right: write.
    Resume = 0,
    /// It stops; what it does now, as in [`ThreadInfo::state`]. A wait goes on. Right: write.
    Suspend = 1,
    /// The same, and its wait ends: a call whose message nobody has received starts again when the thread is resumed, one
    /// that waits for its answer fails with [`Error::Cancelled`]. Right: write.
    Halt = 2,
    /// Its wait, if any, ends with [`Error::Cancelled`]; 1, or 0 where it did not wait. Right: write.
    Cancel = 3,
    /// It ends. Right: manage.
    Kill = 4,
    /// Its priority is that value, at most the caller's limit; the one before. Right: manage.
    Priority = 5,
    /// The highest priority that it may give, at most the caller's limit; the one before. Right: manage.
    Limit = 6,
    /// Its faults are told to that endpoint, of the caller's with write and call, or to nobody where the value is
    /// [`NO_CAPABILITY`]. Right: manage.
    Faults = 7,
    /// Its system calls are told to that endpoint, in the same way; see [`FOREIGN`]. Right: manage.
    Calls = 8,
    /// It has the FPU where the value is 1, and where it is 0 its next use of that is a fault; whether it had it. A new thread
    /// has not; its registers then are as the architecture sets them, and stay when it is taken away. Of a thread that is
    /// stopped or waits for its handler. `Unsupported` where the machine has none. Right: manage.
    Fpu = 9,
    /// One instruction of it is carried out from where it goes on, and then told of as [`Cause::SingleStep`]. Of a thread
    /// that is stopped or waits for its handler. `Unsupported` on RISC-V, which has no such mode. Right: manage.
    Step = 10,
}

/// What went wrong in a program, in words that all architectures share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, displaydoc::Display)]
pub enum Cause {
    /// other exception
    Other = 0,
    /// read fault
    ReadFault = 1,
    /// write fault
    WriteFault = 2,
    /// fetch fault
    FetchFault = 3,
    /// misaligned access
    Misaligned = 4,
    /// illegal instruction
    IllegalInstruction = 5,
    /// privileged instruction
    PrivilegedInstruction = 6,
    /// breakpoint
    Breakpoint = 7,
    /// single step
    SingleStep = 8,
    /// divide error
    DivideError = 9,
    /// floating-point exception
    FloatingPoint = 10,
    /// floating point disabled
    FloatingPointDisabled = 11,
    /// bounds or overflow
    BoundsOrOverflow = 12,
    /// stack or segment fault
    StackOrSegment = 13,
    /// general protection
    Protection = 14,
    /// hardware error
    HardwareError = 15,
    /// double fault
    DoubleFault = 16,
    /// non-maskable interrupt
    NonMaskable = 17,
}

/// Label of the message in which the kernel tells of a thread's fault: a [`Cause`], the address that could not be reached
/// (or 0), the architecture's code, the pc, and the thread's number. An answer with label 0 lets it go on; with any other it
/// ends as if nobody had been told.
pub const FAULT: u64 = 1;
/// Label of the message in which the kernel tells of a system call of a foreign thread: its number, six arguments, and the
/// pc behind it, from the registers by the convention of C: `rax`; `rdi rsi rdx r10 r8 r9`, `x8`; `x0` to `x5`, `a7`; `a0`
/// to `a5`. The first word of an answer with label 0 is its result, in `rax`, `x0` or `a0`.
pub const FOREIGN: u64 = 2;

/// Everything that can go wrong, in every call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes)]
#[repr(u8)]
pub enum Error {
    /// No system call has this number.
    InvalidCall = 1,
    /// An argument is outside what the call takes.
    InvalidArgument = 2,
    /// A user address is out of range, unmapped, or lacks the right.
    InvalidAddress = 3,
    /// The name leads to no slot, or to an empty one, or to another filling than it says.
    InvalidCapability = 4,
    /// The capability names an object of another kind.
    WrongObject = 5,
    /// The machine has no memory left.
    NoMemory = 6,
    /// The root CNode has no free slot.
    NoSlot = 7,
    /// What was named does not exist.
    NotFound = 8,
    /// The partner ended before it answered, or the way to it was taken away.
    PartnerGone = 9,
    /// The program is not an ELF that this machine runs.
    InvalidProgram = 10,
    /// The machine cannot do this.
    Unsupported = 11,
    /// A reply was sent, and no caller is owed one.
    NoCaller = 12,
    /// The capability lacks a right that the call needs.
    NoRight = 13,
    /// The slot to fill is not empty.
    Occupied = 14,
    /// A CNode on the way has another guard than the address.
    GuardMismatch = 15,
    /// The depth ends between two CNodes.
    DepthTooShort = 16,
    /// There is no further CNode, and bits of the address are left.
    DepthTooLong = 17,
    /// The deadline has passed; of a call, perhaps after its message was received.
    TimedOut = 18,
    /// The notification or the thread is bound already, or is not.
    Bound = 19,
    /// The message wants a buffer page, and its sender has none.
    NoBuffer = 20,
    /// The quota that is to pay has not so much left, or is being destroyed.
    OverQuota = 21,
    /// The thread is not stopped, so its registers are nobody else's.
    NotStopped = 22,
    /// Another thread has ended the wait.
    Cancelled = 23,
}

impl Error {
    /// The error of a status word, if it is one.
    pub fn from_status(status: u64) -> Option<Self> {
        let number = u8::try_from(status.wrapping_neg()).ok()?;
        try_transmute!(number).ok()
    }

    /// The status word of this error.
    pub const fn status(self) -> u64 {
        (self as u64).wrapping_neg()
    }
}

/// Result of a plain call, in the two result registers of the C ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Outcome {
    pub status: u64,
    pub value: u64,
}

impl From<Result<u64, Error>> for Outcome {
    fn from(result: Result<u64, Error>) -> Self {
        match result {
            Ok(value) => Self { status: 0, value },
            Err(error) => Self { status: error.status(), value: 0 },
        }
    }
}

/// What [`Call::Info`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Info {
    /// CPUs online.
    CpusOnline = 0,
    /// CPUs that the machine's tables list and allow.
    CpusPresent = 1,
    /// Bytes of memory that the machine has.
    MemoryTotal = 2,
    /// Bytes that are free.
    MemoryFree = 3,
    /// Bytes that the kernel holds: image, tables, stacks, objects.
    MemoryKernel = 4,
    /// Bytes of boot memory given back.
    MemoryGivenBack = 5,
    /// Timer interrupts taken by CPU `index`.
    TimerInterrupts = 6,
    /// Inter-processor interrupts taken by CPU `index`.
    IpisReceived = 7,
    /// Inter-processor interrupts sent by CPU `index`.
    IpisSent = 8,
    /// Times that CPU `index` went to sleep for want of work.
    IdleEntries = 9,
    /// The machine's own number of CPU `index` (APIC id, MPIDR, hart id).
    HardwareId = 10,
    /// The CPU that the caller runs on.
    CurrentCpu = 11,
    /// The caller's thread id.
    ThreadId = 12,
    /// First address that user programs cannot have.
    UserLimit = 13,
    /// Distance of the kernel image from its link address.
    Slide = 14,
    /// Depth of the kernel stack, in bytes, used by this very call on this CPU.
    KernelStackDepth = 15,
    /// Bytes `8 * index` to `8 * index + 7` of the kernel's command line, the first in the lowest byte; zero
    /// bytes behind its end. `NotFound` beyond the most that the kernel keeps.
    CommandLine = 16,
    /// Objects whose end has begun, and whose memory is not free yet.
    Ending = 17,
    /// Times that CPU `index` has left the kernel by a way on which threads are switched.
    Departures = 18,
}

/// What a capability names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Authority over the console's input, power, and starting programs.
    Resource = 1,
    Endpoint = 2,
    Process = 3,
    CNode = 4,
    Notification = 5,
    Reply = 6,
    Thread = 7,
    /// A budget of memory and objects.
    Quota = 8,
}

/// What a capability allows; a capability derived from it never allows more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights(pub u64);

impl Rights {
    pub const NONE: Self = Self(0);
    /// Receive from an endpoint, wait for a process, read the console, a CNode, a quota or a thread's registers.
    pub const READ: Self = Self(1);
    /// Send to an endpoint, start a program, fill and empty slots of a CNode, charge a quota, stop and change a thread.
    pub const WRITE: Self = Self(2);
    /// Let capabilities travel with a message.
    pub const GRANT: Self = Self(4);
    /// Send to an endpoint and be owed a reply.
    pub const CALL: Self = Self(8);
    /// Revoke what was derived; change a process's root or threads; end a thread; destroy a quota; switch the machine off.
    pub const MANAGE: Self = Self(16);
    pub const ALL: Self = Self(31);

    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `wanted` are here.
    pub const fn have(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }
}

/// A name is an address of this many bits, and above it the generation of the filling that it means; 0 means any.
pub const ADDRESS_BITS: u32 = 32;
/// In place of a slot: the first empty one of the caller's root CNode.
pub const ANY_SLOT: u64 = u64::MAX;
/// In place of a process: the caller's.
pub const OWN_PROCESS: u64 = u64::MAX;
/// In place of a quota: the caller's process's.
pub const OWN_QUOTA: u64 = u64::MAX;
/// The root quota has depth 0; one made from another is one deeper, and at most this deep.
pub const QUOTA_DEPTH_MAX: u64 = 16;
/// A CNode has at most `1 <<` this slots.
pub const CNODE_BITS_MAX: u64 = 8;

/// The word `how` of [`Call::CapCopy`] and [`Call::CapMove`].
///
/// A slot is named by a CNode, an index and a depth, the number of bits of the index that count. At depth 0 it is the
/// slot that the CNode's name itself leads to, whatever it holds. A generation in the upper half of the index (at depth
/// 0: of the name) is that of the filling meant; of a slot to fill, the one to give it, which must not be past.
pub const fn copy_how(rights: Rights, to_depth: u32, from_depth: u32) -> u64 {
    rights.0 | (to_depth as u64) << 16 | (from_depth as u64) << 24
}

/// The guard of a CNode, which stands in the place of its capability's badge: so many bits of an address have to have
/// that value, before those that choose a slot.
pub const fn guard(bits: u32, value: u32) -> u64 {
    (bits as u64) << 32 | value as u64
}

/// What [`Call::CapRead`] tells of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct CapabilityInfo {
    /// A [`Kind`], or 0 for an empty slot.
    pub kind: u64,
    pub rights: u64,
    /// Of a CNode, the guard.
    pub badge: u64,
    /// Of this filling, or of the next one of an empty slot.
    pub generation: u64,
    /// The number of the object, which no other ever has; 0 of an empty slot.
    pub object: u64,
}

/// What [`Call::Power`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    Off = 0,
    Reboot = 1,
}

/// Slots of every process in which [`SpawnRequest::capabilities`] arrive.
pub const SPAWN_CAPABILITIES: usize = 4;
/// No capability, in a [`SpawnRequest`].
pub const NO_CAPABILITY: u64 = u64::MAX;
/// Longest name of a program.
pub const NAME_MAX: usize = 32;
/// Most bytes that one call moves to the console, or out of the log, the input or the boot archive.
pub const PIECE_MAX: usize = 512;

/// A new process: a program of the boot archive, an argument, and what it may use.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct SpawnRequest {
    pub name: [u8; NAME_MAX],
    pub name_length: u64,
    pub argument: u64,
    /// Capabilities of the caller, copied to slots 0 to 3 of the child.
    pub capabilities: [u64; SPAWN_CAPABILITIES],
    /// What it is charged to, and charges: a quota of the caller's, or [`OWN_QUOTA`]. Right: write.
    pub quota: u64,
    /// The caller's slot for a capability to its first thread, which is suspended then; or 0.
    pub thread: u64,
}

/// Registers of a thread. Of `flags` a program's own count, and a mode of the CPU is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Registers {
    /// By their numbers: `rax rcx rdx rbx rsp rbp rsi rdi`, `r8` to `r15`; `x0` to `x30` and `sp`; `x0` to `x31`, of which
    /// the first is 0.
    pub general: [u64; 32],
    pub pc: u64,
    /// `rflags`, `PSTATE`, or 0.
    pub flags: u64,
    /// Base of FS, `TPIDR_EL0`, or 0, where it is a general register.
    pub tls: u64,
}

/// What [`Call::QuotaRead`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct QuotaInfo {
    pub bytes: u64,
    pub bytes_used: u64,
    pub objects: u64,
    pub objects_used: u64,
}

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct ThreadInfo {
    pub id: u64,
    /// 0 runs or is ready; waits 1 to send, 2 to receive, 3 for a reply, 4 for a notification, 5 for anything else; 6 is
    /// stopped.
    pub state: u64,
    /// Of 1 to 4, the object at which it waits, or which it called; see [`CapabilityInfo::object`]. Else 0.
    pub object: u64,
    /// Its own, or what it has from those for whom it works; of one that is not the caller, when it last came the slow way or
    /// was queued.
    pub priority: u64,
    /// Nanoseconds of CPU time that were its own, also those in which others worked for it.
    pub time: u64,
}

/// A line of `ps`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct ProcessInfo {
    pub id: u64,
    pub threads: u64,
    pub pages: u64,
    /// 0 running, 1 its end was asked for.
    pub ended: u64,
    pub name: [u8; NAME_MAX],
    pub name_length: u64,
}

const _: () = assert!(size_of::<SpawnRequest>() == 96 && offset_of!(SpawnRequest, capabilities) == 48);
const _: () =
    assert!(size_of::<CapabilityInfo>() == 40 && size_of::<ThreadInfo>() == 40 && size_of::<QuotaInfo>() == 32);
const _: () = assert!(size_of::<ProcessInfo>() == 72 && offset_of!(ProcessInfo, name) == 32);

/// Bit of an exit word that is set when the kernel ended the process for a fault.
pub const EXIT_FAULT: u64 = 1 << 32;
/// The exit word of a process that ended with its quota.
pub const EXIT_QUOTA: u64 = 1 << 33;

/// The exit word of a process that ended by itself with `status`.
pub const fn exit_word(status: u32) -> u64 {
    status as u64
}

/// Words of payload that travel in registers.
pub const MESSAGE_WORDS: usize = 8;

/// Words of the longest message, which fill a page. From [`MESSAGE_WORDS`] on they lie in the buffer page at their own
/// places. In those of the first eight stand names of capabilities: in words 0 to 3 of what is to be sent, and after a
/// message came, of what arrived with it; in words 4 to 7 of the slots for what arrives, as calls that create take them,
/// or 0 for none.
pub const BUFFER_WORDS: usize = 512;
/// Capabilities that one message carries at most.
pub const MESSAGE_CAPABILITIES: usize = 4;
/// First word of the buffer page that names a slot for what arrives.
pub const RECEIVE_SLOTS: usize = 4;

/// In the number of a message call: it has a deadline, in nanoseconds since boot. One that has passed, such as 0, makes
/// it a poll: it does what can be done at once, and a call that was received waits for its reply.
pub const DEADLINE: u64 = 1 << 8;
/// In place of a Reply: the one of the caller owed.
pub const OWED: u64 = u64::MAX;
/// Status of a [`Call::ReplyReceive`] that received, while whom it answered was gone.
pub const REPLY_LOST: u64 = 1;
/// Badge and info of what a receive gives when the bound notification has bits, which are the first word: no sender's
/// info has that bit.
pub const SIGNALLED: MessageInfo = MessageInfo(1 << 15 | 1);

/// Info word of a message: how many words count (bits 0 to 9), how many capabilities go along (bits 10 to 12), and from
/// bit 16 on a label. The bits between are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageInfo(pub u64);

impl MessageInfo {
    /// `length` in words, at most [`BUFFER_WORDS`]; the label takes the upper 48 bits.
    pub const fn new(label: u64, length: usize) -> Self {
        Self(label << 16 | length as u64 & 0xffff)
    }

    /// Whether a sender may say so.
    pub const fn is_valid(self) -> bool {
        self.length() <= BUFFER_WORDS && self.capabilities() <= MESSAGE_CAPABILITIES && self.0 & 0xe000 == 0
    }

    /// Whether it is all in registers.
    pub const fn is_short(self) -> bool {
        (self.0 & 0xffff) as usize <= MESSAGE_WORDS
    }

    pub const fn capabilities(self) -> usize {
        (self.0 >> 10 & 7) as usize
    }

    /// The same, with that many capabilities.
    pub const fn with_capabilities(self, count: usize) -> Self {
        Self(self.0 & !(7 << 10) | (count as u64 & 7) << 10)
    }

    pub const fn label(self) -> u64 {
        self.0 >> 16
    }

    pub const fn length(self) -> usize {
        (self.0 & 0x3ff) as usize
    }
}

/// First address of a program's image, and the end of its first stack.
pub const PROGRAM_BASE: u64 = 0x40_0000;
pub const STACK_TOP: u64 = 0x20_0000_0000;
pub const STACK_SIZE: u64 = 64 * 1024;
