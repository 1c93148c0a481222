//! Device trees: what QEMU's `virt` machines say, and that no blob makes the reader panic or hang.
//!
//! Proves: BTC-08, TST-24

use kernel::addr::PhysRange;
use kernel::fdt::{Fdt, FdtError, Node};
use proptest::prelude::*;
use proptest::sample::Index;

const RISCV: &[u8] = include_bytes!("data/qemu-riscv64-virt.dtb");
const AARCH64: &[u8] = include_bytes!("data/qemu-aarch64-virt.dtb");

fn ranges(node: Node<'_>) -> Vec<(usize, usize)> {
    pairs(node.reg())
}

fn pairs(ranges: impl Iterator<Item = PhysRange>) -> Vec<(usize, usize)> {
    ranges.map(|range| (range.start.0, range.size)).collect()
}

#[test]
fn riscv_virt_reads_as_qemu_built_it() {
    let tree = Fdt::parse(RISCV).unwrap();
    assert_eq!(Fdt::total_size(RISCV.first_chunk().unwrap()), Ok(RISCV.len()));
    assert_eq!(pairs(tree.memory()), [(0x8000_0000, 128 << 20)]);
    assert_eq!(
        tree.cpus().map(|cpu| (cpu.hardware.0, cpu.enabled)).collect::<Vec<_>>(),
        [(0, true), (1, true), (2, true), (3, true)]
    );
    assert_eq!((tree.reservations().count(), tree.command_line(), tree.initrd()), (0, None, None));
    let uart = tree.stdout().unwrap();
    assert!(uart.is_compatible("ns16550a") && uart.name() == "serial@10000000");
    assert_eq!(ranges(uart), [(0x1000_0000, 0x100)]);
    assert_eq!(parent(uart).unwrap().name(), "soc");
    let wire = uart.wires().next().unwrap();
    assert!(wire.controller.is_compatible("sifive,plic-1.0.0"));
    assert_eq!(wire.cells[..], [10]);
    assert_eq!(tree.node("/cpus").unwrap().property("timebase-frequency").unwrap().u32(), Some(10_000_000));
    assert!(ranges(tree.node("/cpus/cpu@2").unwrap()).is_empty(), "a hart's number is no address");
}

#[test]
fn extended_interrupts_name_each_harts_controller() {
    let tree = Fdt::parse(RISCV).unwrap();
    let plic = tree.find_compatible(&["riscv,plic0"]).unwrap();
    let wires: Vec<_> = plic.wires().map(|wire| (parent(wire.controller).unwrap().name(), wire.cells[0])).collect();
    let expected = ["cpu@0", "cpu@1", "cpu@2", "cpu@3"].into_iter().flat_map(|cpu| [(cpu, 11), (cpu, 9)]);
    assert_eq!(wires, expected.collect::<Vec<_>>());
    assert_eq!(plic.wires().count(), 8);
}

#[test]
fn aarch64_virt_reads_as_qemu_built_it() {
    let tree = Fdt::parse(AARCH64).unwrap();
    assert_eq!(pairs(tree.memory()), [(0x4000_0000, 128 << 20)]);
    assert_eq!(tree.cpus().map(|cpu| cpu.hardware.0).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(ranges(tree.stdout().unwrap()), [(0x900_0000, 0x1000)]);
    let gic = tree.find_compatible(&["arm,gic-v3", "arm,cortex-a15-gic"]).unwrap();
    assert_eq!(ranges(gic), [(0x800_0000, 0x1_0000), (0x801_0000, 0x1_0000)]);
    assert_eq!(ranges(gic.children().next().unwrap()), [(0x802_0000, 0x1000)], "through the controller's empty ranges");
    let timer = tree.find_compatible(&["arm,armv8-timer"]).unwrap();
    assert!(timer.wires().all(|wire| wire.controller == gic), "the root names the controller");
    assert_eq!(timer.wires().nth(2).unwrap().cells[..2], [1, 11]);
    assert_eq!(tree.node("/psci").unwrap().property("method").unwrap().str(), Some("hvc"));
}

/// Writes trees, so that shapes can be tested that QEMU does not build.
#[derive(Default)]
struct Builder {
    structure: Vec<u8>,
    strings: Vec<u8>,
    reservations: Vec<u8>,
}

impl Builder {
    fn cell(&mut self, value: u32) -> &mut Self {
        self.structure.extend(value.to_be_bytes());
        self
    }

    fn padded(&mut self, bytes: &[u8]) -> &mut Self {
        self.structure.extend(bytes);
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
        self
    }

    fn begin(&mut self, name: &str) -> &mut Self {
        self.cell(1).padded(&[name.as_bytes(), &[0]].concat())
    }

    fn end(&mut self) -> &mut Self {
        self.cell(2)
    }

    fn property(&mut self, name: &str, value: &[u8]) -> &mut Self {
        let at = self.strings.len() as u32;
        self.strings.extend([name.as_bytes(), &[0]].concat());
        self.cell(3).cell(value.len() as u32).cell(at).padded(value)
    }

    fn cells(&mut self, name: &str, cells: &[u32]) -> &mut Self {
        let value: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.property(name, &value)
    }

    /// Address and size cells of one each.
    fn narrow(&mut self) -> &mut Self {
        self.cells("#address-cells", &[1]).cells("#size-cells", &[1])
    }

    fn reserve(&mut self, start: u64, size: u64) -> &mut Self {
        self.reservations.extend(start.to_be_bytes());
        self.reservations.extend(size.to_be_bytes());
        self
    }

    fn blob(&mut self) -> Vec<u8> {
        self.cell(9);
        let structure = 40 + self.reservations.len() + 16;
        let strings = structure + self.structure.len();
        let total = strings + self.strings.len();
        let header = [0xD00D_FEED, total, structure, strings, 40, 17, 16, 0, self.strings.len(), self.structure.len()];
        let mut blob: Vec<u8> = header.iter().flat_map(|field| (*field as u32).to_be_bytes()).collect();
        blob.extend(&self.reservations);
        blob.extend([0; 16]);
        blob.extend(&self.structure);
        blob.extend(&self.strings);
        blob
    }
}

#[test]
fn addresses_pass_through_every_bus_above() {
    let mut builder = Builder::default();
    builder.begin("").narrow();
    builder.begin("soc").narrow().cells("ranges", &[0x1000, 0x4000_0000, 0x1000, 0x8000, 0x5000_0000, 0x100]);
    builder.begin("bus").narrow().cells("ranges", &[0, 0x1800, 0x400]);
    builder.begin("inside").cells("reg", &[0x10, 0x20, 0x3F0, 0x10]).end();
    builder.begin("across-the-end").cells("reg", &[0x3F0, 0x11]).end();
    builder.end();
    builder.begin("second").cells("reg", &[0x8010, 4]).end();
    builder.end();
    builder.begin("closed").narrow();
    builder.begin("device").cells("reg", &[0, 4]).end();
    builder.end().end();
    let blob = builder.blob();
    let tree = Fdt::parse(&blob).unwrap();
    assert_eq!(ranges(tree.node("/soc/bus/inside").unwrap()), [(0x4000_0810, 0x20), (0x4000_0BF0, 0x10)]);
    assert!(ranges(tree.node("/soc/bus/across-the-end").unwrap()).is_empty());
    assert_eq!(ranges(tree.node("/soc/second").unwrap()), [(0x5000_0010, 4)]);
    assert!(ranges(tree.node("/closed/device").unwrap()).is_empty(), "a bus without ranges is not seen from above");
}

#[test]
fn pci_addresses_match_within_their_space_only() {
    const PORTS: u32 = 0x0100_0000;
    const MEMORY: u32 = 0x0200_0000;
    let mut builder = Builder::default();
    builder.begin("").narrow();
    builder.begin("pci").cells("#address-cells", &[3]).cells("#size-cells", &[2]);
    builder.cells("ranges", &[PORTS, 0, 0, 0x300_0000, 0, 0x1_0000, MEMORY, 0, 0, 0x4000_0000, 0, 0x1000_0000]);
    // Bus, device and function stand in the first cell too, and do not count.
    builder.begin("card").cells("reg", &[MEMORY | 0x0800, 0, 0x100, 0, 0x10, PORTS, 0, 0x20, 0, 4]).end();
    builder.end().end();
    let blob = builder.blob();
    let tree = Fdt::parse(&blob).unwrap();
    assert_eq!(ranges(tree.node("/pci/card").unwrap()), [(0x4000_0100, 0x10), (0x300_0020, 4)]);
}

#[test]
fn entries_of_no_cells_end() {
    let mut builder = Builder::default();
    builder.begin("").cells("#address-cells", &[0]).cells("#size-cells", &[0]);
    builder.begin("soc").cells("#address-cells", &[0]).cells("#size-cells", &[0]).cells("ranges", &[1]);
    builder.begin("bus").narrow().property("ranges", b"");
    builder.begin("device").cells("reg", &[1, 1]).cells("interrupt-parent", &[5]).cells("interrupts", &[1]).end();
    builder.begin("extended").cells("interrupts-extended", &[5, 5, 6, 5]).end();
    builder.begin("controller").cells("phandle", &[5]).cells("#interrupt-cells", &[0]).end();
    builder.end().end().end();
    let blob = builder.blob();
    let tree = Fdt::parse(&blob).unwrap();
    let device = tree.node("/soc/bus/device").unwrap();
    assert_eq!((device.reg().count(), device.wires().count()), (0, 0));
    let extended = tree.node("/soc/bus/extended").unwrap();
    assert_eq!(extended.wires().map(|wire| wire.cells.len()).collect::<Vec<_>>(), [0, 0], "6 is nobody's phandle");
}

#[test]
fn chosen_reserved_and_disabled_are_told() {
    let mut builder = Builder::default();
    builder.reserve(0x9000, 0x1000);
    builder.begin("").narrow();
    builder.begin("aliases").property("serial0", b"/uart@1\0").property("loop", b"loop\0").end();
    builder.begin("chosen").property("bootargs", b"cpus=2 quiet\0").property("stdout-path", b"serial0:115200n8\0");
    builder.cells("linux,initrd-start", &[0, 0x8000]).cells("linux,initrd-end", &[0x9000]).end();
    builder.begin("uart@1").property("compatible", b"a,b\0c,d\0").end();
    builder.begin("off").property("compatible", b"c,d\0").property("status", b"disabled\0").end();
    builder.begin("reserved-memory").narrow().property("ranges", b"");
    builder.begin("fw@2000").cells("reg", &[0x2000, 0x100]).end();
    builder.begin("anywhere").cells("size", &[0x100]).end();
    builder.end();
    builder.begin("cpus").cells("#address-cells", &[2]).cells("#size-cells", &[0]);
    builder
        .begin("cpu@0")
        .property("device_type", b"cpu\0")
        .cells("reg", &[0, 0])
        .property("status", b"disabled\0")
        .end();
    builder.begin("cpu@100000001").property("device_type", b"cpu\0").cells("reg", &[1, 1]).end();
    builder.end().end();
    let blob = builder.blob();
    let tree = Fdt::parse(&blob).unwrap();
    assert_eq!(tree.command_line(), Some("cpus=2 quiet"));
    assert_eq!(tree.initrd(), Some(PhysRange::new(0x8000, 0x1000)));
    assert_eq!(tree.stdout().unwrap().name(), "uart@1");
    assert_eq!(tree.node("loop"), None);
    assert_eq!(tree.node("/uart"), tree.node("/uart@1"));
    assert_eq!(pairs(tree.reservations()), [(0x9000, 0x1000), (0x2000, 0x100)]);
    assert_eq!(tree.find_compatible(&["x", "c,d"]).unwrap().name(), "uart@1");
    assert!(!tree.node("/off").unwrap().enabled());
    assert_eq!(
        tree.cpus().map(|cpu| (cpu.hardware.0, cpu.enabled)).collect::<Vec<_>>(),
        [(0, false), (0x1_0000_0001, true)]
    );
}

#[test]
fn malformed_structures_are_refused_by_name() {
    let parse = |build: &dyn Fn(&mut Builder)| {
        let mut builder = Builder::default();
        build(&mut builder);
        Fdt::parse(&builder.blob()).map(|_| ())
    };
    let told = |found: Result<(), FdtError>| found.unwrap_err().to_string();
    let late = parse(&|tree| _ = tree.begin("").begin("a").end().property("p", b"").end());
    assert_eq!(told(late), "device tree: wanted a sound tree: Bad FDT token: 0x3 at offset 76");
    let open = parse(&|tree| _ = tree.begin("").begin("a").end());
    assert_eq!(told(open), "device tree: wanted a sound tree: Bad FDT token: 0x9 at offset 76");
    let two = parse(&|tree| _ = tree.begin("").end().begin("").end());
    assert_eq!(told(two), "device tree: wanted a sound tree: Bad FDT token: 0x9 at offset 68");
    let empty = parse(&|_| {});
    assert!(matches!(empty, Err(FdtError::Malformed(_))), "{empty:?}");
    let deep = |levels: usize| {
        parse(&|tree| {
            (0..levels).for_each(|level| _ = tree.begin(if level == 0 { "" } else { "n" }));
            (0..levels).for_each(|_| _ = tree.end());
        })
    };
    assert_eq!((deep(32), deep(33)), (Ok(()), Err(FdtError::Depth)));
    let token = parse(&|tree| _ = tree.begin("").cell(7));
    assert_eq!(told(token), "device tree: wanted a sound tree: Bad FDT token: 0x7 at offset 64");
    let string = parse(&|tree| _ = tree.begin("").cell(3).cell(0).cell(99).end());
    assert!(matches!(string, Err(FdtError::Malformed(_))), "{string:?}");
    let long = parse(&|tree| _ = tree.begin("").property("p", b"").cell(3).cell(u32::MAX).cell(0));
    assert!(matches!(long, Err(FdtError::Malformed(_))), "{long:?}");
    assert_eq!(Fdt::parse(&RISCV[..39]).map(|_| ()), Err(FdtError::Truncated { wanted: 40, found: 39 }));
}

/// Linux's trees have property names of 32 letters (snps,dis-u2-freeclk-exists-quirk), and more than that.
#[test]
fn names_that_the_specification_forbids_excuse_nothing_else() {
    const LONG: &str = "a-name-that-is-longer-than-31-letters";
    let mut builder = Builder::default();
    builder.begin("").narrow().property(LONG, b"1\0");
    builder.begin("b@a@d").cells("reg", &[1, 2]).end().end();
    let blob = builder.blob();
    let tree = Fdt::parse(&blob).unwrap();
    assert_eq!(tree.root().property(LONG).unwrap().str(), Some("1"));
    assert_eq!(ranges(tree.node("/b@a@d").unwrap()), [(1, 2)]);
    visit(tree);
    let refused = |build: &dyn Fn(&mut Builder)| {
        let mut builder = Builder::default();
        builder.begin("").property(LONG, b"");
        build(&mut builder);
        let found = Fdt::parse(&builder.blob()).map(|_| ());
        assert!(matches!(found, Err(FdtError::Malformed(_))), "{found:?}");
    };
    refused(&|tree| _ = tree.begin("a").end().property("p", b"").end());
    refused(&|tree| _ = tree.begin("a").end());
    refused(&|tree| _ = tree.end().begin("").end());
    refused(&|tree| _ = tree.cell(7).end());
    refused(&|tree| _ = tree.cell(3).cell(0).cell(99).end());
    refused(&|tree| _ = tree.cell(3).cell(u32::MAX).cell(0).end());
    refused(&|tree| (0..40).for_each(|_| _ = tree.begin("n")));
    refused(&|_| {});
}

fn parent(node: Node<'_>) -> Option<Node<'_>> {
    node.ancestors().pop()
}

/// Reads all that can be read; must end, without a panic.
fn visit(tree: Fdt<'_>) {
    let mut seen = tree.memory().count() + tree.reservations().count() + tree.cpus().count();
    seen += tree.command_line().map_or(0, str::len)
        + usize::from(tree.initrd().is_some())
        + usize::from(tree.stdout().is_some());
    for node in tree.nodes() {
        seen += node.reg().count() + node.wires().map(|wire| wire.cells.len()).sum::<usize>();
        assert!(node.children().all(|child| parent(child) == Some(node)));
        seen += node.name().len();
        seen += usize::from(node.enabled()) + usize::from(node.is_compatible("none")) + node.phandle().map_or(0, |_| 1);
        for value in node.properties() {
            seen += value.cells().count() + value.strings().count() + usize::from(value.u64().is_some());
        }
    }
    assert!(seen > 0 || tree.nodes().count() == 1);
}

#[test]
fn every_truncation_is_refused() {
    for blob in [RISCV, AARCH64] {
        visit(Fdt::parse(blob).unwrap());
        for size in 0..blob.len() {
            let found = Fdt::parse(&blob[..size]).map(|_| ()).unwrap_err();
            assert!(matches!(found, FdtError::Truncated { .. }));
            // The same with a header that hides it.
            let mut cut = blob[..size].to_vec();
            if size >= 40 {
                cut[4..8].copy_from_slice(&(size as u32).to_be_bytes());
                assert!(Fdt::parse(&cut).is_err());
            }
        }
    }
}

fn any_blob() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(RISCV.to_vec()), Just(AARCH64.to_vec())]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1024) })]

    #[test]
    fn flipped_bits_cause_no_panic(mut blob in any_blob(), flips in prop::collection::vec((any::<Index>(), 0..8), 1..24)) {
        for (at, bit) in flips {
            let at = at.index(blob.len());
            blob[at] ^= 1_u8 << bit;
        }
        if let Ok(tree) = Fdt::parse(&blob) {
            visit(tree);
        }
    }

    /// What `dtoolkit` has refused for a name it has not looked at further.
    #[test]
    fn flipped_bits_behind_a_bad_name_cause_no_panic(mut blob in any_blob(), flips in prop::collection::vec((any::<Index>(), 0..8), 0..24)) {
        let name = blob.windows(11).position(|bytes| bytes == b"compatible\0").unwrap();
        blob[name] = b'/';
        for (at, bit) in flips {
            let at = at.index(blob.len());
            blob[at] ^= 1_u8 << bit;
        }
        if let Ok(tree) = Fdt::parse(&blob) {
            visit(tree);
        }
    }

    /// Cells that mean something: tokens, counts, lengths.
    #[test]
    fn replaced_cells_cause_no_panic(mut blob in any_blob(), cells in prop::collection::vec((any::<Index>(), prop_oneof![0_u32..12, any::<u32>()]), 1..8)) {
        for (at, value) in cells {
            let at = at.index(blob.len() / 4) * 4;
            blob[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        if let Ok(tree) = Fdt::parse(&blob) {
            visit(tree);
        }
    }

    /// Random structure under a sound header.
    #[test]
    fn random_tokens_cause_no_panic(tokens in prop::collection::vec(prop_oneof![0_u32..5, Just(9), any::<u32>()], 0..64)) {
        let mut builder = Builder { strings: b"reg\0ranges\0#address-cells\0".to_vec(), ..Builder::default() };
        builder.begin("");
        tokens.iter().for_each(|token| _ = builder.cell(*token));
        builder.end();
        if let Ok(tree) = Fdt::parse(&builder.blob()) {
            visit(tree);
        }
    }

    #[test]
    fn random_bytes_cause_no_panic(mut blob in prop::collection::vec(any::<u8>(), 0..256)) {
        prop_assert!(Fdt::parse(&blob).is_err());
        if let Some(magic) = blob.first_chunk_mut::<4>() {
            *magic = 0xD00D_FEED_u32.to_be_bytes();
            prop_assert!(Fdt::parse(&blob).is_err());
        }
    }

    /// What was built is what is read.
    #[test]
    fn properties_come_back_as_written(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..32), 1..20)) {
        let mut builder = Builder::default();
        builder.begin("");
        for (index, value) in values.iter().enumerate() {
            builder.begin(&format!("n@{index}")).property("before", b"x").cell(4).property("value", value).end().cell(4);
        }
        let blob = builder.end().blob();
        let tree = Fdt::parse(&blob).unwrap();
        let read: Vec<_> = tree.root().children().map(|node| node.property("value").unwrap().bytes().to_vec()).collect();
        prop_assert_eq!(read, values);
        prop_assert!(tree.nodes().skip(1).all(|node| parent(node) == Some(tree.root())));
    }
}
