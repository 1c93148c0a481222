//! Processes: a space, a root of names and threads, ended as one.

use super::cnode::{self, CNode};
use super::thread::{Member, Start, State, Thread};
use super::wait::{self, Meeting, Queues};
use super::{endpoint, notification, reply};
use crate::addr::{PhysAddr, VirtAddr};
use crate::elf::Program;
use crate::mm::space::Space;
use crate::mm::{MapFlags, paging};
use crate::sync::{
    Claimed, Counted, Found, Header, Link, List, Object, Payer, Quota, Rank, Ref, Slot, Spin, Step, tree,
};
use crate::{arch, init, irq, sched};
use abi::{ADDRESS_BITS, ANY_SLOT, Error, NAME_MAX, OWN_QUOTA, ProcessInfo, Rights, SpawnRequest, ThreadInfo};
use arrayvec::ArrayString;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

struct Life {
    threads: List<Ref<Thread>, Member>,
    count: u64,
    /// The exit word, from the moment that the end was asked for.
    ended: Option<u64>,
    /// All threads are gone, and all memory is given back.
    reaped: bool,
}

/// The queue kind of all processes.
struct Registered;

pub struct Process {
    header: Header,
    pub id: u64,
    pub name: ArrayString<NAME_MAX>,
    /// What it is charged to, and what its calls charge where they name no other.
    pub quota: Ref<Quota>,
    pub root: PhysAddr,
    space: Spin<Option<Space>>,
    /// Names start at the CNode in one of the two; no name leads here, so nothing is derived from what they hold.
    roots: [Slot; 2],
    /// How often the root was set: the lowest bit says which of the two it is.
    roots_set: AtomicUsize,
    life: Spin<Life>,
    /// Threads that wait for its end.
    waiting: Meeting,
    registered: Link<Process, Registered>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static ALL: Spin<List<Ref<Process>, Registered>> = Spin::new(Rank::Registry, List::new());

crate::object!(Process as Process {
    fn settle(&self) {
        drop(self.life.lock());
    }

    fn end_by_quota(&self) {
        end_by_quota(self);
    }
});
crate::sync::linked!(Process, Registered, registered);

impl Process {
    fn new(payer: Payer<'_>, name: &str, space: Space) -> Result<Ref<Self>, Error> {
        let life = Life { threads: List::new(), count: 0, ended: None, reaped: false };
        let name = ArrayString::from(name).map_err(|_| Error::InvalidArgument)?;
        let quota = payer.share()?;
        let process = Ref::new(payer, || Self {
            header: Header::new(),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name,
            quota,
            root: space.root,
            space: Spin::new(Rank::Space, Some(space)),
            roots: [Slot::default(), Slot::default()],
            roots_set: AtomicUsize::new(0),
            life: Spin::new(Rank::Process, life),
            waiting: Queues::meeting(),
            registered: Link::new(),
        })?;
        let root = process.roots[0].claim().ok_or(Error::Occupied)?;
        tree::originate(CNode::new_root(payer)?, root, cnode::WHOLE_WAY, Rights::ALL);
        Ok(process)
    }

    /// A share in one of its pages, as [`Space::share_page`].
    pub fn share_page(&self, start: VirtAddr) -> Result<PhysAddr, Error> {
        self.space.lock().as_ref().ok_or(Error::InvalidAddress)?.share_page(start)
    }

    /// The slot where its threads' names start.
    pub fn names(&self) -> &Slot {
        &self.roots[self.roots_set.load(Ordering::Acquire) % 2]
    }

    /// What `name` means; `InvalidCapability` where it means nothing.
    pub fn capability(&self, name: u64) -> Result<(&Slot, Found), Error> {
        loop {
            let set = self.roots_set.load(Ordering::Acquire);
            let found = capability_from(&self.roots[set % 2], name);
            // A root that was replaced is emptied: what a name means is to be looked for in the next.
            if found.is_ok() || self.roots_set.load(Ordering::Acquire) == set {
                return found;
            }
        }
    }

    /// The object that `name` means, and by which capability, which has `rights`.
    pub fn object<T: Object>(&self, name: u64, rights: Rights) -> Result<(&T, &Slot, Found), Error> {
        let (slot, found) = self.capability(name)?;
        let object = found.object().ok_or(Error::WrongObject)?;
        if !found.rights().have(rights) {
            return Err(Error::NoRight);
        }
        Ok((object, slot, found))
    }

    /// Who is to pay: the quota that `name` means, or its own.
    pub fn payer(&self, name: u64) -> Result<Payer<'_>, Error> {
        if name == OWN_QUOTA {
            return Ok(self.quota.payer());
        }
        let (quota, slot, found) = self.object(name, Rights::WRITE)?;
        Ok(Payer::by(quota, slot, found))
    }

    /// An empty slot for a new capability, and its name: the one at an address, which may say the generation, or any of
    /// the root CNode.
    #[inline(always)]
    pub fn vacancy(&self, place: u64) -> Result<(Claimed<'_>, u64), Error> {
        if place != ANY_SLOT {
            let slot = cnode::resolve(self.names(), place, ADDRESS_BITS, Rights::WRITE)?;
            let claimed = claim(slot, place >> ADDRESS_BITS)?;
            let name = claimed.generation() << ADDRESS_BITS | place & u64::from(u32::MAX);
            return Ok((claimed, name));
        }
        let root = self.names().look_up().ok_or(Error::NoSlot)?;
        let node: &CNode = root.object().ok_or(Error::NoSlot)?;
        if root.content.badge != cnode::WHOLE_WAY {
            return Err(Error::NoSlot);
        }
        if !root.rights().have(Rights::WRITE) {
            return Err(Error::NoRight);
        }
        let free = node.table.iter().enumerate().find_map(|(index, slot)| Some((slot.claim()?, index)));
        let (claimed, index) = free.ok_or(Error::NoSlot)?;
        let name = claimed.generation() << ADDRESS_BITS | index as u64;
        Ok((claimed, name))
    }

    /// Names start at another CNode from now on. `Occupied` while another CPU does the same.
    pub fn set_names(&self, from: &Slot, found: &Found, way: u64) -> Result<(), Error> {
        let life = self.life.lock();
        let set = self.roots_set.load(Ordering::Relaxed);
        let [current, other] = [set, set + 1].map(|root| &self.roots[root % 2]);
        let next = other.claim().ok_or(Error::Occupied)?;
        if life.ended.is_some() || !tree::derive(from, found, next, way, found.rights()) {
            return Err(Error::InvalidCapability);
        }
        // From now on others may have looked things up in a root that was this process's alone.
        if let Some(node) = current.look_up().and_then(|root| root.object::<CNode>()) {
            node.header().publish();
        }
        self.roots_set.store(set + 1, Ordering::Release);
        drop(life);
        delete_root(current);
        Ok(())
    }

    /// Makes a thread in this process, and queues it unless it is suspended.
    pub fn start_thread(payer: Payer<'_>, process: &Ref<Self>, start: &Start) -> Result<Ref<Thread>, Error> {
        let thread = Thread::new(payer, process.clone(), start)?;
        {
            let mut life = process.life.lock();
            if life.ended.is_some() {
                return Err(Error::NotFound);
            }
            life.threads.push(thread.clone());
            life.count += 1;
        }
        if !start.suspended {
            sched::ready(thread.clone());
        }
        Ok(thread)
    }

    /// The exit word, once all threads are gone and have given back what was theirs; until then `waiter` waits, and its
    /// call starts again. `InvalidCapability` where the capability is gone by which it asks.
    pub fn wait(&self, waiter: &Thread, slot: &Slot, found: &Found) -> Result<Option<u64>, Error> {
        let life = self.life.lock();
        if !slot.still(found) {
            return Err(Error::InvalidCapability);
        }
        Ok(match life.ended {
            Some(word) if life.reaped => Some(word),
            _ => {
                self.waiting.lock().receivers.wait(waiter, State::Other, &self.waiting);
                None
            }
        })
    }
}

/// What `name` means from that root on.
fn capability_from(root: &Slot, name: u64) -> Result<(&Slot, Found), Error> {
    let slot = cnode::resolve(root, name, ADDRESS_BITS, Rights::NONE).map_err(|_| Error::InvalidCapability)?;
    let found = slot.look_up().ok_or(Error::InvalidCapability)?;
    let generation = name >> ADDRESS_BITS;
    if generation != 0 && generation != found.generation() {
        return Err(Error::InvalidCapability);
    }
    Ok((slot, found))
}

/// Its quota is being destroyed.
pub fn end_by_quota(process: &Process) {
    end_process(process, abi::EXIT_QUOTA);
}

/// Ends a process: its threads leave at their CPUs' next way out of the kernel. The first cause counts.
pub fn end_process(process: &Process, word: u64) {
    let mut life = process.life.lock();
    if life.ended.is_some() {
        return;
    }
    life.ended = Some(word);
    // From here on there are no more of them.
    for _ in 0..life.count {
        // Each stays listed until its own CPU has reaped it.
        if let Some(thread) = life.threads.pop() {
            Thread::doom(&thread);
            life.threads.push(thread);
        }
        drop(life);
        irq::serve();
        life = process.life.lock();
    }
}

/// Empties a root: one step, since nothing was derived from it, unless a revoke elsewhere comes between.
pub fn delete_root(slot: &Slot) {
    while let Some(Step::More) = tree::delete(slot, 0, 1) {}
}

/// Claims a slot for the filling of that generation, or for the next one where it is 0.
pub fn claim(slot: &Slot, generation: u64) -> Result<Claimed<'_>, Error> {
    let claimed = slot.claim().ok_or(Error::Occupied)?;
    match generation {
        0 => Ok(claimed),
        generation => claimed.at_generation(generation).ok_or(Error::InvalidArgument),
    }
}

impl Process {
    /// All that it had is given back: who waits for its end hears.
    pub fn released(&self) {
        self.life.lock().reaped = true;
        // Nobody comes any more.
        let first = || self.waiting.lock().receivers.take_first();
        core::iter::from_fn(first).for_each(|thread| {
            sched::ready(thread);
            irq::serve();
        });
    }

    fn close_roots(&self) {
        let root = self.names().look_up();
        let told = root.and_then(|root| root.object::<CNode>()).is_some_and(|node| node.tell(Ref::share(self)));
        self.roots.iter().for_each(delete_root);
        if !told {
            self.released();
        }
    }
}

impl Drop for Process {
    /// One that never ran has its roots still.
    fn drop(&mut self) {
        self.roots.iter().for_each(delete_root);
    }
}

/// Removes a doomed thread, on its home CPU, which no longer runs it; the last one takes the process's memory along.
pub fn reap(thread: Ref<Thread>) {
    // A call of it may have been received after its end was asked for.
    thread.end_any_call();
    endpoint::abandon(&thread);
    notification::unbind(&thread);
    wait::unlist(&thread);
    thread.buffer.set(None);
    thread.handlers.iter().for_each(delete_root);
    let process = &thread.process;
    let last = {
        let mut life = process.life.lock();
        life.threads.remove(&thread);
        life.count -= 1;
        if life.count == 0 && life.ended.is_none() {
            life.ended = Some(abi::exit_word(0));
        }
        life.count == 0
    };
    if last {
        let space = process.space.lock().take();
        drop(space);
        ALL.lock().remove(process);
        process.close_roots();
    }
}

/// Starts a program of the boot archive, with what `give` puts into the slots of its root; the process and its thread.
pub fn spawn(
    name: &str,
    argument: u64,
    payer: Payer<'_>,
    suspended: bool,
    give: impl FnOnce(&[Slot]) -> Result<(), Error>,
) -> Result<(Ref<Process>, Ref<Thread>), Error> {
    let file = init::members()?.find(|member| member.name == name).ok_or(Error::NotFound)?;
    let limit = paging::user_limit().0;
    let program = Program::parse(file.data, arch::task::ELF_MACHINE, limit).ok_or(Error::InvalidProgram)?;
    let mut space = Space::new(payer)?;
    for segment in program.segments() {
        space.map_anonymous(segment.start, segment.memory_size, segment.flags, segment.file)?;
    }
    let stack = VirtAddr((abi::STACK_TOP - abi::STACK_SIZE) as usize);
    space.map_anonymous(stack, abi::STACK_SIZE as usize, MapFlags::KERNEL_DATA, &[])?;
    irq::serve();
    let process = Process::new(payer, name, space)?;
    if let Some(node) = process.names().look_up().and_then(|root| root.object::<CNode>()) {
        give(&node.table)?;
    }
    ALL.lock().push(process.clone());
    let start = Start {
        entry: program.entry,
        stack: VirtAddr(abi::STACK_TOP as usize),
        argument,
        tls: 0,
        home: sched::place(),
        suspended,
    };
    match Process::start_thread(payer, &process, &start) {
        Ok(thread) => Ok((process, thread)),
        Err(error) => {
            ALL.lock().remove(&process);
            Err(error)
        }
    }
}

/// As [`abi::Call::Spawn`].
pub fn spawn_requested(parent: &Process, request: &SpawnRequest) -> Result<u64, Error> {
    let name = request.name.get(..request.name_length as usize).ok_or(Error::InvalidArgument)?;
    let name = core::str::from_utf8(name).map_err(|_| Error::InvalidArgument)?;
    let (to, own_name) = parent.vacancy(ANY_SLOT)?;
    let to_thread = if request.thread == 0 { None } else { Some(parent.vacancy(request.thread)?.0) };
    let payer = parent.payer(request.quota)?;
    let (child, thread) = spawn(name, request.argument, payer, to_thread.is_some(), |slots| {
        for (slot, given) in slots.iter().zip(request.capabilities) {
            if given != abi::NO_CAPABILITY {
                let (from, found) = parent.capability(given)?;
                reply::may_copy(&found)?;
                if !tree::derive(from, &found, claim(slot, 0)?, found.content.badge, found.rights()) {
                    return Err(Error::InvalidCapability);
                }
            }
        }
        Ok(())
    })?;
    tree::originate(child, to, 0, Rights::ALL);
    if let Some(to) = to_thread {
        tree::originate(thread, to, 0, Rights::ALL);
    }
    Ok(own_name)
}

impl Process {
    /// As [`abi::Call::ThreadInfo`].
    pub fn thread_info(&self, index: u64) -> Option<ThreadInfo> {
        self.life.lock().threads.iter().nth(usize::try_from(index).ok()?).map(Thread::info)
    }
}

/// As [`abi::Call::ProcessInfo`].
pub fn process_info(index: u64) -> Option<ProcessInfo> {
    let process = ALL.lock().iter().nth(usize::try_from(index).ok()?).map(Ref::share)?;
    let life = process.life.lock();
    let mut info = ProcessInfo {
        id: process.id,
        threads: life.count,
        pages: process.space.lock().as_ref().map_or(0, |space| space.pages) as u64,
        ended: u64::from(life.ended.is_some()),
        name: [0; NAME_MAX],
        name_length: process.name.len() as u64,
    };
    info.name[..process.name.len()].copy_from_slice(process.name.as_bytes());
    Some(info)
}
