//! Every operator against libtorch's autograd on the same numbers and against
//! finite differences: one table, and tests stamped from each of its rows.

mod common;

use anyhow::{Context, Result, ensure};
use common::{
    ANY, Domain, LAYOUTS, Layout, Ours, Random, Theirs, assert_close, assert_same, ours, theirs,
    tolerance,
};
use tch::{Kind, Reduction, Tensor, kind::DOUBLE_CPU};
use tch_function::{Error, Function, Gradcheck, Var, grad, gradcheck_fn, ops};

/// A row of the table.
struct Case {
    name: &'static str,
    ours: Ours,
    theirs: Theirs,
    /// The shapes of the inputs, several times.
    shapes: &'static [&'static [&'static [i64]]],
    /// What each input is drawn from.
    domains: &'static [Domain],
    takes: Takes,
}

/// The dtypes that an op takes besides one real dtype for all inputs.
#[derive(Clone, Copy, PartialEq)]
enum Takes {
    Real,
    /// Inputs of several real dtypes at a time.
    Mixed,
    /// Complex numbers too.
    Complex,
    /// Both.
    Any,
}

/// Between 0.3 and 2.3.
const POSITIVE: Domain = |u| 2.0 * u + 0.3;
/// Away from a kink or a pole at 0, on both sides of it.
const NOT_ZERO: Domain = |u| if u < 0.5 { 4.0 * u - 2.3 } else { 4.0 * u - 1.7 };

const UNARY: &[&[&[i64]]] = &[&[&[]], &[&[3]], &[&[2, 3]], &[&[2, 3, 2]], &[&[0]], &[&[2, 0, 3]]];
/// With broadcasting in either input, in both, and of scalars.
const BINARY: &[&[&[i64]]] = &[
    &[&[], &[]],
    &[&[2, 3], &[2, 3]],
    &[&[2, 3], &[3]],
    &[&[3], &[2, 3]],
    &[&[2, 1], &[1, 3]],
    &[&[2, 1, 3], &[4, 1]],
    &[&[], &[2, 2]],
    &[&[2, 2], &[]],
    &[&[0, 3], &[3]],
    &[&[0], &[1]],
];
const MATRICES: &[&[&[i64]]] = &[
    &[&[3], &[3]],
    &[&[2, 3], &[3]],
    &[&[3], &[3, 2]],
    &[&[2, 3], &[3, 4]],
    &[&[1, 1], &[1, 1]],
    &[&[4, 2, 3], &[3, 2]],
    &[&[4, 2, 3], &[3]],
    &[&[2, 3], &[4, 3, 2]],
    &[&[3], &[4, 3, 2]],
    &[&[4, 2, 3], &[4, 3, 2]],
    &[&[2, 1, 2, 3], &[4, 3, 2]],
    &[&[1, 2, 3], &[4, 3, 2]],
    &[&[0, 3], &[3, 2]],
    &[&[2, 0], &[0, 3]],
    &[&[0], &[0]],
    &[&[0, 2, 3], &[3, 2]],
];
/// With at least two dimensions, and an element to choose.
const PLANES: &[&[&[i64]]] = &[&[&[2, 3]], &[&[3, 2]], &[&[2, 3, 4]], &[&[1, 1]]];
/// With at least one dimension.
const ROWS: &[&[&[i64]]] = &[&[&[3]], &[&[2, 3]], &[&[3, 2, 2]], &[&[0, 3]]];

macro_rules! cases {
    ($($name:ident [$($x:ident),+] $takes:ident $shapes:ident $domains:expr,
       $ours:expr => $theirs:expr;)+) => {
        $(mod $name {
            use super::*;

            fn case() -> Case {
                Case {
                    name: stringify!($name),
                    ours: |x| {
                        let [$($x),+] = x else { panic!("the number of inputs") };
                        $ours
                    },
                    theirs: |x| {
                        let [$($x),+] = x else { panic!("the number of inputs") };
                        $theirs
                    },
                    shapes: $shapes,
                    domains: &$domains,
                    takes: Takes::$takes,
                }
            }

            #[test]
            fn like_libtorch() -> Result<()> {
                case().like_libtorch()
            }

            #[test]
            fn like_differences() -> Result<()> {
                case().like_differences()
            }
        })+
    };
}

// name, inputs, dtypes, shapes, domains: ours => libtorch's
cases! {
    add [a, b] Any BINARY [ANY, ANY], Ok(a + b) => a + b;
    sub [a, b] Any BINARY [ANY, ANY], Ok(a - b) => a - b;
    mul [a, b] Any BINARY [ANY, ANY], Ok(a * b) => a * b;
    div [a, b] Any BINARY [ANY, NOT_ZERO], Ok(a / b) => a / b;
    pow [a, b] Mixed BINARY [POSITIVE, ANY], a.pow(b) => a.pow(b);
    neg [x] Complex UNARY [ANY], Ok(-x) => -x;
    add_scalar [x] Complex UNARY [ANY], Ok(x + 1.5) => x + 1.5;
    scalar_add [x] Complex UNARY [ANY], Ok(1.5 + x) => 1.5 + x;
    sub_scalar [x] Complex UNARY [ANY], Ok(x - 1.5) => x - 1.5;
    scalar_sub [x] Complex UNARY [ANY], Ok(1.5 - x) => 1.5 - x;
    mul_scalar [x] Complex UNARY [ANY], Ok(x * -2.5) => x * -2.5;
    scalar_mul [x] Complex UNARY [ANY], Ok(-2.5 * x) => -2.5 * x;
    div_scalar [x] Complex UNARY [ANY], Ok(x / 3.0) => x / 3.0;
    scalar_div [x] Complex UNARY [NOT_ZERO], Ok(3.0 / x) => 3.0 / x;
    square [x] Complex UNARY [ANY], x.pow_scalar(2.0) => x.pow_tensor_scalar(2.0);
    cube_root [x] Complex UNARY [POSITIVE], x.pow_scalar(1.0 / 3.0) => x.pow_tensor_scalar(1.0 / 3.0);
    reciprocal [x] Complex UNARY [NOT_ZERO], x.pow_scalar(-1.0) => x.pow_tensor_scalar(-1.0);
    zeroth_power [x] Complex UNARY [ANY], x.pow_scalar(0.0) => x.pow_tensor_scalar(0.0);

    exp [x] Complex UNARY [ANY], x.exp() => x.exp();
    log [x] Complex UNARY [POSITIVE], x.log() => x.log();
    sqrt [x] Complex UNARY [POSITIVE], x.sqrt() => x.sqrt();
    tanh [x] Complex UNARY [ANY], x.tanh() => x.tanh();
    sigmoid [x] Complex UNARY [ANY], x.sigmoid() => x.sigmoid();
    log1p_exp [x] Real UNARY [ANY], x.log1p_exp() => x.softplus();
    gelu [x] Real UNARY [ANY], x.gelu() => x.gelu("none");
    gelu_tanh [x] Real UNARY [ANY], x.gelu_tanh() => x.gelu("tanh");
    silu [x] Real UNARY [ANY], x.silu() => x.silu();

    relu [x] Real UNARY [NOT_ZERO], x.relu() => x.relu();
    abs [x] Complex UNARY [NOT_ZERO], x.abs() => x.abs();
    maximum [a, b] Mixed BINARY [ANY, ANY], a.maximum(b) => a.maximum(b);
    minimum [a, b] Mixed BINARY [ANY, ANY], a.minimum(b) => a.minimum(b);
    where_self [a, b] Mixed BINARY [ANY, ANY], a.where_self(&Var::constant(mask(a.value())), b)
        => a.where_self(&mask(a), b);
    where_complex [a, b] Complex BINARY [ANY, ANY], b.where_self(&Var::constant(mask(b.value())), a)
        => b.where_self(&mask(b), a);

    sum [x] Complex UNARY [ANY], x.sum() => x.sum(None);
    sum_last [x] Complex ROWS [ANY], x.sum_dim(&[-1], false) => x.sum_dim_intlist(-1, false, None);
    sum_first_kept [x] Complex ROWS [ANY], x.sum_dim(&[0], true) => x.sum_dim_intlist(0, true, None);
    sum_two [x] Complex PLANES [ANY], x.sum_dim(&[-1, 0], false)
        => x.sum_dim_intlist([-1i64, 0].as_slice(), false, None);
    sum_none_named [x] Complex UNARY [ANY], x.sum_dim(&[], true)
        => x.sum_dim_intlist([0i64; 0].as_slice(), true, None);
    mean [x] Complex UNARY [ANY], x.mean() => x.mean(None);
    mean_last [x] Complex ROWS [ANY], x.mean_dim(&[-1], false) => x.mean_dim(-1, false, None);
    mean_two_kept [x] Complex PLANES [ANY], x.mean_dim(&[1, 0], true)
        => x.mean_dim([1i64, 0].as_slice(), true, None);
    amax [x] Real PLANES [ANY], x.amax(&[], false) => x.amax([0i64; 0].as_slice(), false);
    amax_last [x] Real ROWS [ANY], x.amax(&[-1], false) => x.amax(-1, false);
    amax_two [x] Real PLANES [ANY], x.amax(&[1, 0], true) => x.amax([1i64, 0].as_slice(), true);
    amin [x] Real PLANES [ANY], x.amin(&[], true) => x.amin([0i64; 0].as_slice(), true);
    amin_last [x] Real ROWS [ANY], x.amin(&[-1], false) => x.amin(-1, false);
    max_dim [x] Real ROWS [ANY], Ok(x.max_dim(-1, false)?.0) => x.max_dim(-1, false).0;
    max_dim_kept [x] Real PLANES [ANY], Ok(x.max_dim(0, true)?.0) => x.max_dim(0, true).0;
    min_dim [x] Real ROWS [ANY], Ok(x.min_dim(-1, true)?.0) => x.min_dim(-1, true).0;
    min_dim_middle [x] Real PLANES [ANY], Ok(x.min_dim(1, false)?.0) => x.min_dim(1, false).0;

    matmul [a, b] Complex MATRICES [ANY, ANY], a.matmul(b) => a.matmul(b);
    transpose [x] Complex PLANES [ANY], x.transpose(0, -1) => x.transpose(0, -1);
    reshape [x] Complex UNARY [ANY], x.reshape(&[numel(x.value())]) => x.reshape([numel(x)]);
    reshape_rest [x] Complex PLANES [ANY], x.reshape(&[1, -1, 1]) => x.reshape([1, -1, 1]);
    index_select [x] Complex ROWS [ANY], x.index_select(-1, &Var::constant(index(x.value())))
        => x.index_select(-1, &index(x));
    index_select_scalar [x] Complex UNARY [ANY],
        x.reshape(&[1, -1])?.index_select(0, &Var::constant(Tensor::from_slice(&[0i32, 0])))
        => x.reshape([1, numel(x)]).index_select(0, &Tensor::from_slice(&[0i32, 0]));
    gather [x] Complex PLANES [ANY], x.gather(1, &Var::constant(indices(x.value())))
        => x.gather(1, &indices(x), false);

    softmax [x] Real ROWS [ANY], x.softmax(-1) => x.softmax(-1, None);
    softmax_first [x] Real UNARY [ANY], x.softmax(0) => x.softmax(0, None);
    log_softmax [x] Real ROWS [ANY], x.log_softmax(-1) => x.log_softmax(-1, None);
    log_softmax_first [x] Real UNARY [ANY], x.log_softmax(0) => x.log_softmax(0, None);
    cross_entropy [x] Real ROWS [ANY], x.cross_entropy(&Var::constant(classes(x.value())))
        => x.cross_entropy_loss::<Tensor>(&classes(x), None, Reduction::Mean, -100, 0.0);
    squared_error [y, t] Any BINARY [ANY, ANY], y.squared_error(t)
        => ((t - y) * (t - y) / 2.0).sum(None);
}

fn numel(x: &Tensor) -> i64 {
    x.numel() as i64
}

/// `0, step, 2 step, ..` modulo `modulus`, in this shape.
fn places(shape: &[i64], step: i64, modulus: i64) -> Tensor {
    let places = (0..shape.iter().product()).map(|i| i * step % modulus);
    Tensor::from_slice(&places.collect::<Vec<i64>>()).reshape(shape)
}

/// True at every second element.
fn mask(x: &Tensor) -> Tensor {
    places(&x.size(), 1, 2).eq(0)
}

/// The last place along the last dimension, and the first one twice.
fn index(x: &Tensor) -> Tensor {
    let last = x.size().last().expect("a dimension") - 1;
    Tensor::from_slice(&[last, 0, 0])
}

/// Two places along dimension 1 for each place in the others.
fn indices(x: &Tensor) -> Tensor {
    let mut size = x.size();
    let columns = std::mem::replace(&mut size[1], 2);
    places(&size, 3, columns)
}

/// A class for each row of scores.
fn classes(scores: &Tensor) -> Tensor {
    let mut size = scores.size();
    let count = size.remove(usize::from(size.len() > 1));
    places(&size, 2, count)
}

impl Case {
    fn inputs(&self, shapes: &[&[i64]], kinds: &[Kind]) -> Vec<Tensor> {
        let mut random = Random::new(self.name);
        let mut number = |shape: &[i64], domain, kind| match kind {
            Kind::ComplexDouble | Kind::ComplexFloat => {
                let re = random.tensor(shape, domain);
                Tensor::complex(&re, &random.tensor(shape, ANY)).to_kind(kind)
            }
            _ => random.tensor(shape, domain).to_kind(kind),
        };
        let inputs = shapes.iter().zip(self.domains).zip(kinds.iter().cycle());
        inputs.map(|((shape, domain), kind)| number(shape, *domain, *kind)).collect()
    }

    /// One dtype for all inputs, or one for each.
    fn kinds(&self) -> Vec<Vec<Kind>> {
        use Kind::*;
        let mut kinds = vec![vec![Double], vec![Float], vec![Half], vec![BFloat16]];
        if matches!(self.takes, Takes::Mixed | Takes::Any) {
            kinds.extend([vec![Float, Double], vec![Double, Float], vec![Half, BFloat16]]);
        }
        if matches!(self.takes, Takes::Complex | Takes::Any) {
            kinds.extend([vec![ComplexDouble], vec![ComplexFloat]]);
        }
        if self.takes == Takes::Any {
            kinds.extend([vec![Double, ComplexDouble], vec![ComplexFloat, Double]]);
        }
        kinds
    }

    fn like_libtorch(&self) -> Result<()> {
        for shapes in self.shapes {
            for kinds in self.kinds() {
                let inputs = self.inputs(shapes, &kinds);
                for layout in LAYOUTS {
                    let inputs: Vec<Tensor> = inputs.iter().map(|x| layout.of(x)).collect();
                    self.same_as_libtorch(&inputs, layout).with_context(|| {
                        format!("{}: {kinds:?} {layout:?} {inputs:?}", self.name)
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Whatever inputs require a gradient, and whatever the seed lies like.
    fn same_as_libtorch(&self, inputs: &[Tensor], layout: Layout) -> Result<()> {
        let y = (self.theirs)(inputs);
        let coarsest = inputs.iter().map(|x| tolerance(x.kind())).fold(0.0, f64::max);
        let seed = Random::new("seed").tensor(&y.size(), ANY);
        let seed = if y.is_complex() { Tensor::complex(&seed, &(&seed * 0.5 + 1.0)) } else { seed };
        let seed = layout.of(&seed.to_kind(y.kind()));
        for wanted in subsets(inputs.len()) {
            let found = ours(self.ours, inputs, &wanted, Some(&seed))?;
            let expected = theirs(self.theirs, inputs, &wanted, Some(&seed));
            assert_same(&found, &expected, coarsest)
                .with_context(|| format!("gradients wanted: {wanted:?}, seed {seed:?}"))?;
        }
        Ok(())
    }

    fn like_differences(&self) -> Result<()> {
        for shapes in self.shapes {
            for layout in [Layout::Contiguous, Layout::Transposed] {
                let x = self.inputs(shapes, &[Kind::Double]);
                let x: Vec<Tensor> = x.iter().map(|x| layout.of(x)).collect();
                let check = Gradcheck::new().atol(1e-7).rtol(1e-6);
                let report = match &x[..] {
                    [x] => check.check_fn(|x| (self.ours)(&x.map(Var::clone)), [x])?,
                    [a, b] => check.check_fn(|x| (self.ours)(&x.map(Var::clone)), [a, b])?,
                    _ => unreachable!("one or two inputs"),
                };
                ensure!(report.is_ok(), "{}: {shapes:?} {layout:?}\n{report}", self.name);
            }
        }
        Ok(())
    }
}

/// Every choice but the empty one.
fn subsets(count: usize) -> impl Iterator<Item = Vec<bool>> {
    (1..1u32 << count).map(move |bits| (0..count).map(|i| bits >> i & 1 == 1).collect())
}

/// At kinks, poles and the like, where only libtorch can say what is meant:
/// the same values and gradients, to the last bit but for rounding.
#[test]
fn kinks() -> Result<()> {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    let line = || Tensor::from_slice(&[-inf, -2.0, -0.0, 0.0, 1.0, inf, nan]);
    // Every pair, unbroadcast: a NaN would spread in the sum over a row.
    let pairs = |a: Tensor, b: Tensor| {
        let pairs = Tensor::broadcast_tensors(&[a.reshape([-1, 1]), b]);
        pairs.iter().map(Tensor::copy).collect::<Vec<_>>()
    };
    let exponents =
        || Tensor::from_slice(&[-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0, 3.0, inf, nan]);
    let ties =
        || Tensor::from_slice(&[1.0, 3.0, 3.0, 3.0, 2.0, 3.0, nan, 1.0, 5.0]).reshape([3, 3]);
    let closed =
        || Tensor::from_slice(&[-inf, 1.0, -inf, -inf, inf, 1.0, nan, 1.0]).reshape([4, 2]);
    let none = || Tensor::zeros([0], DOUBLE_CPU);
    let wide = || Tensor::from_slice(&[-800.0, -40.0, -1e-300, 1e-300, 40.0, 800.0]);

    let kinks: &[(&str, Ours, Theirs, Vec<Tensor>)] = &[
        ("relu", |x| x[0].relu(), |x| x[0].relu(), vec![line()]),
        ("abs", |x| x[0].abs(), |x| x[0].abs(), vec![line()]),
        ("sqrt", |x| x[0].sqrt(), |x| x[0].sqrt(), vec![line()]),
        ("log", |x| x[0].log(), |x| x[0].log(), vec![line()]),
        ("exp", |x| x[0].exp(), |x| x[0].exp(), vec![wide()]),
        ("tanh", |x| x[0].tanh(), |x| x[0].tanh(), vec![line()]),
        ("sigmoid", |x| x[0].sigmoid(), |x| x[0].sigmoid(), vec![wide()]),
        ("mul", |x| Ok(&x[0] * &x[1]), |x| &x[0] * &x[1], pairs(line(), line())),
        ("div", |x| Ok(&x[0] / &x[1]), |x| &x[0] / &x[1], pairs(line(), line())),
        ("1 / x", |x| Ok(1.0 / &x[0]), |x| 1.0 / &x[0], vec![line()]),
        ("pow", |x| x[0].pow(&x[1]), |x| x[0].pow(&x[1]), pairs(line(), exponents())),
        ("x^0", |x| x[0].pow_scalar(0.0), |x| x[0].pow_tensor_scalar(0.0), vec![line()]),
        ("x^0.5", |x| x[0].pow_scalar(0.5), |x| x[0].pow_tensor_scalar(0.5), vec![line()]),
        ("x^1", |x| x[0].pow_scalar(1.0), |x| x[0].pow_tensor_scalar(1.0), vec![line()]),
        ("x^2", |x| x[0].pow_scalar(2.0), |x| x[0].pow_tensor_scalar(2.0), vec![line()]),
        ("x^-1", |x| x[0].pow_scalar(-1.0), |x| x[0].pow_tensor_scalar(-1.0), vec![line()]),
        ("maximum", |x| x[0].maximum(&x[1]), |x| x[0].maximum(&x[1]), pairs(line(), line())),
        ("minimum", |x| x[0].minimum(&x[1]), |x| x[0].minimum(&x[1]), pairs(line(), line())),
        ("maximum of one", |x| x[0].maximum(&x[0]), |x| x[0].maximum(&x[0]), vec![line()]),
        ("amax", |x| x[0].amax(&[1], false), |x| x[0].amax(1, false), vec![ties()]),
        ("amin", |x| x[0].amin(&[0], true), |x| x[0].amin(0, true), vec![ties()]),
        (
            "amax of all",
            |x| x[0].amax(&[], false),
            |x| x[0].amax([0i64; 0].as_slice(), false),
            vec![ties()],
        ),
        ("max_dim", |x| Ok(x[0].max_dim(1, false)?.0), |x| x[0].max_dim(1, false).0, vec![ties()]),
        ("min_dim", |x| Ok(x[0].min_dim(0, true)?.0), |x| x[0].min_dim(0, true).0, vec![ties()]),
        ("softmax", |x| x[0].softmax(1), |x| x[0].softmax(1, None), vec![closed()]),
        ("log_softmax", |x| x[0].log_softmax(1), |x| x[0].log_softmax(1, None), vec![closed()]),
        ("mean of none", |x| x[0].mean(), |x| x[0].mean(None), vec![none()]),
        ("sum of none", |x| x[0].sum(), |x| x[0].sum(None), vec![none()]),
        (
            // Not the NaN that is not taken.
            "where",
            |x| x[0].log()?.where_self(&x[0].gt(&x[1])?, &x[1]),
            |x| x[0].log().where_self(&x[0].gt_tensor(&x[1]), &x[1]),
            vec![line(), line() * 0.0],
        ),
    ];
    for (name, f, g, x) in kinks {
        for kind in [Kind::Double, Kind::Float] {
            let x: Vec<Tensor> = x.iter().map(|x| x.to_kind(kind)).collect();
            let wanted = vec![true; x.len()];
            let (found, expected) = (ours(*f, &x, &wanted, None)?, theirs(*g, &x, &wanted, None));
            assert_same(&found, &expected, tolerance(kind))
                .with_context(|| format!("{name} {x:?}"))?;
        }
    }
    Ok(())
}

/// Scalars have no dimension 0, and libtorch lets 0 and -1 name it.
#[test]
fn dimensions_of_a_scalar() -> Result<()> {
    let cases: &[(Ours, Theirs)] = &[
        (|x| x[0].sum_dim(&[0], false), |x| x[0].sum_dim_intlist(0, false, None)),
        (|x| x[0].mean_dim(&[-1], true), |x| x[0].mean_dim(-1, true, None)),
        (|x| x[0].amax(&[-1], false), |x| x[0].amax(-1, false)),
        (|x| Ok(x[0].max_dim(0, false)?.0), |x| x[0].max_dim(0, false).0),
        (|x| Ok(x[0].min_dim(-1, true)?.0), |x| x[0].min_dim(-1, true).0),
        (
            |x| x[0].index_select(0, &Var::constant(Tensor::from_slice(&[0i64]))),
            |x| x[0].index_select(0, &Tensor::from_slice(&[0i64])),
        ),
        (
            |x| x[0].gather(0, &Var::constant(Tensor::from(0i64))),
            |x| x[0].gather(0, &Tensor::from(0i64), false),
        ),
        (
            |x| x[0].gather(0, &Var::constant(Tensor::from_slice(&[0i64, 0]))),
            |x| x[0].gather(0, &Tensor::from_slice(&[0i64, 0]), false),
        ),
        (|x| x[0].transpose(0, -1), |x| x[0].transpose(0, -1)),
    ];
    for (i, (f, g)) in cases.iter().enumerate() {
        let x = [Tensor::from(1.5)];
        let (found, expected) = (ours(*f, &x, &[true], None)?, theirs(*g, &x, &[true], None));
        assert_same(&found, &expected, 0.0).with_context(|| format!("case {i}"))?;
    }
    Ok(())
}

#[test]
fn cross_entropy_takes_every_shape_and_leaves_targets_out() -> Result<()> {
    fn check(x: &[i64], targets: Tensor) -> Result<()> {
        let x = Random::new("cross_entropy").tensor(x, ANY);
        let leaf = Var::leaf(&x);
        let y = leaf.cross_entropy(&Var::constant(&targets))?;
        let theirs = x.detach().set_requires_grad(true);
        let loss = theirs.cross_entropy_loss::<Tensor>(&targets, None, Reduction::Mean, -100, 0.0);
        loss.backward();
        assert_close(y.value(), &loss.detach(), 1e-14)?;
        assert_close(grad(&y, &leaf)?.value(), &theirs.grad(), 1e-14)
    }
    check(&[3], Tensor::from(1i64))?;
    check(&[2, 3], Tensor::from_slice(&[2i64, 0]))?;
    check(&[2, 3], Tensor::from_slice(&[2u8, 0]))?;
    check(&[2, 3], Tensor::from_slice(&[-100i64, 1]))?;
    check(&[2, 3], Tensor::from_slice(&[-100i64, -100]))?;
    check(&[1, 3, 2, 2], Tensor::from_slice(&[0i64, 1, -100, 2]).reshape([1, 2, 2]))?;
    check(&[2, 3, 2], Tensor::from_slice(&[0i64, 1, 1, 2]).reshape([2, 2]))
}

#[test]
fn max_gives_indices_too() -> Result<()> {
    let x = Var::leaf(Tensor::from_slice(&[1.0, 5.0, 3.0, 4.0, 0.0, 4.0]).reshape([2, 3]));
    for ((values, indices), expected) in [
        (x.max_dim(1, false)?, x.value().max_dim(1, false)),
        (x.min_dim(0, true)?, x.value().min_dim(0, true)),
    ] {
        assert_eq!((values.value(), indices.value()), (&expected.0, &expected.1));
        assert!(values.requires_grad() && !indices.requires_grad());
        assert!(matches!(grad(&indices, &x), Err(Error::NotDifferentiable { .. })));
    }
    Ok(())
}

#[test]
fn comparisons_have_values_and_no_gradient() -> Result<()> {
    type Comparison = (&'static str, Ours, fn(&Tensor, &Tensor) -> Tensor);
    let comparisons: [Comparison; 6] = [
        ("Greater", |x| x[0].gt(&x[1]), Tensor::gt_tensor),
        ("GreaterEqual", |x| x[0].ge(&x[1]), Tensor::ge_tensor),
        ("Less", |x| x[0].lt(&x[1]), Tensor::lt_tensor),
        ("LessEqual", |x| x[0].le(&x[1]), Tensor::le_tensor),
        ("Equal", |x| x[0].eq(&x[1]), Tensor::eq_tensor),
        ("NotEqual", |x| x[0].ne(&x[1]), Tensor::ne_tensor),
    ];
    let a = Tensor::from_slice(&[1.0, 2.0, f64::NAN, 3.0]);
    let b = Tensor::from_slice(&[2.0f32, f32::NAN]).reshape([2, 1]);
    for (name, f, expected) in comparisons {
        let x = [Var::leaf(&a), Var::leaf(&b)];
        let y = f(&x)?;
        assert_eq!((y.value(), y.value().kind()), (&expected(&a, &b), Kind::Bool), "{name}");
        assert!(!y.requires_grad());
        // Directly, and through what is computed from it.
        let one = Var::constant(Tensor::from(1.0));
        let chosen = one.where_self(&y, &-&one)?.sum()?;
        for (what, y) in [("itself", &y), ("through where", &chosen)] {
            let e = grad(y, &x[0]).expect_err("no gradient");
            assert!(matches!(e, Error::NotDifferentiable { op } if op == name), "{what}: {e}");
            assert!(e.to_string().starts_with(&format!("{name} has no gradient")), "{e}");
        }
    }
    Ok(())
}

#[test]
fn integers_have_values_and_no_gradient() -> Result<()> {
    let n = Var::constant(Tensor::from_slice(&[3i64, -4, 0]));
    let x = Var::leaf(Tensor::from_slice(&[0.5f32, 1.0, 2.0]));
    assert_eq!((&n + &n).value(), &Tensor::from_slice(&[6i64, -8, 0]));
    assert_eq!((&n * 0.5).value(), &Tensor::from_slice(&[1.5f32, -2.0, 0.0]));
    assert_eq!(n.sum()?.value(), &Tensor::from(-1i64));
    assert_eq!(n.relu()?.value(), &Tensor::from_slice(&[3i64, 0, 0]));
    assert_eq!(n.amax(&[], false)?.value(), &Tensor::from(3i64));
    assert_eq!(n.gt(&(&n * &n))?.value(), &Tensor::from_slice(&[false, false, false]));
    assert!((&n / &n).value().kind() == Kind::Float);
    // A gradient for the float among them, in its dtype.
    let y = (&n * &x + x.pow(&n)? - &n / &x).sum()?;
    let expected = x.value().detach().set_requires_grad(true);
    let n = n.value();
    (n * &expected + expected.pow(n) - n / &expected).sum(None).backward();
    assert_close(grad(&y, &x)?.value(), &expected.grad(), 1e-6)
}

#[test]
fn what_an_op_does_not_take_is_an_error() -> Result<()> {
    let x = Var::leaf(Tensor::zeros([2, 3], DOUBLE_CPU));
    let w = Var::leaf(Tensor::zeros([2, 4], DOUBLE_CPU));
    let index = Var::constant(Tensor::from_slice(&[7i64, 0]));
    let int = Var::constant(Tensor::from_slice(&[1i64, 2]));
    let complex = Var::leaf(Tensor::zeros([2], (Kind::ComplexDouble, tch::Device::Cpu)));
    for (op, part, result) in [
        ("Add", "must match the size", ops::Add.apply((&x, &w))),
        ("Sub", "must match the size", ops::Sub.apply((&x, &w))),
        ("Mul", "must match the size", ops::Mul.apply((&x, &w))),
        ("Div", "must match the size", ops::Div.apply((&x, &w))),
        ("Pow", "must match the size", x.pow(&w)),
        ("Maximum", "must match the size", x.maximum(&w)),
        ("Minimum", "not implemented for complex", complex.minimum(&complex)),
        ("Where", "expected condition to be a boolean tensor", x.where_self(&x, &x)),
        ("Greater", "must match the size", x.gt(&w)),
        ("SquaredError", "must match the size", x.squared_error(&w)),
        ("Relu", "not supported for complex", complex.relu()),
        ("Sum", "Dimension out of range", x.sum_dim(&[2], false)),
        ("Mean", "Dimension out of range", x.mean_dim(&[-3], false)),
        ("Mean", "dtype", int.mean()),
        ("Amax", "Dimension out of range", x.amax(&[5], false)),
        ("Max", "Dimension out of range", x.max_dim(5, false).map(|y| y.0)),
        ("Min", "Dimension out of range", x.min_dim(5, false).map(|y| y.0)),
        ("Matmul", "shapes cannot be multiplied", x.matmul(&w)),
        ("Transpose", "Dimension out of range", x.transpose(0, 2)),
        ("Reshape", "is invalid for input of size 6", x.reshape(&[4])),
        ("IndexSelect", "out of DATA bounds", x.index_select(1, &index)),
        ("Gather", "Index tensor must have the same number of dimensions", x.gather(1, &index)),
        ("Softmax", "Dimension out of range", x.softmax(2)),
        ("LogSoftmax", "Dimension out of range", x.log_softmax(2)),
        ("CrossEntropy", "Target 7 is out of bounds", x.cross_entropy(&index)),
        ("CrossEntropy", "", x.cross_entropy(&w)),
    ] {
        let e = result.expect_err(op);
        let text = e.to_string();
        assert!(matches!(e, Error::Forward { op: found, .. } if found == op), "{op}: {text}");
        assert!(text.starts_with(&format!("{op}: forward failed: ")), "{text}");
        assert!(text.contains(part), "{op}: {text}");
        assert!(!text.contains("frame #"), "{op}: {text}");
    }
    Ok(())
}

#[test]
fn rust_operators_take_references_values_and_numbers() -> Result<()> {
    let (a, b) = (Var::leaf(Tensor::from(7.0)), Var::leaf(Tensor::from(2.0)));
    let value = |v: Var| f64::try_from(v.value());
    let owned = || (a.clone(), b.clone());
    let (c, d) = owned();
    assert_eq!([value(&a + &b)?, value(c + d)?], [9.0; 2]);
    let (c, d) = owned();
    assert_eq!([value(&a - d)?, value(c - &b)?], [5.0; 2]);
    let (c, d) = owned();
    assert_eq!([value(c * 2.0)?, value(7.0 * d)?, value(&a * 2.0)?, value(7.0 * &b)?], [14.0; 4]);
    let (c, d) = owned();
    assert_eq!([value(c / 2.0)?, value(7.0 / d)?, value(&a / &b)?, value(7.0 / &b)?], [3.5; 4]);
    assert_eq!([value(-&a)?, value(-a.clone())?, value(-7.0 + &a - &a)?], [-7.0; 3]);
    Ok(())
}

#[test]
#[should_panic(
    expected = "Add: forward failed: Internal torch error: The size of tensor a (3) must match"
)]
fn rust_operators_panic_with_the_error() {
    let _ = Var::leaf(Tensor::zeros([3], DOUBLE_CPU)) + Var::leaf(Tensor::zeros([4], DOUBLE_CPU));
}

/// Only what some gradient will need: what is not saved may change.
#[test]
fn no_more_is_saved_than_needed() -> Result<()> {
    let leaf = || Var::leaf(Tensor::from_slice(&[0.5, 2.0]));
    let constant = Var::constant(Tensor::from_slice(&[3.0, 4.0]));
    type Of = fn(&Var, &Var) -> tch_function::Result<Var>;
    let spares_input: [(&str, Of); 16] = [
        ("add", |x, c| Ok(x + c)),
        ("sub", |x, c| Ok(c - x)),
        ("mul", |x, c| Ok(x * c)),
        ("div", |x, c| Ok(x / c)),
        ("matmul", |x, c| x.matmul(c)),
        ("scalars", |x, _| Ok(1.0 - (x * 2.0 + 3.0) / 4.0)),
        ("exp", |x, _| x.exp()),
        ("sqrt", |x, _| x.sqrt()),
        ("tanh", |x, _| x.tanh()),
        ("sigmoid", |x, _| x.sigmoid()),
        ("relu", |x, _| x.relu()),
        ("sum", |x, _| x.sum()),
        ("mean", |x, _| x.mean()),
        ("max_dim", |x, _| Ok(x.max_dim(0, false)?.0)),
        ("softmax", |x, _| x.softmax(0)),
        ("log_softmax", |x, _| x.log_softmax(0)),
    ];
    for (name, f) in spares_input {
        let x = leaf();
        let y = f(&x, &constant)?.sum()?;
        x.update(|x| drop(x.g_mul_scalar_(-1.0)))?;
        grad(&y, &x).with_context(|| name)?;
    }
    // And what was saved and changed is noticed.
    let keeps_input: [Of; 3] = [|x, _| Ok(x * x), |x, _| x.log(), |x, c| x.pow(c)];
    for f in keeps_input {
        let x = leaf();
        let y = f(&x, &constant)?.sum()?;
        x.update(|x| drop(x.g_mul_scalar_(-1.0)))?;
        assert!(matches!(grad(&y, &x), Err(Error::SavedChanged { .. })));
    }
    Ok(())
}

#[test]
fn functions_of_the_table_compose() -> Result<()> {
    let mut random = Random::new("compose");
    let [x, w, b] = [&[4, 3][..], &[3, 2], &[2]].map(|shape| random.tensor(shape, ANY));
    let classes = Var::constant(Tensor::from_slice(&[1i64, 0, 0, 1]));
    gradcheck_fn(|[x, w, b]| (x.matmul(w)? + b).tanh()?.cross_entropy(&classes), [&x, &w, &b])?
        .assert();
    Ok(())
}
