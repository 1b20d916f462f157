//! What a domain's devices are led through: a page table of one of two formats, or none.

use crate::ids::Token;
use machine::access::TableMemory;
use machine::addr::{HostPhys, Iova};
use machine::paging::{
    Caching, Flush, Format, Holes, LeafSizes, PageTable, PagingError, Permissions, Translation, VTD_FIRST_STAGE,
    VTD_SECOND_STAGE,
};

/// Kind of a domain's tables: VT-d 3.5 to 3.8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A second-stage table: legacy mode's only kind, and scalable mode's where ECAP.SSTS.
    Second,
    /// A first-stage table: scalable mode with ECAP.FSTS.
    First,
    /// None: devices reach all memory. For Baton's own devices only.
    PassThrough,
    /// The guest's own first stage over the second stage of another domain.
    Nested,
}

impl Stage {
    /// The format of tables that are ours; the guest's own have the first stage's.
    pub(crate) fn format(self) -> &'static Format {
        match self {
            Self::Second | Self::PassThrough => &VTD_SECOND_STAGE,
            Self::First | Self::Nested => &VTD_FIRST_STAGE,
        }
    }
}

/// The tables of a domain.
#[derive(Debug)]
pub(crate) enum Table {
    /// A page table of ours: a first or a second stage.
    Tree { stage: Stage, tree: PageTable },
    /// None.
    PassThrough,
    /// The guest's first stage at `root`, an address that `parent` maps.
    Nested { root: Iova, levels: u8, parent: Token },
}

impl Table {
    /// An empty page table.
    pub(crate) fn new(
        mem: &mut dyn TableMemory,
        stage: Stage,
        levels: u8,
        leafs: LeafSizes,
    ) -> Result<Self, PagingError> {
        PageTable::new(mem, stage.format(), levels, leafs).map(|tree| Self::Tree { stage, tree })
    }

    pub(crate) fn stage(&self) -> Stage {
        match self {
            Self::Tree { stage, .. } => *stage,
            Self::PassThrough => Stage::PassThrough,
            Self::Nested { .. } => Stage::Nested,
        }
    }

    /// The page table, where it is ours.
    pub(crate) fn tree(&self) -> Option<&PageTable> {
        if let Self::Tree { tree, .. } = self { Some(tree) } else { None }
    }

    fn tree_mut(&mut self) -> Option<&mut PageTable> {
        if let Self::Tree { tree, .. } = self { Some(tree) } else { None }
    }

    pub(crate) fn root(&self) -> HostPhys {
        self.tree().map_or(HostPhys(0), PageTable::root)
    }

    pub(crate) fn levels(&self) -> u8 {
        match self {
            Self::Tree { tree, .. } => tree.levels(),
            Self::PassThrough => 0,
            Self::Nested { levels, .. } => *levels,
        }
    }

    pub(crate) fn leaf_sizes(&self) -> LeafSizes {
        self.tree().map_or(LeafSizes::ONLY_4K, PageTable::leaf_sizes)
    }

    /// The domain whose second stage this one's first stage stands on.
    pub(crate) fn parent(&self) -> Option<Token> {
        if let Self::Nested { parent, .. } = self { Some(*parent) } else { None }
    }

    /// `None` when there is no page table of ours.
    pub(crate) fn map(
        &mut self,
        mem: &mut dyn TableMemory,
        iova: Iova,
        to: HostPhys,
        bytes: u64,
        permissions: Permissions,
        snoop: bool,
    ) -> Option<Result<Flush, PagingError>> {
        let caching = if snoop { Caching::Coherent } else { Caching::WriteBack };
        Some(self.tree_mut()?.map(mem, iova.0, to, bytes, permissions, caching))
    }

    /// `None` when there is no page table of ours.
    pub(crate) fn unmap(
        &mut self,
        mem: &mut dyn TableMemory,
        iova: Iova,
        bytes: u64,
        holes: Holes,
    ) -> Option<Result<Flush, PagingError>> {
        Some(self.tree_mut()?.unmap(mem, iova.0, bytes, holes))
    }

    pub(crate) fn translate(&self, mem: &dyn TableMemory, iova: Iova) -> Option<Translation> {
        self.tree()?.translate(mem, iova.0)
    }

    pub(crate) fn for_each_table(&self, mem: &dyn TableMemory, visit: &mut dyn FnMut(HostPhys)) {
        if let Some(tree) = self.tree() {
            tree.for_each_table(mem, visit);
        }
    }

    /// Frees the tables; no hardware may hold any of them.
    pub(crate) fn destroy(self, mem: &mut dyn TableMemory) {
        if let Self::Tree { tree, .. } = self {
            tree.destroy(mem);
        }
    }
}
