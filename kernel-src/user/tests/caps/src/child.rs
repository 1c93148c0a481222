//! What other processes of this program do for a case.

use crate::support::{Table, cpus, use_endpoint};
use rt::abi::{ANY_SLOT, Call, Error, Info, NO_CAPABILITY, Rights, guard};
use rt::call::{self, Buffer, Capability, Exit, Message, Place};
use rt::protocol::RESOURCE;
use rt::{assert_ok, kernel_assert_eq, probe, thread};

/// Arguments from here on are roles.
pub const ROLES: u64 = 1 << 32;
/// Makes the calls that its parent asks for.
const AGENT: u64 = ROLES;
/// Derives from slot 0 all that fits into the CNodes in slots 2 and 3, and revokes it; the process ends meanwhile: the
/// low bits say after how many turns, and on which CPU the thread runs that ends it.
pub const REVOKER: u64 = 2 * ROLES;
/// Takes the CNode in slot 0 for its root, and goes on until it is taken away.
pub const ROOT_LOSER: u64 = 3 * ROLES;
/// Takes a root that names itself, and takes that away.
pub const SELF_NAMED_ROOT: u64 = 4 * ROLES;
/// Keeps the capabilities that come with messages to slot 1, until that is taken away.
pub const TAKER: u64 = 5 * ROLES;

/// Status of a role that went as it should.
pub const DONE: u32 = 0xD09E;
/// Status of a revoker that was not ended.
pub const REVOKED_ALL: u32 = 1;
/// Status of one that was.
pub const ENDED: u32 = 2;

/// Slot of the endpoint by which an agent is asked.
const CONTROL: Capability = Capability(1);
/// Label that asks for a read of a slot.
const READ: u64 = 1000;
/// Label that asks for a receive, which must fail.
const RECEIVE: u64 = 1001;
/// Labels of what a taker is sent, of what it is called with, and of the question how many capabilities it has.
pub const SENT: u64 = 1002;
pub const CALLED: u64 = 1003;
pub const COUNT: u64 = 1004;
/// Names of the CNode that a `ROOT_LOSER` takes, as it has them then.
pub const LOSER_BITS: u32 = 6;

pub fn main(argument: u64) -> u32 {
    match argument / ROLES * ROLES {
        AGENT => agent(),
        REVOKER => revoker(argument % ROLES),
        ROOT_LOSER => root_loser(),
        SELF_NAMED_ROOT => self_named_root(),
        TAKER => taker(),
        _ => u32::MAX,
    }
}

/// Starts the program in a role, with these capabilities, and gives its process.
pub fn start(role: u64, give: [Capability; 4]) -> Capability {
    assert_ok!(call::spawn(RESOURCE, "caps", role, give))
}

/// A process that makes calls when asked.
pub struct Agent {
    pub process: Capability,
    control: Capability,
}

impl Agent {
    /// Gives it what it finds in slots 0, 2 and 3.
    pub fn new(first: Capability, second: Capability, third: Capability) -> Self {
        let control = assert_ok!(call::endpoint_create());
        Self { process: start(AGENT, [first, control, second, third]), control }
    }

    /// The endpoint by which it is asked; it looks for it in its slot 1.
    pub const fn control(&self) -> Capability {
        self.control
    }

    pub fn call(&self, number: Call, arguments: [u64; 6]) -> Result<u64, Error> {
        let [a, b, c, d, e, f] = arguments;
        let [status, value, ..] = self.ask(number as u64, [a, b, c, d, e, f, 0, 0])?;
        Error::from_status(status).map_or(Ok(value), Err)
    }

    /// What a name of its leads to: kind, rights, badge, generation.
    pub fn read(&self, name: Capability) -> Result<[u64; 4], Error> {
        let [status, kind, rights, badge, generation, ..] = self.ask(READ, [name.0, 0, 0, 0, 0, 0, 0, 0])?;
        Error::from_status(status).map_or(Ok([kind, rights, badge, generation]), Err)
    }

    /// How a receive by a name of its fails.
    pub fn receive(&self, name: Capability) -> Result<u64, Error> {
        let [status, ..] = self.ask(RECEIVE, [name.0, 0, 0, 0, 0, 0, 0, 0])?;
        Error::from_status(status).map_or(Ok(0), Err)
    }

    fn ask(&self, label: u64, words: [u64; 8]) -> Result<[u64; 8], Error> {
        call::call(self.control, Message::new(label, words)).map(|answer| answer.words)
    }

    /// Takes the way away by which it is asked, and sees it end for that.
    pub fn end(self) {
        assert_ok!(call::cap_revoke(self.control));
        kernel_assert_eq!(assert_ok!(call::wait(self.process)), Exit::Status(Error::InvalidCapability as u32));
        assert_ok!(call::close(self.process));
        assert_ok!(call::close(self.control));
    }
}

fn agent() -> u32 {
    let mut request = call::receive(CONTROL);
    loop {
        request = match request {
            Ok(message) => call::reply_receive(CONTROL, answer(&message)),
            // The slot by which it waited, or was about to, is gone: there may be another at its name.
            Err(Error::PartnerGone | Error::InvalidCapability) => match call::receive(CONTROL) {
                Err(Error::InvalidCapability) => return Error::InvalidCapability as u32,
                received => received,
            },
            Err(error) => return error as u32,
        }
    }
}

fn answer(request: &Message) -> Message {
    let [a, b, c, d, e, f, ..] = request.words;
    let words = match request.info.label() {
        READ => match call::cap_read(Capability(a)) {
            Ok(info) => [0, info.kind, info.rights, info.badge, info.generation, 0, 0, 0],
            Err(error) => [error.status(), 0, 0, 0, 0, 0, 0, 0],
        },
        RECEIVE => [call::receive(Capability(a)).map_or_else(Error::status, |_| 0), 0, 0, 0, 0, 0, 0, 0],
        number => {
            let outcome = probe::raw_call(number, [a, b, c, d, e, f]);
            [outcome.status, outcome.value, 0, 0, 0, 0, 0, 0]
        }
    };
    Message::new(0, words)
}

/// Bits of the CNodes that a revoker fills.
pub const REVOKER_BITS: u32 = 8;

fn revoker(how: u64) -> u32 {
    let (turns, away) = (how & 0xFFFF, how >> 16);
    for node in [2, 3] {
        let table = Table { name: Capability(node), bits: REVOKER_BITS };
        for index in 0..table.size() {
            assert_ok!(call::cap_copy(table.at(index), Capability(0)));
        }
    }
    let cpu = (assert_ok!(call::info(Info::CurrentCpu, 0)) + away) % cpus();
    assert_ok!(thread::spawn_on(cpu, move || -> u32 {
        (0..turns).for_each(|_| call::yield_now());
        call::exit(ENDED)
    }));
    while assert_ok!(call::cap_revoke_step(Capability(0))) != 0 {
        call::yield_now();
    }
    REVOKED_ALL
}

fn root_loser() -> u32 {
    let endpoint = Capability(1);
    assert_ok!(call::set_root(None, Capability(0), guard(32 - LOSER_BITS, 0)));
    // In the new root, slot 1 is an endpoint, slot 2 a CNode, and slot 3 is empty: a copy there tells that it has come
    // so far.
    kernel_assert_eq!(use_endpoint(endpoint), Error::NoCaller);
    assert_ok!(call::cap_copy(Capability(3), endpoint));
    while use_endpoint(endpoint) == Error::NoCaller {}
    let within = Place::within(Capability(2), 0, 1);
    let refused = [
        Some(use_endpoint(endpoint)),
        call::endpoint_create().err(),
        call::endpoint_create_at(4).err(),
        call::cnode_create(1).err(),
        call::cap_copy(Capability(4), endpoint).err(),
        call::cap_move(Capability(4), endpoint).err(),
        call::cap_copy(within, endpoint).err(),
        call::cap_delete(endpoint).err(),
        call::cap_delete(within).err(),
        call::cap_revoke(endpoint).err(),
        call::cap_read(within).err(),
        call::set_root(None, Capability(2), 0).err(),
        call::spawn(RESOURCE, "caps", 0, [Capability(NO_CAPABILITY); 4]).err(),
        call::wait(endpoint).err(),
    ];
    // The rest of the kernel is as open as ever.
    call::yield_now();
    assert_ok!(call::sleep_until(call::clock_ns() + 1000));
    let failed =
        |error: &Option<Error>| matches!(error, Some(Error::InvalidCapability | Error::NoSlot | Error::DepthTooLong));
    if refused.iter().all(failed) { DONE } else { panic!("{refused:?}") }
}

fn self_named_root() -> u32 {
    // Slot 7 of the new root names that root, and what the process has for a root came from there.
    let root = Table::new(6);
    let (own, root_guard) = (Capability(7), guard(26, 0));
    assert_ok!(call::cap_copy(root.at(7), root.name));
    assert_ok!(call::cap_move(root.at(8), assert_ok!(call::endpoint_create())));
    assert_ok!(call::set_root(None, root.name, root_guard));
    kernel_assert_eq!(use_endpoint(Capability(8)), Error::NoCaller);
    // The capability goes by which it is named; the root stays.
    assert_ok!(call::cap_copy(Capability(9), own));
    assert_ok!(call::cap_delete(own));
    kernel_assert_eq!(use_endpoint(Capability(8)), Error::NoCaller);
    assert_ok!(call::set_root(None, Capability(9), root_guard));
    assert_ok!(call::cap_mint(Capability(10), Capability(9), Rights::WRITE, 0));
    // Within itself, named by itself.
    assert_ok!(call::cap_delete(Place::within(Capability(10), 10, 6)));
    kernel_assert_eq!(use_endpoint(Capability(8)), Error::NoCaller);
    // The last that leads anywhere, root and all: nothing keeps the CNode then.
    assert_ok!(call::cap_delete(Capability(9)));
    kernel_assert_eq!(use_endpoint(Capability(8)), Error::NoCaller);
    DONE
}

fn taker() -> u32 {
    static PAGE: Buffer = Buffer::new();
    assert_ok!(call::buffer_set(Some(&PAGE)));
    PAGE.receive_at(0, ANY_SLOT);
    // All but that of the endpoint.
    let slots = || (0..64).map(Capability).filter(|&slot| slot != CONTROL);
    let mut request = call::receive(CONTROL);
    while let Ok(message) = request {
        request = match message.info.label() {
            COUNT => {
                let count = slots().filter(|&slot| assert_ok!(call::cap_read(slot)).kind != 0).count();
                call::reply_receive(CONTROL, Message::new(0, [count as u64; 8]))
            }
            label => {
                // The last had no place.
                if message.info.capabilities() == 0 {
                    slots().for_each(|slot| _ = call::close(slot));
                }
                if label == SENT { call::receive(CONTROL) } else { call::reply_receive(CONTROL, Message::empty(0)) }
            }
        };
    }
    DONE
}
