//! The instructions around the virtual-machine control structure (SDM 3C chapter 31). Fields are those of the VMCS that is current on
//! this pCPU. In the tests on the host the fields are a map, so that what is written can be looked at.
#![cfg_attr(not(test), expect(unsafe_code, reason = "VMX instructions"))]

#[cfg(not(test))]
pub use hardware::*;
#[cfg(test)]
pub use model::*;

/// From a field to the next of its kind: encodings count by 2 (SDM 3C 25.11.2).
pub const STEP: u32 = 2;

#[cfg(not(test))]
mod hardware {
    use core::arch::asm;

    use machine::addr::HostPhys;

    /// Reads a field; 0 where there is none, or no VMCS.
    pub fn read(field: u32) -> u64 {
        let value;
        // SAFETY: VMREAD writes its operand only; in VMX operation, where a VMCS is current, which is where this module's callers are.
        unsafe {
            asm!("xor {0:e}, {0:e}", "vmread {0}, {1}", out(reg) value, in(reg) u64::from(field), options(nomem, nostack));
        }
        value
    }

    /// Writes a field; one that does not exist shows at the next entry, which fails.
    pub fn write(field: u32, value: u64) {
        // SAFETY: what a VMCS says matters at the next entry only, whose caller answers for it.
        unsafe { asm!("vmwrite {0}, {1}", in(reg) u64::from(field), in(reg) value, options(nomem, nostack)) };
    }

    macro_rules! by_address {
        ($($name:ident: $instruction:literal, $what:literal;)+) => {$(
            #[doc = concat!($what, " Whether it succeeded.")]
            ///
            /// # Safety
            /// CPL is 0, CR4.VMXE is set; the frame is one for this, and nobody else's.
            pub unsafe fn $name(frame: HostPhys) -> bool {
                let address = frame.get();
                let failed: u8;
                // SAFETY: by contract; the flags are captured here.
                unsafe {
                    asm!(concat!($instruction, " qword ptr [{}]"), "setna {}", in(reg) &raw const address, out(reg_byte) failed,
                        options(nostack));
                }
                failed == 0
            }
        )+};
    }

    by_address! {
        vmxon: "vmxon", "Enters VMX operation with this VMXON region.";
        load: "vmptrld", "Makes this VMCS current and active.";
        clear: "vmclear", "Makes this VMCS inactive, its state in memory.";
    }

    /// Leaves VMX operation.
    ///
    /// # Safety
    /// In VMX operation, with no VMCS active that is still needed.
    pub unsafe fn vmxoff() {
        // SAFETY: by contract.
        unsafe { asm!("vmxoff", options(nostack)) };
    }

    /// Forgets all translations of all guests on this pCPU: INVEPT type 2, INVVPID type 2.
    pub fn invalidate() {
        let nothing = [0u64; 2];
        // SAFETY: in VMX operation, where the callers are; only cached translations are lost.
        unsafe {
            asm!("invept {0}, [{1}]", "invvpid {0}, [{1}]", in(reg) 2u64, in(reg) nothing.as_ptr(), options(nostack));
        }
    }

    /// Runs the host's NMI handler: the exit has taken the NMI, and the handler's IRET lets the next one through.
    pub fn take_nmi() {
        // SAFETY: the IDT has a handler for vector 2, which keeps all registers.
        unsafe { asm!("int 2") };
    }
}

#[cfg(test)]
mod model {
    #![allow(missing_docs, clippy::missing_safety_doc, reason = "as in the hardware's module")]
    #![expect(unsafe_code, reason = "the hardware's signatures")]

    extern crate std;

    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::thread_local;

    use machine::addr::HostPhys;

    thread_local! {
        static FIELDS: RefCell<BTreeMap<u32, u64>> = const { RefCell::new(BTreeMap::new()) };
    }

    pub fn read(field: u32) -> u64 {
        FIELDS.with_borrow(|fields| fields.get(&field).copied().unwrap_or(0))
    }

    pub fn write(field: u32, value: u64) {
        FIELDS.with_borrow_mut(|fields| fields.insert(field, value));
    }

    pub unsafe fn vmxon(_: HostPhys) -> bool {
        true
    }

    pub unsafe fn load(_: HostPhys) -> bool {
        true
    }

    pub unsafe fn clear(_: HostPhys) -> bool {
        true
    }

    pub unsafe fn vmxoff() {}

    pub fn invalidate() {}

    pub fn take_nmi() {}
}
