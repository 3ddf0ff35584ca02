//! Every operator against libtorch's autograd on the same numbers and against finite
//! differences: one table, and tests stamped from each of its rows.

use anyhow::{Context, Result, ensure};
use tch::{Kind, Reduction, Tensor};
use tch_function::{Gradcheck, Var};
use test_support::compare::{
    ANY, Domain, LAYOUTS, Layout, Ours, Random, Theirs, assert_same, ours, theirs, tolerance,
};

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
    cumsum [x] Complex ROWS [ANY], x.cumsum(-1) => x.cumsum(-1, None);
    cumsum_first [x] Complex UNARY [ANY], x.cumsum(0) => x.cumsum(0, None);
    cumprod [x] Complex ROWS [ANY], x.cumprod(-1) => x.cumprod(-1, None);
    cumprod_first [x] Complex UNARY [ANY], x.cumprod(0) => x.cumprod(0, None);
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
        // Twice a dtype's tolerance: terms that are rounded to a narrow dtype may nearly cancel
        // where a gradient is summed, and libtorch rounds them more than once.
        let coarsest = inputs.iter().map(|x| 2.0 * tolerance(x.kind())).fold(0.0, f64::max);
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
