//! Messages that do not fit into registers.

use crate::help::{self, fill, first_wrong, holds, numbered, once_there, settled};
use crate::roles::{self, DONE, Role, TOLD};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{BUFFER_WORDS, Call, DEADLINE, Error, MessageInfo, OWED};
use rt::call::{self, Capability, Exit, Message, Until};
use rt::probe::{self, raw_call, raw_message};
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test, thread};

/// Round the length of registers, of pieces in which words are copied, and of the page.
const LENGTHS: [usize; 15] = [0, 1, 7, 8, 9, 10, 15, 16, 17, 63, 64, 255, 256, 511, BUFFER_WORDS];
const LONGEST: usize = BUFFER_WORDS;

test! {
    // CASE-IPC-001, CASE-IPC-007 and CASE-IPC-047: what is not announced stays as it was.
    fn a_long_message_arrives_whole_and_nothing_else_does() requires("IPS-02 IPS-14 IPS-18") {
        let endpoint = assert_ok!(call::endpoint_create());
        let page = help::buffered(0);
        for cpu in [0, help::other_cpu()] {
            for length in LENGTHS {
                // The receiver is first.
                fill(page, length, cpu);
                let receiver = assert_ok!(thread::spawn_on(cpu, move || {
                    let page = help::buffered(1);
                    fill(page, 0, 0);
                    (call::receive(endpoint), first_wrong(page, length, cpu))
                }));
                once_there(|| call::send(endpoint, numbered(5, length, cpu), Until::NOW));
                kernel_assert_eq!(assert_ok!(receiver.join()), (Ok(numbered(5, length, cpu)), None));
                kernel_assert_eq!(first_wrong(page, length, cpu), None, "the sender's own");

                // The sender is.
                let sender = assert_ok!(thread::spawn_on(cpu, move || {
                    fill(help::buffered(1), length, 8);
                    call::send(endpoint, numbered(6, length, 8), Until::Done)
                }));
                fill(page, 0, 0);
                kernel_assert_eq!(once_there(|| call::receive_until(endpoint, Until::NOW)), numbered(6, length, 8));
                kernel_assert_eq!(first_wrong(page, length, 8), None, "length {length}");
                kernel_assert_eq!(assert_ok!(sender.join()), Ok(()));
            }
        }
    }
}

/// Answers messages, each of which is the label's number of words long, with what is as much shorter than a page.
pub fn serve(endpoint: Capability) -> u32 {
    let page = help::buffered(2);
    let mut request = assert_ok!(call::receive(endpoint));
    while request.info.length() != 0 {
        let length = request.info.label() as usize;
        kernel_assert_eq!(request, numbered(length as u64, length, 1));
        kernel_assert!(holds(page, length, 1), "a request of {length} words");
        fill(page, LONGEST - length, 2);
        request = assert_ok!(call::reply_receive(endpoint, numbered(3, LONGEST - length, 2)));
    }
    DONE
}

fn ask(endpoint: Capability, length: usize, until: Until) {
    let page = help::buffered(3);
    fill(page, length, 1);
    let reply = call::call_until(endpoint, numbered(length as u64, length, 1), until);
    kernel_assert_eq!(reply, Ok(numbered(3, LONGEST - length, 2)));
    kernel_assert!(holds(page, LONGEST - length, 2), "the answer to {length} words");
}

test! {
    // CASE-IPC-001 and CASE-IPC-036: every length, one a call, on the fast path and off it.
    fn calls_of_every_length_are_answered_on_every_path() requires("IPS-02 IPS-03 IPS-06 IPS-14") {
        let endpoint = assert_ok!(call::endpoint_create());
        for (cpu, step, limit_ns) in [(0, 1, 0), (0, 37, help::PATIENCE_NS), (help::other_cpu(), 41, 0)] {
            let server = assert_ok!(thread::spawn_on(cpu, move || serve(endpoint)));
            let client = assert_ok!(thread::spawn_on(0, move || {
                for length in (1..=LONGEST).step_by(step) {
                    ask(endpoint, length, if limit_ns == 0 { Until::Done } else { help::soon(limit_ns) });
                }
            }));
            assert_ok!(client.join());
            assert_ok!(call::send(endpoint, Message::empty(0), Until::Done));
            kernel_assert_eq!(assert_ok!(server.join()), DONE);
        }
    }
}

test! {
    // CASE-IPC-001 and CASE-IPC-007, between two Spaces.
    fn long_calls_go_to_another_process() requires("IPS-02 IPS-14") {
        let endpoint = assert_ok!(call::endpoint_create());
        let server = assert_ok!(Role::LongServer.start(0, &[endpoint]));
        LENGTHS.into_iter().skip(1).for_each(|length| ask(endpoint, length, Until::Done));
        assert_ok!(call::send(endpoint, Message::empty(0), Until::Done));
        kernel_assert_eq!(roles::ended(server), Exit::Status(DONE));
    }
}

test! {
    // CASE-IPC-007: one word more than fits; and a sender without a buffer.
    fn what_cannot_be_sent_is_refused_and_changes_nothing() requires("IPS-14 ERR-03 SYS-06") {
        let endpoint = assert_ok!(call::endpoint_create());
        let refused = |number: Call, capability, info: u64, error: Error| {
            let left = raw_message(number as u64, capability, 0, info, [1; 8]);
            kernel_assert_eq!((left.status, left.info, left.words), (error.status(), 0, [0; 8]), "info {info:#x}");
        };
        let woken = Arc::new(AtomicU64::new(0));
        let seen = woken.clone();
        let receiver = assert_ok!(thread::spawn_on(0, move || {
            let message = call::receive(endpoint);
            seen.fetch_add(1, Ordering::SeqCst);
            message
        }));
        settled(0);
        let long = [(9, Error::NoBuffer), (512, Error::NoBuffer), (1 << 10, Error::NoBuffer), (513, Error::InvalidArgument)];
        for (info, error) in long {
            refused(Call::Send, endpoint.0, info, error);
            refused(Call::Call, endpoint.0, info, error);
        }
        help::buffered(0);
        refused(Call::Send, endpoint.0, 513, Error::InvalidArgument);
        refused(Call::Call, endpoint.0, 513, Error::InvalidArgument);
        assert_ok!(call::buffer_set(None));
        settled(0);
        kernel_assert_eq!(woken.load(Ordering::SeqCst), 0);
        assert_ok!(call::send(endpoint, Message::empty(2), Until::NOW));
        kernel_assert_eq!(assert_ok!(receiver.join()), Ok(Message::empty(2)));

        let caller = assert_ok!(thread::spawn_on(0, move || call::call(endpoint, Message::empty(3))));
        kernel_assert_eq!(assert_ok!(call::receive(endpoint)), Message::empty(3));
        for (info, error) in long {
            refused(Call::Reply, OWED, info, error);
            refused(Call::ReplyReceive, endpoint.0, info, error);
        }
        let saved = assert_ok!(call::save_reply());
        long.into_iter().for_each(|(info, error)| refused(Call::Reply, saved.0, info, error));
        assert_ok!(call::reply_to(saved, Message::empty(4)));
        kernel_assert_eq!(assert_ok!(caller.join()), Ok(Message::empty(4)));
    }
}

test! {
    // CASE-IPC-008: who has no buffer page hears the true length, and has the words of the registers.
    fn a_receiver_without_a_buffer_gets_the_first_words() requires("IPS-14") {
        let endpoint = assert_ok!(call::endpoint_create());
        let page = help::buffered(0);
        fill(page, LONGEST, 4);
        for (cpu, until) in [(0, Until::Done), (help::other_cpu(), Until::Done), (0, help::soon(help::PATIENCE_NS))] {
            let server = assert_ok!(thread::spawn_on(cpu, move || {
                // It had one, and gave it back.
                let page = help::buffered(1);
                fill(page, 0, 0);
                assert_ok!(call::buffer_set(None));
                let first = call::receive(endpoint);
                let second = call::reply_receive(endpoint, numbered(8, 8, 8));
                assert_ok!(call::reply(Message::empty(9)));
                (first, second, first_wrong(page, 0, 0))
            }));
            kernel_assert_eq!(call::call_until(endpoint, numbered(1, LONGEST, 4), until), Ok(numbered(8, 8, 8)));
            kernel_assert_eq!(call::call_until(endpoint, numbered(2, 9, 4), until), Ok(Message::empty(9)));
            let seen = (Ok(numbered(1, LONGEST, 4)), Ok(numbered(2, 9, 4)), None);
            kernel_assert_eq!(assert_ok!(server.join()), seen);

            let client = assert_ok!(thread::spawn_on(cpu, move || call::call_until(endpoint, Message::empty(5), until)));
            assert_ok!(call::receive(endpoint));
            assert_ok!(call::reply(numbered(6, 64, 4)));
            kernel_assert_eq!(assert_ok!(client.join()), Ok(numbered(6, 64, 4)));
            kernel_assert_eq!(first_wrong(page, LONGEST, 4), None);
        }
    }
}

test! {
    // CASE-IPC-010, with what there is to name: the thread keeps the page that it has.
    fn a_buffer_is_a_page_that_the_program_may_write() requires("IPS-14 UMA-01 ERR-03") {
        let endpoint = assert_ok!(call::endpoint_create());
        let page = help::buffered(0);
        let limit = help::info(rt::abi::Info::UserLimit);
        let code = probe::code_address() & !0xfff;
        let bad = [code, code + 8, 0x1000, probe::image_end().next_multiple_of(4096) + 4096, limit - 4096, limit, !0xfff, 1, u64::MAX];
        for address in bad {
            let outcome = raw_call(Call::BufferSet as u64, [address, 0, 0, 0, 0, 0]);
            kernel_assert_eq!((outcome.status, outcome.value), (Error::InvalidAddress.status(), 0), "{address:#x}");
        }
        for offset in [1, 8, 2048, 4088] {
            assert_err!(probe::buffer_set_beside(page, offset), Error::InvalidAddress);
        }
        fill(page, 64, 7);
        let receiver = assert_ok!(thread::spawn(move || {
            let page = help::buffered(1);
            (call::receive(endpoint), holds(page, 64, 7))
        }));
        assert_ok!(call::send(endpoint, numbered(1, 64, 7), Until::Done));
        kernel_assert_eq!(assert_ok!(receiver.join()), (Ok(numbered(1, 64, 7)), true));
        // And none, which is no error twice.
        assert_ok!(call::buffer_set(None));
        assert_ok!(call::buffer_set(None));
        assert_err!(call::send(endpoint, numbered(1, 64, 7), Until::NOW), Error::NoBuffer);
    }
}

test! {
    // CASE-IPC-005 and CASE-IPC-046: a receive that fails leaves the page alone.
    fn a_failed_receive_leaves_the_page_alone() requires("IPS-07 IPS-14") {
        let endpoint = assert_ok!(call::endpoint_create());
        let page = help::buffered(0);
        fill(page, 0, 0);
        for info in [0, 64, 512, 4 << 10 | 9] {
            let left = raw_message(Call::Receive as u64 | DEADLINE, endpoint.0, 0, info, [5; 8]);
            kernel_assert_eq!((left.status, left.info), (Error::TimedOut.status(), 0));
        }
        kernel_assert_eq!(first_wrong(page, 0, 0), None);
    }
}

/// Threads that have one page call without end, and change it all the while.
pub fn share_page(endpoint: Capability) {
    for cpu in 0..help::cpus() {
        drop(assert_ok!(thread::spawn_on(cpu, move || {
            let page = help::buffered(0);
            loop {
                page.set_word(8 + cpu as usize, cpu);
                let info = MessageInfo::new(1, LONGEST);
                let _ = call::call(endpoint, Message { info, words: [cpu; 8], badge: 0 });
            }
        })));
    }
}

test! {
    // CASE-IPC-011, as far as a page can go: with its process, while messages go through it on all CPUs.
    fn a_page_of_several_threads_ends_once() requires("IPS-12 IPS-14 TST-23") {
        let (endpoint, end) = (assert_ok!(call::endpoint_create()), assert_ok!(call::endpoint_create()));
        let round = |messages: u64| {
            let child = assert_ok!(Role::SharePage.start(0, &[endpoint, end]));
            let page = help::buffered(1);
            fill(page, LONGEST, 1);
            for _ in 0..messages {
                let request = assert_ok!(call::receive(endpoint));
                kernel_assert_eq!((request.info, request.words), (MessageInfo::new(1, LONGEST), [request.words[0]; 8]));
                let _ = call::reply(Message { info: MessageInfo::new(2, LONGEST), words: [0; 8], badge: 0 });
            }
            assert_ok!(call::send(end, Message::empty(0), Until::Done));
            kernel_assert_eq!(roles::ended(child), Exit::Status(TOLD));
            while call::receive_until(endpoint, Until::NOW).is_ok() {}
            assert_ok!(call::buffer_set(None));
        };
        (0..3).for_each(round);
        let before = help::memory_at_rest();
        (0..12).for_each(|n| round(n * 3));
        let after = help::memory_at_rest();
        kernel_assert!(after + help::SLACK >= before, "{before} bytes were free, {after} are");
    }
}

test! {
    // A page comes back with its thread, also where other threads have it.
    fn a_page_comes_back_with_its_last_thread() requires("IPS-14 CAP-25") {
        let endpoint = assert_ok!(call::endpoint_create());
        for _ in 0..50 {
            let threads: Vec<_> = (0..help::cpus())
                .map(|cpu| {
                    assert_ok!(thread::spawn_on(cpu, move || {
                        for _ in 0..20 {
                            help::buffered(0);
                            help::buffered(1);
                            help::buffered(0);
                        }
                    }))
                })
                .collect();
            help::join_all(threads);
        }
        // The page is this program's still, and nobody else's.
        let page = help::buffered(0);
        fill(page, LONGEST, 9);
        let children: Vec<_> = (0..3).map(|_| assert_ok!(Role::LongServer.start(0, &[endpoint]))).collect();
        kernel_assert_eq!(first_wrong(page, LONGEST, 9), None);
        // Any of them may get any of these.
        children.iter().for_each(|_| assert_ok!(call::send(endpoint, Message::empty(0), Until::Done)));
        children.into_iter().for_each(|child| kernel_assert_eq!(roles::ended(child), Exit::Status(DONE)));
    }
}
