//! Interrupt lines (PCI 3.0 2.2.6).

use super::bdf::Bdf;
use super::config::ConfigSpace;
use super::msi::{Msi, Msix};

/// The register that says which line a function drives: 0 for none, 1 to 4 for INTA# to INTD# (PCI 3.0 6.2.4).
const INTERRUPT_PIN: u16 = 0x3d;

/// The line of a function that can interrupt by it only, `A` to `D`: it has neither MSI nor MSI-X.
#[must_use]
pub fn line_only(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> Option<char> {
    let line = match config.read8(bdf, INTERRUPT_PIN) {
        pin @ 1..=4 => char::from(b'A' + pin - 1),
        _ => return None,
    };
    (Msi::find(config, bdf).is_none() && Msix::find(config, bdf).is_none()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::super::model::{Device, Model, bdf};
    use super::*;

    #[test]
    fn who_has_nothing_but_a_line_is_told() {
        let model = Model::default();
        let mut plain = Device::new(0x10ec, 0x8139, 0x02_0000);
        model.add("00:01.0", plain.clone());
        plain.set(0x3d, 1, 2);
        model.add("00:02.0", plain.clone());
        // 64-bit MSI, one vector.
        plain.capability(0x50, 5, &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        model.add("00:03.0", plain.clone());
        plain.set(0x3d, 1, 0xff);
        model.add("00:04.0", plain);
        let line = |name| line_only(&model, bdf(name));
        assert_eq!((line("00:01.0"), line("00:02.0"), line("00:03.0"), line("00:04.0")), (None, Some('B'), None, None));
    }
}
