//! Instructions that the page tables take on the host, counted by callgrind: the loops of `./x bench`'s iommu figures without
//! the unit and its invalidation. Run by `./x bench`.
#![expect(missing_docs, reason = "the macros make public items")]

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group, main};
use machine::access::TableMemory;
use machine::addr::{HostPhys, PAGE_SIZE, PAGE_SIZE_1G, PAGE_SIZE_2M};
use machine::paging::{Caching, Format, Holes, LeafSizes, PageTable, Permissions, VTD_FIRST_STAGE, VTD_SECOND_STAGE};

/// Tables for 1 GiB in 4 KiB leaves, and some.
const FRAMES: usize = 520;
/// What is mapped leads there.
const TO: u64 = 64 * PAGE_SIZE_1G;

/// Frames from address 0 on.
struct Frames {
    words: Vec<u64>,
    free: Vec<u64>,
}

impl Frames {
    fn new() -> Self {
        Self { words: vec![0; FRAMES * 512], free: (0..FRAMES as u64).rev().map(|frame| frame * PAGE_SIZE).collect() }
    }
}

impl TableMemory for Frames {
    fn allocate(&mut self) -> Option<HostPhys> {
        let frame = self.free.pop()?;
        self.words[(frame / 8) as usize..][..512].fill(0);
        Some(HostPhys(frame))
    }
    fn free(&mut self, frame: HostPhys) {
        self.free.push(frame.0);
    }
    fn read(&self, entry: HostPhys) -> u64 {
        self.words[(entry.0 / 8) as usize]
    }
    fn write(&mut self, entry: HostPhys, value: u64) {
        self.words[(entry.0 / 8) as usize] = value;
    }
    fn update(&mut self, entry: HostPhys, clear: u64, set: u64) -> u64 {
        let old = self.read(entry);
        self.write(entry, old & !clear | set);
        old
    }
    fn write_pair(&mut self, entry: HostPhys, value: [u64; 2]) {
        self.write(entry, value[0]);
        self.write(HostPhys(entry.0 + 8), value[1]);
    }
    fn flush(&mut self, _: HostPhys, _: u64) {}
}

struct Space {
    memory: Frames,
    table: PageTable,
}

fn empty(format: &'static Format) -> Space {
    let mut memory = Frames::new();
    let table = PageTable::new(&mut memory, format, 4, LeafSizes::UP_TO_1G).expect("frames");
    Space { memory, table }
}

/// 1 GiB that leads one leaf of `size` beside a larger leaf's boundary.
fn mapped(format: &'static Format, size: u64) -> Space {
    map(empty(format), size)
}

fn map(mut space: Space, size: u64) -> Space {
    let flush = space.table.map(
        &mut space.memory,
        0,
        HostPhys(TO + size),
        PAGE_SIZE_1G,
        Permissions::READ_WRITE,
        Caching::WriteBack,
    );
    flush.expect("room").complete(&mut space.memory);
    space
}

#[library_benchmark]
#[bench::map_4k(args = (&VTD_SECOND_STAGE), setup = empty)]
#[bench::map_4k_first_stage(args = (&VTD_FIRST_STAGE), setup = empty)]
fn map_4k(space: Space) -> Space {
    black_box(map(black_box(space), PAGE_SIZE))
}

#[library_benchmark]
#[bench::map_2m(args = (&VTD_SECOND_STAGE), setup = empty)]
fn map_2m(space: Space) -> Space {
    black_box(map(black_box(space), PAGE_SIZE_2M))
}

#[library_benchmark]
#[bench::unmap_4k(args = (&VTD_SECOND_STAGE, PAGE_SIZE), setup = mapped)]
#[bench::unmap_2m(args = (&VTD_SECOND_STAGE, PAGE_SIZE_2M), setup = mapped)]
fn unmap(space: Space) -> Space {
    let mut space = black_box(space);
    let flush = space.table.unmap(&mut space.memory, 0, PAGE_SIZE_1G, Holes::Refuse);
    flush.expect("mapped").complete(&mut space.memory);
    black_box(space)
}

// A single page, its neighbours stay.
#[library_benchmark]
#[bench::unmap_page(args = (&VTD_SECOND_STAGE, PAGE_SIZE), setup = mapped)]
fn unmap_page(space: Space) -> Space {
    let mut space = black_box(space);
    let flush = space.table.unmap(&mut space.memory, 0, PAGE_SIZE, Holes::Refuse);
    flush.expect("mapped").complete(&mut space.memory);
    black_box(space)
}

#[library_benchmark]
#[bench::protect_4k(args = (&VTD_SECOND_STAGE, PAGE_SIZE), setup = mapped)]
fn protect(space: Space) -> Space {
    let mut space = black_box(space);
    let flush = space.table.protect(&mut space.memory, 0, PAGE_SIZE_1G, Permissions::READ, Holes::Refuse);
    flush.expect("mapped").complete(&mut space.memory);
    black_box(space)
}

#[library_benchmark]
#[bench::merge_4k(args = (&VTD_SECOND_STAGE, PAGE_SIZE_1G), setup = small)]
fn merge(space: Space) -> Space {
    let mut space = black_box(space);
    let flush = space.table.merge(&mut space.memory, 0, PAGE_SIZE_1G);
    flush.expect("room").complete(&mut space.memory);
    black_box(space)
}

/// 1 GiB in 4 KiB leaves that fit one large leaf.
fn small(format: &'static Format, size: u64) -> Space {
    let mut space = mapped(format, size);
    let flush = space.table.split(&mut space.memory, 0, PAGE_SIZE_1G, LeafSizes::ONLY_4K);
    flush.expect("frames").complete(&mut space.memory);
    space
}

// An address space from nothing: its root, and 1 GiB in the largest leaves that fit.
#[library_benchmark]
#[bench::space_1g(args = (), setup = Frames::new)]
fn space(memory: Frames) -> Space {
    let mut memory = black_box(memory);
    let table = PageTable::new(&mut memory, &VTD_SECOND_STAGE, 4, LeafSizes::UP_TO_1G).expect("frames");
    black_box(map(Space { memory, table }, PAGE_SIZE_2M))
}

library_benchmark_group!(name = paging, benchmarks = [map_4k, map_2m, unmap, unmap_page, protect, merge, space]);

main!(library_benchmark_groups = paging);
