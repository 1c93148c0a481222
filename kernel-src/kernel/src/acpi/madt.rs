//! The multiple APIC description table: CPUs and interrupt controllers (5.2.12).

use super::{AcpiError, IoApic, Machine, Override, Table, little_endian};
use crate::addr::PhysAddr;

/// Where the entries begin, behind the header, the local APIC's address and the flags.
const ENTRIES: usize = 44;
/// Entry types (table 5.21).
const LOCAL_APIC: u8 = 0;
const IO_APIC: u8 = 1;
const OVERRIDE: u8 = 2;
const LOCAL_APIC_ADDRESS: u8 = 5;
const LOCAL_X2APIC: u8 = 9;
/// What an xAPIC id cannot be: it means all of them (Intel SDM vol. 3A, 11.6.1).
const BROADCAST: u8 = 0xFF;

pub(super) fn read(madt: &Table<'_>, machine: &mut Machine) -> Result<(), AcpiError> {
    machine.local_apic = PhysAddr(madt.number::<4>(36)?);
    let mut offset = ENTRIES;
    while offset < madt.bytes.len() {
        let kind = madt.number::<1>(offset)? as u8;
        let size = madt.number::<1>(offset + 1)?;
        let wrong = AcpiError::MadtEntry { offset, kind, size };
        let entry = madt.bytes.get(offset..offset + size).ok_or(wrong)?;
        let word = |offset: usize| little_endian(&entry[offset..offset + 4]) as u32;
        // What finds no room is left out.
        match (kind, size) {
            (LOCAL_APIC, 8..) if entry[3] == BROADCAST => {}
            (LOCAL_APIC, 8..) => add_cpu(machine, entry[3].into(), word(4)),
            (LOCAL_X2APIC, 16..) => add_cpu(machine, word(4), word(8)),
            (IO_APIC, 12..) => {
                let io_apic = IoApic { address: PhysAddr(word(4) as usize), gsi_base: word(8) };
                let _ = machine.io_apics.try_push(io_apic);
            }
            (OVERRIDE, 10..) => {
                let flags = little_endian(&entry[8..10]) as u16;
                let _ = machine.overrides.try_push(Override { irq: entry[3], gsi: word(4), flags });
            }
            (LOCAL_APIC_ADDRESS, 12..) => machine.local_apic = PhysAddr(little_endian(&entry[4..12])),
            // Every entry begins with the two bytes that were read.
            (LOCAL_APIC | LOCAL_X2APIC | IO_APIC | OVERRIDE | LOCAL_APIC_ADDRESS, _) | (_, ..2) => return Err(wrong),
            _ => {}
        }
        offset += size;
    }
    Ok(())
}

/// A CPU may be listed as xAPIC and as x2APIC; it is one. Firmware lists many slots that nothing is plugged into: they
/// are not enabled.
fn add_cpu(machine: &mut Machine, apic_id: u32, flags: u32) {
    const ENABLED: u32 = 1;
    if flags & ENABLED != 0 && !machine.cpus.contains(&apic_id) {
        let _ = machine.cpus.try_push(apic_id);
    }
}
