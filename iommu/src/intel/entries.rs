//! What context and PASID entries must be for a domain. Attaching writes these, and adoption
//! expects these: there is no second place that knows.

use super::mode::Mode;
use super::pasids::{OWN_PASID, PasidDirectory};
use super::spec::invalidation::Descriptor;
use super::spec::scalable::{PasidEntry, ScalableContextEntry, Snooping};
use super::spec::tables::{ContextEntry, TranslationType};
use super::unit::Unit;
use crate::error::Error;
use crate::platform::Platform;
use machine::access::Registers;
use machine::addr::{HostPhys, Iova};

/// Where requests are led, with the id that tags what is cached of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    pub(crate) tables: PathTables,
    pub(crate) did: u16,
    /// Requests are snooped.
    pub(crate) snoop: bool,
}

/// Roots and levels of what requests go through.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PathTables {
    Second { root: HostPhys, levels: u8 },
    First { root: HostPhys, levels: u8 },
    PassThrough,
    Nested { root: Iova, levels: u8, second: (HostPhys, u8) },
}

impl<R: Registers> Unit<R> {
    /// Everything that the entries of a device with these requester ids need: context tables,
    /// and in scalable mode a PASID directory with a place for requests without PASID.
    pub(crate) fn prepare_tables(
        &self,
        platform: &mut Platform<'_>,
        mut sources: impl Iterator<Item = u16>,
    ) -> Result<Option<PasidDirectory>, Error> {
        sources.try_for_each(|source| self.tables.prepare(platform, source))?;
        if self.mode() == Mode::Legacy {
            return Ok(None);
        }
        let directory = PasidDirectory::new(platform, self.ecap.coherent())?;
        if let Err(error) = directory.prepare(platform, OWN_PASID) {
            directory.free(platform.mem);
            return Err(error);
        }
        Ok(Some(directory))
    }

    /// Has the unit see entries that became present: see
    /// [`after_first_mapping`](Self::after_first_mapping). `contexts` forget context entries; `pasid`
    /// got an entry under `did`.
    pub(crate) fn after_first_entry(
        &mut self,
        platform: &mut Platform<'_>,
        contexts: &[Descriptor],
        did: u16,
        pasid: u32,
    ) -> Result<(), Error> {
        let iotlb = [Descriptor::iotlb_domain(did, self.drain_bits())];
        if self.mode() == Mode::Legacy {
            return self.after_first_mapping(platform, &[contexts, &iotlb]);
        }
        // What a cached absence is tagged with is 0 (VT-d 6.1), a cached entry with its own id.
        let pasids = [Descriptor::pasid_cache_domain(0), Descriptor::pasid_cache(did, pasid)];
        self.after_first_mapping(platform, &[contexts, &pasids, &iotlb])
    }

    /// The low 128 bits of the context entry of a device whose requests without PASID take `path`.
    /// `directory`: its PASID directory, in scalable mode.
    pub(crate) fn context_entry(&self, path: &Path, directory: Option<HostPhys>, device_tlb: bool) -> u128 {
        if let (Mode::Scalable, Some(directory)) = (self.mode(), directory) {
            let pasids = self.pasid_limit() > 0;
            return ScalableContextEntry::directory(directory, device_tlb, pasids).into_bits();
        }
        let translation = if device_tlb { TranslationType::DEVICE_TLB } else { TranslationType::SECOND_STAGE };
        let entry = match path.tables {
            PathTables::Second { root, levels } => ContextEntry::second_stage(root, levels, path.did, translation),
            PathTables::PassThrough => ContextEntry::pass_through(self.widest(), path.did),
            // Refused before; an entry that is not present blocks.
            PathTables::First { .. } | PathTables::Nested { .. } => ContextEntry::new(),
        };
        entry.into_bits()
    }

    /// The PASID entry of requests that take `path`.
    pub(crate) fn pasid_entry(&self, path: &Path) -> PasidEntry {
        let snooping = Snooping { walks: self.ecap.scalable_coherent(), pages: path.snoop };
        match path.tables {
            PathTables::Second { root, levels } => PasidEntry::second_stage(root, levels, path.did, snooping),
            PathTables::First { root, levels } => PasidEntry::first_stage(root, levels, path.did, snooping),
            PathTables::PassThrough => PasidEntry::pass_through(self.widest(), path.did, snooping),
            PathTables::Nested { root, levels, second } => {
                PasidEntry::nested(root.0, levels, second, path.did, snooping)
            }
        }
    }
}
