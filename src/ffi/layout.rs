//! The layouts and numbers that Rust and C++ share. This file asserts them for Rust;
//! build.rs reads it and writes a header that asserts the same for C++.

/// Asserts the size of each struct and the offsets of its fields. The name behind `as`
/// is the struct's in shim.h, whose fields have the same names.
macro_rules! structs {
    ($($rust:ty as $c:ident, $size:literal { $($field:ident: $offset:literal,)+ })+) => {$(
        const _: () = {
            assert!(size_of::<$rust>() == $size);
            $(assert!(std::mem::offset_of!($rust, $field) == $offset);)+
        };
    )+};
}

/// Asserts the number of each constant. The name behind `as` is the one in shim.h.
macro_rules! numbers {
    ($($rust:path as $c:ident = $value:literal;)+) => {
        $(const _: () = assert!($rust as usize == $value);)+
    };
}

use super::dispatcher::{Kernel, RawFacts, RawOp, SOURCES, Source, Tag as OpTag};
use super::hooks::RawHook;
use super::memory::{RawMemory, Unfit};
use super::modes::RawAutocast;
use super::node::{Callbacks, Output, RawRecording, Saved, SecondOrder};
use super::scalar::Op;
use super::tensor::Description;
use super::values::{RawValue, Tag};

structs! {
    Description<'_> as tf_meta, 40 {
        sizes: 0, dim: 8, identity: 16, version: 24, dtype: 28, device_type: 29,
        device_index: 30, requires_grad: 31, only_as_view: 32, symbolic: 33,
        zero: 34, is_inference: 35, python: 36,
    }
    Callbacks as tf_callbacks, 80 {
        backward: 0, name: 8, graph_freed: 16, saved_changed: 24, no_second_order: 32,
        error_text: 40, drop_error: 48, drop_state: 56, state_size: 64, state_align: 72,
    }
    Output<'_> as tf_output, 16 {
        tensor: 0, differentiable: 8,
    }
    Saved<'_> as tf_saved, 16 {
        tensor: 0, constant: 8,
    }
    RawRecording<'_> as tf_recording, 88 {
        callbacks: 0, inputs: 8, n_inputs: 16, dirty: 24, n_dirty: 32, outputs: 40,
        n_outputs: 48, saved: 56, n_saved: 64, second_order: 72, state: 80,
    }
    RawHook as tf_hook, 32 {
        callbacks: 0, state: 8, call: 16, drop: 24,
    }
    RawAutocast as tf_autocast, 3 {
        device_type: 0, dtype: 1, enabled: 2,
    }
    RawMemory as tf_memory, 48 {
        sizes: 0, strides: 8, dim: 16, count: 24, data: 32, dtype: 40, contiguous: 41,
        dense: 42,
    }
    RawValue as tf_value, 40 {
        tag: 0, len: 8, data: 16, i: 24, f: 32,
    }
    RawFacts as tf_facts, 24 {
        name: 0, name_len: 8, batches: 16, casts: 17,
    }
    RawOp as tf_op, 40 {
        errors: 0, state: 8, call: 16, facts: 24, drop: 32,
    }
}

numbers! {
    OpTag::NondeterministicSeeded as TF_NONDETERMINISTIC_SEEDED = 0;
    OpTag::NondeterministicBitwise as TF_NONDETERMINISTIC_BITWISE = 1;
    OpTag::DynamicOutputShape as TF_DYNAMIC_OUTPUT_SHAPE = 2;
    OpTag::DataDependentOutput as TF_DATA_DEPENDENT_OUTPUT = 3;
    OpTag::Pointwise as TF_POINTWISE = 4;
    OpTag::FlexibleLayout as TF_FLEXIBLE_LAYOUT = 5;
    OpTag::NeedsFixedStrideOrder as TF_NEEDS_FIXED_STRIDE_ORDER = 6;
    OpTag::NeedsExactStrides as TF_NEEDS_EXACT_STRIDES = 7;
    OpTag::NeedsContiguousStrides as TF_NEEDS_CONTIGUOUS_STRIDES = 8;
    OpTag::CudagraphUnsafe as TF_CUDAGRAPH_UNSAFE = 9;
    Op::Add as TF_ADD = 0; Op::Sub as TF_SUB = 1; Op::Rsub as TF_RSUB = 2;
    Op::Mul as TF_MUL = 3; Op::Div as TF_DIV = 4; Op::Pow as TF_POW = 5;
    SecondOrder::ThroughSaved as TF_THROUGH_SAVED = 0;
    SecondOrder::Recomputed as TF_RECOMPUTED = 1; SecondOrder::Once as TF_ONCE = 2;
    Unfit::Fit as TF_FIT = 0; Unfit::Failed as TF_FAILED = 1;
    Unfit::Undefined as TF_UNDEFINED = 2; Unfit::NoData as TF_NO_DATA = 3;
    Unfit::OtherDevice as TF_OTHER_DEVICE = 4; Unfit::Quantised as TF_QUANTISED = 5;
    Unfit::NotStrided as TF_NOT_STRIDED = 6; Unfit::Lazy as TF_LAZY = 7;
    Unfit::Recorded as TF_RECORDED = 8; Unfit::Tangent as TF_TANGENT = 9;
    Unfit::Traced as TF_TRACED = 10; Unfit::Unaligned as TF_UNALIGNED = 11;
    Unfit::Beyond as TF_BEYOND = 12; Unfit::Inference as TF_INFERENCE = 13;
    Tag::None as TF_NONE = 0; Tag::Tensor as TF_TENSOR_VALUE = 1; Tag::Tensors as TF_TENSORS = 2;
    Tag::Int as TF_INT = 3; Tag::Float as TF_FLOAT = 4; Tag::Bool as TF_BOOL = 5;
    Tag::Text as TF_TEXT = 6; Tag::Ints as TF_INTS = 7; Tag::Floats as TF_FLOATS = 8;
    Tag::Bools as TF_BOOLS = 9; Tag::Other as TF_OTHER = 10; Kernel::Apply as TF_APPLY = 0;
    Kernel::Forward as TF_FORWARD = 1; Kernel::Backward as TF_BACKWARD = 2;
    Kernel::Jvp as TF_JVP = 3; Kernel::BackwardAbove as TF_BACKWARD_ABOVE = 4;
    Kernel::Cast as TF_CAST = 5; Source::Input as TF_INPUT = 0; Source::Output as TF_OUTPUT = 1;
    Source::Intermediate as TF_INTERMEDIATE = 2; Source::Constant as TF_CONSTANT = 3;
    Source::ConstantOutput as TF_CONSTANT_OUTPUT = 4; SOURCES as TF_SOURCES = 8;
}
