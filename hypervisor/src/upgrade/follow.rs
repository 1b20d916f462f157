//! The arrival of the pCPUs behind the boot CPU.

use crate::cpu;

/// pCPU `index` has entered this image.
pub fn arrive(_index: u32) -> ! {
    cpu::halt_forever()
}
