//! [`grad`] and [`backward`], with their options.

use crate::error::Result;
use crate::function::{Differentiable, PassOptions};
use crate::graph::{self, Gradients, Var};

/// Returns the gradients of `outputs` with respect to `inputs`, Vars or tensors:
/// `torch.autograd.grad`. Each may be `&v`, `[&a, &b]` or a slice; the result
/// has the form of `inputs`. Nothing is added to any leaf's `grad`.
///
/// The outputs must be one real number each; [`GradOptions`] takes seeds for
/// others, and has the other options.
///
/// # Errors
/// The errors and panics of every `backward` that runs; and
/// [`Error::NoGraph`](crate::Error::NoGraph),
/// [`Error::NotDifferentiable`](crate::Error::NotDifferentiable),
/// [`Error::SeedMissing`](crate::Error::SeedMissing),
/// [`Error::Unused`](crate::Error::Unused),
/// [`Error::InputNoGrad`](crate::Error::InputNoGrad),
/// [`Error::GraphFreed`](crate::Error::GraphFreed).
pub fn grad<'a, V: Differentiable, X: Handles<'a, V>>(
    outputs: impl Handles<'a, V>,
    inputs: X,
) -> Result<X::Form<V>> {
    let found = V::grad(&outputs.list(), &inputs.list(), &PassOptions::default())?;
    Ok(inputs.form(found.into_iter().map(|g| g.expect("unused inputs are an error"))))
}

/// Adds the gradients of `outputs`, one real number each, to every leaf behind
/// them. When it fails, no leaf of Vars has changed (libtorch adds to its
/// leaves as the pass goes).
///
/// # Errors
/// Those of [`grad`].
pub fn backward<'a, V: Differentiable>(outputs: impl Handles<'a, V>) -> Result<()> {
    V::backward(&outputs.list(), &PassOptions::default())
}

/// Options of [`grad`] and [`backward`].
///
/// ```
/// use tch::Tensor;
/// use tch_function::{GradOptions, Var};
///
/// let [x, w, other] = [2.0, 3.0, 5.0].map(|v| Var::leaf(Tensor::from(v)));
/// let square = &x * &x;
/// let y = &square * &w;
/// let number = |t: &Tensor| f64::try_from(t);
///
/// let seed = Var::constant(Tensor::from(10.0));
/// let keep = GradOptions::new().seeds(&seed).retain_graph(true).allow_unused(true);
/// let [dx, none] = keep.grad(&y, [&x, &other])?;
/// assert_eq!(number(dx.expect("x was used").value())?, 120.0);
/// assert!(none.is_none());
///
/// let gradients = y.gradients()?; // the last pass, which frees the graph
/// assert_eq!(number(&gradients[&square])?, 3.0);
/// assert_eq!(number(&gradients[&w])?, 4.0);
/// # anyhow::Ok(())
/// ```
pub struct GradOptions<'a, V> {
    pass: PassOptions<'a, V>,
}

impl<V> Default for GradOptions<'_, V> {
    fn default() -> Self {
        GradOptions { pass: PassOptions::default() }
    }
}

impl<'a, V> GradOptions<'a, V> {
    /// Makes options without seeds, with every option off.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the gradients to start from (`grad_outputs`), one per output, of its
    /// shape, dtype and device. The default is 1, but only for outputs that are one
    /// real number.
    pub fn seeds(mut self, seeds: impl Handles<'a, V>) -> Self {
        self.pass.seeds = seeds.list();
        self
    }

    /// Keeps saved tensors, so that another pass can follow.
    pub fn retain_graph(mut self, retain: bool) -> Self {
        self.pass.retain_graph = retain;
        self
    }

    /// Records the pass itself, so that its results can be differentiated; the
    /// graph is kept, too. On Vars use [`grad`](GradOptions::grad): `backward` and
    /// `gradients` return [`Error::NotYet`](crate::Error::NotYet).
    pub fn create_graph(mut self, create: bool) -> Self {
        self.pass.create_graph = create;
        self
    }

    /// Returns `None` for inputs that no gradient reaches, in place of
    /// [`Error::Unused`](crate::Error::Unused).
    pub fn allow_unused(mut self, allow: bool) -> Self {
        self.pass.allow_unused = allow;
        self
    }
}

impl<V: Differentiable> GradOptions<'_, V> {
    /// Does what [`grad`] does, with these options; `None` only with [`allow_unused`](GradOptions::allow_unused).
    ///
    /// # Errors
    /// Those of [`grad`], and [`Error::Seed`](crate::Error::Seed),
    /// [`Error::SeedCount`](crate::Error::SeedCount).
    pub fn grad<'a, X: Handles<'a, V>>(
        &self,
        outputs: impl Handles<'a, V>,
        inputs: X,
    ) -> Result<X::Form<Option<V>>> {
        Ok(inputs.form(V::grad(&outputs.list(), &inputs.list(), &self.pass)?.into_iter()))
    }

    /// Does what [`backward`] does, with these options.
    ///
    /// # Errors
    /// Those of [`GradOptions::grad`].
    pub fn backward<'a>(&self, outputs: impl Handles<'a, V>) -> Result<()> {
        V::backward(&outputs.list(), &self.pass)
    }
}

impl GradOptions<'_, Var> {
    /// Returns the gradients with respect to every value behind `outputs`.
    ///
    /// # Errors
    /// Those of [`GradOptions::grad`].
    pub fn gradients<'a>(&self, outputs: impl Handles<'a, Var>) -> Result<Gradients> {
        graph::gradients(&outputs.list(), &self.pass)
    }
}

/// One or more borrowed values: `&v`, `[&a, &b]`, `&[a, b]`, `&[&a, &b]`, `&vec`.
pub trait Handles<'a, V: 'a>: sealed::Handles<'a, V> {}
impl<'a, V: 'a, T: sealed::Handles<'a, V>> Handles<'a, V> for T {}

mod sealed {
    use crate::function::Value;

    pub trait Handles<'a, V: 'a> {
        /// The form of one `T` per value: `T`, `[T; N]` or `Vec<T>`.
        type Form<T>;
        fn list(&self) -> Vec<&'a V>;
        fn form<T>(&self, items: impl Iterator<Item = T>) -> Self::Form<T>;
    }

    impl<'a, V: Value> Handles<'a, V> for &'a V {
        type Form<T> = T;
        fn list(&self) -> Vec<&'a V> {
            vec![self]
        }
        fn form<T>(&self, mut items: impl Iterator<Item = T>) -> T {
            items.next().expect("one item per value")
        }
    }

    impl<'a, V: Value, const N: usize> Handles<'a, V> for [&'a V; N] {
        type Form<T> = [T; N];
        fn list(&self) -> Vec<&'a V> {
            self.to_vec()
        }
        fn form<T>(&self, mut items: impl Iterator<Item = T>) -> [T; N] {
            std::array::from_fn(|_| items.next().expect("one item per value"))
        }
    }

    macro_rules! list {
        ($([$($generics:tt)*] $t:ty),+ $(,)?) => {$(
            impl<'a, V: Value, $($generics)*> Handles<'a, V> for $t {
                type Form<T> = Vec<T>;
                fn list(&self) -> Vec<&'a V> {
                    #[allow(clippy::borrow_deref_ref)]
                    self.iter().map(|v| &*v).collect()
                }
                fn form<T>(&self, items: impl Iterator<Item = T>) -> Vec<T> {
                    items.collect()
                }
            }
        )+};
    }
    list!([] &'a [V], [] &'a Vec<V>, [const N: usize] &'a [V; N]);

    impl<'a, V: Value> Handles<'a, V> for &[&'a V] {
        type Form<T> = Vec<T>;
        fn list(&self) -> Vec<&'a V> {
            self.to_vec()
        }
        fn form<T>(&self, items: impl Iterator<Item = T>) -> Vec<T> {
            items.collect()
        }
    }
}
