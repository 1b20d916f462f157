//! Events on their way into a virtual CPU, and what becomes of two at once.

/// Divide error.
pub const DE: u8 = 0;
/// Debug.
pub const DB: u8 = 1;
/// Non-maskable interrupt.
pub const NMI: u8 = 2;
/// Breakpoint.
pub const BP: u8 = 3;
/// Overflow.
pub const OF: u8 = 4;
/// Undefined opcode.
pub const UD: u8 = 6;
/// Double fault.
pub const DF: u8 = 8;
/// Invalid TSS.
pub const TS: u8 = 10;
/// General protection.
pub const GP: u8 = 13;
/// Page fault.
pub const PF: u8 = 14;
/// Alignment check.
pub const AC: u8 = 17;
/// Machine check.
pub const MC: u8 = 18;

/// What kind of event is delivered (APM2 15.20, SDM 3C 26.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// An external interrupt: any vector from 16 up.
    Interrupt,
    /// A non-maskable interrupt; the vector is 2.
    Nmi,
    /// An exception, vectors 0 to 31 except 2.
    Exception,
}

/// An event to be delivered through the guest's IDT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The kind of event.
    pub kind: EventKind,
    /// The IDT vector.
    pub vector: u8,
    /// The error code that is pushed, for the exceptions that have one.
    pub error_code: Option<u32>,
}

impl Event {
    /// The external interrupt `vector`.
    #[must_use]
    pub const fn interrupt(vector: u8) -> Self {
        Self { kind: EventKind::Interrupt, vector, error_code: None }
    }

    /// A non-maskable interrupt.
    #[must_use]
    pub const fn nmi() -> Self {
        Self { kind: EventKind::Nmi, vector: NMI, error_code: None }
    }

    /// An exception without an error code.
    #[must_use]
    pub const fn exception(vector: u8) -> Self {
        Self { kind: EventKind::Exception, vector, error_code: None }
    }

    /// An exception with an error code.
    #[must_use]
    pub const fn fault(vector: u8, error_code: u32) -> Self {
        Self { kind: EventKind::Exception, vector, error_code: Some(error_code) }
    }

    /// #GP(0).
    #[must_use]
    pub const fn general_protection() -> Self {
        Self::fault(GP, 0)
    }

    /// #UD.
    #[must_use]
    pub const fn undefined() -> Self {
        Self::exception(UD)
    }

    /// Whether hardware accepts this event for injection (APM2 15.20: a vector that
    /// is no exception's, or an error code where none belongs, makes VMRUN fail).
    #[must_use]
    pub const fn is_valid(&self) -> bool {
        match self.kind {
            EventKind::Interrupt => self.vector >= 16 && self.error_code.is_none(),
            EventKind::Nmi => self.vector == NMI && self.error_code.is_none(),
            EventKind::Exception => {
                // #BP and #OF are software events: they are executed again, not injected.
                self.vector < 32
                    && !matches!(self.vector, NMI | BP | OF | 9 | 15 | 22..=27 | 31)
                    && has_error_code(self.vector) == self.error_code.is_some()
            }
        }
    }
}

/// Whether the exception pushes an error code (APM2 table 8-1).
#[must_use]
pub const fn has_error_code(vector: u8) -> bool {
    matches!(vector, DF | TS | 11 | 12 | GP | PF | AC | 21 | 29 | 30)
}

/// What becomes of an event that arises while another one is not delivered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combined {
    /// This event is to be delivered.
    Deliver(Event),
    /// A fault while #DF was delivered: the virtual CPU shuts down.
    TripleFault,
}

/// Combines a `pending` event with a `new` one (APM2 8.2.9, SDM 3A table 6-5).
///
/// The new one wins unless both are faults of the classes that add up to #DF. A
/// replaced fault arises again when its instruction is executed again.
#[must_use]
pub fn combine(pending: Option<Event>, new: Event) -> Combined {
    let Some(pending) = pending else {
        return Combined::Deliver(new);
    };
    if pending.kind != EventKind::Exception || new.kind != EventKind::Exception {
        return Combined::Deliver(new);
    }
    let contributory = |vector: u8| matches!(vector, DE | TS | 11 | 12 | GP);
    match (pending.vector, new.vector) {
        (DF, PF) => Combined::TripleFault,
        (DF, v) if contributory(v) => Combined::TripleFault,
        (PF, PF) => Combined::Deliver(Event::fault(DF, 0)),
        (PF, v) if contributory(v) => Combined::Deliver(Event::fault(DF, 0)),
        (p, v) if contributory(p) && contributory(v) => Combined::Deliver(Event::fault(DF, 0)),
        _ => Combined::Deliver(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn double_fault_table() {
        let gp = Event::general_protection();
        let pf = Event::fault(PF, 2);
        let df = Event::fault(DF, 0);
        assert_eq!(combine(None, gp), Combined::Deliver(gp));
        assert_eq!(combine(Some(gp), gp), Combined::Deliver(df));
        assert_eq!(combine(Some(gp), pf), Combined::Deliver(pf), "#PF while #GP is delivered is served first");
        assert_eq!(combine(Some(pf), gp), Combined::Deliver(df));
        assert_eq!(combine(Some(pf), pf), Combined::Deliver(df));
        assert_eq!(combine(Some(df), pf), Combined::TripleFault);
        assert_eq!(combine(Some(Event::exception(DB)), gp), Combined::Deliver(gp));
        assert_eq!(combine(Some(Event::interrupt(0x30)), pf), Combined::Deliver(pf));
    }

    #[test]
    fn what_hardware_accepts() {
        assert!(Event::interrupt(0x20).is_valid());
        assert!(!Event::interrupt(3).is_valid());
        assert!(Event::nmi().is_valid());
        assert!(Event::general_protection().is_valid());
        assert!(!Event::exception(GP).is_valid(), "#GP has an error code");
        assert!(!Event::fault(UD, 0).is_valid(), "#UD has none");
        assert!(!Event::exception(2).is_valid(), "vector 2 is no exception");
        assert!(!Event::exception(40).is_valid());
    }
}
