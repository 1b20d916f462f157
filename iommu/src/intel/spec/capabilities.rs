//! What a unit can do: CAP and ECAP, VT-d 11.4.2 and 11.4.3.

use bitfield_struct::bitfield;

/// CAP: VT-d 11.4.2.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Capability {
    /// ND: the unit has 2^(4 + 2 ND) domain ids; 7 is reserved.
    #[bits(3)]
    pub domains: u8,
    /// AFL: advanced fault logging.
    pub advanced_faults: bool,
    /// RWBF: the write buffer must be flushed after a change to a structure in memory.
    pub write_buffer: bool,
    /// PLMR: protected low memory region.
    pub protected_low: bool,
    /// PHMR: protected high memory region.
    pub protected_high: bool,
    /// CM: not-present and erroneous entries are cached too.
    pub caching_mode: bool,
    /// SAGAW: bit 1 is 3 levels (39 bits), bit 2 is 4 levels (48), bit 3 is 5 levels (57).
    #[bits(5)]
    pub widths: u8,
    #[bits(3)]
    __: u8,
    /// MGAW: the widest address a device may send, in bits, minus one.
    #[bits(6)]
    pub max_width: u8,
    /// ZLR: zero-length reads of write-only pages work.
    pub zero_length_reads: bool,
    /// ISOCH: the unit serves isochronous devices. Deprecated.
    pub isochronous: bool,
    /// FRO: offset of the first fault recording register, in units of 16 bytes.
    #[bits(10)]
    pub fault_offset: u16,
    /// SLLPS: bit 0 is 2 MiB leaves, bit 1 is 1 GiB leaves.
    #[bits(4)]
    pub large_pages: u8,
    __: bool,
    /// PSI: page-selective invalidation.
    pub page_selective: bool,
    /// NFR: fault recording registers, minus one.
    #[bits(8)]
    pub fault_records: u8,
    /// MAMV: the largest address mask of a page-selective invalidation, log2 of pages.
    #[bits(6)]
    pub max_mask: u8,
    /// DWD: invalidations can drain writes.
    pub drain_writes: bool,
    /// DRD: invalidations can drain reads.
    pub drain_reads: bool,
    /// FS1GP: 1 GiB leaves in the first stage.
    pub first_stage_1g: bool,
    #[bits(2)]
    __: u8,
    /// PI: posted interrupts.
    pub posted_interrupts: bool,
    /// FS5LP: five levels in the first stage.
    pub first_stage_5: bool,
    /// ECMDS: enhanced commands.
    pub enhanced_commands: bool,
    /// ESIRTPS: SIRTP invalidates the interrupt entry cache by itself.
    pub enhanced_sirtp: bool,
    /// ESRTPS: SRTP invalidates context cache and IOTLB by itself.
    pub enhanced_srtp: bool,
}

/// ECAP: VT-d 11.4.3.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ExtendedCapability {
    /// C: the unit snoops the CPU's caches when it walks structures in memory.
    pub coherent: bool,
    /// QI: queued invalidation.
    pub queued_invalidation: bool,
    /// DT: device TLBs (ATS).
    pub device_tlb: bool,
    /// IR: interrupt remapping.
    pub interrupt_remapping: bool,
    /// EIM: x2APIC destinations.
    pub extended_interrupts: bool,
    __: bool,
    /// PT: pass-through.
    pub pass_through: bool,
    /// SC: snoop control in second-stage leaves.
    pub snoop_control: bool,
    /// IRO: offset of the IOTLB registers, in units of 16 bytes.
    #[bits(10)]
    pub iotlb_offset: u16,
    #[bits(2)]
    __: u8,
    /// MHMV: the largest index mask of an interrupt entry cache invalidation.
    #[bits(4)]
    pub max_index_mask: u8,
    __: bool,
    /// MTS: memory types in first-stage and extended memory-type fields.
    pub memory_types: bool,
    /// NEST: nested translation.
    pub nested: bool,
    #[bits(2)]
    __: u8,
    /// PRS: page requests.
    pub page_requests: bool,
    /// ERS: execute requests.
    pub execute_requests: bool,
    /// SRS: supervisor requests.
    pub supervisor_requests: bool,
    __: bool,
    /// NWFS: the no-write flag of translation requests counts.
    pub no_write_flag: bool,
    /// EAFS: the extended-accessed bit of first-stage entries.
    pub extended_accessed: bool,
    /// PSS: PASIDs have so many bits, minus one.
    #[bits(5)]
    pub pasid_size: u8,
    /// PASID: requests with PASID.
    pub pasid: bool,
    /// DIT: device-TLB invalidations are throttled by physical function (PFSID counts).
    pub invalidation_throttle: bool,
    /// PDS: wait descriptors can drain page requests.
    pub page_request_drain: bool,
    /// SMTS: scalable mode.
    pub scalable_mode: bool,
    /// VCS: virtual commands.
    pub virtual_commands: bool,
    /// SSADS: accessed and dirty bits in the second stage.
    pub second_stage_dirty: bool,
    /// SSTS: second stage in scalable mode.
    pub second_stage: bool,
    /// FSTS: first stage in scalable mode.
    pub first_stage: bool,
    /// SMPWCS: the unit snoops when it walks what PASID table entries lead to.
    pub scalable_coherent: bool,
    /// RPS: the RID_PASID field of scalable context entries counts.
    pub rid_pasid: bool,
    __: bool,
    /// PMS: performance monitoring.
    pub performance: bool,
    /// ADMS: abort-DMA mode of the root table address.
    pub abort_mode: bool,
    /// RPRIVS: the RID_PRIV field of scalable context entries counts.
    pub rid_privileged: bool,
    #[bits(10)]
    __: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What QEMU 10.0's unit reports (aw-bits=48, intremap=on, eim=on).
    #[test]
    fn capabilities_of_qemu() {
        let cap = Capability::from_bits(0x00d2_008c_222f_0606);
        assert_eq!(cap.domains(), 6);
        assert_eq!(cap.widths(), 0b0110);
        assert_eq!(cap.max_width() + 1, 48);
        assert_eq!(cap.fault_offset() * 16, 0x220);
        assert_eq!(cap.large_pages(), 0b11);
        assert!(cap.page_selective() && !cap.caching_mode() && !cap.write_buffer());
        assert_eq!(cap.fault_records(), 0);
        assert_eq!(cap.max_mask(), 18);
        assert!(cap.drain_reads() && cap.drain_writes());
        assert!(!cap.posted_interrupts() && !cap.enhanced_srtp() && !cap.enhanced_sirtp());

        let ecap = ExtendedCapability::from_bits(0x00f0_0f5a);
        assert!(ecap.queued_invalidation() && ecap.interrupt_remapping() && ecap.extended_interrupts());
        assert!(!ecap.coherent() && !ecap.device_tlb() && !ecap.snoop_control() && !ecap.scalable_mode());
        assert_eq!(ecap.iotlb_offset() * 16, 0xf0);
        assert_eq!(ecap.max_index_mask(), 15);
    }

    /// Places of the high flags as Linux and QEMU have them: CAP.CM 7, CAP.RWBF 4,
    /// CAP.PI 59, CAP.ESRTPS 63, CAP.ESIRTPS 62, ECAP.SC 7, ECAP.SMTS 43.
    #[test]
    fn single_bits() {
        assert!(Capability::from_bits(1 << 7).caching_mode());
        assert!(Capability::from_bits(1 << 4).write_buffer());
        assert!(Capability::from_bits(1 << 59).posted_interrupts());
        assert!(Capability::from_bits(1 << 63).enhanced_srtp());
        assert!(Capability::from_bits(1 << 62).enhanced_sirtp());
        assert!(ExtendedCapability::from_bits(1).coherent());
        assert!(ExtendedCapability::from_bits(1 << 2).device_tlb());
        assert!(ExtendedCapability::from_bits(1 << 7).snoop_control());
        assert!(ExtendedCapability::from_bits(1 << 43).scalable_mode());
        // Linux's ecap_*(): each flag and its bit.
        type Flag = fn(&ExtendedCapability) -> bool;
        let flags: [(Flag, u32); 22] = [
            (ExtendedCapability::memory_types, 25),
            (ExtendedCapability::nested, 26),
            (ExtendedCapability::page_requests, 29),
            (ExtendedCapability::execute_requests, 30),
            (ExtendedCapability::supervisor_requests, 31),
            (ExtendedCapability::no_write_flag, 33),
            (ExtendedCapability::extended_accessed, 34),
            (ExtendedCapability::pasid, 40),
            (ExtendedCapability::invalidation_throttle, 41),
            (ExtendedCapability::page_request_drain, 42),
            (ExtendedCapability::scalable_mode, 43),
            (ExtendedCapability::virtual_commands, 44),
            (ExtendedCapability::second_stage_dirty, 45),
            (ExtendedCapability::second_stage, 46),
            (ExtendedCapability::first_stage, 47),
            (ExtendedCapability::scalable_coherent, 48),
            (ExtendedCapability::rid_pasid, 49),
            (ExtendedCapability::performance, 51),
            (ExtendedCapability::abort_mode, 52),
            (ExtendedCapability::rid_privileged, 53),
            (ExtendedCapability::pass_through, 6),
            (ExtendedCapability::queued_invalidation, 1),
        ];
        for (flag, bit) in flags {
            assert!(
                flag(&ExtendedCapability::from_bits(1 << bit)) && !flag(&ExtendedCapability::from_bits(!(1 << bit)))
            );
        }
        assert_eq!(ExtendedCapability::from_bits(0x13 << 35).pasid_size(), 0x13);
    }
}
