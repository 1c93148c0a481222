//! The command line, the boot archive and programs: what is read, what is refused, and that nothing panics.
//!
//! Proves: TST-24

use kernel::addr::VirtAddr;
use kernel::cmdline::{self, Options};
use kernel::cpio::Archive;
use kernel::elf::Program;
use proptest::prelude::*;
use proptest::sample::Index;

mod command_line {
    use super::*;

    #[test]
    fn every_option_is_read() {
        let options = Options::parse("  slide=0x200000\tcpus=3 quiet seed=9 run=a:b root=/dev/x ").unwrap();
        assert_eq!(options, Options { slide: 2 << 20, cpus: Some(3), quiet: true, seed: 9 });
        assert_eq!(Options::parse(""), Ok(Options::default()));
        assert_eq!(Options::parse("cpus=1 cpus=0x10").unwrap().cpus, Some(16), "the last counts");
        assert_eq!(Options::parse("quiet slide=2097152").unwrap().slide, 2 << 20);
    }

    #[test]
    fn bad_values_are_refused_by_the_word() {
        for word in ["slide=1", "slide=0x20000000", "slide=", "slide", "slide=-2097152", "slide=0X200000", "slide=+0"] {
            assert_eq!(Options::parse(word).unwrap_err().word, word);
        }
        for word in [
            "cpus=0",
            "cpus",
            "cpus=x",
            "cpus=0x",
            "cpus=0x+1",
            "cpus=99999999999999999999999",
            "quiet=1",
            "quiet=",
            "seed=0",
            "seed",
        ] {
            assert_eq!(Options::parse(word).unwrap_err().word, word);
        }
        assert_eq!(
            Options::parse("quiet cpus=0").unwrap_err().to_string(),
            "option 'cpus=0' refused: wanted cpus=N, 1 or more"
        );
    }

    #[test]
    fn unknown_words_are_listed_in_order() {
        assert_eq!(
            cmdline::unknown("a quiet b=c slide=0 cpus=0 run=a:b Quiet").collect::<Vec<_>>(),
            ["a", "b=c", "Quiet"]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_line_causes_a_panic(line in "(slide=|cpus=|quiet|seed=|run=|0x|[0-9 ]|\\PC){0,40}") {
            let _ = Options::parse(&line);
            prop_assert!(cmdline::unknown(&line).count() <= line.len());
        }

        #[test]
        fn slides_are_aligned_and_bounded(slide: u32) {
            let line = format!("slide={slide:#x}");
            match Options::parse(&line).map(|options| options.slide) {
                Ok(read) => prop_assert!(read == slide as usize && slide.is_multiple_of(2 << 20) && slide < 512 << 20),
                Err(_) => prop_assert!(!slide.is_multiple_of(2 << 20) || slide >= 512 << 20),
            }
        }
    }
}

mod archive {
    use super::*;

    fn member(archive: &mut Vec<u8>, mode: u32, name: &str, data: &[u8]) {
        let fields = [1, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        archive.extend(b"070701");
        archive.extend(fields.map(|field| format!("{field:08x}")).concat().bytes());
        archive.extend(name.bytes().chain([0]));
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }

    fn archive(members: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        member(&mut bytes, 0o040_755, ".", &[]);
        members.iter().for_each(|(name, data)| member(&mut bytes, 0o100_644, name, data));
        member(&mut bytes, 0, "TRAILER!!!", &[]);
        bytes
    }

    #[test]
    fn what_breaks_the_format_is_refused() {
        let good = archive(&[("init".into(), b"12345".to_vec())]);
        let second = 112;
        let with = |at: usize, bytes: &[u8]| {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            Archive::parse(&bad).is_none()
        };
        assert!(!with(second + 5, b"1") && !with(second + 6 + 8 * 6, b"00000005") && !with(second + 110, b"j"));
        assert!(with(second + 5, b"7"), "the magic number");
        assert!(with(second + 6 + 8 * 6, b"0000000g"), "a digit");
        // No name, one that ends too early, one that is no text, and one with a zero byte within.
        assert!(with(second + 6 + 8 * 11, b"00000000") && with(second + 6 + 8 * 11, b"00000004"));
        assert!(with(second + 110, b"\xFF") && with(second + 111, b"\0"));
        assert!(with(second + 6 + 8 * 6, b"ffffffff"), "more than there is");
        assert!(Archive::parse(&[]).is_none());
    }

    fn members() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
        prop::collection::vec(("[a-z]{1,12}", prop::collection::vec(any::<u8>(), 0..40)), 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn members_come_back_as_packed(members in members(), padding in 0..600_usize) {
            let mut bytes = archive(&members);
            bytes.resize(bytes.len() + padding, 0);
            let read = Archive::parse(&bytes).unwrap();
            let found: Vec<_> = read.members().map(|member| (member.name.to_string(), member.data.to_vec())).collect();
            prop_assert_eq!(&found, &members);
            for (name, _) in &members {
                let first = members.iter().find(|(other, _)| other == name).unwrap();
                prop_assert_eq!(read.members().find(|member| member.name == name).unwrap().data, &first.1[..]);
            }
            prop_assert!(!read.members().any(|member| ["TRAILER!!!", "."].contains(&member.name)));
        }

        #[test]
        fn damage_causes_no_panic(members in members(), flips in prop::collection::vec((any::<Index>(), any::<u8>()), 0..6), keep in any::<Index>()) {
            let mut bytes = archive(&members);
            for (at, value) in flips {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let cut = keep.index(bytes.len());
            for bytes in [&bytes[..], &bytes[..cut]] {
                if let Some(read) = Archive::parse(bytes) {
                    prop_assert!(read.members().map(|member| member.data.len()).sum::<usize>() <= bytes.len());
                }
            }
        }

        #[test]
        fn every_cut_is_refused(members in members(), keep in any::<Index>()) {
            let bytes = archive(&members);
            // The trailer's own padding is not needed.
            let cut = keep.index(bytes.len() - 3);
            prop_assert!(Archive::parse(&bytes[..cut]).is_none());
        }
    }
}

mod program {
    use super::*;

    const MACHINE: u16 = 243;
    const LIMIT: usize = 1 << 38;
    const READ: u32 = 4;
    const WRITE: u32 = 2;
    const EXECUTE: u32 = 1;
    const LOAD: u32 = 1;

    #[derive(Clone, Copy, Debug)]
    struct Header {
        kind: u32,
        flags: u32,
        offset: u64,
        address: u64,
        file_size: u64,
        memory_size: u64,
    }

    const TEXT: Header = Header {
        kind: LOAD,
        flags: READ | EXECUTE,
        offset: 0x1000,
        address: 0x40_0000,
        file_size: 0x100,
        memory_size: 0x100,
    };
    const DATA: Header = Header {
        kind: LOAD,
        flags: READ | WRITE,
        offset: 0x1100,
        address: 0x40_1100,
        file_size: 0x80,
        memory_size: 0x5000,
    };

    fn file(entry: u64, headers: &[Header]) -> Vec<u8> {
        let mut file = b"\x7FELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend([2_u16, MACHINE].iter().flat_map(|half| half.to_le_bytes()));
        file.extend(1_u32.to_le_bytes());
        file.extend([entry, 64, 0].iter().flat_map(|double| double.to_le_bytes()));
        file.extend(0_u32.to_le_bytes());
        file.extend([64, 56, headers.len() as u16, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
        for header in headers {
            file.extend([header.kind, header.flags].iter().flat_map(|word| word.to_le_bytes()));
            let doubles = [header.offset, header.address, header.address, header.file_size, header.memory_size, 0x1000];
            file.extend(doubles.iter().flat_map(|double| double.to_le_bytes()));
        }
        file.resize(0x1200, 0x55);
        file
    }

    fn refused(headers: &[Header]) -> bool {
        Program::parse(&file(0x40_0000, headers), MACHINE, LIMIT).is_none()
    }

    #[test]
    fn segments_are_told_as_linked() {
        let nothing = Header { memory_size: 0, file_size: 0, ..TEXT };
        let note = Header { kind: 4, ..TEXT };
        let bytes = file(0x40_0010, &[note, TEXT, nothing, DATA]);
        let program = Program::parse(&bytes, MACHINE, LIMIT).unwrap();
        assert_eq!(program.entry, VirtAddr(0x40_0010));
        let [text, data] = program.segments().collect::<Vec<_>>().try_into().unwrap();
        assert!(text.flags.execute && text.flags.read && !text.flags.write && text.flags.user);
        assert_eq!((text.start, text.memory_size, text.file), (VirtAddr(0x40_0000), 0x100, &bytes[0x1000..0x1100]));
        assert!(data.flags.write && !data.flags.execute);
        assert_eq!((data.start, data.memory_size, data.file), (VirtAddr(0x40_1100), 0x5000, &bytes[0x1100..0x1180]));
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() {
        // Each differs in one thing from what is accepted.
        assert!(!refused(&[TEXT]) && !refused(&[TEXT, DATA]) && !refused(&[TEXT, Header { kind: 4, ..DATA }]));
        assert!(refused(&[Header { flags: 7, ..TEXT }]), "writable and executable");
        assert!(refused(&[TEXT, Header { memory_size: 0x7F, ..DATA }]), "larger in the file");
        assert!(refused(&[TEXT, Header { offset: 0x1101, ..DATA }]), "not congruent");
        assert!(refused(&[TEXT, Header { offset: 0x1100, address: 0x40_0100, ..DATA }]), "two in a page");
        assert!(refused(&[DATA, TEXT]), "descending");
        assert!(refused(&[TEXT, Header { kind: 2, ..DATA }]), "for a dynamic linker");
        assert!(refused(&[TEXT, Header { kind: 3, ..DATA }]), "for a dynamic linker");
        for (address, memory_size) in [(0x100, 0x80), (0x40_1100, u64::MAX)] {
            assert!(refused(&[Header { address, memory_size, ..DATA }, TEXT]), "{address:#x}");
        }
        for (address, memory_size) in [(LIMIT as u64 - 0xF00, 0xF01), (u64::MAX - 0xEFF, 0x1000)] {
            assert!(refused(&[TEXT, Header { address, memory_size, ..DATA }]), "{address:#x}");
        }
        for (offset, file_size) in [(0x1100, 0x101), (u64::MAX - 0xEFF, 0x80), (0x1100, u64::MAX)] {
            let memory_size = LIMIT as u64 / 2;
            assert!(refused(&[TEXT, Header { offset, file_size, memory_size, ..DATA }]), "{offset:#x}");
        }
        let reach = Header { memory_size: LIMIT as u64 / 2, file_size: 0x100, ..DATA };
        assert!(!refused(&[TEXT, reach]));
        assert!(refused(&[Header { address: 0x50_0000, ..TEXT }]), "the entry is nowhere");
        assert!(refused(&[Header { flags: READ, ..TEXT }]), "the entry is not in code");
        assert!(refused(&[]));
    }

    #[test]
    fn the_last_page_below_the_limit_may_be_used() {
        let last = Header { address: LIMIT as u64 - 0xF00, file_size: 0, memory_size: 0xF00, ..DATA };
        assert!(Program::parse(&file(0x40_0000, &[TEXT, last]), MACHINE, LIMIT).is_some());
    }

    #[test]
    fn what_is_no_static_program_for_this_machine_is_refused() {
        let good = file(0x40_0000, &[TEXT]);
        let with = |at: usize, value: u8| {
            let mut bad = good.clone();
            bad[at] = value;
            Program::parse(&bad, MACHINE, LIMIT).is_none()
        };
        assert!(!with(0, 0x7F));
        // Magic, class, byte order, version; type, machine, size and number of program headers.
        for (at, value) in [(0, 0), (4, 1), (5, 2), (6, 0), (16, 3), (18, 62), (54, 32), (57, 0xFF)] {
            assert!(with(at, value), "{value:#x} at {at}");
        }
        assert!(Program::parse(&good[..63], MACHINE, LIMIT).is_none());
    }

    fn any_header() -> impl Strategy<Value = Header> {
        let address =
            prop_oneof![0x3F_F000..0x40_8000_u64, (LIMIT as u64 - 0x2000)..LIMIT as u64 + 0x1000, any::<u64>()];
        let size = prop_oneof![0..0x3000_u64, any::<u64>()];
        let offset = prop_oneof![0..0x1300_u64, any::<u64>()];
        (prop_oneof![8 => Just(LOAD), 1 => any::<u32>()], 0..8_u32, offset, address, size.clone(), size, any::<bool>())
            .prop_map(|(kind, flags, offset, address, file_size, memory_size, congruent)| {
                let offset = if congruent { offset & !0xFFF | address & 0xFFF } else { offset };
                Header { kind, flags, offset, address, file_size: file_size % 0x200, memory_size }
            })
    }

    /// What the loader relies on.
    fn check(file: &[u8], limit: usize) -> Result<bool, TestCaseError> {
        let Some(program) = Program::parse(file, MACHINE, limit) else { return Ok(false) };
        let (mut free, mut entry) = (1, false);
        for segment in program.segments() {
            let end = segment.start.0 + segment.memory_size;
            prop_assert!(segment.start.page_number() >= free && end <= limit);
            prop_assert!(segment.memory_size > 0 && segment.file.len() <= segment.memory_size);
            prop_assert!(!(segment.flags.write && segment.flags.execute));
            free = ((end - 1) >> 12) + 1;
            entry |= segment.flags.execute && (segment.start.0..end).contains(&program.entry.0);
        }
        prop_assert!(entry);
        Ok(true)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2048) })]

        #[test]
        fn what_is_accepted_can_be_mapped(mut headers in prop::collection::vec(any_header(), 0..4), with_text: bool, limit in prop_oneof![Just(LIMIT), any::<usize>()]) {
            if with_text {
                headers.insert(0, TEXT);
            }
            check(&file(0x40_0000, &headers), limit)?;
        }

        #[test]
        fn damage_causes_no_panic(flips in prop::collection::vec((0..64 + 2 * 56_usize, any::<u8>()), 1..6), keep in any::<Index>()) {
            let mut bytes = file(0x40_0000, &[TEXT, DATA]);
            for (at, value) in flips {
                bytes[at] = value;
            }
            check(&bytes, LIMIT)?;
            check(&bytes[..keep.index(bytes.len())], LIMIT)?;
        }
    }
}
