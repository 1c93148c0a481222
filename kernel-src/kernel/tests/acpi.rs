//! ACPI tables, built here as firmware lays them out; and that no damage makes the reader panic or hang.
//!
//! Proves: SMP-08, TST-24

use kernel::acpi::{self, AcpiError, IoApic, Machine, Override};
use kernel::addr::PhysAddr;
use proptest::prelude::*;
use proptest::sample::Index;

/// Where the memory begins; the root pointer is its first bytes.
const BASE: usize = 0xE_0000;

struct Firmware(Vec<u8>);

impl Firmware {
    fn bytes(&self, at: PhysAddr, size: usize) -> Option<&[u8]> {
        let from = at.0.checked_sub(BASE)?;
        self.0.get(from..from.checked_add(size)?)
    }
}

fn parse(root: usize, firmware: &Firmware) -> Result<Machine, AcpiError> {
    acpi::parse(PhysAddr(root), &|at, size| firmware.bytes(at, size))
}

/// Makes the bytes of `range` add up to 0 by the byte at `at`.
fn seal(bytes: &mut [u8], at: usize) {
    bytes[at] = 0;
    bytes[at] = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
}

fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut table = vec![0; 36];
    table[..4].copy_from_slice(signature);
    table[4..8].copy_from_slice(&(36 + body.len() as u32).to_le_bytes());
    table.extend(body);
    seal(&mut table, 9);
    table
}

/// Root pointer, root table, and the tables that it lists, one after the other.
#[derive(Clone)]
struct Layout {
    revision: u8,
    tables: Vec<Vec<u8>>,
    dsdt: Vec<u8>,
}

impl Layout {
    fn build(&self) -> Firmware {
        let wide = self.revision >= 2;
        let pointer_size = if wide { 8 } else { 4 };
        let root_at = BASE + 64;
        let mut at = root_at + 36 + pointer_size * self.tables.len();
        let dsdt_at = at;
        at += self.dsdt.len();
        let mut pointers = Vec::new();
        let mut all = self.dsdt.clone();
        for table in &self.tables {
            pointers.extend(&(at as u64).to_le_bytes()[..pointer_size]);
            at += table.len();
            let mut table = table.clone();
            if table.starts_with(b"FACP") {
                table[40..44].copy_from_slice(&(dsdt_at as u32).to_le_bytes());
                seal(&mut table, 9);
            }
            all.extend(table);
        }
        let root = table(if wide { b"XSDT" } else { b"RSDT" }, &pointers);
        let mut rsdp = b"RSD PTR \0QUOIN ".to_vec();
        rsdp.push(self.revision);
        rsdp.extend((root_at as u32).to_le_bytes());
        seal(&mut rsdp, 8);
        if wide {
            // The old pointer leads nowhere, so only the new one can have been used.
            rsdp[16..20].copy_from_slice(&1_u32.to_le_bytes());
            seal(&mut rsdp, 8);
            rsdp.extend(36_u32.to_le_bytes());
            rsdp.extend((root_at as u64).to_le_bytes());
            rsdp.extend([0; 4]);
            seal(&mut rsdp, 32);
        }
        rsdp.resize(64, 0);
        Firmware([rsdp, root, all].concat())
    }
}

fn madt(entries: &[Vec<u8>]) -> Vec<u8> {
    let head: Vec<u8> = [0xFEE0_0000_u32, 1].iter().flat_map(|word| word.to_le_bytes()).collect();
    table(b"APIC", &[head, entries.concat()].concat())
}

fn local_apic(id: u8, flags: u32) -> Vec<u8> {
    [&[0, 8, id, id], &flags.to_le_bytes()[..]].concat()
}

fn x2apic(id: u32, flags: u32) -> Vec<u8> {
    let words = [id, flags, 0];
    [9, 16, 0, 0].into_iter().chain(words.iter().flat_map(|word| word.to_le_bytes())).collect()
}

fn io_apic(id: u8, address: u32, base: u32) -> Vec<u8> {
    [&[1, 12, id, 0], &address.to_le_bytes()[..], &base.to_le_bytes()[..]].concat()
}

fn interrupt_override(irq: u8, gsi: u32, flags: u16) -> Vec<u8> {
    [&[2, 10, 0, irq], &gsi.to_le_bytes()[..], &flags.to_le_bytes()[..]].concat()
}

/// As QEMU's q35 fills it, but for what each test changes.
fn fadt(size: usize) -> Vec<u8> {
    let mut fadt = vec![0; size];
    fadt[64..68].copy_from_slice(&0x604_u32.to_le_bytes());
    fadt[76..80].copy_from_slice(&0x608_u32.to_le_bytes());
    fadt[112..116].copy_from_slice(&(1_u32 << 10 | 1 << 8).to_le_bytes());
    if size >= 129 {
        fadt[116..120].copy_from_slice(&[1, 8, 0, 1]);
        fadt[120..128].copy_from_slice(&0xCF9_u64.to_le_bytes());
        fadt[128] = 0xF;
    }
    table(b"FACP", &fadt[36..])
}

fn hpet() -> Vec<u8> {
    let body = [&[1, 0xA2, 0x86, 0x80, 0, 64, 0, 0][..], &0xFED0_0000_u64.to_le_bytes(), &[0, 0, 0, 0]].concat();
    table(b"HPET", &body)
}

/// `Name (_S5, Package () { 0x05, Zero, Zero, Zero })` behind a decoy that only looks like it.
fn dsdt() -> Vec<u8> {
    table(b"DSDT", b"\x10\x08_S5_\x0A\x01\x08_S5_\x12\x07\x04\x0A\x05\0\0\0junk")
}

fn full(revision: u8) -> Layout {
    let entries = [
        local_apic(0, 1),
        local_apic(1, 1),
        local_apic(2, 0),
        local_apic(0xFF, 1),
        x2apic(0x1234, 1),
        x2apic(1, 1),
        io_apic(7, 0xFEC0_0000, 0),
        interrupt_override(0, 2, 0),
        interrupt_override(9, 9, 0xD),
        vec![4, 6, 0xFF, 0, 0, 1],
    ];
    Layout { revision, tables: vec![fadt(244), madt(&entries), hpet(), table(b"WAET", &[1, 2, 3])], dsdt: dsdt() }
}

fn read(layout: &Layout) -> Result<Machine, AcpiError> {
    parse(BASE, &layout.build())
}

#[test]
fn both_kinds_of_root_lead_to_the_same_machine() {
    for revision in [0, 2] {
        let machine = read(&full(revision)).unwrap();
        assert_eq!(machine.local_apic, PhysAddr(0xFEE0_0000));
        assert_eq!(machine.cpus[..], [0, 1, 0x1234]);
        assert_eq!(machine.io_apics[..], [IoApic { address: PhysAddr(0xFEC0_0000), gsi_base: 0 }]);
        assert_eq!(
            machine.overrides[..],
            [Override { irq: 0, gsi: 2, flags: 0 }, Override { irq: 9, gsi: 9, flags: 0xD }]
        );
        assert_eq!((machine.pm1a_control, machine.pm_timer), (Some(0x604), Some((0x608, true))));
        assert_eq!(machine.s5_type, Some(5));
        assert_eq!(machine.reset, Some((0xCF9, 0xF)));
        assert_eq!(machine.hpet, Some(PhysAddr(0xFED0_0000)));
    }
}

#[test]
fn an_old_short_fadt_has_no_reset_register() {
    let mut layout = full(0);
    layout.tables[0] = fadt(116);
    let machine = read(&layout).unwrap();
    assert_eq!((machine.reset, machine.pm1a_control, machine.s5_type), (None, Some(0x604), Some(5)));
    layout.tables[0] = table(b"FACP", &[0; 79]);
    assert!(matches!(read(&layout), Err(AcpiError::Size { wanted: 116, found: 115, .. })));
}

#[test]
fn extended_addresses_serve_where_the_old_are_0() {
    let mut layout = full(2);
    let fadt = &mut layout.tables[0];
    fadt[64..68].fill(0);
    fadt[76..80].fill(0);
    fadt[112..116].fill(0);
    fadt[172..184].copy_from_slice(&[1, 16, 0, 2, 0x04, 0x18, 0, 0, 0, 0, 0, 0]);
    fadt[208..220].copy_from_slice(&[0, 32, 0, 3, 0, 0, 0, 0xFE, 0, 0, 0, 0]);
    let machine = read(&layout).unwrap();
    assert_eq!((machine.pm1a_control, machine.reset), (Some(0x1804), None));
    assert_eq!(machine.pm_timer, None, "a timer in memory is not one in ports");
}

#[test]
fn cpus_that_do_not_fit_are_left_out_and_empty_slots_take_no_room() {
    let mut entries: Vec<_> = (0..10).map(|id| local_apic(id, 0)).collect();
    entries.extend((10..310).map(|id| x2apic(id, 1)));
    let mut layout = full(2);
    layout.tables[1] = madt(&entries);
    assert!(read(&layout).unwrap().cpus.into_iter().eq(10..266));
}

#[test]
fn damage_is_refused_by_name() {
    let good = full(2).build();
    let with = |at: usize| {
        let mut bad = good.0.clone();
        bad[at] ^= 0x10;
        parse(BASE, &Firmware(bad)).map(|_| ()).unwrap_err()
    };
    let find = |signature: &[u8]| good.0.windows(4).rposition(|four| four == signature).unwrap();
    assert_eq!(with(0), AcpiError::RootSignature { at: PhysAddr(BASE) });
    for (at, name) in [
        (9, "RSDP"),
        (33, "RSDP"),
        (64 + 10, "XSDT"),
        (find(b"APIC") + 40, "APIC"),
        (find(b"FACP") + 50, "FACP"),
        (find(b"HPET") + 50, "HPET"),
    ] {
        let found = with(at);
        assert!(
            matches!(found, AcpiError::Checksum { table, sum: 1.., .. } if table.0 == *name.as_bytes()),
            "{at}: {found:?}"
        );
    }
    let mut old = full(0).build();
    old.0[10] ^= 1;
    assert!(matches!(parse(BASE, &old), Err(AcpiError::Checksum { table, .. }) if table.0 == *b"RSDP"));
    let dsdt = good.0.windows(4).position(|four| four == b"DSDT").unwrap();
    assert!(matches!(with(dsdt + 40), AcpiError::Checksum { table, .. } if table.0 == *b"DSDT"));
    assert!(matches!(with(dsdt), AcpiError::Signature { wanted, .. } if wanted.0 == *b"DSDT"));
    let missing = parse(8, &good).map(|_| ()).unwrap_err();
    assert_eq!(missing.to_string(), "ACPI: wanted 0x14 bytes at 0x8, which cannot be read");
    let mut layout = full(2);
    layout.tables.remove(1);
    assert_eq!(read(&layout).map(|_| ()).unwrap_err().to_string(), "ACPI: wanted a table 'APIC', found none");
    let mut layout = full(2);
    for (entry, kind, size) in
        [(vec![0, 7, 0, 0, 0, 0, 0], 0, 7), (vec![200, 0], 200, 0), (vec![200, 1], 200, 1), (vec![3, 9, 0], 3, 9)]
    {
        layout.tables[1] = madt(&[entry]);
        assert_eq!(read(&layout).map(|_| ()), Err(AcpiError::MadtEntry { offset: 44, kind, size }));
    }
}

#[test]
fn s5_is_found_in_all_its_encodings_and_in_no_other() {
    let found = |aml: &[u8]| {
        let mut layout = full(2);
        layout.dsdt = table(b"DSDT", aml);
        read(&layout).unwrap().s5_type
    };
    assert_eq!(found(b"\x08_S5_\x12\x06\x04\0\0\0\0"), Some(0));
    assert_eq!(found(b"\x08\\_S5_\x12\x06\x04\x01\0\0\0"), Some(1));
    assert_eq!(found(b"\x08_S5_\x12\x47\0\x04\x0A\x07\0\0"), Some(7), "two bytes of length");
    assert_eq!(found(b"\x08_S5_\x12\x07\x04\x0A\x08\0\0"), None, "more than three bits");
    assert_eq!(found(b"\x14\x0A_S5_\x12\x07\x04\x0A\x05\0"), None, "a method");
    assert_eq!(found(b"_S5_"), None);
    for end in 0..12 {
        let _ = found(&b"\x08_S5_\x12\xC7\0\0\0\x04\x0A"[..end]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2048) })]

    #[test]
    fn flipped_bits_are_refused_or_outside_what_is_read(wide: bool, flips in prop::collection::vec((any::<Index>(), 0..8), 1..12)) {
        let Firmware(mut bytes) = full(if wide { 2 } else { 0 }).build();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
        }
        let _ = parse(BASE, &Firmware(bytes));
    }

    /// Damage behind a sound checksum.
    #[test]
    fn sealed_nonsense_causes_no_panic(madt_body in prop::collection::vec(any::<u8>(), 0..200), fadt_body in prop::collection::vec(any::<u8>(), 0..220), aml in prop::collection::vec(prop_oneof![Just(b"\x08_S5_\x12".to_vec()), prop::collection::vec(any::<u8>(), 0..8)], 0..8)) {
        let mut layout = full(2);
        layout.tables[1] = table(b"APIC", &madt_body);
        layout.tables.push(table(b"HPET", &madt_body));
        layout.dsdt = table(b"DSDT", &aml.concat());
        let _ = read(&layout);
        layout.tables[0] = table(b"FACP", &fadt_body);
        if fadt_body.len() >= 8 {
            let _ = read(&layout);
        }
    }

    /// Entries of the sizes that firmware writes, but of any content.
    #[test]
    fn any_well_formed_madt_is_read(entries in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 14..60)), 0..40)) {
        let entries: Vec<_> = entries.into_iter().map(|(kind, body)| [vec![kind % 12, body.len() as u8 + 2], body].concat()).collect();
        let mut layout = full(2);
        layout.tables[1] = madt(&entries);
        prop_assert!(read(&layout).unwrap().cpus.len() <= entries.len());
    }

    #[test]
    fn every_cut_is_refused(keep in any::<Index>()) {
        let Firmware(mut bytes) = full(2).build();
        bytes.truncate(keep.index(bytes.len()));
        let refused = matches!(parse(BASE, &Firmware(bytes)), Err(AcpiError::Unreachable { .. }));
        prop_assert!(refused);
    }
}
