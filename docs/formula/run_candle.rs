//! Compares the ops in candle with libtorch's derivatives, and says what works. In a crate with
//! candle-core and half, which this repository does not depend on:
//!
//! ```sh
//! cargo run -- REFERENCE    # what run_torch.py wrote
//! ```

#[path = "candle.rs"]
mod ops;

use candle_core::{DType, Device, Result, Tensor, Var, bail};
use half::{bf16, f16};

const SCALE: f64 = 0.7;

/// An op of `x[0]`, or of all three.
type Op = fn(&[Tensor]) -> Result<Tensor>;
const OPS: [(&str, Op, usize); 2] = [
    ("softplus", |x| ops::softplus(&x[0]), 1),
    ("gate", |x| ops::gate(&x[0], &x[1], &x[2], SCALE), 3),
];

/// As run_torch.py.
fn points() -> Result<[Tensor; 3]> {
    let numbers = |f: fn(u32) -> f64| Tensor::from_iter((0..13).map(f), &Device::Cpu);
    Ok([
        numbers(|i| (f64::from(i) - 6.2) * 0.5)?,
        numbers(|i| (f64::from(i * 5 % 13) - 6.0) * 0.4)?,
        numbers(|i| (f64::from(i * 7 % 13) - 6.0) * 0.3)?,
    ])
}

/// The value and the gradients, with run_torch.py's seed, and, if they are recorded, those of a
/// sum of the gradients.
fn derivatives(op: Op, x: &[Tensor]) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
    let vars = x.iter().map(Var::from_tensor).collect::<Result<Vec<Var>>>()?;
    let x: Vec<Tensor> = vars.iter().map(|x| x.as_tensor().clone()).collect();
    let y = op(&x)?;
    let n = y.elem_count();
    let seed = (0..n).map(|i| 0.5 + i as f64 / (n.max(2) - 1) as f64);
    let seed = Tensor::from_iter(seed, &Device::Cpu)?.to_dtype(y.dtype())?.reshape(y.shape())?;
    let grads = (&y * seed)?.sum_all()?.backward()?;
    let first: Vec<Tensor> = x.iter().map(|x| grads.get(x).expect("used").clone()).collect();
    let mut sum = Tensor::zeros((), y.dtype(), &Device::Cpu)?;
    for (i, dx) in first.iter().enumerate() {
        sum = (sum + (dx.sqr()?.sum_all()? * (i as f64 + 1.0))?)?;
    }
    let grads = sum.backward()?;
    let second = x.iter().filter_map(|x| grads.get(x).cloned()).collect();
    Ok((std::iter::once(y).chain(first).collect(), second))
}

fn close(found: &[Tensor], expected: &[f64], tolerance: f64) -> Result<()> {
    let mut numbers = Vec::new();
    for t in found {
        numbers.extend(t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?);
    }
    if numbers.len() != expected.len() {
        bail!("{} numbers, and {} are expected", numbers.len(), expected.len());
    }
    for (found, expected) in numbers.iter().zip(expected) {
        if (found - expected).abs() > tolerance * (1.0 + expected.abs()) {
            bail!("{found} in place of {expected}");
        }
    }
    Ok(())
}

fn first(op: Op, x: &[Tensor], reference: &[f64]) -> Result<()> {
    close(&derivatives(op, x)?.0, &reference[..13 * (1 + x.len())], 1e-9)
}

fn second(op: Op, x: &[Tensor], reference: &[f64]) -> Result<()> {
    close(&derivatives(op, x)?.1, &reference[13 * (1 + 2 * x.len())..], 1e-9)
}

fn broadcasting(op: Op, x: &[Tensor], _: &[f64]) -> Result<()> {
    let shape = |i: usize| [vec![13], vec![7, 1], vec![1, 1, 1]][i].clone();
    let cut = |i: usize| x[i].narrow(0, 0, 13 - 6 * i)?.contiguous()?.reshape(shape(i));
    let x = (0..x.len()).map(cut).collect::<Result<Vec<Tensor>>>()?;
    for (dx, x) in derivatives(op, &x)?.0[1..].iter().zip(&x) {
        if dx.shape() != x.shape() {
            bail!("a gradient of shape {:?}", dx.shape());
        }
    }
    Ok(())
}

fn other_dtypes(op: Op, x: &[Tensor], reference: &[f64]) -> Result<()> {
    let units = [
        (DType::F32, f64::from(f32::EPSILON)),
        (DType::F16, f16::EPSILON.to_f64()),
        (DType::BF16, bf16::EPSILON.to_f64()),
    ];
    for (dtype, unit) in units {
        let x = x.iter().map(|x| x.to_dtype(dtype)).collect::<Result<Vec<Tensor>>>()?;
        close(&derivatives(op, &x)?.0, &reference[..13 * (1 + x.len())], 16.0 * unit)?;
    }
    Ok(())
}

/// As run_torch.py.
fn small_slope(op: Op, x: &[Tensor], _: &[f64]) -> Result<()> {
    if x.len() == 3 {
        let number = |x: f32| Tensor::new(&[x], &Device::Cpu);
        let x = [number(4.0)?, number(2.5)?, number(0.0)?];
        let vars = x.each_ref().map(|x| Var::from_tensor(x).expect("a tensor"));
        let grads = op(&vars.each_ref().map(|x| x.as_tensor().clone()))?.backward()?;
        let db = grads.get(&vars[1]).expect("used").to_vec1::<f32>()?[0];
        if (db / 3.23853e-8 - 1.0).abs() > 1e-4 {
            bail!("{db}");
        }
    }
    Ok(())
}

type Test = fn(Op, &[Tensor], &[f64]) -> Result<()>;
const TESTS: [(&str, Test); 5] = [
    ("first", first),
    ("second", second),
    ("broadcasting", broadcasting),
    ("other_dtypes", other_dtypes),
    ("small_slope", small_slope),
];

fn main() -> Result<()> {
    let path = std::env::args().nth(1).expect("the file that run_torch.py wrote");
    let text = std::fs::read_to_string(path)?;
    for (name, op, n) in OPS {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("the op");
        let reference: Vec<f64> = line.split_whitespace().map(|x| x.parse().unwrap()).collect();
        for (test_name, test) in TESTS {
            match test(op, &points()?[..n], &reference) {
                Ok(()) => println!("{name:9} {test_name:13} ok"),
                Err(error) => println!("{name:9} {test_name:13} {error}"),
            }
        }
    }
    Ok(())
}
