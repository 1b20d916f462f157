//! What devices really reach, by the structures that units walk: for PLAN, which believes no flag and no list of mappings.

use crate::error::Error;
use crate::fleet::Iommu;
use crate::ids::Token;
use crate::ledger::Ledger;
use machine::access::{Registers, TableMemory};
use machine::addr::HostPhys;
use machine::paging::{Leaf, Met};

const NO_TREE: &str = "without a page table of Baton's own; there is nothing that bounds what its devices reach";

impl<R: Registers> Iommu<R> {
    /// Calls `visit` with every leaf of these domains' page tables, as memory holds them now; `false` ends the walk. Each
    /// domain is named once; of a nested one it is the parent ([`Domain::parent`](crate::Domain::parent)) that says what
    /// it reaches.
    ///
    /// On the way there every live register is compared with what it must be, and every root, context and PASID entry: so
    /// these are the tables that the devices go through, and they go through no other. No frame is read that `owned` does
    /// not name as the IOMMU's own, and none twice: the walk ends, whatever the tables hold.
    pub fn inspect(
        &self,
        mem: &dyn TableMemory,
        owned: &dyn Fn(HostPhys) -> bool,
        tokens: &[Token],
        visit: &mut dyn FnMut(Token, Leaf) -> bool,
    ) -> Result<(), Error> {
        self.must_be_live()?;
        for unit in &self.units {
            unit.growth_settled()?;
            unit.window.compare(&unit.state())?;
        }
        let mut ledger = Ledger::new(owned);
        self.compare_tables(mem, &mut ledger)?;
        for token in tokens.iter().copied() {
            let domain = self.domains.get(&token).ok_or(Error::NoDomain { token })?;
            domain.fresh()?;
            let tree = domain.table.tree().ok_or(Error::WrongStage { token, what: NO_TREE })?;
            let mut refused = None;
            let whole = tree.inspect(mem, &mut |met| match met {
                Met::Leaf(leaf) => visit(token, leaf),
                Met::Table(table) => {
                    refused = ledger.claim("a page table", table).err();
                    refused.is_none()
                }
            });
            match refused {
                Some(error) => return Err(error),
                None if whole => {}
                None => return Ok(()),
            }
        }
        Ok(())
    }
}
