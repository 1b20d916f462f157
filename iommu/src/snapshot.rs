//! Saying what is: the run-time state as plain structures.

use crate::domain::Domain;
use crate::error::Error;
use crate::fleet::Iommu;
use crate::ids::UnitIndex;
use crate::intel::spec::tables::pair;
use crate::state::{
    AliasState, DeviceState, DidState, DomainState, FIRST_STAGE, IrteState, NESTED, PASS_THROUGH, PasidState,
    PostedState, SECOND_STAGE, Snapshot,
};
use crate::table::{Stage, Table};
use machine::access::Registers;

impl<R: Registers> Iommu<R> {
    /// What a handover must carry. Devices that are not preserved are detached before.
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        let mut snapshot = Snapshot::default();
        self.snapshot_into(&mut snapshot)?;
        Ok(snapshot)
    }

    /// Likewise, into a snapshot taken before: allocates only for what is new since,
    /// so that FREEZE need not.
    pub fn snapshot_into(&self, snapshot: &mut Snapshot) -> Result<(), Error> {
        self.snapshot_queues_into(snapshot)?;
        let base = |unit: UnitIndex| self.unit_base(unit).unwrap_or_default().0;
        let common = self.geometry.address_bits;
        refill(
            &mut snapshot.domains,
            // What all units have in common is not said, so that records from before there was a place for it mean the same.
            self.domains.values().map(DomainState::of).map(|state| match state.address_bits {
                bits if bits == common => DomainState { address_bits: 0, ..state },
                _ => state,
            }),
        );
        refill(
            &mut snapshot.dids,
            self.domains.values().flat_map(|domain| {
                let token = domain.token.0;
                domain.ids.iter().map(move |id| DidState { unit: base(id.unit), token, did: id.did })
            }),
        );
        refill(
            &mut snapshot.devices,
            self.devices.iter().map(|(device, attachment)| DeviceState {
                unit: base(attachment.unit),
                token: attachment.token.0,
                directory: attachment.directory.map_or(0, |directory| directory.frame.0),
                segment: device.segment(),
                source: device.requester_id(),
                ats: u8::from(attachment.ats.is_some()),
                ats_depth: attachment.ats.unwrap_or_default(),
                quarantined: attachment.quarantined.into(),
                consumed: false,
            }),
        );
        refill(
            &mut snapshot.pasids,
            self.pasids.iter().map(|((device, pasid), attachment)| PasidState {
                unit: base(attachment.unit),
                token: attachment.token.0,
                pasid: *pasid,
                segment: device.segment(),
                source: device.requester_id(),
                consumed: false,
            }),
        );
        refill(
            &mut snapshot.aliases,
            self.devices.iter().flat_map(|(device, attachment)| {
                let (segment, source) = (device.segment(), device.requester_id());
                attachment.aliases.iter().map(move |alias| AliasState { segment, source, alias: *alias })
            }),
        );
        refill(
            &mut snapshot.irtes,
            self.units.iter().flat_map(|unit| {
                let base = unit.base().0;
                unit.interrupts.iter().flat_map(|table| table.entries.iter()).map(move |(index, allocated)| {
                    let [low, high] = pair(allocated.entry.into_bits());
                    IrteState { unit: base, low, high, index: *index, owner: allocated.owner }
                })
            }),
        );
        let posted = self.posted.frames.iter().map(|(frame, used)| PostedState { frame: frame.0, used: *used });
        refill(&mut snapshot.posted, posted);
        Ok(())
    }

    /// Likewise, only what changes by itself: queues and faults. The rest stays as an earlier call has said it.
    pub fn snapshot_queues_into(&self, snapshot: &mut Snapshot) -> Result<(), Error> {
        self.must_be_live()?;
        self.domains.values().try_for_each(|domain| domain.fresh())?;
        self.units.iter().try_for_each(|unit| unit.growth_settled())?;
        refill(&mut snapshot.units, self.units.iter().map(|unit| unit.state()));
        refill(&mut snapshot.faults, self.faults.lines.iter().copied());
        Ok(())
    }
}

fn refill<T>(list: &mut alloc::vec::Vec<T>, items: impl Iterator<Item = T>) {
    list.clear();
    list.extend(items);
}

impl DomainState {
    /// What a handover must carry of a domain.
    pub(crate) fn of(domain: &Domain) -> Self {
        let sizes = domain.table.leaf_sizes();
        let (stage, root, parent) = match &domain.table {
            Table::Tree { stage: Stage::First, tree } => (FIRST_STAGE, tree.root().0, 0),
            Table::Tree { tree, .. } => (SECOND_STAGE, tree.root().0, 0),
            Table::PassThrough => (PASS_THROUGH, 0, 0),
            Table::Nested { root, parent, .. } => (NESTED, root.0, parent.0),
        };
        Self {
            token: domain.token.0,
            root,
            parent,
            stage,
            levels: domain.table.levels(),
            leaf_sizes: u8::from(sizes.two_mib) | u8::from(sizes.one_gib) << 1,
            snoop: u8::from(domain.snoop),
            coherent: u8::from(domain.coherent),
            address_bits: domain.address_bits,
            consumed: false,
        }
    }
}
