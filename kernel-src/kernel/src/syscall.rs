//! System calls: what `abi::Call` lists, each in one place.

use crate::addr::{CpuId, Nanos, VirtAddr};
use crate::config::CAPABILITY_STEPS;
use crate::mm::user::{UserBytes, UserPtr, check_range};
use crate::mm::{frames, paging};
use crate::object::{
    self, CNode, Endpoint, FAULTS, FOREIGN, FPU, HALTED, Notification, Process, Reply, Resource, STEPS, SUSPENDED,
    Start, Thread,
};
use crate::sync::{Found, Object, Payer, Quota, Ref, Slot, Step, ending, tree};
use crate::{arch, cmdline, init, log, percpu, sched, smp};
use abi::{
    ADDRESS_BITS, Call, CapabilityInfo, Error, Info, NAME_MAX, OWN_PROCESS, OWN_QUOTA, Outcome, PIECE_MAX, Power,
    Registers, Rights, ThreadAction,
};
use core::array;
use core::sync::atomic::Ordering;

type Simple = extern "C" fn(u64, u64, u64, u64, u64, u64) -> Outcome;

extern "C" fn invalid(_: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> Outcome {
    Err(Error::InvalidCall).into()
}

/// Calls that never block: the number, and a function of as many of six words as it takes. Trap stubs call them as C
/// functions, by number.
macro_rules! simple {
    ($($(#[$attribute:meta])* $call:ident = fn $name:ident($($word:ident),*) $carry_out:block)*) => {
        $($(#[$attribute])* extern "C" fn $name(a: u64, b: u64, c: u64, d: u64, e: u64, f: u64) -> Outcome {
            crate::jitter::pause();
            let [$($word,)* ..] = [a, b, c, d, e, f];
            let carry_out = || -> Result<u64, Error> { $carry_out };
            let done = carry_out().into();
            if percpu::this().reschedule.get() { let_the_woken_run(done) } else { done }
        })*

        pub static SIMPLE: [Simple; abi::SIMPLE_CALLS as usize] = {
            let mut table: [Simple; abi::SIMPLE_CALLS as usize] = [invalid; abi::SIMPLE_CALLS as usize];
            $(table[Call::$call as usize] = $name;)*
            table
        };
    };
}

fn info_value(kind: u64, index: u64) -> Result<u64, Error> {
    let usage = frames::usage;
    let cpu = || percpu::all().get(index as usize).ok_or(Error::NotFound);
    Ok(match kind {
        k if k == Info::CpusOnline as u64 => smp::online() as u64,
        k if k == Info::CpusPresent as u64 => percpu::all().len() as u64,
        k if k == Info::MemoryTotal as u64 => usage().total as u64,
        k if k == Info::MemoryFree as u64 => usage().free as u64,
        k if k == Info::MemoryKernel as u64 => usage().kernel as u64,
        k if k == Info::MemoryGivenBack as u64 => usage().given_back as u64,
        k if k == Info::TimerInterrupts as u64 => cpu()?.timer_interrupts.load(Ordering::Relaxed),
        k if k == Info::IpisReceived as u64 => cpu()?.ipis_received.load(Ordering::Relaxed),
        k if k == Info::IpisSent as u64 => cpu()?.ipis_sent.load(Ordering::Relaxed),
        k if k == Info::IdleEntries as u64 => cpu()?.idle_entries.load(Ordering::Relaxed),
        k if k == Info::Departures as u64 => cpu()?.left.load(Ordering::Relaxed),
        k if k == Info::HardwareId as u64 => cpu()?.hardware.0,
        k if k == Info::CurrentCpu as u64 => percpu::this().id.0 as u64,
        k if k == Info::ThreadId as u64 => sched::current().id,
        k if k == Info::UserLimit as u64 => paging::user_limit().0 as u64,
        k if k == Info::Slide as u64 => paging::slide() as u64,
        k if k == Info::CommandLine as u64 => cmdline::word(init::command_line(), index).ok_or(Error::NotFound)?,
        k if k == Info::Ending as u64 => ending::pending() as u64,
        k if k == Info::KernelStackDepth as u64 => (percpu::this().stack_top.0 - arch::cpu::frame_pointer()) as u64,
        _ => return Err(Error::InvalidArgument),
    })
}

fn own() -> &'static Process {
    &sched::current().process
}

/// The caller's process, or the one of that name.
fn process_named(name: u64, rights: Rights) -> Result<&'static Process, Error> {
    if name == OWN_PROCESS { Ok(own()) } else { own().object(name, rights).map(|(process, ..)| process) }
}

/// Makes an object that a quota pays for, with a capability in a slot.
#[inline(always)]
fn create<'a, T: Object>(
    place: u64,
    quota: u64,
    badge: u64,
    make: impl FnOnce(Payer<'a>) -> Result<Ref<T>, Error>,
) -> Result<u64, Error> {
    let process = own();
    let payer = process.payer(quota)?;
    let (to, name) = process.vacancy(place)?;
    tree::originate(make(payer)?, to, badge, Rights::ALL);
    Ok(name)
}

/// The slot that an address leads to.
#[inline(always)]
fn named(address: u64, rights: Rights) -> Result<&'static Slot, Error> {
    object::resolve(own().names(), address, ADDRESS_BITS, rights)
}

/// A slot as calls on slots name it, in a CNode of which the capability has `rights`, and the generation that goes with
/// it; see [`abi::copy_how`].
#[inline(always)]
fn slot_at(node: u64, index: u64, depth: u64, rights: Rights) -> Result<(&'static Slot, u64), Error> {
    /// Out of line, so that the plain case keeps no registers.
    #[inline(never)]
    fn within(node: u64, index: u64, depth: u64, rights: Rights) -> Result<&'static Slot, Error> {
        if depth > u64::from(ADDRESS_BITS) {
            return Err(Error::InvalidArgument);
        }
        let (_, slot, _) = own().object::<CNode>(node, Rights::NONE)?;
        object::resolve(slot, index, depth as u32, rights)
    }
    match depth {
        0 => Ok((named(node, rights)?, node >> ADDRESS_BITS)),
        _ => Ok((within(node, index, depth, rights)?, index >> ADDRESS_BITS)),
    }
}

/// The capability in a slot, if it is the filling of that generation.
fn held(slot: &Slot, generation: u64) -> Result<Found, Error> {
    let found = slot.look_up().ok_or(Error::InvalidCapability)?;
    if generation != 0 && generation != found.generation() {
        return Err(Error::InvalidCapability);
    }
    Ok(found)
}

const fn depths(how: u64) -> (u64, u64) {
    (how >> 16 & 0xff, how >> 24 & 0xff)
}

/// A badge is given once, and for good; a CNode's guard is nobody's identity, and may change.
fn new_badge(found: &Found, badge: u64) -> Result<u64, Error> {
    let old = found.content.badge;
    if badge == 0 {
        return Ok(old);
    }
    if let Some(node) = found.object::<CNode>() {
        return node.way(badge);
    }
    if old == 0 { Ok(badge) } else { Err(Error::InvalidArgument) }
}

/// A call that may begin an end: once it has nothing in hand any more, steps at that.
#[inline(always)]
fn and_take_steps(call: impl FnOnce() -> Result<u64, Error>) -> Result<u64, Error> {
    let done = call();
    ending::quiescent(percpu::this());
    done
}

/// A call that never blocks returns without a look at the queue: where somebody was woken here, an interrupt is next. What
/// was done is passed through, so that the way past this saves no registers.
#[cold]
#[inline(never)]
fn let_the_woken_run(done: Outcome) -> Outcome {
    let cpu = percpu::this();
    percpu::count(&cpu.ipis_sent);
    arch::irq::send_ipi(cpu.id);
    done
}

const fn steps_left(step: Step) -> u64 {
    matches!(step, Step::More) as u64
}

simple! {
    Null = fn null() {
        Ok(0)
    }

    Clock = fn clock() {
        Ok(arch::timer::now().0)
    }

    DebugWrite = fn debug_write(start, size) {
        if size > PIECE_MAX as u64 {
            return Err(Error::InvalidArgument);
        }
        let mut buffer = [0; PIECE_MAX];
        let text = UserBytes::new(start, size)?.read(&mut buffer)?;
        log::user_write(sched::current().process.id, text);
        Ok(text.len() as u64)
    }

    Info = fn info(kind, index) {
        info_value(kind, index)
    }

    ProcessInfo = fn process_info(index, to) {
        let to = UserPtr::new(to)?;
        object::process_info(index).map_or(Ok(0), |info| to.write(&info).map(|()| 1))
    }

    /// Not inlined: tests of panics plant a fault at its start.
    #[inline(never)]
    LogRead = fn log_read(offset, to, size) {
        let mut buffer = [0; PIECE_MAX];
        let to = UserBytes::new(to, size)?;
        let room = to.size().min(buffer.len());
        let count = log::read_ring(offset as usize, &mut buffer[..room]);
        to.write(&buffer[..count])
    }

    ArchiveMember = fn archive_member(index, name, size) {
        let member = init::members()?.nth(index as usize).ok_or(Error::NotFound)?;
        let mut padded = [0; NAME_MAX];
        padded.iter_mut().zip(member.name.bytes()).for_each(|(to, from)| *to = from);
        UserBytes::new(name, size)?.write(&padded)?;
        Ok(member.data.len() as u64)
    }

    ArchiveRead = fn archive_read(index, offset, to, size) {
        let member = init::members()?.nth(index as usize).ok_or(Error::NotFound)?;
        let rest = member.data.get(offset as usize..).ok_or(Error::InvalidArgument)?;
        UserBytes::new(to, size)?.write(&rest[..rest.len().min(PIECE_MAX)])
    }

    EndpointCreate = fn endpoint_create(place, quota) {
        create(place, quota, 0, Endpoint::new)
    }

    Power = fn power(resource, action) {
        own().object::<Resource>(resource, Rights::MANAGE)?;
        Err(match action {
            a if a == Power::Off as u64 => arch::cpu::power_off(),
            a if a == Power::Reboot as u64 => arch::cpu::reboot(),
            _ => Error::InvalidArgument,
        })
    }

    CNodeCreate = fn cnode_create(bits, place, quota) {
        create(place, quota, bits, |payer| CNode::new(payer, bits))
    }

    CapCopy = fn cap_copy(to, to_index, from, from_index, how, badge) {
        let (to_depth, from_depth) = depths(how);
        let (from, generation) = slot_at(from, from_index, from_depth, Rights::READ)?;
        let found = held(from, generation)?;
        object::may_copy(&found)?;
        let badge = new_badge(&found, badge)?;
        let (to, generation) = slot_at(to, to_index, to_depth, Rights::WRITE)?;
        let to = object::claim(to, generation)?;
        let generation = to.generation();
        let rights = Rights(found.rights().0 & how & Rights::ALL.0);
        if tree::derive(from, &found, to, badge, rights) { Ok(generation) } else { Err(Error::InvalidCapability) }
    }

    CapMove = fn cap_move(to, to_index, from, from_index, how) {
        let (to_depth, from_depth) = depths(how);
        let (from, generation) = slot_at(from, from_index, from_depth, Rights::WRITE)?;
        let found = held(from, generation)?;
        let (to, generation) = slot_at(to, to_index, to_depth, Rights::WRITE)?;
        let to = object::claim(to, generation)?;
        let generation = to.generation();
        if tree::relocate(from, &found, to) { Ok(generation) } else { Err(Error::InvalidCapability) }
    }

    CapDelete = fn cap_delete(node, index, depth) {
        and_take_steps(|| {
            let (slot, generation) = slot_at(node, index, depth, Rights::WRITE)?;
            tree::delete(slot, generation, CAPABILITY_STEPS).map(steps_left).ok_or(Error::InvalidCapability)
        })
    }

    CapRevoke = fn cap_revoke(node, index, depth) {
        and_take_steps(|| {
            let (slot, generation) = slot_at(node, index, depth, Rights::READ)?;
            let found = held(slot, generation)?;
            if !found.rights().have(Rights::MANAGE) {
                return Err(Error::NoRight);
            }
            tree::revoke(slot, &found, CAPABILITY_STEPS).map(steps_left).ok_or(Error::InvalidCapability)
        })
    }

    CapRead = fn cap_read(node, index, depth, to) {
        let (slot, generation) = slot_at(node, index, depth, Rights::READ)?;
        let to = UserPtr::new(to)?;
        let mut info = CapabilityInfo { kind: 0, rights: 0, badge: 0, generation: slot.generation(), object: 0 };
        if let Some(found) = slot.look_up() {
            let badge = found.content.badge;
            let badge = found.object::<CNode>().map_or(badge, |node| node.guard(badge));
            let (kind, rights) = (found.kind(), found.rights().0);
            info = CapabilityInfo { kind, rights, badge, generation: found.generation(), object: found.id() };
        }
        if generation != 0 && generation != info.generation {
            return Err(Error::InvalidCapability);
        }
        to.write(&info).map(|()| 0)
    }

    ThreadInfo = fn thread_info(process, index, to) {
        let to = UserPtr::new(to)?;
        let process = process_named(process, Rights::READ)?;
        object::charge(percpu::this(), sched::current());
        process.thread_info(index).map_or(Ok(0), |info| to.write(&info).map(|()| 1))
    }

    BufferSet = fn buffer_set(address) {
        let page = if address == 0 { None } else { Some(own().share_page(VirtAddr(address as usize))?) };
        sched::current().buffer.set(page);
        Ok(0)
    }

    SetRoot = fn set_root(process, root, guard) {
        and_take_steps(|| {
            let process = process_named(process, Rights::MANAGE)?;
            let (node, slot, found) = own().object::<CNode>(root, Rights::NONE)?;
            process.set_names(slot, &found, node.way(guard)?).map(|()| 0)
        })
    }

    SaveReply = fn save_reply(place, quota) {
        object::charge(percpu::this(), sched::current());
        create(place, quota, 0, |payer| Reply::new(payer, sched::current()))
    }

    NotificationCreate = fn notification_create(place, quota) {
        create(place, quota, 0, Notification::new)
    }

    NotificationBind = fn notification_bind(name, binds) {
        let thread = sched::current();
        let (notification, slot, found) = own().object::<Notification>(name, Rights::READ)?;
        match binds {
            1 => notification.bind(thread, slot, &found).map(|()| 0),
            0 if notification.unbind() => Ok(0),
            0 => Err(Error::Bound),
            _ => Err(Error::InvalidArgument),
        }
    }

    ThreadMake = fn thread_make(process, cpu, place, quota) {
        let process = process_named(process, Rights::MANAGE)?;
        let (nowhere, home) = (VirtAddr(0), home(cpu)?);
        let start = Start { entry: nowhere, stack: nowhere, argument: 0, tls: 0, home, suspended: true };
        create(place, quota, 0, |payer| {
            Process::start_thread(payer, &Ref::share_found(process).ok_or(Error::NotFound)?, &start)
        })
    }

    ThreadRead = fn thread_read(name, to) {
        let (thread, to) = (stopping(name, Rights::READ)?, UserPtr::new(to)?);
        to.write(&sched::while_at_rest(thread, |frame| frame.registers())?).map(|()| 0)
    }

    ThreadWrite = fn thread_write(name, from) {
        let thread = stopping(name, Rights::WRITE)?;
        let registers = UserPtr::<Registers>::new(from)?.read()?;
        sched::while_at_rest(thread, |frame| frame.set_registers(&registers)).map(|()| 0)
    }

    QuotaCreate = fn quota_create(quota, bytes, objects, place) {
        create(place, quota, 0, |payer| Quota::new(payer, bytes, objects))
    }

    QuotaRead = fn quota_read(quota, to) {
        let to = UserPtr::new(to)?;
        let quota = match quota {
            OWN_QUOTA => &own().quota,
            name => own().object::<Quota>(name, Rights::READ)?.0,
        };
        to.write(&quota.read()).map(|()| 0)
    }

    QuotaDestroy = fn quota_destroy(quota) {
        and_take_steps(|| {
            let (quota, slot, found) = own().object::<Quota>(quota, Rights::MANAGE)?;
            quota.destroy(slot, &found, CAPABILITY_STEPS).map(steps_left)
        })
    }
}

/// A call that may block. `None`: the thread waits, and its result comes later.
pub fn dispatch(thread: &Thread) {
    let number = thread.frame.with(|frame| frame.call_number());
    if let Some(result) = carry_out(thread, number) {
        thread.frame.with(|frame| frame.set_result(result.into()));
    }
}

fn carry_out(thread: &Thread, number: u64) -> Option<Result<u64, Error>> {
    let argument = |index| thread.frame.with(|frame| frame.argument(index));
    match number {
        // The thread has just become native: its call starts again as such.
        n if n < abi::SIMPLE_CALLS => {
            thread.frame.with(arch::task::Frame::restart_call);
            None
        }
        n if n == Call::Exit as u64 => {
            object::end_process(&thread.process, abi::exit_word(argument(0) as u32));
            None
        }
        n if n == Call::ThreadExit as u64 => {
            Thread::doom(thread);
            None
        }
        n if n == Call::Yield as u64 => {
            percpu::this().reschedule.set(true);
            Some(Ok(0))
        }
        n if n == Call::Sleep as u64 => sleep(thread, Nanos(argument(0))).map(Ok),
        n if n == Call::ThreadCreate as u64 => Some(thread_create(thread, array::from_fn(argument))),
        n if n == Call::Spawn as u64 => Some(spawn(thread, argument(0), argument(1))),
        n if n == Call::Wait as u64 => wait(thread, argument(0)).transpose(),
        n if n == Call::ConsoleRead as u64 => console_read(thread, argument(0), argument(1), argument(2)).transpose(),
        n if n == Call::ThreadControl as u64 => Some(thread_control(thread, argument(0), argument(1), argument(2))),
        n if n == Call::NotificationSignal as u64 => Some(notification_signal(thread, argument(0), argument(1))),
        n => match object::call_of(n) {
            n if n == Call::NotificationWait as u64 => notification_wait(thread),
            n if (Call::Call as u64..=Call::ReplyReceive as u64).contains(&n)
                || n == Call::Send as u64
                || n == Call::Reply as u64 =>
            {
                if let Err(error) = message(thread, n) {
                    thread.frame.with(|frame| frame.set_message(error.status(), 0, 0, [0; abi::MESSAGE_WORDS]));
                }
                None
            }
            _ => Some(Err(Error::InvalidCall)),
        },
    }
}

fn sleep(thread: &Thread, deadline: Nanos) -> Option<u64> {
    if arch::timer::now() >= deadline {
        return Some(0);
    }
    sched::limit(thread, deadline);
    thread.begin_wait(object::State::Other);
    None
}

fn thread_create(thread: &Thread, [entry, stack, argument, cpu, tls, quota]: [u64; 6]) -> Result<u64, Error> {
    let [entry, stack, tls_base] = [entry, stack, tls].map(|address| VirtAddr(address as usize));
    // A stack may end where the user half does.
    for (address, size) in [(entry, 1), (stack, 0), (tls_base, 0)] {
        check_range(address, size)?;
    }
    let start = Start { entry, stack, argument, tls, home: home(cpu)?, suspended: false };
    let process = &thread.process;
    Process::start_thread(process.payer(quota)?, &Ref::share(process), &start).map(|thread| thread.id)
}

/// The CPU of that number and 1, or any.
fn home(cpu: u64) -> Result<CpuId, Error> {
    if cpu == 0 {
        return Ok(sched::place());
    }
    let chosen = percpu::all().get(cpu as usize - 1).ok_or(Error::InvalidArgument)?;
    if chosen.online.load(Ordering::Acquire) { Ok(chosen.id) } else { Err(Error::InvalidArgument) }
}

/// The thread of that name, which has not ended.
fn stopping(name: u64, rights: Rights) -> Result<&'static Thread, Error> {
    let (thread, ..) = own().object::<Thread>(name, rights)?;
    if thread.is_doomed() { Err(Error::NotFound) } else { Ok(thread) }
}

/// As [`ThreadAction`] says.
fn thread_control(caller: &Thread, name: u64, action: u64, value: u64) -> Result<u64, Error> {
    let right = if action < ThreadAction::Kill as u64 { Rights::WRITE } else { Rights::MANAGE };
    let thread = stopping(name, right)?;
    let limit = u64::from(caller.limit.load(Ordering::Relaxed));
    let priority = || if value <= limit { Ok(value as u8) } else { Err(Error::InvalidArgument) };
    match action {
        a if a == ThreadAction::Resume as u64 => sched::resume(thread),
        a if a == ThreadAction::Suspend as u64 => return Ok(sched::suspend(thread, SUSPENDED)),
        a if a == ThreadAction::Halt as u64 => return Ok(sched::suspend(thread, SUSPENDED | HALTED)),
        a if a == ThreadAction::Cancel as u64 => return Ok(object::cancel(thread, true).into()),
        a if a == ThreadAction::Kill as u64 => Thread::doom(thread),
        a if a == ThreadAction::Priority as u64 => return Ok(sched::set_priority(thread, priority()?).into()),
        a if a == ThreadAction::Limit as u64 => return Ok(thread.limit.swap(priority()?, Ordering::Relaxed).into()),
        a if a == ThreadAction::Faults as u64 => object::set_handler(caller, thread, FAULTS, value)?,
        a if a == ThreadAction::Calls as u64 => object::set_handler(caller, thread, FOREIGN, value)?,
        a if a == ThreadAction::Fpu as u64 => {
            let set = |_: &mut _| thread.set_extra(FPU, value != 0).into();
            return if arch::task::has_fpu() { sched::while_at_rest(thread, set) } else { Err(Error::Unsupported) };
        }
        a if a == ThreadAction::Step as u64 => {
            sched::while_at_rest(thread, |frame| frame.set_step(true).map(|()| thread.set_extra(STEPS, true)))??;
        }
        _ => return Err(Error::InvalidArgument),
    }
    Ok(0)
}

fn spawn(thread: &Thread, resource: u64, request: u64) -> Result<u64, Error> {
    let process = &thread.process;
    process.object::<Resource>(resource, Rights::WRITE)?;
    let request = UserPtr::new(request)?.read()?;
    object::spawn_requested(process, &request)
}

fn wait(thread: &Thread, name: u64) -> Result<Option<u64>, Error> {
    let (process, slot, found) = thread.process.object::<Process>(name, Rights::READ)?;
    process.wait(thread, slot, &found)
}

fn console_read(thread: &Thread, resource: u64, to: u64, size: u64) -> Result<Option<u64>, Error> {
    thread.process.object::<Resource>(resource, Rights::READ)?;
    let to = UserBytes::new(to, size)?;
    let mut buffer = [0; PIECE_MAX];
    let room = to.size().min(buffer.len());
    log::take_input(&mut buffer[..room], thread).map(|count| to.write(&buffer[..count])).transpose()
}

fn notification_signal(thread: &Thread, name: u64, bits: u64) -> Result<u64, Error> {
    let (notification, slot, found) = thread.process.object::<Notification>(name, Rights::WRITE)?;
    notification.signal(Notification::allowed(bits, found.content.badge), slot, &found).map(|()| 0)
}

fn notification_wait(thread: &Thread) -> Option<Result<u64, Error>> {
    let name = thread.frame.with(|frame| frame.argument(0));
    thread
        .process
        .object::<Notification>(name, Rights::READ)
        .and_then(|(notification, slot, found)| notification.wait(thread, slot, &found))
        .transpose()
}

fn message(thread: &Thread, number: u64) -> Result<(), Error> {
    let process = &thread.process;
    let name = thread.frame.with(|frame| frame.capability());
    if number == Call::Reply as u64 {
        let arrived = if name == abi::OWED {
            object::reply_owed(thread)?
        } else {
            let (reply, slot, found) = process.object::<Reply>(name, Rights::WRITE)?;
            reply.answer(thread, slot, &found)?
        };
        object::sent(thread, arrived);
        return Ok(());
    }
    let rights = match number {
        n if n == Call::Call as u64 => Rights::WRITE.with(Rights::CALL),
        n if n == Call::Send as u64 => Rights::WRITE,
        _ => Rights::READ,
    };
    let (endpoint, slot, found) = process.object::<Endpoint>(name, rights)?;
    if rights.have(Rights::WRITE) {
        return endpoint.send(thread, slot, &found);
    }
    match number {
        n if n == Call::ReplyReceive as u64 => object::reply_before_receive(thread)?,
        _ => object::check_info(thread)?,
    }
    endpoint.receive(thread, slot, &found)
}
