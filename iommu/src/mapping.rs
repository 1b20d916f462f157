//! Domains: creation, mapping and unmapping, immutability.

use crate::domain::Domain;
use crate::error::Error;
use crate::fleet::Iommu;
use crate::geometry::Geometry;
use crate::ids::{Token, UnitIndex};
use crate::platform::{Platform, Walked};
use crate::table::Table;
use machine::access::{Registers, TableMemory};
use machine::addr::{HostPhys, Iova};
use machine::paging::{Flush, Holes, LeafSizes, Permissions, Translation};

/// Why a domain has nothing to map in.
const NO_TABLE: &str = "without a page table of Baton's own; nothing is mapped in it";

impl<R: Registers> Iommu<R> {
    /// A new, empty domain for devices behind any unit: they reach nothing yet.
    pub fn create_domain(&mut self, platform: &mut Platform<'_>, token: Token) -> Result<(), Error> {
        self.create_domain_with(platform, token, self.geometry)
    }

    /// Likewise, with leaves that are in `sizes` besides 4 KiB, as far as every unit has them.
    pub fn create_domain_of(
        &mut self,
        platform: &mut Platform<'_>,
        token: Token,
        sizes: LeafSizes,
    ) -> Result<(), Error> {
        let leaf_sizes = self.geometry.leaf_sizes.and(sizes);
        self.create_domain_with(platform, token, Geometry { leaf_sizes, ..self.geometry })
    }

    /// A new, empty domain for devices behind some units only, where not all have a kind of table
    /// in common.
    pub fn create_domain_for(
        &mut self,
        platform: &mut Platform<'_>,
        token: Token,
        units: &[UnitIndex],
    ) -> Result<(), Error> {
        let geometry = self.geometry_of(units)?;
        self.create_domain_with(platform, token, geometry)
    }

    fn create_domain_with(
        &mut self,
        platform: &mut Platform<'_>,
        token: Token,
        geometry: Geometry,
    ) -> Result<(), Error> {
        self.check_new(token)?;
        let geometry = geometry.check(token)?;
        let mut walked = Walked { mem: platform.mem, coherent: geometry.coherent };
        let table = Table::new(&mut walked, geometry.stage, geometry.levels, geometry.leaf_sizes)
            .map_err(|cause| Error::Paging { token, cause })?;
        self.domains.insert(token, Domain::new(token, table, geometry));
        Ok(())
    }

    pub(crate) fn check_new(&self, token: Token) -> Result<(), Error> {
        self.must_be_live()?;
        if self.domains.contains_key(&token) { Err(Error::DomainExists { token }) } else { Ok(()) }
    }

    /// Removes a domain to which no device is attached, and frees its tables. The
    /// memory that it mapped is not touched.
    pub fn destroy_domain(&mut self, platform: &mut Platform<'_>, token: Token) -> Result<(), Error> {
        self.must_be_live()?;
        let domain = self.domain_mut(token)?;
        domain.mutable("removing it")?;
        if let Some((device, _)) = self.devices.iter().find(|(_, attachment)| attachment.token == token) {
            return Err(Error::DomainInUse { token, device: *device });
        }
        if let Some(((device, _), _)) = self.pasids.iter().find(|(_, attachment)| attachment.token == token) {
            return Err(Error::DomainInUse { token, device: *device });
        }
        if let Some(child) = self.children(token).next() {
            return Err(Error::ParentInUse { token, child: child.token });
        }
        // No device: every id it had was invalidated when the last one was detached.
        if let Some(domain) = self.domains.remove(&token) {
            domain.table.destroy(platform.mem);
        }
        Ok(())
    }

    /// Lets the domain's devices reach `bytes` at `to` through `iova`. All three are
    /// multiples of 4 KiB; no part of the range is mapped yet.
    ///
    /// A time-out leaves the range mapped: unmap it before the memory is reused.
    pub fn map(
        &mut self,
        platform: &mut Platform<'_>,
        token: Token,
        iova: Iova,
        to: HostPhys,
        bytes: u64,
        permissions: Permissions,
    ) -> Result<(), Error> {
        self.must_be_live()?;
        let zero_length_reads = self.geometry.zero_length_reads;
        let domain = self.domain_mut(token)?;
        if domain.table.tree().is_none() {
            return Err(Error::WrongStage { token, what: NO_TABLE });
        }
        let bits = domain.address_bits;
        let end = iova.0.saturating_add(bytes);
        if bits < 64 && end > 1 << bits {
            return Err(Error::AddressTooWide { token, end, bits });
        }
        if permissions.write && !permissions.read && !zero_length_reads {
            return Err(Error::WriteOnly { token });
        }
        domain.mutable("mapping")?;
        domain.fresh()?;
        let mut walked = Walked { mem: platform.mem, coherent: domain.coherent };
        let flush = domain
            .table
            .map(&mut walked, iova, to, bytes, permissions, domain.snoop)
            .ok_or(Error::WrongStage { token, what: NO_TABLE })?
            .map_err(|cause| Error::Paging { token, cause })?;
        if flush.must_invalidate() {
            return self.forget(platform, token, flush);
        }
        // Nothing that hardware could have cached changed, unless it caches absence.
        self.show_range(platform, token, &flush.range())?;
        flush.complete(platform.mem);
        Ok(())
    }

    /// Takes `bytes` from `iova` away from the domain's devices. When this returns `Ok`,
    /// no DMA can reach what was mapped there; when it returns a time-out or a queue
    /// error, DMA may, the domain is stale, and that memory must not be reused.
    pub fn unmap(
        &mut self,
        platform: &mut Platform<'_>,
        token: Token,
        iova: Iova,
        bytes: u64,
        holes: Holes,
    ) -> Result<(), Error> {
        self.must_be_live()?;
        let domain = self.domain_mut(token)?;
        domain.mutable("unmapping")?;
        let mut walked = Walked { mem: platform.mem, coherent: domain.coherent };
        let flush = domain
            .table
            .unmap(&mut walked, iova, bytes, holes)
            .ok_or(Error::WrongStage { token, what: NO_TABLE })?
            .map_err(|cause| Error::Paging { token, cause })?;
        self.forget(platform, token, flush)
    }

    /// Where `iova` leads, by the tables.
    #[must_use]
    pub fn translate(&self, mem: &dyn TableMemory, token: Token, iova: Iova) -> Option<Translation> {
        self.domains.get(&token)?.table.translate(mem, iova)
    }

    /// Makes the domain immutable: map, unmap, attach and detach answer `Busy`. Counted;
    /// returns the count.
    pub fn freeze(&mut self, token: Token) -> Result<u32, Error> {
        let domain = self.domain_mut(token)?;
        domain.fresh()?;
        domain.frozen = domain.frozen.checked_add(1).ok_or(Error::Busy { token, operation: "freezing" })?;
        Ok(domain.frozen)
    }

    /// Takes back one [`freeze`](Self::freeze). Returns the count left; at 0 the domain is
    /// mutable again.
    pub fn unfreeze(&mut self, token: Token) -> Result<u32, Error> {
        let domain = self.domain_mut(token)?;
        domain.frozen = domain.frozen.checked_sub(1).ok_or(Error::NotFrozen { token })?;
        Ok(domain.frozen)
    }

    /// Makes every unit forget what `flush` names, then frees the tables it unlinked. On
    /// an error these are leaked: hardware may still walk them.
    fn forget(&mut self, platform: &mut Platform<'_>, token: Token, flush: Flush) -> Result<(), Error> {
        if flush.must_invalidate() {
            let done = self.forget_range(platform, token, &flush.range(), flush.only_leaves());
            if let Err(error) = done {
                self.domain_mut(token)?.stale = true;
                return Err(error);
            }
        }
        flush.complete(platform.mem);
        Ok(())
    }
}
