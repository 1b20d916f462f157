//! Between VMX's event encodings and the neutral ones (SDM 3C 25.8.3, 25.9.2).

use super::super::event::{BP, Event, EventKind, NMI, OF, has_error_code};

/// Bits 10:8.
const TYPE_SHIFT: u32 = 8;
const TYPE_INTERRUPT: u64 = 0;
/// Type of a non-maskable interrupt.
pub const TYPE_NMI: u64 = 2;
const TYPE_EXCEPTION: u64 = 3;
/// Type of what INT1 raises.
pub const TYPE_PRIVILEGED_SOFTWARE: u64 = 5;
const ERROR_CODE_VALID: u64 = 1 << 11;
/// An exit's information: the IRET that faulted had unblocked NMIs.
pub const UNBLOCKED_NMI: u64 = 1 << 12;
/// The information means something.
pub const VALID: u64 = 1 << 31;

/// The type of an event that VMX tells of.
pub fn kind(info: u64) -> u64 {
    info >> TYPE_SHIFT & 7
}

/// VM-entry interruption information. In real mode no exception has an error code (SDM 3C 27.2.1.3).
pub fn event_to_vmcs(event: &Event, protected: bool) -> u64 {
    let kind = match event.kind {
        EventKind::Interrupt => TYPE_INTERRUPT,
        EventKind::Nmi => TYPE_NMI,
        EventKind::Exception => TYPE_EXCEPTION,
    };
    let error = if event.error_code.is_some() && protected { ERROR_CODE_VALID } else { 0 };
    u64::from(event.vector) | kind << TYPE_SHIFT | error | VALID
}

/// The event that an exit interrupted in its delivery, from the IDT-vectoring information, if it must be injected again: what software
/// raised (INT n, INT3, INTO, INT1) is executed again.
pub fn event_from_vmcs(info: u64, error_code: u64) -> Option<Event> {
    if info & VALID == 0 {
        return None;
    }
    let vector = info as u8;
    let event = match kind(info) {
        TYPE_INTERRUPT => Event::interrupt(vector),
        TYPE_NMI => Event::nmi(),
        TYPE_EXCEPTION if matches!(vector, NMI | BP | OF) => return None,
        TYPE_EXCEPTION if has_error_code(vector) => Event::fault(vector, error_code as u32),
        TYPE_EXCEPTION => Event::exception(vector),
        _ => return None,
    };
    event.is_valid().then_some(event)
}

#[cfg(test)]
mod tests {
    use super::super::super::event::{GP, PF};
    use super::*;

    #[test]
    fn injection() {
        // SDM 3C table 25-17: vector 7:0, type 10:8, deliver error code 11, valid 31.
        assert_eq!(event_to_vmcs(&Event::interrupt(0x31), true), 0x8000_0031);
        assert_eq!(event_to_vmcs(&Event::nmi(), true), 0x8000_0202);
        assert_eq!(event_to_vmcs(&Event::fault(GP, 0), true), 0x8000_0b0d);
        assert_eq!(event_to_vmcs(&Event::fault(GP, 0), false), 0x8000_030d, "real mode");
        assert_eq!(event_to_vmcs(&Event::undefined(), true), 0x8000_0306);
    }

    #[test]
    fn interrupted_delivery() {
        assert_eq!(event_from_vmcs(0x31, 0), None, "not valid");
        assert_eq!(event_from_vmcs(0x8000_0031, 0), Some(Event::interrupt(0x31)));
        assert_eq!(event_from_vmcs(0x8000_0202, 0), Some(Event::nmi()));
        assert_eq!(event_from_vmcs(0x8000_0b0e, 6), Some(Event::fault(PF, 6)));
        assert_eq!(event_from_vmcs(0x8000_0480, 0), None, "INT 80h runs again");
        assert_eq!(event_from_vmcs(0x8000_0603, 0), None, "INT3 runs again");
    }
}
