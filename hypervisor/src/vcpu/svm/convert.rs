//! Between the VMCB's encodings and the neutral ones.

use super::super::event::{BP, Event, EventKind, NMI, OF, has_error_code};
use super::super::state::Segment;
use super::vmcb::{VmcbSegment, event};

/// A segment from the VMCB.
pub fn segment_from_vmcb(segment: &VmcbSegment) -> Segment {
    let attributes = u32::from(segment.attributes);
    let mut neutral = attributes & 0xff | (attributes & 0xf00) << 4;
    if neutral & Segment::PRESENT == 0 {
        neutral |= Segment::UNUSABLE;
    }
    Segment { selector: segment.selector, attributes: neutral, limit: segment.limit, base: segment.base }
}

/// A segment for the VMCB: what is unusable is not present.
pub fn segment_to_vmcb(segment: &Segment) -> VmcbSegment {
    let mut attributes = segment.attributes & 0xff | (segment.attributes & 0xf000) >> 4;
    if segment.attributes & Segment::UNUSABLE != 0 {
        attributes &= !Segment::PRESENT;
    }
    VmcbSegment { selector: segment.selector, attributes: attributes as u16, limit: segment.limit, base: segment.base }
}

/// EVENTINJ of an event (APM2 15.20).
pub fn event_to_vmcb(ev: &Event) -> u64 {
    let kind = match ev.kind {
        EventKind::Interrupt => event::TYPE_INTERRUPT,
        EventKind::Nmi => event::TYPE_NMI,
        EventKind::Exception => event::TYPE_EXCEPTION,
    };
    let error = match ev.error_code {
        Some(code) => event::ERROR_CODE_VALID | u64::from(code) << 32,
        None => 0,
    };
    u64::from(ev.vector) | kind << event::TYPE_SHIFT | error | event::VALID
}

/// The event that an exit interrupted in its delivery, from EXITINTINFO (APM2 15.7.2), if it must be injected again.
///
/// A software interrupt or exception (INT n, INT3, INTO) must not: RIP is still at its instruction, which the
/// guest executes again.
pub fn event_from_vmcb(info: u64) -> Option<Event> {
    if info & event::VALID == 0 {
        return None;
    }
    let vector = info as u8;
    let error = (info >> 32) as u32;
    let ev = match info >> event::TYPE_SHIFT & 7 {
        event::TYPE_INTERRUPT => Event::interrupt(vector),
        event::TYPE_NMI => Event::nmi(),
        event::TYPE_EXCEPTION if matches!(vector, NMI | BP | OF) => return None,
        // QEMU calls interrupts that were not injected by EVENTINJ exceptions, too.
        event::TYPE_EXCEPTION if vector > 31 => Event::interrupt(vector),
        event::TYPE_EXCEPTION if has_error_code(vector) => Event::fault(vector, error),
        event::TYPE_EXCEPTION => Event::exception(vector),
        _ => return None,
    };
    ev.is_valid().then_some(ev)
}

#[cfg(test)]
mod tests {
    use super::super::super::event::{GP, PF};
    use super::*;

    #[test]
    fn segments() {
        // A 64-bit code segment: descriptor 0x00af9b00_0000ffff has A9Bh in the VMCB, A09Bh in VMX form.
        let vmcb = VmcbSegment { selector: 0x10, attributes: 0xa9b, limit: 0xffff_ffff, base: 0 };
        let neutral = segment_from_vmcb(&vmcb);
        assert_eq!(neutral.attributes, 0xa09b);
        assert_eq!(segment_to_vmcb(&neutral), vmcb);
        assert_eq!(segment_from_vmcb(&VmcbSegment::default()).attributes, Segment::UNUSABLE);
        assert_eq!(segment_to_vmcb(&Segment { attributes: 0x1_0093, ..Segment::NULL }).attributes, 0x13);
    }

    #[test]
    fn injection() {
        assert_eq!(event_to_vmcb(&Event::interrupt(0x31)), 0x8000_0031);
        assert_eq!(event_to_vmcb(&Event::nmi()), 0x8000_0202);
        assert_eq!(event_to_vmcb(&Event::fault(GP, 0)), 0x8000_0b0d);
        assert_eq!(event_to_vmcb(&Event::fault(PF, 6)), 0x6_8000_0b0e);
        assert_eq!(event_to_vmcb(&Event::undefined()), 0x8000_0306);
    }

    #[test]
    fn interrupted_delivery() {
        assert_eq!(event_from_vmcb(0x31), None, "not valid");
        assert_eq!(event_from_vmcb(0x8000_0031), Some(Event::interrupt(0x31)));
        assert_eq!(event_from_vmcb(0x8000_0202), Some(Event::nmi()));
        assert_eq!(event_from_vmcb(0x6_8000_0b0e), Some(Event::fault(PF, 6)));
        assert_eq!(event_from_vmcb(0x8000_0480), None, "INT 80h runs again");
        assert_eq!(event_from_vmcb(0x8000_0303), None, "INT3 runs again");
        assert_eq!(event_from_vmcb(0x8000_0320 | 0x300), Some(Event::interrupt(0x20)));
    }
}
