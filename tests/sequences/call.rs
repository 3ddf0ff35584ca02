//! A program: a list of calls. Each has a number, which names its results, so that
//! a call keeps its meaning when another one is left out.

use super::op::Op;
use std::fmt;

/// `p0` and `p1` are parameters of a `VarStore`, `x` is a leaf of no store, `c` a
/// constant.
pub const LEAVES: [&str; 4] = ["p0", "p1", "x", "c"];
pub const PARAMETERS: usize = 2;
/// Those that gradients can be asked for.
pub const WITH_GRAD: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Leaf(usize),
    /// The result of a call: its number, and which one.
    Made(usize, usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scope {
    Plain,
    NoGrad,
    Inference,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HookOn {
    Tensor,
    /// The node, before and after it ran.
    Before,
    After,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Zero {
    /// `Var::zero_grad`, on tensors tch's.
    Var,
    /// tch's, of the parameter.
    Tch,
    /// The optimizer's, of all parameters.
    Optimizer,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    Apply {
        op: Op,
        x: Vec<Place>,
        scope: Scope,
    },
    Detach(Place),
    DetachInPlace(Place),
    /// Multiplies the tensor in place, recorded by libtorch or not.
    Scale {
        x: Place,
        c: f64,
        recorded: bool,
    },
    /// `Var::update`, on tensors a change under `no_grad`.
    Update {
        leaf: usize,
        c: f64,
    },
    Resize {
        x: Place,
        size: i64,
    },
    SetData {
        x: Place,
        size: i64,
    },
    RequiresGrad(Place, bool),
    Step,
    Zero {
        leaf: usize,
        how: Zero,
    },
    /// `Var::leaf` of the same tensor.
    LeafAgain(usize),
    Hook {
        x: Place,
        on: HookOn,
        factor: f64,
    },
    /// Removes the hook that a call has set.
    Unhook(usize),
    Clone(Place),
    Drop {
        x: Place,
        elsewhere: bool,
    },
    Backward {
        y: Vec<Place>,
        retain: bool,
        elsewhere: bool,
        scope: Scope,
    },
    Grad {
        y: Vec<Place>,
        x: Vec<Place>,
        retain: bool,
        create: bool,
        /// Through `Gradients`, on Vars.
        all: bool,
    },
    /// Two passes over a retained graph at once, on two threads.
    Twice(Place),
}

/// What a kind of call is counted as.
pub const KINDS: [&str; 18] = [
    "Apply",
    "Detach",
    "DetachInPlace",
    "Scale",
    "Update",
    "Resize",
    "SetData",
    "RequiresGrad",
    "Step",
    "Zero",
    "LeafAgain",
    "Hook",
    "Unhook",
    "Clone",
    "Drop",
    "Backward",
    "Grad",
    "Twice",
];

impl Call {
    pub fn kind(&self) -> &'static str {
        KINDS[match self {
            Call::Apply { .. } => 0,
            Call::Detach(_) => 1,
            Call::DetachInPlace(_) => 2,
            Call::Scale { .. } => 3,
            Call::Update { .. } => 4,
            Call::Resize { .. } => 5,
            Call::SetData { .. } => 6,
            Call::RequiresGrad(..) => 7,
            Call::Step => 8,
            Call::Zero { .. } => 9,
            Call::LeafAgain(_) => 10,
            Call::Hook { .. } => 11,
            Call::Unhook(_) => 12,
            Call::Clone(_) => 13,
            Call::Drop { .. } => 14,
            Call::Backward { .. } => 15,
            Call::Grad { .. } => 16,
            Call::Twice(_) => 17,
        }]
    }

    /// How many values it makes.
    pub fn results(&self) -> usize {
        match self {
            Call::Apply { op, .. } => op.results(),
            Call::Detach(_) | Call::LeafAgain(_) | Call::Clone(_) => 1,
            Call::Grad { x, .. } => x.len(),
            _ => 0,
        }
    }

    /// The same with less to it, for the shortest report.
    pub fn simpler(&self) -> Vec<Call> {
        let mut found = Vec::new();
        let mut offer = |change: &dyn Fn(&mut Call)| {
            let mut call = self.clone();
            change(&mut call);
            if call != *self {
                found.push(call);
            }
        };
        offer(&|call| match call {
            Call::Apply { scope, .. } | Call::Backward { scope, .. } => *scope = Scope::Plain,
            Call::Grad { create, .. } => *create = false,
            _ => {}
        });
        offer(&|call| match call {
            Call::Backward { elsewhere, .. } | Call::Drop { elsewhere, .. } => *elsewhere = false,
            Call::Grad { all, .. } => *all = false,
            _ => {}
        });
        offer(&|call| match call {
            Call::Backward { y, .. } | Call::Grad { y, .. } => y.truncate(1),
            _ => {}
        });
        offer(&|call| match call {
            Call::Grad { x, .. } => x.truncate(1),
            Call::Backward { retain, .. } => *retain = false,
            _ => {}
        });
        offer(&|call| match call {
            Call::Grad { retain, .. } => *retain = false,
            Call::Apply { op, .. } if op.arity() == 1 && op.results() == 1 => {
                *op = Op::MulScalar(2.0);
            }
            _ => {}
        });
        found
    }
}

pub struct Program {
    pub seed: u64,
    pub size: i64,
    pub calls: Vec<(usize, Call)>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Leaf(i) => write!(f, "{}", LEAVES[*i]),
            Place::Made(call, 0) => write!(f, "v{call}"),
            Place::Made(call, result) => write!(f, "v{call}.{result}"),
        }
    }
}

fn list(places: &[Place]) -> String {
    places.iter().map(Place::to_string).collect::<Vec<_>>().join(", ")
}

fn flags(flags: &[(bool, &str)]) -> String {
    flags.iter().filter(|(on, _)| *on).map(|(_, name)| format!(" {name}")).collect()
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Call::Apply { op, x, scope } => write!(f, "{op:?}({}){scope}", list(x)),
            Call::Detach(x) => write!(f, "detach({x})"),
            Call::DetachInPlace(x) => write!(f, "{x}.detach_()"),
            Call::Scale { x, c, recorded } => {
                write!(f, "{x} *= {c}{}", flags(&[(!*recorded, "under no_grad")]))
            }
            Call::Update { leaf, c } => write!(f, "update {} *= {c}", LEAVES[*leaf]),
            Call::Resize { x, size } => write!(f, "{x}.resize_([{size}]) and fill"),
            Call::SetData { x, size } => write!(f, "{x}.set_data(of shape [{size}])"),
            Call::RequiresGrad(x, on) => write!(f, "{x}.requires_grad_({on})"),
            Call::Step => write!(f, "optimizer.step()"),
            Call::Zero { leaf, how } => write!(f, "zero_grad({}) by {how:?}", LEAVES[*leaf]),
            Call::LeafAgain(i) => write!(f, "leaf({})", LEAVES[*i]),
            Call::Hook { x, on, factor } => write!(f, "hook on {x}, {on:?}, times {factor}"),
            Call::Unhook(call) => write!(f, "remove hook {call}"),
            Call::Clone(x) => write!(f, "clone({x})"),
            Call::Drop { x, elsewhere } => {
                write!(f, "drop({x}){}", flags(&[(*elsewhere, "on another thread")]))
            }
            Call::Backward { y, retain, elsewhere, scope } => {
                let flags = flags(&[(*retain, "retain"), (*elsewhere, "on another thread")]);
                write!(f, "backward({}){flags}{scope}", list(y))
            }
            Call::Grad { y, x, retain, create, all } => {
                let names = [(*retain, "retain"), (*create, "create"), (*all, "all")];
                write!(f, "grad({}; {}){}", list(y), list(x), flags(&names))
            }
            Call::Twice(y) => write!(f, "backward({y}) retain, on two threads at once"),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Plain => Ok(()),
            Scope::NoGrad => write!(f, " under no_grad"),
            Scope::Inference => write!(f, " in inference mode"),
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "leaves p0, p1 (parameters), x, and a constant c, of shape [{}]", self.size)?;
        for (i, call) in &self.calls {
            match call.results() {
                0 => writeln!(f, "{i:>4}: {call}")?,
                1 => writeln!(f, "{i:>4}: v{i} = {call}")?,
                _ => writeln!(f, "{i:>4}: v{i}, v{i}.1 = {call}")?,
            }
        }
        Ok(())
    }
}
