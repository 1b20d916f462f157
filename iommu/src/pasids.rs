//! PASIDs: several domains behind one device (VT-d 3.4.3), told apart by a number in its requests.

use crate::error::Error;
use crate::fleet::{Iommu, PasidAttachment};
use crate::ids::Token;
use crate::intel::pasids::PasidDirectory;
use crate::intel::spec::invalidation::Descriptor;
use crate::intel::spec::tables::pair;
use crate::platform::Platform;
use crate::table::Stage;
use machine::access::Registers;
use machine::addr::Iova;
use machine::pci::Bdf;

/// Mask of a device TLB invalidation that means everything.
const ALL_PAGES: u8 = 52;

impl<R: Registers> Iommu<R> {
    /// Leads those requests of `device` that carry `pasid` to the domain. The device is attached
    /// already, and its unit in scalable mode with ECAP.PASID; PASID 0 is that attachment's.
    /// Enable PASIDs in the device afterwards.
    pub fn attach_pasid(
        &mut self,
        platform: &mut Platform<'_>,
        device: Bdf,
        pasid: u32,
        token: Token,
    ) -> Result<(), Error> {
        self.must_be_live()?;
        let directory = self.check_attach_pasid(device, pasid, token)?;
        let index = self.devices.get(&device).ok_or(Error::NotAttached { device })?.unit;
        let mut path = self.path(token, 0)?;
        let held = self.domain_mut(token)?.id_on(index);
        let unit = self.unit_mut(index)?;
        let base = unit.base();
        let found = directory.entry(platform.mem, pasid);
        if found.low.present() {
            let (what, found) = ("PASID entry", pair(found.low.into_bits()));
            return Err(Error::Entry { unit: base, what, index: pasid, expected: [0; 2], found });
        }
        // A table that is there for nothing does no harm; a domain id would be lost.
        directory.prepare(platform, pasid)?;
        path.did = match held {
            Some(did) => did,
            None => unit.dids.allocate().ok_or(Error::NoDomainId { unit: base })?,
        };
        directory.set(platform, pasid, unit.pasid_entry(&path));
        let seen = unit.after_first_entry(platform, &[], path.did, pasid);

        // Attached from here on, whatever `seen` says, as in `attach`.
        self.domain_mut(token)?.enter(index, path.did, pasid);
        self.pasids.insert((device, pasid), PasidAttachment { unit: index, token });
        seen
    }

    /// Takes `pasid` away from `device`: its requests with that PASID are blocked, and nothing of
    /// them is left in any cache, when this returns `Ok`. After an error call it again; until it
    /// succeeds the PASID stays recorded and the domain is stale.
    pub fn detach_pasid(&mut self, platform: &mut Platform<'_>, device: Bdf, pasid: u32) -> Result<(), Error> {
        self.must_be_live()?;
        let missing = Error::NoPasid { device, pasid };
        let PasidAttachment { unit, token } = *self.pasids.get(&(device, pasid)).ok_or(missing)?;
        let attachment = self.devices.get(&device).ok_or(Error::NotAttached { device })?;
        let (directory, ats) = (attachment.directory.ok_or(missing)?, attachment.ats);
        let own = attachment.token;
        self.domain_mut(own)?.mutable("detaching a PASID")?;
        let domain = self.domain_mut(token)?;
        domain.mutable("detaching a PASID")?;
        let stage = domain.stage();
        let id = domain.ids.iter().find(|id| id.unit == unit).ok_or(missing)?;
        // The last user's id is given to others: then all of it is forgotten, not only this PASID.
        let (did, whole) = (id.did, id.users == 1 || matches!(stage, Stage::Second | Stage::PassThrough));

        let tlb = ats.and_then(|depth| self.tlb_of(unit, device, depth));
        let owner = self.unit_mut(unit)?;
        directory.clear(platform, pasid);
        // VT-d 6.5.3.3: PASID cache, IOTLB, device TLB, each complete before the next. What was
        // cached of a first stage bears the PASID; a second stage's only the domain id.
        let drain = owner.drain_bits();
        let iotlb = if whole { Descriptor::iotlb_domain(did, drain) } else { Descriptor::pasid_iotlb(did, pasid) };
        let mut done = owner.submit(platform, &[Descriptor::pasid_cache(did, pasid)]);
        done = done.and_then(|()| owner.submit(platform, &[iotlb]));
        if let Some(tlb) = tlb {
            let all = Descriptor::pasid_device_tlb(tlb, pasid, Iova(0), ALL_PAGES);
            done = done.and_then(|()| owner.submit(platform, &[all]));
        }
        if let Err(error) = done {
            self.domain_mut(token)?.stale = true;
            return Err(error);
        }
        directory.wipe(platform, pasid);
        self.pasids.remove(&(device, pasid));
        self.leave(token, unit, pasid)
    }

    /// Everything that can be refused is refused here.
    fn check_attach_pasid(&mut self, device: Bdf, pasid: u32, token: Token) -> Result<PasidDirectory, Error> {
        let domain = self.domain_mut(token)?;
        domain.mutable("attaching a PASID")?;
        domain.fresh()?;
        if domain.stage() == Stage::PassThrough {
            return Err(Error::WrongStage { token, what: "pass-through, which no PASID gets" });
        }
        let attachment = self.devices.get(&device).ok_or(Error::NotAttached { device })?;
        let (index, own, directory) = (attachment.unit, attachment.token, attachment.directory);
        // The device itself must not be in the middle of an upgrade either.
        self.domain_mut(own)?.mutable("attaching a PASID")?;
        let limit = self.unit_mut(index)?.pasid_limit();
        let unit = self.unit_mut(index)?.base();
        let directory = directory.filter(|_| limit > 0);
        let what = "requests with PASID (scalable mode and ECAP.PASID); attach the device without";
        let directory = directory.ok_or(Error::Unsupported { unit, what })?;
        if !(1..limit).contains(&pasid) {
            return Err(Error::PasidRange { device, pasid, limit });
        }
        if let Some(other) = self.pasids.get(&(device, pasid)) {
            return Err(Error::PasidClaimed { device, pasid, token: other.token });
        }
        self.check_format(token, index)?;
        Ok(directory)
    }
}
