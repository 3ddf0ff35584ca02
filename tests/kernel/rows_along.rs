//! Rows along any dimensions.

use super::map::{layouts, same};
use super::refused::refused;
use anyhow::Result;
use tch::{Kind, Tensor, kind::DOUBLE_CPU, kind::FLOAT_CPU};
use tch_function::kernel;

const SHAPES: [&[i64]; 8] =
    [&[], &[1], &[5], &[3, 4], &[3, 5, 7], &[3, 0, 2], &[2, 3, 4, 5], &[300, 400]];

/// Every set of dimensions, some counted from the last one.
fn sets(rank: usize) -> Vec<Vec<i64>> {
    let members = |set: usize| (0..rank).filter(move |dim| set >> dim & 1 == 1);
    let signed = |dim: usize| if dim % 2 == 1 { dim as i64 - rank as i64 } else { dim as i64 };
    (0..1 << rank).map(|set| members(set).map(signed).collect()).collect()
}

#[test]
fn sums_of_every_layout_along_every_set_of_dimensions() -> Result<()> {
    for x in SHAPES.into_iter().flat_map(layouts) {
        for dims in sets(x.dim()) {
            let (copy, sum) =
                kernel::rows_along::<f64, (f64, f64)>(&x, &dims, (-1, 1), |x, (y, sum)| {
                    y.copy_from_slice(x);
                    sum[0] = x.iter().sum();
                })?;
            same(&copy, &x);
            same(&sum, &x.sum_dim_intlist(&dims[..], true, Kind::Double));
            assert!(copy.is_contiguous() && sum.is_contiguous());
        }
    }
    Ok(())
}

/// The elements of a row along several dimensions lie in row-major order.
#[test]
fn the_order_of_elements() -> Result<()> {
    let x = Tensor::arange(24, DOUBLE_CPU).reshape([2, 3, 4]);
    let place = |x: &[f64], y: &mut [i64]| {
        y[0] = x.iter().position(|x| *x == 14.0).map_or(-1, |i| i as i64)
    };
    // 14 is at [1, 0, 2].
    for (dims, at, expected) in
        [(&[0i64, 2][..], 0, 6i64), (&[2, 0], 0, 6), (&[1, 0], 2, 3), (&[], 0, 14)]
    {
        let found = kernel::rows_along::<f64, i64>(&x, dims, 1, place)?.flatten(0, -1);
        assert_eq!(found.int64_value(&[at]), expected, "{dims:?}");
    }
    Ok(())
}

#[test]
fn other_lengths_and_several_inputs() -> Result<()> {
    let x = Tensor::rand([4, 6, 5], FLOAT_CPU);
    let weight = Tensor::rand([6, 1], FLOAT_CPU);
    let bias = Tensor::rand([5], FLOAT_CPU);
    let (ends, sum) = kernel::rows_along::<(f32, f32, f32), ([f32; 1], f64)>(
        (&x, &weight, &bias),
        &[1],
        ([2], 1),
        |(x, w, b), ([ends], sum)| {
            (ends[0], ends[1]) = (x[0] * w[0], x[5] + b[0]);
            sum[0] = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
        },
    )?;
    let [ends] = ends;
    let first = x.narrow(1, 0, 1) * weight.narrow(0, 0, 1);
    let last = x.narrow(1, 5, 1) + bias;
    same(&ends, &Tensor::cat(&[first, last], 1));
    let products = x.to_kind(Kind::Double) * weight.to_kind(Kind::Double);
    assert!(sum.allclose(&products.sum_dim_intlist(1, true, None), 1e-14, 0.0, false));
    Ok(())
}

#[test]
fn narrow_floats_and_expanded_tensors() -> Result<()> {
    for kind in [Kind::Half, Kind::BFloat16] {
        let x = Tensor::rand([30, 20], FLOAT_CPU).to_kind(kind);
        let y = kernel::rows_along::<f32, f32>(&x, &[0], -1, |x, y| {
            y.iter_mut().zip(x.iter().rev()).for_each(|(y, x)| *y = *x);
        })?;
        same(&y, &x.flip([0]));
    }
    let one = Tensor::from(2.0).expand([3, 1000], false);
    let sum = kernel::rows_along::<f64, f64>(&one, &[1], 1, |x, y| y[0] = x.iter().sum())?;
    same(&sum, &Tensor::from(2000.0).expand([3, 1], false));
    Ok(())
}

#[test]
fn what_is_refused() {
    let x = Tensor::ones([2, 3], DOUBLE_CPU);
    let rows = |dims: &[i64], length| kernel::rows_along::<f64, f64>(&x, dims, length, |_, _| {});
    refused(rows(&[2], 1), "dimension 2 of 2; give one from -2 to 1");
    refused(rows(&[1, -1], 1), "dimension -1 is given twice in [1, -1]");
    refused(rows(&[0, 1], 3), "rows of length 3 along 2 dimensions");
    refused(rows(&[0], -2), "rows of length -2");
    refused(rows(&[0], i64::MAX), "has more elements than memory can");
    let other = Tensor::ones([4, 4], DOUBLE_CPU);
    let two = kernel::rows_along::<[f64; 2], f64>([&x, &other], &[1], 1, |_, _| {});
    refused(two, "input 1 has shape [4, 4]");
    let panics = kernel::rows_along::<f64, f64>(&x, &[0], 1, |_, _| panic!("here"));
    refused(panics, "kernel::rows_along: the closure panicked: here");
    let huge = Tensor::from(1.0).expand([1 << 30, 1 << 31], false);
    let huge = kernel::rows_along::<f64, f64>(&huge, &[0], 1, |_, _| {});
    refused(huge, "has more elements than memory can");
}
