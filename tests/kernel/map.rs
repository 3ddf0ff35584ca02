//! Kernels on every element beside libtorch's operators.

use anyhow::Result;
use tch::{Device, Kind, Tensor, kind::DOUBLE_CPU, kind::FLOAT_CPU};
use tch_function::{Error, Function, Var, grad, kernel, ops};

/// Tensors of one shape that lie in memory in every way.
pub(super) fn layouts(shape: &[i64]) -> Vec<Tensor> {
    let count: i64 = shape.iter().product();
    let x = ((Tensor::arange(count, DOUBLE_CPU) * 7.0).remainder(23.0) - 9.0).reshape(shape);
    let reversed: Vec<i64> = (0..shape.len() as i64).rev().collect();
    let mut all = vec![x.copy(), x.permute(&reversed).contiguous().permute(&reversed)];
    if let [.., last] = shape {
        let wide = Tensor::stack(&[&x, &x], -1);
        all.push(wide.select(-1, 1)); // stride 2
        let long = Tensor::cat(&[&x, &x], -1);
        all.push(long.narrow(-1, last / 2, *last)); // gaps between rows
        all.push(x.narrow(-1, 0, 1.min(*last)).expand(shape, false)); // stride 0
    }
    if shape.len() == 3 {
        all.push(x.permute([1, 0, 2]).contiguous().permute([1, 0, 2]));
    }
    all
}

pub(super) const SHAPES: [&[i64]; 8] =
    [&[], &[1], &[0], &[3, 0, 2], &[17], &[5, 4], &[3, 5, 7], &[40, 30, 50]];

pub(super) fn same(found: &Tensor, expected: &Tensor) {
    assert_eq!((found.size(), found.kind()), (expected.size(), expected.kind()));
    assert!(found.equal(expected), "found\n{found}expected\n{expected}");
}

#[test]
fn map_on_every_layout() -> Result<()> {
    for shape in SHAPES {
        for x in layouts(shape) {
            same(&kernel::map(&x, |x: f64| x * x + 1.0)?, &(&x * &x + 1.0));
            for y in layouts(shape) {
                let product = kernel::map((&x, &y), |(x, y): (f64, f64)| x * y - x)?;
                same(&product, &(&x * &y - &x));
            }
        }
    }
    Ok(())
}

/// The dimensions of a new tensor lie in memory as those of its input.
#[test]
fn a_new_tensor_is_laid_out_like_its_input() -> Result<()> {
    let x = Tensor::rand([3, 4, 5], FLOAT_CPU).permute([2, 0, 1]);
    let y = kernel::map((&Tensor::from(1f32), &x), |(a, x): (f32, f32)| a + x)?;
    assert_eq!(y.stride(), x.stride());
    Ok(())
}

#[test]
fn broadcasting() -> Result<()> {
    let shapes: [&[i64]; 7] = [&[], &[1], &[4], &[3, 1], &[3, 4], &[2, 1, 4], &[2, 3, 1]];
    for a in shapes.iter().flat_map(|shape| layouts(shape)) {
        for b in shapes.iter().flat_map(|shape| layouts(shape)) {
            let c = Tensor::from(0.5);
            let found = kernel::map([&a, &b, &c], |[a, b, c]: [f64; 3]| a - b * c)?;
            same(&found, &(&a - &b * &c));
        }
    }
    Ok(())
}

#[test]
fn every_dtype() -> Result<()> {
    macro_rules! check {
        ($T:ty, $Kind:ident) => {
            for x in layouts(&[3, 5, 7]) {
                let x = x.abs().to_kind(Kind::$Kind);
                same(&kernel::map(&x, |x: $T| x + x)?, &(&x + &x));
            }
        };
    }
    check!(f32, Float);
    check!(f64, Double);
    check!(u8, Uint8);
    check!(i8, Int8);
    check!(i16, Int16);
    check!(i32, Int);
    check!(i64, Int64);
    check!(f32, Half);
    check!(f32, BFloat16);
    for x in layouts(&[3, 5, 7]) {
        let x = x.gt(0.0);
        same(&kernel::map(&x, |x: bool| !x)?, &x.logical_not());
        let mask = kernel::map((&x, &x), |(a, b): (bool, bool)| i64::from(a) + i64::from(b))?;
        same(&mask, &(x.to_kind(Kind::Int64) * 2));
    }
    Ok(())
}

/// f16 and bf16 are computed in f32 and rounded once; what they give with f32
/// is f32.
#[test]
fn narrow_floats() -> Result<()> {
    let x = Tensor::from_slice(&[1.0f32, 0.1, 3e4, -5.0]);
    let (half, brain) = (x.to_kind(Kind::Half), x.to_kind(Kind::BFloat16));
    for narrow in [&half, &brain] {
        let y = kernel::map(narrow, |x: f32| x * x * 0.3)?;
        let wide = narrow.to_kind(Kind::Float);
        let expected = (&wide * &wide * 0.3).to_kind(narrow.kind());
        same(&y, &expected);
    }
    let product = |(a, b): (f32, f32)| a * b;
    assert_eq!(kernel::map((&half, &brain), product)?.kind(), Kind::Float);
    assert_eq!(kernel::map((&half, &x), product)?.kind(), Kind::Float);
    assert_eq!(kernel::map((&half, &half), product)?.kind(), Kind::Half);
    Ok(())
}

/// A byte of a boolean tensor that is neither 0 nor 1 is `true`.
#[test]
fn strange_bytes_are_true() -> Result<()> {
    let x = Tensor::from_slice(&[0u8, 1, 2, 255]).view_dtype(Kind::Bool);
    let ones = kernel::map(&x, |x: bool| u8::from(x))?;
    assert_eq!(Vec::<u8>::try_from(ones)?, [0, 1, 1, 1]);
    Ok(())
}

/// Freed ones leave their memory to later ones; here there are more than a
/// thread keeps, some are freed by other threads, and some change their size.
#[test]
fn small_tensors_in_memory_used_again() -> Result<()> {
    let many = |n: i64| -> Result<Vec<Tensor>> {
        let made = (0..3000).map(|i| {
            let x = Tensor::full([1 + i % n], i, DOUBLE_CPU);
            kernel::map(&x, |x: f64| x + 1.0)
        });
        Ok(made.collect::<Result<_, _>>()?)
    };
    let check = |made: &[Tensor]| {
        for (y, i) in made.iter().zip(1..) {
            assert_eq!(
                (y.min(), y.max()),
                (Tensor::from(f64::from(i)), Tensor::from(f64::from(i)))
            );
            assert_eq!(y.data_ptr() as usize % 16, 0, "libtorch's complex numbers need that");
        }
    };
    for n in [1, 7, 100] {
        let (kept, mut sent) = (many(n)?, many(n)?);
        check(&sent);
        std::thread::spawn(move || drop(sent.split_off(1500))).join().expect("no panic");
        check(&many(n)?);
        check(&kept);
    }
    let mut y = kernel::map(&Tensor::arange(4, DOUBLE_CPU), |x: f64| x)?;
    let (z, _) = (y.view_([2, 2]), y.resize_([1000]));
    assert_eq!(Vec::<f64>::try_from(z.flatten(0, 1))?, [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(Vec::<f64>::try_from(y.narrow(0, 0, 4))?, [0.0, 1.0, 2.0, 3.0]);
    Ok(())
}

/// The same for those that are large, on threads that free each other's.
#[test]
fn large_tensors_in_memory_used_again() {
    const MIB: i64 = (1 << 20) / 4; // f32 elements
    std::thread::scope(|scope| {
        let (send, receive) = std::sync::mpsc::channel::<Tensor>();
        scope.spawn(move || receive.into_iter().for_each(drop));
        for thread in 0..3 {
            let send = send.clone();
            scope.spawn(move || {
                for i in 0..20 {
                    let value = f64::from(thread * 100 + i);
                    let x = Tensor::full([(4 + i64::from(i % 5)) * MIB + 3], value, FLOAT_CPU);
                    let y = kernel::map(&x, |x: f32| x).expect("a plain tensor");
                    let z = kernel::map(&y, |y: f32| y + 1.0).expect("a plain tensor");
                    assert_eq!((y.min(), y.max()), (x.min(), x.max()));
                    assert_eq!((z.min(), z.max()), (x.min() + 1.0, x.max() + 1.0));
                    send.send(if i % 2 == 0 { y } else { z }).expect("it is received");
                }
            });
        }
    });
}

#[test]
fn several_outputs_of_several_types() -> Result<()> {
    for x in layouts(&[40, 30, 50]) {
        let (tanh, [slope, square], positive) =
            kernel::map(&x, |x: f64| (x.tanh(), [1.0 - x.tanh() * x.tanh(), x * x], x > 0.0))?;
        assert!(tanh.allclose(&x.tanh(), 1e-14, 1e-14, false));
        assert!(slope.allclose(&(1.0 - x.tanh() * x.tanh()), 1e-14, 1e-14, false));
        same(&square, &(&x * &x));
        same(&positive, &x.gt(0.0));
    }
    Ok(())
}

#[test]
fn into_given_tensors() -> Result<()> {
    for x in layouts(&[3, 5, 7]) {
        for mut y in layouts(&[3, 5, 7]).into_iter().filter(|y| !y.stride().contains(&0)) {
            let expected = &x * 3.0;
            kernel::map_into(&mut y, &x, |x: f64| x * 3.0)?;
            same(&y, &expected);
            kernel::update(&mut y, (&x, &Tensor::from(2i64)), |y: f64, (x, n): (f64, i64)| {
                y + x * n as f64
            })?;
            same(&y, &(&expected + &x * 2.0));
            let mut flags = Tensor::zeros([3, 5, 7], (Kind::Bool, Device::Cpu));
            kernel::map_into((&mut y, &mut flags), &x, |x: f64| (-x, x < 0.0))?;
            same(&y, &-&x);
            same(&flags, &x.lt(0.0));
        }
    }
    Ok(())
}

/// Half of a tensor from the other half, and a tensor from itself.
#[test]
fn memory_that_is_shared_in_the_right_way() -> Result<()> {
    let whole = Tensor::arange(2000, DOUBLE_CPU);
    let (mut low, high) = (whole.narrow(0, 0, 1000), whole.narrow(0, 1000, 1000));
    kernel::map_into(&mut low, &high, |x: f64| x + 0.5)?;
    same(&low, &(&high + 0.5));

    let expected = &whole * &whole;
    let alias = whole.shallow_clone();
    kernel::map_into(&mut whole.shallow_clone(), &alias, |x: f64| x * x)?;
    same(&whole, &expected);
    Ok(())
}

#[test]
fn a_change_counts() -> Result<()> {
    let x = Var::leaf(Tensor::from_slice(&[1.0, 2.0]));
    let y = ops::Exp.apply(&x)?;
    let sum = y.sum()?;
    let one = Tensor::from(1.0);
    kernel::update(&mut y.value().shallow_clone(), &one, |y: f64, x: f64| y + x)?;
    let error = grad(&sum, &x).expect_err("the saved output was changed");
    assert!(matches!(error, Error::SavedChanged { .. }), "{error}");
    Ok(())
}
