//! ACPI tables of a PC (ACPI Specification 6.5): CPUs, interrupt controllers,
//! timers, and how to switch off.
//!
//! Tables are data; AML is not run. The one thing wanted of it, the value that
//! powers the machine off, is found by its encoding. Of tables that nothing is
//! read from only the size is looked at.

mod aml;
mod madt;

use crate::addr::PhysAddr;
use crate::config::{MAX_CPUS, PAGE_SIZE};
use arrayvec::ArrayVec;
use core::fmt;
use displaydoc::Display;

/// Larger than any table that firmware makes, so that a broken length is seen.
const MAX_TABLE_SIZE: usize = 16 << 20;
/// Signature, length, revision, checksum, and who made it (table 5.4).
const HEADER_SIZE: usize = 36;
/// Sizes of the root pointer, by its revision (table 5.3).
const RSDP_SIZE: usize = 20;
const RSDP2_SIZE: usize = 36;
/// Generic address spaces (table 5.1).
const SPACE_MEMORY: usize = 0;
const SPACE_PORTS: usize = 1;

/// Reads so many bytes of tables at an address; none where there is nothing to be read.
pub type Memory<'a> = dyn Fn(PhysAddr, usize) -> Option<&'a [u8]> + 'a;

/// What the tables tell.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub local_apic: PhysAddr,
    /// APIC ids of the CPUs that may be started, as many as find room.
    pub cpus: ArrayVec<u32, MAX_CPUS>,
    /// So many as well; no PC has more overrides, since each is for another of 16 lines.
    pub io_apics: ArrayVec<IoApic, 8>,
    pub overrides: ArrayVec<Override, 16>,
    /// Port of the PM1a control register.
    pub pm1a_control: Option<u16>,
    /// `SLP_TYPa` of the state S5.
    pub s5_type: Option<u8>,
    /// Port of the reset register, and what is written there.
    pub reset: Option<(u16, u8)>,
    /// Port of the power management timer; whether it has 32 bits (else 24).
    pub pm_timer: Option<(u32, bool)>,
    pub hpet: Option<PhysAddr>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoApic {
    pub address: PhysAddr,
    /// Global interrupt number of its first input.
    pub gsi_base: u32,
}

/// An ISA interrupt that is not wired to the input of its own number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Override {
    pub irq: u8,
    pub gsi: u32,
    /// Polarity and trigger (table 5.26).
    pub flags: u16,
}

/// ACPI
///
/// Why the tables are refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Display)]
#[prefix_enum_doc_attributes]
#[ignore_extra_doc_attributes]
pub enum AcpiError {
    /// wanted {size:#x} bytes at {at:?}, which cannot be read
    Unreachable { at: PhysAddr, size: usize },
    /// wanted the signature 'RSD PTR ' at {at:?}
    RootSignature { at: PhysAddr },
    /// wanted table {wanted} at {at:?}, found {found}
    Signature { at: PhysAddr, wanted: Signature, found: Signature },
    /// wanted the bytes of {table} at {at:?} to add up to 0, found {sum:#x}
    Checksum { at: PhysAddr, table: Signature, sum: u8 },
    /// wanted {wanted:#x} bytes of {table} at {at:?}, found {found:#x}
    Size { at: PhysAddr, table: Signature, wanted: usize, found: usize },
    /// wanted a table {table}, found none
    Missing { table: Signature },
    /// entry of type {kind} at offset {offset:#x} of the MADT cannot have {size} bytes
    MadtEntry { offset: usize, kind: u8, size: usize },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signature(pub [u8; 4]);

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", self.0.escape_ascii())
    }
}

const RSDP: Signature = Signature(*b"RSDP");
const RSDT: Signature = Signature(*b"RSDT");
const XSDT: Signature = Signature(*b"XSDT");
const MADT: Signature = Signature(*b"APIC");
const FADT: Signature = Signature(*b"FACP");
const HPET: Signature = Signature(*b"HPET");
const DSDT: Signature = Signature(*b"DSDT");

/// Reads all tables that the root pointer leads to.
pub fn parse(rsdp: PhysAddr, memory: &Memory<'_>) -> Result<Machine, AcpiError> {
    let mut machine = Machine::default();
    let (root, wanted) = root_table(rsdp, memory)?;
    let root = Table::read(root, memory)?.checked(wanted)?;
    let pointer_size = if wanted == XSDT { 8 } else { 4 };
    let mut madt_seen = false;
    let pointers = root.bytes[HEADER_SIZE..].chunks_exact(pointer_size).map(little_endian);
    for at in pointers.filter(|at| *at != 0) {
        let table = Table::read(PhysAddr(at), memory)?;
        match table.signature {
            MADT if !madt_seen => {
                madt::read(&table.checked(MADT)?, &mut machine)?;
                madt_seen = true;
            }
            FADT => read_fadt(&table.checked(FADT)?, memory, &mut machine)?,
            HPET if machine.hpet.is_none() => {
                // The registers' place (HPET Specification 1.0a, 3.2.4).
                machine.hpet = table.checked(HPET)?.address_in(SPACE_MEMORY, 40).map(PhysAddr);
            }
            _ => {}
        }
    }
    if madt_seen { Ok(machine) } else { Err(AcpiError::Missing { table: MADT }) }
}

/// Where the root table is, and which it is (5.2.5).
fn root_table(at: PhysAddr, memory: &Memory<'_>) -> Result<(PhysAddr, Signature), AcpiError> {
    let read = |size| memory(at, size).ok_or(AcpiError::Unreachable { at, size });
    let first = read(RSDP_SIZE)?;
    if !first.starts_with(b"RSD PTR ") {
        return Err(AcpiError::RootSignature { at });
    }
    verify(first, at, RSDP)?;
    let old = (PhysAddr(little_endian(&first[16..20])), RSDT);
    if first[15] < 2 {
        return Ok(old);
    }
    let size = little_endian(&read(RSDP2_SIZE)?[20..24]);
    if !(RSDP2_SIZE..=PAGE_SIZE).contains(&size) {
        return Err(AcpiError::Size { at, table: RSDP, wanted: RSDP2_SIZE, found: size });
    }
    let whole = read(size)?;
    verify(whole, at, RSDP)?;
    let new = PhysAddr(little_endian(&whole[24..32]));
    Ok(if new.0 == 0 { old } else { (new, XSDT) })
}

/// A table whose header and size are sound.
struct Table<'a> {
    signature: Signature,
    at: PhysAddr,
    bytes: &'a [u8],
}

impl<'a> Table<'a> {
    fn read(at: PhysAddr, memory: &Memory<'a>) -> Result<Self, AcpiError> {
        let read = |size| memory(at, size).ok_or(AcpiError::Unreachable { at, size });
        let header = read(HEADER_SIZE)?;
        let signature = Signature([header[0], header[1], header[2], header[3]]);
        let size = little_endian(&header[4..8]);
        // The FACS has a shorter header, but is not reached this way.
        if !(HEADER_SIZE..=MAX_TABLE_SIZE).contains(&size) {
            return Err(AcpiError::Size { at, table: signature, wanted: HEADER_SIZE, found: size });
        }
        Ok(Self { signature, at, bytes: read(size)? })
    }

    /// The table if it is the wanted one, unharmed.
    fn checked(self, wanted: Signature) -> Result<Self, AcpiError> {
        if self.signature != wanted {
            return Err(AcpiError::Signature { at: self.at, wanted, found: self.signature });
        }
        verify(self.bytes, self.at, wanted)?;
        Ok(self)
    }

    /// A field that this table must have.
    fn number<const N: usize>(&self, offset: usize) -> Result<usize, AcpiError> {
        let (wanted, found) = (offset + N, self.bytes.len());
        let short = AcpiError::Size { at: self.at, table: self.signature, wanted, found };
        self.bytes.get(offset..wanted).map(little_endian).ok_or(short)
    }

    /// A field that came with a later revision of the table; 0 before it.
    fn later<const N: usize>(&self, offset: usize) -> usize {
        self.number::<N>(offset).unwrap_or(0)
    }

    /// The address of a generic address structure (5.2.3.2), if it is there, in that space and not 0.
    fn address_in(&self, space: usize, offset: usize) -> Option<usize> {
        Some(self.later::<8>(offset + 4)).filter(|address| *address != 0 && self.later::<1>(offset) == space)
    }
}

/// Power management, and the DSDT (5.2.9, table 5.9).
fn read_fadt(fadt: &Table<'_>, memory: &Memory<'_>, machine: &mut Machine) -> Result<(), AcpiError> {
    const RESET_SUPPORTED: usize = 1 << 10;
    const TIMER_32_BIT: usize = 1 << 8;
    let flags = fadt.number::<4>(112)?;
    let port = |old: usize, new| if old != 0 { Some(old) } else { fadt.address_in(SPACE_PORTS, new) };
    let number = |port: Option<usize>| port.and_then(|port| u16::try_from(port).ok());
    machine.pm1a_control = number(port(fadt.number::<4>(64)?, 172));
    machine.pm_timer = port(fadt.number::<4>(76)?, 208).map(|port| (port as u32, flags & TIMER_32_BIT != 0));
    if flags & RESET_SUPPORTED != 0 {
        machine.reset = number(fadt.address_in(SPACE_PORTS, 116)).map(|port| (port, fadt.later::<1>(128) as u8));
    }
    let dsdt = match fadt.later::<8>(140) {
        0 => fadt.number::<4>(40)?,
        at => at,
    };
    if dsdt != 0 {
        let dsdt = Table::read(PhysAddr(dsdt), memory)?.checked(DSDT)?;
        machine.s5_type = aml::s5_type(&dsdt.bytes[HEADER_SIZE..]);
    }
    Ok(())
}

fn verify(bytes: &[u8], at: PhysAddr, table: Signature) -> Result<(), AcpiError> {
    match bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) {
        0 => Ok(()),
        sum => Err(AcpiError::Checksum { at, table, sum }),
    }
}

/// Of at most eight bytes.
fn little_endian(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte))
}
