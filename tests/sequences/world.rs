//! A program's tensors in one engine, and what each call does to them.

use super::call::*;
use super::engine::{Done, Engine, How, Pass, text, within};
use super::functions::Live;
use super::plain::forget_gradient;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use tch::nn::{self, OptimizerConfig};
use tch::{Device, Tensor};
use tch_function::{HookHandle, grad_fn, register_hook};
use test_support::compare::{ANY, Random};

pub struct World<E> {
    pub parameters: Vec<Tensor>,
    optimizer: nn::Optimizer,
    pub values: BTreeMap<Place, E>,
    hooks: BTreeMap<usize, HookHandle>,
    /// The gradients that hooks were called with, each with the hook's call.
    pub seen: Arc<Mutex<Vec<(usize, Tensor)>>>,
    /// As `How` says.
    odd: bool,
    #[expect(dead_code, reason = "it keeps the parameters")]
    store: nn::VarStore,
}

/// What a call made; a gradient that does not flow is `None`.
pub type Made<E> = Done<Vec<Option<E>>>;

/// The same numbers for the same seed and call.
pub fn numbers(seed: u64, call: usize, which: usize, size: &[i64]) -> Tensor {
    let mut random = Random::new(&format!("{seed} {call} {which}"));
    random.unit();
    // No view, to whose base libtorch would send gradients.
    random.tensor(size, ANY).copy()
}

impl<E: Engine> World<E> {
    pub fn new(program: &Program) -> World<E> {
        let mut store = nn::VarStore::new(Device::Cpu);
        store.double();
        let start = |leaf| numbers(program.seed, 1000, leaf, &[program.size]);
        let parameter = |i: usize| store.root().add(LEAVES[i], start(i), true);
        let parameters: Vec<Tensor> = (0..PARAMETERS).map(parameter).collect();
        let optimizer = nn::Sgd::default().build(&store, 0.125).expect("an optimizer");
        let mut values = BTreeMap::new();
        for (i, p) in parameters.iter().enumerate() {
            values.insert(Place::Leaf(i), E::leaf(p).expect("a parameter"));
        }
        values.insert(Place::Leaf(2), E::leaf(&start(2)).expect("a tensor of f64"));
        values.insert(Place::Leaf(3), E::constant(&start(3)));
        let (hooks, seen) = (BTreeMap::new(), Arc::default());
        World { parameters, optimizer, values, hooks, seen, odd: false, store }
    }

    fn get(&self, x: Place) -> Done<&E> {
        self.values.get(&x).ok_or_else(|| "absent".to_owned())
    }

    fn all(&self, x: &[Place]) -> Done<Vec<&E>> {
        x.iter().map(|x| self.get(*x)).collect()
    }

    /// Whether all that a call takes is there.
    pub fn has(&self, call: &Call) -> bool {
        match call {
            Call::Apply { x, .. } => self.all(x).is_ok(),
            Call::Hook { x, .. } => !E::VARS && self.get(*x).is_ok(),
            Call::Detach(x)
            | Call::DetachInPlace(x)
            | Call::Scale { x, .. }
            | Call::Resize { x, .. }
            | Call::SetData { x, .. }
            | Call::RequiresGrad(x, _)
            | Call::Clone(x)
            | Call::Drop { x, .. }
            | Call::Twice(x) => self.get(*x).is_ok(),
            Call::Backward { y, .. } => self.all(y).is_ok(),
            Call::Grad { y, x, .. } => self.all(y).is_ok() && self.all(x).is_ok(),
            Call::Unhook(call) => self.hooks.contains_key(call),
            _ => true,
        }
    }

    /// The tensor that tch's own calls work on: the parameter, or the value's.
    pub fn tensor(&self, x: Place) -> Done<Tensor> {
        match x {
            Place::Leaf(i) if i < PARAMETERS => Ok(self.parameters[i].shallow_clone()),
            _ => Ok(self.get(x)?.tensor().shallow_clone()),
        }
    }

    /// Whether libtorch's flags and history of the tensor are none of the program's
    /// matter: those of the tensor inside a Var.
    pub fn is_inside(&self, x: Place) -> bool {
        E::VARS && !matches!(x, Place::Leaf(i) if i < PARAMETERS)
    }

    /// Does what a call says; `i` is its number.
    pub fn run(&mut self, seed: u64, i: usize, call: &Call) -> Made<E> {
        let none = |()| Vec::new();
        match call {
            Call::Apply { op, x, scope } => {
                let x = self.all(x)?;
                let y = within(*scope, || E::apply(*op, &x, &self.parameters[0]))?;
                // What a Function returns has no history then, also where it is an input
                // or a view.
                let recorded = |y: &E| E::PLAIN && *scope != Scope::Plain && y.requires_grad();
                let plain = |y: E| if recorded(&y) { y.detach() } else { y };
                return Ok(y.into_iter().map(|y| Some(plain(y))).collect());
            }
            Call::Detach(x) => return Ok(vec![Some(self.get(*x)?.detach())]),
            Call::Clone(x) => return Ok(vec![Some(self.get(*x)?.share())]),
            Call::LeafAgain(leaf) => {
                let again = self.get(Place::Leaf(*leaf))?.leaf_again(self.parameters.get(*leaf));
                return Ok(vec![Some(again?)]);
            }
            Call::Grad { y, x, retain, create, all } => {
                let y = self.all(y)?;
                let seeds = seeds(&y, seed, i);
                let pass = Pass { y, seeds: &seeds, retain: *retain, scope: Scope::Plain };
                return E::grad(
                    pass,
                    &self.all(x)?,
                    How { create: *create, all: *all, odd: self.odd },
                );
            }
            Call::Backward { y, retain, elsewhere, scope } => {
                self.backward(seed, i, y, (*retain, *scope), *elsewhere)
            }
            Call::Twice(y) => self.twice(seed, i, *y),
            // There is nothing like it in a Var.
            Call::DetachInPlace(x) | Call::RequiresGrad(x, _) if E::PLAIN && self.is_inside(*x) => {
                Ok(())
            }
            Call::DetachInPlace(x) => self.tensor(*x)?.f_detach_().map(drop).map_err(text),
            Call::Scale { x: place, c, recorded } => {
                let mut x = self.tensor(*place)?;
                let inside = E::PLAIN && self.is_inside(*place);
                let scope = if *recorded && !inside { Scope::Plain } else { Scope::NoGrad };
                within(scope, || x.f_mul_(&Tensor::from(*c))).map(drop).map_err(text)
            }
            Call::Update { leaf, c } => {
                let leaf = self.get(Place::Leaf(*leaf))?;
                leaf.update(|x| drop(x.g_mul_(&Tensor::from(*c))))
            }
            Call::Resize { x, size } => resize(&mut self.tensor(*x)?, *size, seed, i),
            Call::SetData { x, size } => {
                self.tensor(*x)?.f_set_data(&numbers(seed, i, 0, &[*size])).map_err(text)
            }
            Call::RequiresGrad(x, on) => {
                self.odd = true;
                self.tensor(*x)?.f_requires_grad_(*on).map(drop).map_err(text)
            }
            // libtorch warns of them.
            Call::Step | Call::Zero { how: Zero::Optimizer, .. }
                if self.parameters.iter().any(|p| !p.is_leaf()) =>
            {
                Err("a parameter that was computed".to_owned())
            }
            Call::Step => {
                let step = catch_unwind(AssertUnwindSafe(|| self.optimizer.step()));
                step.map_err(|_| "libtorch's optimizer failed".to_owned())
            }
            Call::Zero { leaf, how } => self.zero(*leaf, *how),
            Call::Hook { x, on, factor } => self.hook(i, *x, *on, *factor),
            Call::Unhook(call) => {
                self.hooks.remove(call).map(HookHandle::remove).ok_or_else(|| "absent".to_owned())
            }
            Call::Drop { x, elsewhere } => {
                let x = self.values.remove(x);
                if *elsewhere {
                    std::thread::spawn(move || drop(x)).join().expect("a drop does not panic");
                }
                Ok(())
            }
        }
        .map(none)
    }

    fn backward(
        &self,
        seed: u64,
        i: usize,
        y: &[Place],
        (retain, scope): (bool, Scope),
        elsewhere: bool,
    ) -> Done<()> {
        let y = self.all(y)?;
        let seeds = seeds(&y, seed, i);
        if !elsewhere {
            return E::backward(Pass { y, seeds: &seeds, retain, scope });
        }
        let y: Vec<E> = y.into_iter().map(E::share).collect();
        std::thread::spawn(move || {
            E::backward(Pass { y: y.iter().collect(), seeds: &seeds, retain, scope })
        })
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn twice(&self, seed: u64, i: usize, y: Place) -> Done<()> {
        let run = |y: &E, seeds: &[Tensor]| {
            E::backward(Pass { y: vec![y], seeds, retain: true, scope: Scope::Plain })
        };
        let y = self.get(y)?;
        let handle = || {
            let y = y.share();
            let seeds = seeds(&[&y], seed, i);
            std::thread::spawn(move || run(&y, &seeds))
        };
        let done = [handle(), handle()]
            .map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        match done {
            [Ok(()), Ok(())] => Ok(()),
            [Err(one), Err(_)] => Err(one),
            [Err(one), _] | [_, Err(one)] => Err(format!("{HALF}{one}")),
        }
    }

    fn zero(&mut self, leaf: usize, how: Zero) -> Done<()> {
        match how {
            Zero::Var => self.get(Place::Leaf(leaf))?.zero_grad()?,
            Zero::Optimizer => self.optimizer.zero_grad(),
            Zero::Tch if self.is_inside(Place::Leaf(leaf)) => {}
            Zero::Tch => Engine::zero_grad(&self.tensor(Place::Leaf(leaf))?)?,
        }
        Ok(())
    }

    fn hook(&mut self, i: usize, x: Place, on: HookOn, factor: f64) -> Done<()> {
        let (x, seen, live) = (self.tensor(x)?, self.seen.clone(), Live::new());
        let scaled = move |grads: &[Option<Tensor>]| -> Vec<Option<Tensor>> {
            let _ = &live;
            // Behind a Function there is its input, behind a formula's last op maybe not.
            if on != HookOn::After {
                let mut seen = seen.lock().expect("no hook panics");
                seen.extend(grads.iter().flatten().map(|grad| (i, grad.detach().copy())));
            }
            grads.iter().map(|grad| grad.as_ref().map(|grad| grad * factor)).collect()
        };
        let node = || grad_fn(&x).ok_or_else(|| "a leaf has no node".to_owned());
        // In plain tch each output has a node of its own.
        if on != HookOn::Tensor && OF_TWO.iter().any(|op| node().is_ok_and(|n| n.name() == *op)) {
            return Err("a node of two outputs".to_owned());
        }
        let hook = match on {
            HookOn::Tensor => register_hook(&x, move |grad| {
                Ok(scaled(&[Some(grad.shallow_clone())]).pop().flatten())
            }),
            HookOn::Before => node()?.register_prehook(move |grads| Ok(Some(scaled(grads)))),
            HookOn::After => node()?.register_hook(move |grads, _| Ok(Some(scaled(grads)))),
        };
        self.hooks.insert(i, hook.map_err(text)?);
        Ok(())
    }

    /// Forgets the gradients of all leaves, without tch's `zero_grad`.
    pub fn forget_gradients(&self) {
        self.parameters.iter().for_each(forget_gradient);
        self.values.values().for_each(|x| forget_gradient(x.tensor()));
    }
}

/// The nodes of Functions with two outputs.
const OF_TWO: [&str; 3] = ["SinCosBackward", "GateBackward", "ShiftAndSumBackward"];

/// How the error of two passes begins of which one succeeded.
pub const HALF: &str = "one of two passes failed: ";

fn seeds<E: Engine>(y: &[&E], seed: u64, i: usize) -> Vec<Tensor> {
    y.iter().enumerate().map(|(k, y)| numbers(seed, i, k, &y.tensor().size())).collect()
}

/// New memory has any numbers, so that it is filled.
fn resize(x: &mut Tensor, size: i64, seed: u64, i: usize) -> Done<()> {
    let grows = size > x.numel() as i64;
    if grows && x.is_inference() {
        return Err("libtorch would change it and not fill it".to_owned());
    }
    let _ = x.f_resize_([size]).map_err(text)?;
    if grows {
        tch::no_grad(|| x.f_copy_(&numbers(seed, i, 0, &[size]))).map_err(text)?;
    }
    Ok(())
}
