//! Numbers that look random and are the same again for the same seed.

/// Dice for one step of a soak: what a step does depends on the seed and its number only, so that a soak can be resumed.
pub struct Dice(u64);

impl Dice {
    /// For step `step` of the soak with this seed.
    #[must_use]
    pub fn new(seed: u64, step: u32) -> Self {
        let mut dice = Self(seed ^ u64::from(step).wrapping_mul(0xd134_2543_de82_ef95));
        dice.roll();
        dice
    }

    /// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    /// Below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.roll() % limit.max(1) as u64) as usize
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_and_step_give_the_same() {
        let rolls = |seed, step| {
            let mut dice = Dice::new(seed, step);
            [(); 8].map(|()| dice.below(1000))
        };
        assert_eq!(rolls(7, 3), rolls(7, 3));
        assert!(rolls(7, 3) != rolls(7, 4) && rolls(7, 3) != rolls(8, 3));
    }

    #[test]
    fn splitmix_is_splitmix() {
        // The reference implementation's first numbers for the seed 1234567 (Vigna, splitmix64.c).
        let mut dice = Dice(1_234_567);
        assert_eq!([dice.roll(), dice.roll()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
        assert_eq!(Dice(0).pick::<u8>(&[]), None);
    }
}
