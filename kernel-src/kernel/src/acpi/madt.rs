//! The multiple APIC description table: CPUs and interrupt controllers (5.2.12).

use super::{AcpiError, IoApic, LocalApic, Machine, Override, Table, little_endian};
use crate::addr::PhysAddr;
use arrayvec::ArrayVec;

/// Where the entries begin, behind the header, the local APIC's address and the flags.
const ENTRIES: usize = 44;
/// Entry types (table 5.21) and their sizes.
const LOCAL_APIC: (u8, usize) = (0, 8);
const IO_APIC: (u8, usize) = (1, 12);
const OVERRIDE: (u8, usize) = (2, 10);
const LOCAL_APIC_ADDRESS: (u8, usize) = (5, 12);
const LOCAL_X2APIC: (u8, usize) = (9, 16);
/// What an xAPIC id cannot be: it means all of them (Intel SDM vol. 3A, 11.6.1).
const BROADCAST: usize = 0xFF;

pub(super) fn read(madt: &Table<'_>, machine: &mut Machine) -> Result<(), AcpiError> {
    machine.local_apic = PhysAddr(madt.number::<4>(36)?);
    let mut offset = ENTRIES;
    while offset < madt.bytes.len() {
        let kind = madt.number::<1>(offset)? as u8;
        let size = madt.number::<1>(offset + 1)?;
        let wrong = AcpiError::MadtEntry { offset, kind, size };
        let entry = madt.bytes.get(offset..offset + size).filter(|_| size >= smallest(kind)).ok_or(wrong)?;
        read_entry(kind, entry, machine)?;
        offset += size;
    }
    Ok(())
}

/// Never less than the two bytes that every entry begins with.
fn smallest(kind: u8) -> usize {
    let known = [LOCAL_APIC, IO_APIC, OVERRIDE, LOCAL_APIC_ADDRESS, LOCAL_X2APIC];
    known.iter().find(|(known, _)| *known == kind).map_or(2, |(_, size)| *size)
}

/// An entry of at least its type's size.
fn read_entry(kind: u8, entry: &[u8], machine: &mut Machine) -> Result<(), AcpiError> {
    let word = |offset: usize| little_endian(&entry[offset..offset + 4]);
    if kind == LOCAL_APIC.0 && usize::from(entry[3]) != BROADCAST {
        add_cpu(machine, u32::from(entry[3]), word(4));
    } else if kind == LOCAL_X2APIC.0 {
        add_cpu(machine, word(4) as u32, word(8));
    } else if kind == IO_APIC.0 {
        let io_apic = IoApic { id: entry[2], address: PhysAddr(word(4)), gsi_base: word(8) as u32 };
        push(&mut machine.io_apics, io_apic, "I/O APICs")?;
    } else if kind == OVERRIDE.0 {
        let flags = little_endian(&entry[8..10]) as u16;
        push(&mut machine.overrides, Override { irq: entry[3], gsi: word(4) as u32, flags }, "interrupt overrides")?;
    } else if kind == LOCAL_APIC_ADDRESS.0 {
        machine.local_apic = PhysAddr(little_endian(&entry[4..12]));
    }
    Ok(())
}

/// A CPU may be listed as xAPIC and as x2APIC; it is one.
fn add_cpu(machine: &mut Machine, apic_id: u32, flags: usize) {
    const ENABLED: usize = 1;
    let enabled = flags & ENABLED != 0;
    if let Some(known) = machine.cpus.iter_mut().find(|cpu| cpu.apic_id == apic_id) {
        known.enabled |= enabled;
    } else if machine.cpus.try_push(LocalApic { apic_id, enabled }).is_err() {
        // Firmware lists many slots that nothing is plugged into.
        match machine.cpus.iter_mut().find(|cpu| enabled && !cpu.enabled) {
            Some(unused) => *unused = LocalApic { apic_id, enabled },
            None => machine.left_out += usize::from(enabled),
        }
    }
}

fn push<T, const N: usize>(list: &mut ArrayVec<T, N>, item: T, what: &'static str) -> Result<(), AcpiError> {
    list.try_push(item).map_err(|_| AcpiError::TooMany { what, limit: N })
}
