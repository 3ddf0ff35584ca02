//! A program in one engine and in plain tch, call by call: plain tch makes only
//! those calls that the engine made without an `Err`, so that what comes after an
//! `Err` can still be compared.

use super::call::{Call, Place, Program};
use super::engine::Engine;
use super::functions::Live;
use super::measure;
use super::plain::Plain;
use super::tally::{ENGINES, Tally};
use super::world::{HALF, Made, World};
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tch::Tensor;
use tch_function::Var;

/// Values and gradients above this are not used any further: rounding would be too.
const LARGE: f64 = 100.0;
const HUGE: f64 = 1e9;

impl Program {
    /// Runs it in both engines.
    pub fn check(&self, tally: &mut Tally) -> Result<(), String> {
        compare::<Var, Plain<true>>(self, tally, ENGINES[0])?;
        compare::<Tensor, Plain<false>>(self, tally, ENGINES[1])
    }
}

fn compare<E: Engine, R: Engine>(
    program: &Program,
    tally: &mut Tally,
    engine: &'static str,
) -> Result<(), String> {
    let run = move || {
        let mut step = Lockstep {
            program,
            ours: World::<E>::new(program),
            theirs: World::<R>::new(program),
            tally,
            engine,
            ended: false,
            errs: 0,
        };
        step.run()
    };
    // A thread of its own, because libtorch keeps what is left of a failed pass until
    // the thread ends. What panics here is no call of this crate, but it should not hide
    // the program.
    let done = std::thread::scope(|scope| scope.spawn(run).join());
    let done = done.unwrap_or_else(|panic| Err(message(&*panic)));
    let left = Live::next_program();
    let left = if !E::VARS && measure::may_leak(program) { 0 } else { left };
    done.map_err(|e| format!("{engine}: {e}"))?;
    match left {
        0 => Ok(()),
        n => Err(format!("{engine}: {n} Functions, contexts or hooks were never dropped")),
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("a panic: {}", text.unwrap_or("of another type"))
}

struct Lockstep<'a, E, R> {
    program: &'a Program,
    ours: World<E>,
    theirs: World<R>,
    tally: &'a mut Tally,
    engine: &'static str,
    /// Whether the two are no longer alike, so that only faults can be found.
    ended: bool,
    errs: usize,
}

impl<E: Engine, R: Engine> Lockstep<'_, E, R> {
    fn run(&mut self) -> Result<(), String> {
        for (i, call) in &self.program.calls {
            self.call(*i, call).map_err(|e| format!("call {i}, {call}: {e}"))?;
        }
        if !self.ended {
            self.everything().map_err(|e| format!("in the end: {e}"))?;
        }
        self.tally.end(self.engine, self.errs == 0, !self.ended);
        Ok(())
    }

    fn call(&mut self, i: usize, call: &Call) -> Result<(), String> {
        if !self.ours.has(call) {
            return Ok(());
        }
        self.ended |= measure::is_beyond_tch(&self.ours, self.program, i, call);
        let before = self.changing(call);
        let seen = self.ours.seen.lock().expect("no hook panics").len();
        let run = || self.ours.run(self.program.seed, i, call);
        let found = catch_unwind(AssertUnwindSafe(run)).map_err(|p| message(&*p))?;
        self.tally.call(self.engine, call.kind(), found.is_ok());
        if let Call::Apply { op, .. } = call {
            self.tally.call(self.engine, op.name(), found.is_ok());
        }
        match found {
            Ok(found) if self.ended => {
                self.keep(i, found);
                Ok(())
            }
            Ok(found) => self.succeeded(i, call, found, seen),
            Err(e) => {
                self.errs += 1;
                self.ours.seen.lock().expect("no hook panics").truncate(seen);
                let changed = self.changing(call) != before;
                if self.ended { Ok(()) } else { self.failed(i, call, &e, changed) }
            }
        }
    }

    /// The numbers that the call may change.
    fn changing(&self, call: &Call) -> Option<(Vec<i64>, Vec<f64>)> {
        let x = match call {
            Call::Apply { op, x, .. } if op.is_in_place() => &x[0],
            Call::Scale { x, .. } | Call::Resize { x, .. } => x,
            _ => return None,
        };
        let x = self.ours.tensor(*x).ok()?;
        Some((x.size(), list(&x)))
    }

    fn keep(&mut self, i: usize, found: Vec<Option<E>>) {
        for (k, y) in found.into_iter().enumerate().filter_map(|(k, y)| Some((k, y?))) {
            self.ours.values.insert(Place::Made(i, k), y);
        }
    }

    /// Brings plain tch to where an `Err` left the engine.
    fn failed(&mut self, i: usize, call: &Call, e: &str, changed: bool) -> Result<(), String> {
        match call {
            Call::Apply { op, x, .. } if changed => {
                let x: Result<Vec<Tensor>, String> =
                    x.iter().map(|x| self.theirs.tensor(*x)).collect();
                let x = x?;
                let x: Vec<&Tensor> = x.iter().collect();
                let change = || op.theirs(&x, &self.theirs.parameters[0]).map(drop);
                self.ended |= tch::no_grad(change).is_err();
            }
            // libtorch changes inference tensors before it finds that it must not.
            Call::Scale { .. } | Call::Resize { .. } if changed => {
                self.ended |= self.theirs.run(self.program.seed, i, call).is_ok();
            }
            // A pass in inference mode may leave such a gradient in one of the two alone.
            Call::Zero { .. } if e.contains("inference tensor") => self.ended = true,
            Call::Step | Call::Zero { .. } if !e.contains("computed") => {
                return match self.theirs.run(self.program.seed, i, call) {
                    Ok(_) => Err(format!("fails with {e}, and not in plain tch")),
                    Err(_) => Ok(()),
                };
            }
            Call::Backward { .. } | Call::Twice(_) if E::VARS => {
                self.ended |= e.starts_with(HALF);
            }
            // libtorch adds to leaves as the pass goes.
            Call::Backward { .. } | Call::Twice(_) => {
                self.ours.forget_gradients();
                self.theirs.forget_gradients();
            }
            _ => {}
        }
        Ok(())
    }

    fn succeeded(
        &mut self,
        i: usize,
        call: &Call,
        found: Vec<Option<E>>,
        seen: usize,
    ) -> Result<(), String> {
        let seen = (seen, self.theirs.seen.lock().expect("no hook panics").len());
        let expected: Made<R> = self.theirs.run(self.program.seed, i, call);
        let expected = match (expected, call) {
            (Err(_), Call::Apply { op, .. }) if !op.is_in_place() => return Ok(()),
            // A saved input that is detached in place keeps its history here. And whether a
            // value is a view, which libtorch may refuse to change, is another matter for a
            // formula than for a Function.
            (Err(e), _) if e.contains("detached in-place") || e.contains(" view") => {
                self.ended = true;
                return Ok(());
            }
            // libtorch's nodes go on with the old shape.
            (_, Call::SetData { size, .. }) if !E::VARS && *size != self.program.size => {
                self.ended = true;
                return Ok(());
            }
            // A recomputed forward has saved what a pass has freed since.
            (Err(e), _) if e.contains("a second time") && measure::recomputes(self.program) => {
                self.ended = true;
                return Ok(());
            }
            // The tensor inside a Var, which tch could not change so.
            (_, Call::Resize { x, .. } | Call::SetData { x, .. }) if self.ours.is_inside(*x) => {
                self.ended = true;
                return Ok(());
            }
            (Ok(expected), _) => expected,
            // A pass in inference mode may leave a gradient that libtorch cannot change.
            (Err(e), Call::Backward { .. } | Call::Twice(_) | Call::Zero { .. })
                if e.contains("inference tensor") =>
            {
                self.ended = true;
                return Ok(());
            }
            (Err(e), _) => return Err(format!("succeeds, and plain tch says {e}")),
        };
        if found.len() != expected.len() {
            return Err(format!("{} results for {}", found.len(), expected.len()));
        }
        if expected.iter().any(Option::is_none) {
            // The pass that stops at a hooked value has no need to get there in plain tch.
            self.ours.seen.lock().expect("no hook panics").truncate(seen.0);
            self.theirs.seen.lock().expect("no hook panics").truncate(seen.1);
        }
        // A Var that was changed in place keeps the flag that it had.
        let kept = E::VARS && matches!(call, Call::Clone(_));
        let flags = !kept && !matches!(call, Call::Grad { .. });
        for (k, (found, expected)) in found.into_iter().zip(expected).enumerate() {
            let tensors = [found.as_ref().map(E::tensor), expected.as_ref().map(R::tensor)];
            let large = self.same(tensors).map_err(|e| format!("result {k}: {e}"))?;
            let (Some(found), Some(expected)) = (found, expected) else { continue };
            let both = (found.requires_grad(), expected.requires_grad());
            if flags && both.0 != both.1 {
                return Err(format!("requires a gradient: {}, in plain tch: {}", both.0, both.1));
            }
            if !large {
                self.ours.values.insert(Place::Made(i, k), found);
                self.theirs.values.insert(Place::Made(i, k), expected);
            }
        }
        Ok(())
    }

    /// Compares two tensors, and returns whether they are too large to go on with. What
    /// does not flow is like zeros.
    fn same(&mut self, [found, expected]: [Option<&Tensor>; 2]) -> Result<bool, String> {
        if let (Some(found), Some(expected)) = (found, expected)
            && found.size() != expected.size()
        {
            return Err(format!("shape {:?} for {:?}", found.size(), expected.size()));
        }
        let [found, expected] = [found, expected].map(|t| t.map(list));
        let zeros = vec![0.0; found.as_ref().or(expected.as_ref()).map_or(0, Vec::len)];
        let (found, expected) =
            (found.as_ref().unwrap_or(&zeros), expected.unwrap_or(zeros.clone()));
        let size = expected.iter().fold(0.0, |size: f64, e| size.max(e.abs()));
        if size >= HUGE || expected.iter().any(|e| !e.is_finite()) {
            self.ended = true;
            return Ok(true);
        }
        let differs = |(f, e): (&f64, &f64)| f.is_nan() || (f - e).abs() > 1e-10 * (1.0 + size);
        if found.iter().zip(&expected).any(differs) {
            return Err(format!("{found:?} for {expected:?}"));
        }
        Ok(size > LARGE)
    }

    /// Compares every value and every gradient.
    fn everything(&mut self) -> Result<(), String> {
        let places: Vec<Place> = self.ours.values.keys().copied().collect();
        for x in places {
            let (ours, theirs) = (&self.ours.values[&x], &self.theirs.values[&x]);
            let values = [ours.tensor(), theirs.tensor()].map(Tensor::shallow_clone);
            let grads = [ours.added(), theirs.added()];
            let (is_refused, requires_grad) = (ours.is_refused(), ours.requires_grad());
            // What every op refuses has no value to compare.
            if is_refused {
                continue;
            }
            self.same([Some(&values[0]), Some(&values[1])])
                .map_err(|e| format!("value of {x}: {e}"))?;
            // A handle of a frozen parameter is a constant on Vars, and shows the
            // parameter's gradient in plain tch.
            let is_handle = matches!(x, Place::Made(..)) && !requires_grad;
            if !is_handle {
                self.same([grads[0].as_ref(), grads[1].as_ref()])
                    .map_err(|e| format!("gradient of {x}: {e}"))?;
            }
        }
        for i in 0..self.ours.parameters.len() {
            let both = [&self.ours.parameters[i], &self.theirs.parameters[i]];
            let [found, expected] = both.map(|p| (p.shallow_clone(), p.added()));
            self.same([Some(&found.0), Some(&expected.0)])
                .map_err(|e| format!("value of parameter {i}: {e}"))?;
            self.same([found.1.as_ref(), expected.1.as_ref()])
                .map_err(|e| format!("gradient of parameter {i}: {e}"))?;
        }
        self.hooks()
    }

    /// Compares what hooks have seen; a Function of several outputs sends zeros where
    /// libtorch's separate operators send nothing.
    fn hooks(&mut self) -> Result<(), String> {
        let lists = [&self.ours.seen, &self.theirs.seen].map(|seen| {
            let seen = std::mem::take(&mut *seen.lock().expect("no hook panics"));
            let mut by_hook: BTreeMap<usize, Vec<Tensor>> = BTreeMap::new();
            for (hook, grad) in seen {
                if grad.count_nonzero(None).int64_value(&[]) > 0 {
                    by_hook.entry(hook).or_default().push(grad);
                }
            }
            by_hook
        });
        let [found, expected] = lists;
        let hooks: Vec<usize> = found.keys().chain(expected.keys()).copied().collect();
        for hook in hooks {
            let none = Vec::new();
            let [found, expected] = [&found, &expected].map(|l| l.get(&hook).unwrap_or(&none));
            if found.len() != expected.len() {
                let (found, expected) = (found.len(), expected.len());
                return Err(format!("hook {hook} was called {found} times for {expected}"));
            }
            for (found, expected) in found.iter().zip(expected) {
                self.same([Some(found), Some(expected)])
                    .map_err(|e| format!("hook {hook} saw {e}"))?;
            }
        }
        Ok(())
    }
}

fn list(t: &Tensor) -> Vec<f64> {
    Vec::try_from(t.detach().flatten(0, -1)).expect("a tensor of f64")
}
