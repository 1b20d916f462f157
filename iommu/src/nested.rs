//! Domains without a table of ours: pass-through, and the guest's own first stage over the
//! second stage of another domain (VT-d 3.7).

use crate::domain::Domain;
use crate::error::Error;
use crate::fleet::Iommu;
use crate::geometry::Geometry;
use crate::ids::Token;
use crate::platform::Platform;
use crate::table::{Stage, Table};
use machine::access::Registers;
use machine::addr::{Iova, PAGE_SIZE};

impl<R: Registers> Iommu<R> {
    /// A domain whose devices reach all memory, for devices of Baton's own: see
    /// [`attach_pass_through`](Self::attach_pass_through).
    pub fn create_pass_through(&mut self, token: Token) -> Result<(), Error> {
        self.check_new(token)?;
        let geometry = Geometry { address_bits: 0, coherent: false, ..self.geometry };
        self.domains.insert(token, Domain::new(token, Table::PassThrough, geometry));
        Ok(())
    }

    /// A domain whose devices are led through the guest's own first stage: a table of `levels` (4
    /// or 5) at `root`, which like everything in it is an address that `parent` translates. What
    /// the guest puts there is its own affair: it reaches nothing that `parent` does not map.
    pub fn create_nested_domain(&mut self, token: Token, parent: Token, root: Iova, levels: u8) -> Result<(), Error> {
        self.check_new(token)?;
        let outer = self.domain_mut(parent)?;
        outer.mutable("nesting a domain in it")?;
        outer.fresh()?;
        if outer.stage() != Stage::Second {
            return Err(Error::WrongStage { token: parent, what: "no second stage; nothing can be nested in it" });
        }
        if !(4..=5).contains(&levels) || !root.0.is_multiple_of(PAGE_SIZE) || root.0 >> outer.address_bits != 0 {
            return Err(Error::WrongStage { token, what: "nested, but its root is no frame of the domain around it" });
        }
        let geometry = Geometry { snoop: outer.snoop, coherent: false, address_bits: 0, ..self.geometry };
        self.domains.insert(token, Domain::new(token, Table::Nested { root, levels, parent }, geometry));
        Ok(())
    }

    /// Has units and devices forget what they cached of a nested domain's first stage: for the
    /// guest's own invalidations.
    pub fn forget_nested(&mut self, platform: &mut Platform<'_>, token: Token) -> Result<(), Error> {
        self.must_be_live()?;
        let domain = self.domain_mut(token)?;
        if domain.stage() != Stage::Nested {
            return Err(Error::WrongStage { token, what: "not nested" });
        }
        self.forget_whole(platform, token)
    }

    /// The domains that are nested in `parent`.
    pub(crate) fn children(&self, parent: Token) -> impl Iterator<Item = &Domain> {
        self.domains.values().filter(move |domain| domain.table.parent() == Some(parent))
    }
}
