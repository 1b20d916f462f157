//! All records of a stream, decoded: [`State`].

use alloc::vec::Vec;
use core::fmt;

use super::device::{
    AliasV1, BarV1, ConfigV1, DevicePolicyV1, DeviceV1, LeavingV1, PasidV1, PciFunctionV1, PhysicalFunctionV1,
};
use super::guest::{CpuidV1, GuestRestV1, GuestV1};
use super::interrupt::{IrteV1, MsixV1, PostedV1};
use super::lapic::{GuestClockV1, KvmClockV1, LapicV1};
use super::machine::{ArenaV1, BootV1, BridgeV1, MachineV1, ModuleV1, PcpuV1, RegionV1};
use super::management::{FaultV1, ManagementV1, TotalsV1};
use super::memory::{ExtentV1, ObjectV1, ReservedV1, SpaceObjectV1, SpaceV1};
use super::page::VcpuPlaceV1;
use super::platform::{IoapicV1, LegacyV1, PciHostV1, UART_INPUT_MAX, UART_PIECE, UartInputV1, UartV1};
use super::report::{ReportV1, StoppedV1};
use super::stream::{EndV1, MarkV1, SettledV1};
use super::trial;
use super::trust::{KeyV1, TrustV1};
use super::unit::{DomainIdV1, DomainV1, UnitRestV1, UnitV1};
use super::vcpu::{VcpuMsrsV1, VcpuV1, XsaveV1};
use crate::reader::{ReadError, Stream};
use crate::record::{Part, Record};
use crate::writer::{Draft, WriteError, Writer};

/// Room kept free in each growing list when a stream is decoded, so that a refresh in the pause need
/// not allocate although guests enabled interrupts or faults came in since the plan.
const SLACK: usize = 64;

/// A kind of record that was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The kind.
    pub kind: u32,
    /// Version of the first one.
    pub version: u16,
    /// How many.
    pub count: u32,
}

/// Why the rest of a stream cannot be taken into a planned set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshError {
    /// The stream.
    Read(ReadError),
    /// More records than room was kept for; the pause must not allocate.
    Room {
        /// The kind.
        kind: &'static str,
        /// Room for that many.
        room: usize,
    },
}

impl fmt::Display for RefreshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Read(error) => error.fmt(f),
            Self::Room { kind, room } => write!(
                f,
                "more than {room} {kind} records at FREEZE, room for no more was kept at PLAN; try the upgrade again"
            ),
        }
    }
}

impl core::error::Error for RefreshError {}

impl From<ReadError> for RefreshError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

macro_rules! state {
    ($( $(#[$doc:meta])* $field:ident: $type:ty, )*) => {
        /// A decoded stream: the records of each kind, in the order written. [`crate::graph`] says whether they make sense.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct State {
            $( $(#[$doc])* pub $field: Vec<$type>, )*
            /// Kinds this image does not know; the reader's log names them.
            pub skipped: Vec<Skipped>,
            planned: Planned,
        }

        /// How many records of each kind stand before the mark.
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        struct Planned {
            $( $field: usize, )*
        }

        /// Kind number and name of each type this image knows.
        pub const KINDS: &[(u32, &str)] = &[
            (MarkV1::KIND, MarkV1::NAME),
            (EndV1::KIND, EndV1::NAME),
            (SettledV1::KIND, SettledV1::NAME),
            $( (<$type>::KIND, <$type>::NAME), )*
        ];

        /// Describes each type, as [`crate::abi`] says.
        pub(crate) fn describe(text: &mut alloc::string::String, format: u16) {
            crate::abi::describe::<MarkV1>(text, format);
            crate::abi::describe::<EndV1>(text, format);
            crate::abi::describe::<SettledV1>(text, format);
            $( crate::abi::describe::<$type>(text, format); )*
        }

        impl State {
            /// Decodes a whole stream.
            pub fn decode(stream: &Stream<'_>) -> Result<Self, ReadError> {
                if stream.is_rest() {
                    return Err(ReadError::Replanned);
                }
                let mut state = Self::default();
                let mut stage = Stage::Plan;
                for record in stream.records() {
                    match record.kind {
                        MarkV1::KIND => {
                            stage = Stage::Settled;
                            $( state.planned.$field = state.$field.len(); )*
                        }
                        SettledV1::KIND => stage = Stage::Freeze,
                        EndV1::KIND => {}
                        kind if trial::is_known(kind) => {}
                        $( <$type>::KIND => {
                            in_part::<$type>(stage)?;
                            state.$field.push(record.decode()?);
                        } )*
                        kind if record.is_critical() => {
                            return Err(ReadError::UnknownCritical { kind, version: record.version });
                        }
                        kind => skip(&mut state.skipped, kind, record.version),
                    }
                }
                if let Some(machine) = state.machine.first()
                    && machine.generation != stream.header().generation
                {
                    let found = machine.generation;
                    return Err(ReadError::Count { what: "generations", stored: stream.header().generation, found });
                }
                state.reserve_rest();
                Ok(state)
            }

            /// Takes room for a rest like the one that is in the set now, and somewhat more, so that neither gathering nor reading
            /// another one allocates.
            pub fn reserve_rest(&mut self) {
                $( if <$type>::PART != Part::Plan { self.$field.reserve(SLACK); } )*
                let pieces = self.vcpus.len().saturating_mul(PIECES_RESERVED);
                self.xsave.reserve(pieces);
                let inputs = self.uarts.len().saturating_mul(UART_PIECES);
                self.uart_inputs.reserve(inputs);
            }

            /// Replaces what was written behind the mark, or behind what is settled, by what stands there now. Does not allocate.
            /// On an error the set is not to be used.
            pub fn refresh(&mut self, rest: &Stream<'_>) -> Result<(), RefreshError> {
                if !rest.is_rest() {
                    return Err(ReadError::Replanned.into());
                }
                $( if <$type>::PART != Part::Settled || !rest.is_unsettled() {
                    self.$field.truncate(self.planned.$field);
                } )*
                let mut stage = if rest.is_unsettled() { Stage::Freeze } else { Stage::Settled };
                for record in rest.records() {
                    match record.kind {
                        SettledV1::KIND => stage = Stage::Freeze,
                        EndV1::KIND => {}
                        $( <$type>::KIND => {
                            in_part::<$type>(stage)?;
                            let room = self.$field.capacity();
                            if self.$field.len() == room {
                                return Err(RefreshError::Room { kind: <$type>::NAME, room });
                            }
                            self.$field.push(record.decode()?);
                        } )*
                        kind if record.is_critical() => {
                            return Err(ReadError::UnknownCritical { kind, version: record.version }.into());
                        }
                        // Logged when the plan was read; the log must not grow in the pause.
                        _ => {}
                    }
                }
                Ok(())
            }

            /// Takes what is in the set now as planned: logs are then written before the mark.
            pub fn set_planned(&mut self) {
                $( self.planned.$field = match <$type>::PART {
                    Part::Settled | Part::Freeze => 0,
                    Part::Plan | Part::Any => self.$field.len(),
                }; )*
            }

            /// Puts the records of each kind in the order that [`crate::graph`] wants, those of the plan and the others apart.
            pub fn sort(&mut self) {
                self.sort_parts(|_| true);
            }

            /// Likewise, what FREEZE has gathered.
            pub fn sort_unsettled(&mut self) {
                self.sort_parts(|part| matches!(part, Part::Freeze | Part::Any));
            }

            fn sort_parts(&mut self, wanted: fn(Part) -> bool) {
                $( if wanted(<$type>::PART) {
                    let (planned, rest) = match <$type>::PART {
                        Part::Any => self.$field.split_at_mut_checked(self.planned.$field).unwrap_or_default(),
                        _ => (self.$field.as_mut_slice(), [].as_mut_slice()),
                    };
                    order(planned);
                    order(rest);
                } )*
            }

            /// Drops what is not planned and keeps its room, so that FREEZE need not allocate.
            pub fn clear_rest(&mut self) {
                $( if <$type>::PART == Part::Settled {
                    self.$field.clear();
                } )*
                self.clear_unsettled();
            }

            /// Likewise, but for what is settled.
            pub fn clear_unsettled(&mut self) {
                $( match <$type>::PART {
                    Part::Plan | Part::Settled => {}
                    Part::Freeze => self.$field.clear(),
                    Part::Any => self.$field.truncate(self.planned.$field),
                } )*
            }

            /// Writes the planned part.
            pub fn write_plan(&self, writer: &mut Writer<'_>) -> Result<(), WriteError> {
                $( write(writer, match <$type>::PART {
                    Part::Plan => &self.$field,
                    Part::Settled | Part::Freeze => &[],
                    Part::Any => self.$field.get(..self.planned.$field).unwrap_or_default(),
                })?; )*
                trial::write(writer)
            }

            /// Writes the rest.
            pub fn write_rest(&self, writer: &mut Writer<'_>) -> Result<(), WriteError> {
                self.write_settled(writer)?;
                self.write_unsettled(writer)
            }

            /// Writes the first part of the rest, what is settled; the draft goes on behind it. In a format that has no such part
            /// all of it is [`State::write_unsettled`]'s, in the order of kinds.
            pub fn write_settled(&self, writer: &mut Writer<'_>) -> Result<Option<Draft>, WriteError> {
                if !writer.settles() {
                    return Ok(None);
                }
                $( if <$type>::PART == Part::Settled {
                    write(writer, &self.$field)?;
                } )*
                writer.settle().map(Some)
            }

            /// Writes the second part of the rest.
            pub fn write_unsettled(&self, writer: &mut Writer<'_>) -> Result<(), WriteError> {
                let settles = writer.settles();
                $( write(writer, match <$type>::PART {
                    Part::Plan => &[],
                    Part::Settled if settles => &[],
                    Part::Settled => &self.$field,
                    Part::Freeze => &self.$field,
                    Part::Any => self.$field.get(self.planned.$field..).unwrap_or_default(),
                })?; )*
                Ok(())
            }

            /// The first pair of neighbours of one kind that are not in strictly ascending order of
            /// their keys.
            pub(crate) fn first_disorder(&self) -> Option<crate::graph::GraphError> {
                $( if let Some(error) = crate::graph::disorder(&self.$field) { return Some(error); } )*
                None
            }

            /// Likewise, looking only at what is settled.
            pub(crate) fn first_disorder_of_settled(&self) -> Option<crate::graph::GraphError> {
                $( if <$type>::PART == Part::Settled {
                    if let Some(error) = crate::graph::disorder(&self.$field) { return Some(error); }
                } )*
                None
            }

            /// Likewise, looking only at what each refresh replaces.
            pub(crate) fn first_disorder_of_unsettled(&self) -> Option<crate::graph::GraphError> {
                $( if matches!(<$type>::PART, Part::Freeze | Part::Any) {
                    if let Some(error) = crate::graph::disorder(&self.$field) { return Some(error); }
                } )*
                None
            }
        }
    };
}

/// XSAVE pieces room is kept for per vCPU beyond those of the dry run: a whole area with AVX-512 and PKRU.
const PIECES_RESERVED: usize = 12;
/// Pieces of a UART's input at most.
const UART_PIECES: usize = UART_INPUT_MAX as usize / UART_PIECE;

state! {
    /// Exactly one.
    machine: MachineV1,
    /// Processors.
    pcpus: PcpuV1,
    /// Memory map.
    regions: RegionV1,
    /// Arena ranges.
    arenas: ArenaV1,
    /// Boot modules.
    modules: ModuleV1,
    /// At most one.
    boot: BootV1,
    /// Bridges above preserved devices.
    bridges: BridgeV1,
    /// IOMMU units.
    units: UnitV1,
    /// Domains.
    domains: DomainV1,
    /// Ids of domains on units.
    domain_ids: DomainIdV1,
    /// Address spaces.
    spaces: SpaceV1,
    /// Memory objects.
    objects: ObjectV1,
    /// Extents of memory objects.
    extents: ExtentV1,
    /// Which space maps which object.
    space_objects: SpaceObjectV1,
    /// What guests leave out of their memory.
    reserved: ReservedV1,
    /// Guests.
    guests: GuestV1,
    /// CPUID tables of guests.
    cpuids: CpuidV1,
    /// Where vCPUs' state will be.
    vcpu_places: VcpuPlaceV1,
    /// Devices.
    devices: DeviceV1,
    /// Requester aliases.
    aliases: AliasV1,
    /// PASIDs with domains of their own.
    pasids: PasidV1,
    /// Physical functions with virtual ones.
    physical_functions: PhysicalFunctionV1,
    /// What the operator wants of devices: at most one.
    device_policy: DevicePolicyV1,
    /// Requester ids of devices that are not preserved.
    leaving: LeavingV1,
    /// BARs.
    bars: BarV1,
    /// At most one.
    management: ManagementV1,
    /// Keys by which images may be signed.
    keys: KeyV1,
    /// At most one.
    trusts: TrustV1,
    /// Faults.
    faults: FaultV1,
    /// Reports.
    reports: ReportV1,
    /// Guests that upgrades stopped.
    stopped: StoppedV1,
    /// Queues and fault registers of units.
    unit_rests: UnitRestV1,
    /// Remapping entries.
    irtes: IrteV1,
    /// Posted interrupt descriptors.
    posted: PostedV1,
    /// Configuration space.
    configs: ConfigV1,
    /// Registers of functions.
    functions: PciFunctionV1,
    /// MSI-X entries.
    msix: MsixV1,
    /// What guests were doing.
    guest_rests: GuestRestV1,
    /// vCPUs.
    vcpus: VcpuV1,
    /// Emulated MSRs.
    vcpu_msrs: VcpuMsrsV1,
    /// Extended state.
    xsave: XsaveV1,
    /// Local APICs.
    lapics: LapicV1,
    /// Clock registrations.
    clocks: KvmClockV1,
    /// Clocks of guests.
    guest_clocks: GuestClockV1,
    /// I/O APICs.
    ioapics: IoapicV1,
    /// UARTs.
    uarts: UartV1,
    /// Their input.
    uart_inputs: UartInputV1,
    /// PCI hosts.
    pci_hosts: PciHostV1,
    /// Legacy ports.
    legacies: LegacyV1,
    /// At most one.
    totals: TotalsV1,
}

/// Insertion: records arrive nearly in order, and a sort from the library would be there once for each of the
/// kinds, a fifth of the image.
fn order<T: Record>(records: &mut [T]) {
    for end in 1..records.len() {
        let mut at = end;
        while at > 0 && records[at].key() < records[at - 1].key() {
            records.swap(at, at - 1);
            at -= 1;
        }
    }
}

/// How far a stream has been read.
#[derive(Clone, Copy)]
enum Stage {
    /// Before the mark.
    Plan,
    /// Behind it.
    Settled,
    /// Behind the settled mark.
    Freeze,
}

fn in_part<T: Record>(stage: Stage) -> Result<(), ReadError> {
    match (T::PART, stage) {
        // Releases before the settled mark do not write one, and everything in the order of kinds.
        (Part::Any, _) | (Part::Plan, Stage::Plan) | (Part::Settled | Part::Freeze, Stage::Settled) => Ok(()),
        (Part::Freeze, Stage::Freeze) => Ok(()),
        _ => Err(ReadError::Part { kind: T::NAME }),
    }
}

fn write<T: Record>(writer: &mut Writer<'_>, records: &[T]) -> Result<(), WriteError> {
    records.iter().try_for_each(|record| writer.put(record))
}

/// Kinds [`State::skipped`] tells apart; further ones are counted under [`SKIPPED_OTHERS`], so that a
/// hostile stream cannot make the search long.
const SKIPPED_KINDS: usize = 32;
/// [`Skipped::kind`] of all kinds beyond the first 32.
pub const SKIPPED_OTHERS: u32 = u32::MAX;

fn skip(skipped: &mut Vec<Skipped>, kind: u32, version: u16) {
    let kind = if skipped.len() < SKIPPED_KINDS || skipped.iter().any(|entry| entry.kind == kind) {
        kind
    } else {
        SKIPPED_OTHERS
    };
    match skipped.iter_mut().find(|entry| entry.kind == kind) {
        Some(entry) => entry.count = entry.count.saturating_add(1),
        None => skipped.push(Skipped { kind, version, count: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_numbers_are_unique() {
        let mut numbers: Vec<u32> = KINDS.iter().map(|(kind, _)| *kind).collect();
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]), "{numbers:#x?}");
    }
}
