//! [`Random`]: numbers that a seed repeats, apart from libtorch's generator,
//! which other threads use too.

use tch::Tensor;

/// Random numbers for samples of one's own ([`Domain::Draw`](super::Domain::Draw)).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64, salt: u64) -> Random {
        let mut random = Random(seed ^ salt.wrapping_mul(0xd134_2543_de82_ef95));
        random.bits();
        random
    }

    /// SplitMix64 (Steele, Lea and Flood 2014).
    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between 0 and 1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Between `low` and `high`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Numbers of either sign, of magnitudes from 0.2 to 1: none is nearly 0.
    pub(super) fn signed(&mut self) -> f64 {
        let magnitude = self.between(0.2, 1.0);
        if self.bits() & 1 == 0 { magnitude } else { -magnitude }
    }

    /// An f64 tensor on the CPU of numbers between `low` and `high`.
    pub fn tensor(&mut self, shape: &[i64], low: f64, high: f64) -> Tensor {
        self.fill(shape, |random| random.between(low, high))
    }

    pub(super) fn fill(
        &mut self,
        shape: &[i64],
        mut draw: impl FnMut(&mut Random) -> f64,
    ) -> Tensor {
        let numbers: Vec<f64> = (0..shape.iter().product::<i64>()).map(|_| draw(self)).collect();
        Tensor::from_slice(&numbers).reshape(shape)
    }
}
