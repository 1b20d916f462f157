//! Interrupt messages: what an IOAPIC pin, an MSI or an IPI carries to local APICs,
//! and the fabric that hands them to the vCPUs of one guest without a lock.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::lapic::PendingVectors;

/// An address and data pair as a device writes it to signal an interrupt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// The address written.
    pub address: u64,
    /// The data written.
    pub data: u32,
}

/// What the receiver does with a message (SDM 3A 11.6.1, bits 10:8 everywhere).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// Deliver the vector to every CPU of the destination.
    Fixed,
    /// Deliver the vector to one CPU of the destination.
    LowestPriority,
    /// System management interrupt; guests have none.
    Smi,
    /// Non-maskable interrupt; the vector is ignored.
    Nmi,
    /// Resets the CPU and lets it wait for a startup message.
    Init,
    /// Starts a waiting CPU at `vector << 12`; only as an IPI.
    Startup,
    /// The vector comes from an 8259; guests have none.
    ExtInt,
}

impl DeliveryMode {
    /// Decodes the three-bit field; `None` for the reserved encoding 3.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        match bits & 7 {
            0 => Some(Self::Fixed),
            1 => Some(Self::LowestPriority),
            2 => Some(Self::Smi),
            4 => Some(Self::Nmi),
            5 => Some(Self::Init),
            6 => Some(Self::Startup),
            7 => Some(Self::ExtInt),
            _ => None,
        }
    }
}

/// The CPUs a message is for. Every LAPIC is in x2APIC mode, so a logical
/// destination follows from the id alone (SDM 3A 11.12.10.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The CPU with this APIC id; `0xFFFF_FFFF` is every CPU.
    Physical(u32),
    /// Cluster in bits 31:16, a mask of members in bits 15:0; `0xFFFF_FFFF` is every CPU.
    Logical(u32),
    /// Every CPU.
    All,
    /// Every CPU but the one with this APIC id.
    AllBut(u32),
}

impl Destination {
    /// Whether the CPU with APIC id `id` is meant.
    #[must_use]
    pub const fn matches(self, id: u32) -> bool {
        match self {
            Self::All | Self::Physical(u32::MAX) | Self::Logical(u32::MAX) => true,
            Self::Physical(wanted) => wanted == id,
            Self::Logical(wanted) => wanted >> 16 == id >> 4 && wanted & (1 << (id & 15)) != 0,
            Self::AllBut(excluded) => excluded != id,
        }
    }
}

/// One interrupt on its way to the LAPICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptMessage {
    /// The vector; the page number for [`DeliveryMode::Startup`].
    pub vector: u8,
    /// What to do with it.
    pub mode: DeliveryMode,
    /// For whom.
    pub destination: Destination,
    /// Level-triggered: the EOI is broadcast to the IOAPIC.
    pub level: bool,
}

impl InterruptMessage {
    /// Decodes what a guest programmed into an MSI or MSI-X entry (SDM 3A 11.11).
    /// `None` if the address is not in the interrupt range or the mode is reserved.
    #[must_use]
    pub const fn from_msi(message: MsiMessage) -> Option<Self> {
        if message.address >> 20 != 0xFEE {
            return None;
        }
        let Some(mode) = DeliveryMode::from_bits(message.data >> 8) else {
            return None;
        };
        if matches!(mode, DeliveryMode::Startup) {
            return None;
        }
        let id = (message.address >> 12) as u32 & 0xFF;
        Some(Self {
            vector: message.data as u8,
            mode,
            destination: destination8(id, message.address & 4 != 0),
            level: message.data & (1 << 15) != 0,
        })
    }
}

/// The destination of an 8-bit field, as MSIs and IOAPIC entries carry it.
#[must_use]
pub(super) const fn destination8(id: u32, logical: bool) -> Destination {
    match (logical, id) {
        (true, _) => Destination::Logical(id),
        (false, 0xFF) => Destination::All,
        (false, _) => Destination::Physical(id),
    }
}

/// Makes a vCPU look at its [`PendingVectors`]: an IPI to the pCPU that runs it, or a
/// wake-up if it halted. Called from interrupt handlers: it must not take a lock that
/// such a handler may have interrupted.
pub trait IpiSink: Send + Sync {
    /// Something was posted for vCPU `vcpu`.
    fn kick(&self, vcpu: u32);
}

/// The way of every interrupt message to the vCPUs of one guest. Lock-free: host
/// interrupt handlers call [`deliver`](Self::deliver).
pub struct InterruptFabric {
    targets: Box<[Arc<PendingVectors>]>,
    sink: Box<dyn IpiSink>,
}

impl InterruptFabric {
    /// A fabric for `vcpus` CPUs, whose APIC ids are their indices.
    #[must_use]
    pub fn new(vcpus: u32, sink: Box<dyn IpiSink>) -> Self {
        let targets = (0..vcpus).map(|_| Arc::new(PendingVectors::new())).collect();
        Self { targets, sink }
    }

    /// Posts `message` to every CPU it is for and kicks them. A message for nobody is
    /// lost, as on hardware.
    pub fn deliver(&self, message: InterruptMessage) {
        for (id, target) in (0u32..).zip(self.targets.iter()) {
            if !message.destination.matches(id) {
                continue;
            }
            match message.mode {
                DeliveryMode::Fixed | DeliveryMode::LowestPriority if message.level => {
                    target.post_level(message.vector);
                }
                DeliveryMode::Fixed | DeliveryMode::LowestPriority => target.post(message.vector),
                DeliveryMode::Nmi => target.post_nmi(),
                DeliveryMode::Init => target.post_init(),
                DeliveryMode::Startup => target.post_startup(message.vector),
                DeliveryMode::Smi | DeliveryMode::ExtInt => return,
            }
            self.sink.kick(id);
            if message.mode == DeliveryMode::LowestPriority {
                return;
            }
        }
    }

    /// The mailbox of vCPU `vcpu`.
    #[must_use]
    pub fn mailbox(&self, vcpu: u32) -> Option<&Arc<PendingVectors>> {
        self.targets.get(vcpu as usize)
    }

    /// The number of vCPUs.
    #[must_use]
    pub fn vcpus(&self) -> u32 {
        u32::try_from(self.targets.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msi_of_linux() {
        // Linux x86_vector: physical CPU 2, vector 0x31, edge, fixed.
        let message = InterruptMessage::from_msi(MsiMessage { address: 0xFEE0_2000, data: 0x31 });
        assert_eq!(
            message,
            Some(InterruptMessage {
                vector: 0x31,
                mode: DeliveryMode::Fixed,
                destination: Destination::Physical(2),
                level: false
            })
        );
        // Logical, lowest priority, redirection hint: FEE0100C / 0141.
        let message = InterruptMessage::from_msi(MsiMessage { address: 0xFEE0_100C, data: 0x141 }).expect("valid");
        assert_eq!(message.mode, DeliveryMode::LowestPriority);
        assert_eq!(message.destination, Destination::Logical(1));
    }

    #[test]
    fn msi_outside_the_interrupt_range_is_refused() {
        assert_eq!(InterruptMessage::from_msi(MsiMessage { address: 0xFED0_0000, data: 0x31 }), None);
        assert_eq!(InterruptMessage::from_msi(MsiMessage { address: 0x1_FEE0_0000, data: 0x31 }), None);
        assert_eq!(InterruptMessage::from_msi(MsiMessage { address: 0xFEE0_0000, data: 0x331 }), None);
    }

    #[test]
    fn x2apic_logical_destinations() {
        // SDM 3A 11.12.10.2: logical id = (id[19:4] << 16) | (1 << id[3:0]).
        assert!(Destination::Logical(0x0001_0020).matches(0x15));
        assert!(!Destination::Logical(0x0001_0020).matches(0x05));
        assert!(!Destination::Logical(0x0001_0020).matches(0x14));
        assert!(Destination::Logical(u32::MAX).matches(0x14));
        assert!(!Destination::AllBut(3).matches(3));
        assert!(Destination::Physical(u32::MAX).matches(7));
    }
}
