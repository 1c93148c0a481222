//! Processes: a space, a capability table and threads, ended as one.

use super::{
    endpoint::{self, Endpoint},
    thread::{Member, Start, Thread},
    wait::WaitList,
};
use crate::{
    addr::{PhysAddr, VirtAddr},
    arch,
    config::CAPABILITY_SLOTS,
    cpio::Archive,
    elf::Program,
    mm::{MapFlags, paging, slab::Slab, space::Space},
    sched,
    sync::{Counted, Header, Link, List, Rank, Ref, Spin},
};
use abi::{Error, NAME_MAX, ProcessInfo, SpawnRequest};
use arrayvec::ArrayString;
use core::sync::atomic::{AtomicU64, Ordering};

/// What a slot of a process's table names.
#[derive(Clone)]
pub enum Capability {
    /// Authority over the console's input, power, and starting programs.
    Resource,
    Endpoint(Ref<Endpoint>),
    Process(Ref<Process>),
}

struct Life {
    threads: List<Ref<Thread>, Member>,
    count: u64,
    /// The exit word, from the moment that the end was asked for.
    ended: Option<u64>,
    /// All threads are gone, and all memory is given back.
    reaped: bool,
    waiting: WaitList,
}

/// The queue kind of all processes.
struct Registered;

pub struct Process {
    header: Header,
    id: u64,
    name: ArrayString<NAME_MAX>,
    root: PhysAddr,
    space: Spin<Option<Space>>,
    slots: Spin<[Option<Capability>; CAPABILITY_SLOTS]>,
    life: Spin<Life>,
    registered: Link<Ref<Process>, Registered>,
}

static SLAB: Slab<Process> = Slab::new();
static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static ALL: Spin<List<Ref<Process>, Registered>> = Spin::new(Rank::Registry, List::new());

impl Counted for Process {
    fn header(&self) -> &Header {
        &self.header
    }

    fn slab() -> &'static Slab<Self> {
        &SLAB
    }
}

crate::sync::linked!(Process, Registered, registered);

impl Process {
    fn new(name: &str, space: Space, slots: [Option<Capability>; CAPABILITY_SLOTS]) -> Result<Ref<Self>, Error> {
        let life = Life { threads: List::new(), count: 0, ended: None, reaped: false, waiting: WaitList::new() };
        let process = Ref::new(Self {
            header: Header::new(),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name: ArrayString::from(name).map_err(|_| Error::InvalidArgument)?,
            root: space.root(),
            space: Spin::new(Rank::Space, Some(space)),
            slots: Spin::new(Rank::Object, slots),
            life: Spin::new(Rank::Process, life),
            registered: Link::new(),
        })?;
        Ok(process)
    }

    pub const fn id(&self) -> u64 {
        self.id
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub const fn root(&self) -> PhysAddr {
        self.root
    }

    pub fn capability(&self, slot: u64) -> Result<Capability, Error> {
        let slots = self.slots.lock();
        slots.get(slot as usize).and_then(Clone::clone).ok_or(Error::InvalidCapability)
    }

    /// The right to do what only holders of a Resource may.
    pub fn resource(&self, slot: u64) -> Result<(), Error> {
        match self.capability(slot)? {
            Capability::Resource => Ok(()),
            Capability::Endpoint(_) | Capability::Process(_) => Err(Error::WrongObject),
        }
    }

    pub fn endpoint(&self, slot: u64) -> Result<Ref<Endpoint>, Error> {
        match self.capability(slot)? {
            Capability::Endpoint(endpoint) => Ok(endpoint),
            Capability::Resource | Capability::Process(_) => Err(Error::WrongObject),
        }
    }

    /// Puts a capability into the first free slot.
    pub fn grant(&self, capability: Capability) -> Result<u64, Error> {
        let mut slots = self.slots.lock();
        let free = slots.iter().position(Option::is_none).ok_or(Error::NoSlot)?;
        slots[free] = Some(capability);
        Ok(free as u64)
    }

    pub fn close(&self, slot: u64) -> Result<(), Error> {
        let taken = self.slots.lock().get_mut(slot as usize).and_then(Option::take);
        // Dropped only now, with no lock held: it may be the last share in its object.
        taken.map(drop).ok_or(Error::InvalidCapability)
    }

    /// Makes a thread in this process and queues it.
    pub fn start_thread(process: &Ref<Self>, start: &Start) -> Result<u64, Error> {
        let thread = Thread::new(process.clone(), start)?;
        {
            let mut life = process.life.lock();
            if life.ended.is_some() {
                return Err(Error::NotFound);
            }
            life.threads.push(thread.clone());
            life.count += 1;
        }
        let id = thread.id();
        sched::enqueue(thread);
        Ok(id)
    }

    /// The exit word, once all threads are gone and have given back what was theirs; until then `waiter` waits, and its call starts again.
    pub fn wait(&self, waiter: &Thread) -> Option<u64> {
        let mut life = self.life.lock();
        match life.ended {
            Some(word) if life.reaped => Some(word),
            _ => {
                life.waiting.wait(Ref::share(waiter));
                None
            }
        }
    }
}

/// Ends a process: its threads leave at their CPUs' next way out of the kernel. The first cause counts.
pub fn end_process(process: &Process, word: u64) {
    let mut life = process.life.lock();
    if life.ended.is_some() {
        return;
    }
    life.ended = Some(word);
    // Each stays listed until its own CPU has reaped it.
    let mut kept = List::new();
    while let Some(thread) = life.threads.pop() {
        Thread::doom(&thread);
        kept.push(thread);
    }
    life.threads = kept;
}

/// Removes a doomed thread, on its home CPU, which no longer runs it; the last one takes the process's memory along.
pub fn reap(thread: Ref<Thread>) {
    endpoint::abandon(&thread);
    let process = thread.process();
    let last = {
        let mut life = process.life.lock();
        life.threads.remove(|member| member.is(&thread));
        life.count -= 1;
        if life.count == 0 && life.ended.is_none() {
            life.ended = Some(abi::exit_word(0));
        }
        life.count == 0
    };
    if last {
        let space = process.space.lock().take();
        drop(space);
        for slot in 0..CAPABILITY_SLOTS {
            // An empty slot is an error for user programs, and nothing here.
            let _ = process.close(slot as u64);
        }
        ALL.lock().remove(|listed| listed.is(process));
        let mut life = process.life.lock();
        life.reaped = true;
        life.waiting.wake_all();
    }
}

/// Starts a program of the boot archive.
pub fn spawn(
    archive: &Archive<'_>,
    name: &str,
    argument: u64,
    capabilities: &[Option<Capability>],
) -> Result<Ref<Process>, Error> {
    let file = archive.find(name).ok_or(Error::NotFound)?;
    let limit = paging::user_limit().0;
    let program = Program::parse(file.data, arch::task::ELF_MACHINE, limit).map_err(|_| Error::InvalidProgram)?;
    let mut space = Space::new()?;
    for segment in program.segments() {
        space.map_anonymous(segment.start, segment.memory_size, segment.flags, segment.file)?;
    }
    let stack = VirtAddr((abi::STACK_TOP - abi::STACK_SIZE) as usize);
    space.map_anonymous(stack, abi::STACK_SIZE as usize, MapFlags::KERNEL_DATA, &[])?;
    let mut slots = [const { None }; CAPABILITY_SLOTS];
    for (slot, capability) in slots.iter_mut().zip(capabilities) {
        slot.clone_from(capability);
    }
    let process = Process::new(name, space, slots)?;
    ALL.lock().push(process.clone());
    let start = Start {
        entry: program.entry,
        stack: VirtAddr(abi::STACK_TOP as usize),
        argument,
        tls: 0,
        home: sched::place(),
    };
    if let Err(error) = Process::start_thread(&process, &start) {
        ALL.lock().remove(|listed| listed.is(&process));
        return Err(error);
    }
    Ok(process)
}

/// As [`abi::Call::Spawn`].
pub fn spawn_requested(parent: &Process, archive: &Archive<'_>, request: &SpawnRequest) -> Result<u64, Error> {
    let name = request.name.get(..request.name_length as usize).ok_or(Error::InvalidArgument)?;
    let name = core::str::from_utf8(name).map_err(|_| Error::InvalidArgument)?;
    let mut capabilities = [const { None }; abi::SPAWN_CAPABILITIES];
    for (given, slot) in capabilities.iter_mut().zip(request.capabilities) {
        if slot != abi::NO_CAPABILITY {
            *given = Some(parent.capability(slot)?);
        }
    }
    let child = spawn(archive, name, request.argument, &capabilities)?;
    parent.grant(Capability::Process(child.clone())).inspect_err(|_| end_process(&child, abi::EXIT_FAULT))
}

/// As [`abi::Call::ProcessInfo`].
pub fn process_info(index: u64) -> Option<ProcessInfo> {
    let process = {
        let mut all = ALL.lock();
        let (mut found, mut seen) = (None, 0);
        all.for_each(|process| {
            if seen == index {
                found = Some(process.clone());
            }
            seen += 1;
        });
        found?
    };
    let life = process.life.lock();
    let mut info = ProcessInfo {
        id: process.id,
        threads: life.count,
        pages: process.space.lock().as_ref().map_or(0, Space::pages) as u64,
        ended: u64::from(life.ended.is_some()),
        name: [0; NAME_MAX],
        name_length: process.name.len() as u64,
    };
    info.name[..process.name.len()].copy_from_slice(process.name.as_bytes());
    Some(info)
}
