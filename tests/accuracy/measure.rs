//! Numbers to measure at, and how far results are from exact ones.

use std::fmt::Write as _;
use tch::{Kind, Tensor};
use test_support::numbers;

pub const KINDS: [(Kind, &str); 4] =
    [(Kind::Float, "f32"), (Kind::Double, "f64"), (Kind::Half, "f16"), (Kind::BFloat16, "bf16")];

/// The distance of neighbours of the type at `x`.
pub fn ulp(kind: Kind, x: f64) -> f64 {
    let (digits, least) = match kind {
        Kind::Float => (24, -149),
        Kind::Half => (11, -24),
        Kind::BFloat16 => (8, -133),
        _ => (53, -1074),
    };
    let exponent = if x == 0.0 { least } else { x.abs().log2().floor() as i32 - digits + 1 };
    // `powi` would divide by infinity.
    f64::from(exponent.max(least)).exp2()
}

/// Random bits.
pub fn random(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// Numbers of the type of all magnitudes and both signs, subnormal ones too, and more of them
/// near 1.
pub fn sample(kind: Kind, n: u64, seed: u64) -> Tensor {
    let mut random = random(seed);
    let least = [2f64.powi(-1022), 2f64.powi(-126), 2f64.powi(-14)];
    let least = match kind {
        Kind::Double => least[0],
        Kind::Half => least[2],
        _ => least[1],
    };
    let mut x: Vec<f64> = Vec::new();
    for i in 0..n {
        let bits = random();
        let uniform = (random() >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0;
        x.push(match i % 10 {
            0 | 5 if kind == Kind::Double => f64::from_bits(bits),
            0 | 5 => f64::from(f32::from_bits(bits as u32)),
            1 | 6 => uniform,
            2 | 7 => uniform * 10.0,
            3 => uniform * least,
            4 => uniform * 100.0,
            _ => uniform * 10f64.powi((bits % 7) as i32 - 3),
        });
    }
    let x = Tensor::from_slice(&x).to_kind(kind);
    x.masked_select(&x.isfinite())
}

/// A number of points, which `TCH_FUNCTION_POINTS` gives.
pub fn points(usual: u64) -> u64 {
    std::env::var("TCH_FUNCTION_POINTS").map_or(usual, |n| n.parse().expect("a number"))
}

/// The file of this name in the folder that `make accuracy` gives.
pub fn write(name: &str, lines: &str) {
    let folder = std::env::var("TCH_FUNCTION_ACCURACY").expect("the folder to write to");
    let path = std::path::Path::new(&folder).join(name);
    std::fs::write(path, lines).expect("the file is written");
}

/// A line for each place, with the bits of all numbers.
pub fn lines(text: &mut String, start: &str, columns: &[Tensor]) {
    let columns: Vec<Vec<f64>> =
        columns.iter().map(|t| numbers(&t.detach().to_kind(Kind::Double))).collect();
    for i in 0..columns[0].len() {
        text.push_str(start);
        for column in &columns {
            write!(text, ",{:016x}", column[i].to_bits()).expect("a string takes text");
        }
        text.push('\n');
    }
}

/// The tensors of several lists.
pub fn joined<const N: usize>(lists: [Vec<Tensor>; N]) -> Vec<Tensor> {
    lists.into_iter().flatten().collect()
}
