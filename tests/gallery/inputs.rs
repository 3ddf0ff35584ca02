//! Functions of several inputs.

use crate::fault::{Two, other_matrix, pick, square_matrix, x};
use anyhow::Result;
use tch::Tensor;
use tch_function::check::Check;
use tch_function::{Ctx, Function};

fn row() -> Tensor {
    Tensor::from_slice(&[1.5, -0.5, 0.25])
}

fn mul(a: &Tensor, b: &Tensor) -> Tensor {
    a * b
}

/// `y = x[index]`
struct Take {
    wrong: bool,
}

impl Function for Take {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (x, index): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([index])?;
        Ok(x.index_select(0, index))
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [index] = ctx.saved_tensors()?;
        let zeros = Tensor::zeros(ctx.input_size(0)?, (dy.kind(), dy.device()));
        let dx = match self.wrong {
            true => zeros.index_copy(0, index, dy),
            false => zeros.index_add(0, index, dy),
        };
        Ok((Some(dx), None))
    }
}

/// `y = a b`, with a `jvp`.
struct Product {
    jvp: fn(&Tensor, &Tensor, &Tensor, &Tensor) -> Tensor,
}

impl Function for Product {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([a, b])?;
        Ok(a * b)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [a, b] = ctx.saved_tensors()?;
        Ok((Some(dy * b), Some(dy * a)))
    }
    fn jvp(
        &self,
        _: &Ctx,
        (a, b): (&Tensor, &Tensor),
        (da, db): (&Tensor, &Tensor),
    ) -> Result<Tensor> {
        Ok((self.jvp)(a, b, da, db))
    }
}

fn product(
    jvp: fn(&Tensor, &Tensor, &Tensor, &Tensor) -> Tensor,
) -> tch_function::Result<tch_function::check::CheckReport> {
    Check::new(Product { jvp }, [(square_matrix(), other_matrix())]).run()
}

faults! {
    transpose_missing: Gradcheck, |wrong| {
        let f = Two::of_inputs(Tensor::matmul, move |dy, a, b| {
            let turned = !(wrong && b.size()[0] == b.size()[1]);
            (dy.matmul(&pick(turned, b.tr(), b.shallow_clone())), a.tr().matmul(dy))
        });
        Check::new(f, [(square_matrix(), other_matrix())]).run()
    };
    /// The first row of the gradient has the shape of the row that was broadcast.
    broadcast_not_summed: Gradcheck, |wrong| {
        let f = Two::new(mul, move |ctx, dy, a, b| {
            let (da, db) = (dy * b, dy * a);
            let cut = wrong && a.dim() == 2 && a.size()[0] > 0 && a.size()[1..] == b.size();
            let db = if cut { db.get(0) } else { ctx.reduce_to_input(1, &db).unwrap() };
            (Some(ctx.reduce_to_input(0, &da).unwrap()), Some(db))
        });
        Check::new(f, [(x(), row())]).run()
    };
    broadcast_averaged: Gradcheck, |wrong| {
        let f = Two::new(mul, move |ctx, dy, a, b| {
            let db = ctx.reduce_to_input(1, &(dy * a)).unwrap();
            let db = if wrong { db * b.numel() as f64 / a.numel() as f64 } else { db };
            (Some(ctx.reduce_to_input(0, &(dy * b)).unwrap()), Some(db))
        });
        Check::new(f, [(x(), row())]).run()
    };
    gradients_swapped: Gradcheck, |wrong| {
        let f = Two::of_inputs(mul, move |dy, a, b| {
            let (da, db) = (dy * b, dy * a);
            if wrong { (db, da) } else { (da, db) }
        });
        Check::new(f, [(square_matrix(), other_matrix())]).run()
    };
    /// `index_put` without `accumulate`.
    repeated_indices_not_added: Gradcheck, |wrong| {
        let index = Tensor::from_slice(&[2i64, 0, 2, 1]);
        Check::new(Take { wrong }, [(square_matrix(), index)]).run()
    };
    nothing_if_another_needs_nothing: NeedsInputGrad, |wrong| {
        let f = Two::new(mul, move |ctx, dy, a, b| {
            let idle = wrong && !(ctx.needs_input_grad(0) && ctx.needs_input_grad(1));
            if idle { (None, None) } else { (Some(dy * b), Some(dy * a)) }
        });
        Check::new(f, [(square_matrix(), other_matrix())]).run()
    };
    depends_on_who_asks: NeedsInputGrad, |wrong| {
        let f = Two::new(mul, move |ctx, dy, a, b| {
            let alone = wrong && !ctx.needs_input_grad(0);
            (Some(dy * b), Some(dy * a * pick(alone, 2.0, 1.0)))
        });
        Check::new(f, [(square_matrix(), other_matrix())]).run()
    };
    /// Position 0 is asked about where 1 is meant.
    asks_for_the_wrong_position: NeedsInputGrad, |wrong| {
        let f = Two::new(mul, move |ctx, dy, a, b| {
            let asked = ctx.needs_input_grad(pick(wrong, 0, 1));
            (ctx.needs_input_grad(0).then(|| dy * b), asked.then(|| dy * a))
        });
        Check::new(f, [(square_matrix(), other_matrix())]).run()
    };
    tangent_times_2: ForwardMode, |wrong| match wrong {
        true => product(|a, b, da, db| (a * db + da * b) * 2.0),
        false => product(|a, b, da, db| a * db + da * b),
    };
    tangent_without_a_term: ForwardMode, |wrong| match wrong {
        true => product(|_, b, da, _| da * b),
        false => product(|a, b, da, db| a * db + da * b),
    };
    tangents_swapped: ForwardMode, |wrong| match wrong {
        true => product(|a, b, da, db| a * da + db * b),
        false => product(|a, b, da, db| a * db + da * b),
    };
}
