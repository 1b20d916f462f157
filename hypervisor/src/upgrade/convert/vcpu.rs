//! Release 0.1, format 1: a vCPU's registers and extended state.

use alloc::vec::Vec;

use handover::State;
use handover::record::Record;
use handover::state::is_zero;
use handover::state::page::VcpuPlaceV1;
use handover::state::vcpu::{
    ACTIVITY_HALTED, ACTIVITY_RUNNING, ACTIVITY_WAIT_FOR_SIPI, EVENT_EXCEPTION, EVENT_HAS_ERROR, EVENT_INTERRUPT,
    EVENT_NMI, EVENT_NONE, NMI_BLOCKED, SEGMENT_UNUSABLE, SHADOW_MOV_SS, SHADOW_STI, SegmentV1, VcpuV1, XSAVE_MAX,
    XSAVE_PIECE, XsaveV1,
};

use super::{ConvertError, Converted, find, group, name_of, narrow, refuse, require};
use crate::vcpu::event::{Event, EventKind};
use crate::vcpu::state::{Activity, ArchState, Segment, TableRegister};

/// A vCPU between two images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuState {
    /// The pCPU it runs on.
    pub pcpu: u32,
    /// Registers.
    pub arch: ArchState,
    /// Its XSAVE area, for `ExtendedState::set_bytes`.
    pub xsave: Vec<u8>,
}

/// Appends a vCPU's record and its XSAVE area. Part of the rest, in a format without places for vCPUs. Pieces of the area that are
/// zero are left out.
///
/// # Errors
/// The area is longer than the records have a place for.
pub fn save(state: &mut State, vcpu: &VcpuV1, xsave: &[u8]) -> Converted<()> {
    let VcpuV1 { guest, index, .. } = *vcpu;
    let xsave_bytes = match u32::try_from(xsave.len()) {
        Ok(bytes) if bytes <= XSAVE_MAX => bytes,
        _ => {
            let (record, value) = (vcpu.name(), xsave.len() as u64);
            return Err(ConvertError::Unsaved { record, what: "an XSAVE area of length", value });
        }
    };
    let before = state.xsave.len();
    for (offset, piece) in (0..).step_by(XSAVE_PIECE).zip(xsave.chunks(XSAVE_PIECE)) {
        if is_zero(piece) {
            continue;
        }
        let mut bytes = [0; XSAVE_PIECE];
        if let Some(place) = bytes.get_mut(..piece.len()) {
            place.copy_from_slice(piece);
        }
        state.xsave.push(XsaveV1 { guest, vcpu: index, offset, bytes });
    }
    let xsave_pieces = (state.xsave.len() - before) as u32;
    state.vcpus.push(VcpuV1 { xsave_bytes, xsave_pieces, ..*vcpu });
    Ok(())
}

/// Fills the record of vCPU `index` of guest `guest`, which has an XSAVE area of `xsave_bytes` elsewhere.
///
/// # Errors
/// It has what the record has no place for.
pub fn fill(
    vcpu: &mut VcpuV1,
    (guest, index, pcpu): (u64, u32, u32),
    arch: &ArchState,
    xsave_bytes: u32,
) -> Converted<()> {
    let mut segments = [SegmentV1::default(); 8];
    for (saved, segment) in segments.iter_mut().zip(&arch.segments) {
        if segment.attributes & !Segment::ALL != 0 {
            let (record, value) = (name_of::<VcpuV1>([guest, index.into()]), segment.attributes.into());
            return Err(ConvertError::Unsaved { record, what: "a segment with access rights", value });
        }
        *saved = SegmentV1 {
            base: segment.base,
            limit: segment.limit,
            selector: segment.selector,
            attributes: pack(segment.attributes),
        };
    }
    let (event, event_vector, event_error) = match arch.pending {
        None => (EVENT_NONE, 0, 0),
        Some(event) => {
            let kind = match event.kind {
                EventKind::Interrupt => EVENT_INTERRUPT,
                EventKind::Nmi => EVENT_NMI,
                EventKind::Exception => EVENT_EXCEPTION,
            };
            match event.error_code {
                Some(error) => (kind | EVENT_HAS_ERROR, event.vector.into(), error),
                None => (kind, event.vector.into(), 0),
            }
        }
    };
    *vcpu = VcpuV1 {
        guest,
        registers: arch.gprs,
        rip: arch.rip,
        rflags: arch.rflags,
        cr0: arch.cr0,
        cr2: arch.cr2,
        cr3: arch.cr3,
        cr4: arch.cr4,
        cr8: arch.cr8,
        efer: arch.efer,
        xcr0: arch.xcr0,
        // Guests of this release have none of IA32_XSS, IA32_DEBUGCTL and IA32_SPEC_CTRL.
        xss: 0,
        debug: arch.dr,
        dr6: arch.dr6,
        dr7: arch.dr7,
        segments,
        gdt_base: arch.gdtr.base,
        idt_base: arch.idtr.base,
        pat: arch.pat,
        star: arch.star,
        lstar: arch.lstar,
        cstar: arch.cstar,
        sfmask: arch.sfmask,
        kernel_gs_base: arch.kernel_gs_base,
        sysenter_cs: arch.sysenter_cs,
        sysenter_esp: arch.sysenter_esp,
        sysenter_eip: arch.sysenter_eip,
        tsc_offset: arch.tsc_offset,
        tsc_aux: arch.tsc_aux,
        debugctl: 0,
        spec_ctrl: 0,
        gdt_limit: arch.gdtr.limit.into(),
        idt_limit: arch.idtr.limit.into(),
        index,
        pcpu,
        activity: match arch.activity {
            Activity::Active => ACTIVITY_RUNNING,
            Activity::Halted => ACTIVITY_HALTED,
            Activity::WaitForSipi => ACTIVITY_WAIT_FOR_SIPI,
        },
        // SVM does not tell the two shadows apart (APM2 15.21.5); both end after one instruction.
        shadow: if arch.interrupt_shadow { SHADOW_STI } else { 0 },
        event,
        event_vector,
        event_error,
        event_instruction_bytes: 0,
        nmi: if arch.nmi_blocked { NMI_BLOCKED } else { 0 },
        xsave_bytes,
        xsave_pieces: 0,
        reserved: [0; 4],
    };
    Ok(())
}

/// vCPU `index` of guest `guest`. The registers' values are such as VMRUN may still refuse: the vCPU checks them.
///
/// # Errors
/// It is missing, or holds what this image cannot give its guests.
pub fn load(state: &State, guest: u64, index: u32) -> Converted<VcpuState> {
    let mut vcpu = VcpuState { pcpu: 0, arch: ArchState::reset(), xsave: Vec::new() };
    load_into(state, guest, index, &mut vcpu)?;
    Ok(vcpu)
}

/// Where the virtual CPUs of that guest have their state, by index; empty in a stream that has records of it instead.
#[must_use]
pub fn places(state: &State, guest: u64) -> &[VcpuPlaceV1] {
    group(&state.vcpu_places, guest)
}

/// What the plan, or the dry run, says of vCPU `index`: its pCPU. The registers come from [`read`] or [`load_into`].
///
/// # Errors
/// It is missing.
pub fn load_plan(state: &State, guest: u64, index: u32) -> Converted<VcpuState> {
    if places(state, guest).is_empty() {
        return load(state, guest, index);
    }
    let place = find(&state.vcpu_places, [guest, index.into()])?;
    Ok(VcpuState { pcpu: place.pcpu, arch: ArchState::reset(), xsave: Vec::new() })
}

/// What [`load`] says, into one that was loaded before: takes no memory where its XSAVE area has room.
///
/// # Errors
/// As [`load`].
pub fn load_into(state: &State, guest: u64, index: u32, vcpu: &mut VcpuState) -> Converted<()> {
    let record = find(&state.vcpus, [guest, index.into()])?;
    read(record, vcpu)?;
    xsave(state, record, &mut vcpu.xsave)
}

/// The registers that a record says, and the pCPU.
///
/// # Errors
/// It holds what this image cannot give its guests.
pub fn read(record: &VcpuV1, vcpu: &mut VcpuState) -> Converted<()> {
    let absent = |field, value: u64| require(value == 0, record, field, value);
    absent("IA32_XSS", record.xss)?;
    absent("IA32_DEBUGCTL", record.debugctl)?;
    absent("IA32_SPEC_CTRL", record.spec_ctrl)?;
    absent("instruction length of an event", record.event_instruction_bytes.into())?;
    absent("interrupt shadow", (record.shadow & !(SHADOW_STI | SHADOW_MOV_SS)).into())?;
    absent("NMI state", (record.nmi & !NMI_BLOCKED).into())?;
    require(record.cr8 < 16, record, "CR8", record.cr8)?;
    let mut segments = [Segment::default(); 8];
    for (segment, saved) in segments.iter_mut().zip(&record.segments) {
        require(saved.attributes & !0x1fff == 0, record, "access rights of a segment", saved.attributes)?;
        *segment = Segment {
            selector: saved.selector,
            attributes: unpack(saved.attributes),
            limit: saved.limit,
            base: saved.base,
        };
    }
    vcpu.arch = ArchState {
        gprs: record.registers,
        rip: record.rip,
        rflags: record.rflags,
        cr0: record.cr0,
        cr2: record.cr2,
        cr3: record.cr3,
        cr4: record.cr4,
        cr8: record.cr8,
        efer: record.efer,
        xcr0: record.xcr0,
        dr: record.debug,
        dr6: record.dr6,
        dr7: record.dr7,
        segments,
        gdtr: TableRegister { limit: narrow(record, "limit of the GDT", record.gdt_limit)?, base: record.gdt_base },
        idtr: TableRegister { limit: narrow(record, "limit of the IDT", record.idt_limit)?, base: record.idt_base },
        pat: record.pat,
        star: record.star,
        lstar: record.lstar,
        cstar: record.cstar,
        sfmask: record.sfmask,
        kernel_gs_base: record.kernel_gs_base,
        sysenter_cs: record.sysenter_cs,
        sysenter_esp: record.sysenter_esp,
        sysenter_eip: record.sysenter_eip,
        tsc_offset: record.tsc_offset,
        tsc_aux: record.tsc_aux,
        interrupt_shadow: record.shadow != 0,
        nmi_blocked: record.nmi & NMI_BLOCKED != 0,
        pending: event(record)?,
        activity: match record.activity {
            ACTIVITY_RUNNING => Activity::Active,
            ACTIVITY_HALTED => Activity::Halted,
            ACTIVITY_WAIT_FOR_SIPI => Activity::WaitForSipi,
            other => return refuse(record, "activity", other),
        },
    };
    vcpu.pcpu = record.pcpu;
    Ok(())
}

/// Access rights of this image (SDM 3C 25.4.1) as a record's: flags from bit 12 to bit 8, unusable from bit 16 to bit 12.
const fn pack(rights: u32) -> u16 {
    let unusable = if rights & Segment::UNUSABLE != 0 { SEGMENT_UNUSABLE } else { 0 };
    (rights & 0xff | rights >> 4 & 0xf00) as u16 | unusable
}

const fn unpack(attributes: u16) -> u32 {
    let rights = attributes as u32 & 0xff | (attributes as u32 & 0xf00) << 4;
    rights | if attributes & SEGMENT_UNUSABLE != 0 { Segment::UNUSABLE } else { 0 }
}

fn event(record: &VcpuV1) -> Converted<Option<Event>> {
    // Software interrupts and exceptions of other images are instructions that this one executes again; it
    // has no state in which they are half done.
    let kind = match record.event & !EVENT_HAS_ERROR {
        EVENT_NONE => {
            require(record.event == EVENT_NONE, record, "event", record.event)?;
            require(record.event_vector == 0, record, "vector without event", record.event_vector)?;
            require(record.event_error == 0, record, "error code without event", record.event_error)?;
            return Ok(None);
        }
        EVENT_INTERRUPT => EventKind::Interrupt,
        EVENT_NMI => EventKind::Nmi,
        EVENT_EXCEPTION => EventKind::Exception,
        _ => return refuse(record, "event", record.event),
    };
    let has_error = record.event & EVENT_HAS_ERROR != 0;
    require(has_error || record.event_error == 0, record, "error code without use", record.event_error)?;
    let event = Event {
        kind,
        vector: narrow(record, "vector", record.event_vector)?,
        error_code: has_error.then_some(record.event_error),
    };
    require(event.is_valid(), record, "event with this vector", record.event_vector)?;
    Ok(Some(event))
}

fn xsave(state: &State, record: &VcpuV1, area: &mut Vec<u8>) -> Converted<()> {
    require(record.xsave_bytes <= XSAVE_MAX, record, "XSAVE bytes", record.xsave_bytes)?;
    let of_guest = group(&state.xsave, record.guest);
    let start = of_guest.partition_point(|piece| piece.vcpu < record.index);
    let rest = of_guest.get(start..).unwrap_or_default();
    let length = rest.partition_point(|piece| piece.vcpu == record.index);
    let pieces = rest.get(..length).unwrap_or_default();
    if pieces.len() != record.xsave_pieces as usize {
        return Err(ConvertError::Count {
            record: record.name(),
            what: "XSAVE pieces",
            stored: record.xsave_pieces.into(),
            found: pieces.len() as u64,
        });
    }
    // What was not written is zero.
    area.clear();
    area.resize(record.xsave_bytes as usize, 0);
    for piece in pieces {
        let offset = piece.offset as usize;
        require(offset.is_multiple_of(XSAVE_PIECE), piece, "offset", piece.offset)?;
        let place = area.get_mut(offset..).unwrap_or_default();
        require(!place.is_empty(), piece, "offset", piece.offset)?;
        let fits = place.len().min(XSAVE_PIECE);
        let (bytes, beyond) = piece.bytes.split_at_checked(fits).unwrap_or_default();
        require(is_zero(beyond), piece, "bytes past the end", piece.offset)?;
        if let Some(place) = place.get_mut(..fits) {
            place.copy_from_slice(bytes);
        }
    }
    Ok(())
}
