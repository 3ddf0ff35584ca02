//! [`Float`]: a vector of floats of whichever width the machine has.

use super::{erf, gates, math};
use pulp::Simd;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Not, Sub};

/// A vector of `f32` or `f64`, of as many lanes as the instruction set has;
/// every operation is lane by lane. Operators take a vector or a constant.
///
/// The functions are within 2 ulp of the exact value for every argument, in
/// either type; `tests/kernel/math.rs` measures how close each one is.
pub trait Float:
    Copy
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + Add<f64, Output = Self>
    + Sub<f64, Output = Self>
    + Mul<f64, Output = Self>
    + Div<f64, Output = Self>
    + math::Bits
{
    /// A truth value for each lane.
    type Mask: Copy
        + BitAnd<Output = Self::Mask>
        + BitOr<Output = Self::Mask>
        + Not<Output = Self::Mask>;

    /// A vector with `value` in each lane, rounded to the lanes' type.
    fn of(self, value: f64) -> Self;
    /// `self * a + b`, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// The absolute value.
    fn abs(self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
    /// The greater one; of NaN and a number, either.
    fn max(self, other: Self) -> Self;
    /// The lesser one; of NaN and a number, either.
    fn min(self, other: Self) -> Self;
    /// Returns the number with the sign of `sign`.
    fn copysign(self, sign: Self) -> Self;
    /// `self < other`
    fn lt(self, other: Self) -> Self::Mask;
    /// `self <= other`
    fn le(self, other: Self) -> Self::Mask;
    /// `self == other`; NaN equals nothing.
    fn eq(self, other: Self) -> Self::Mask;
    /// `yes` where `mask` is true, else `no`.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;

    /// `f` of each lane, one by one, in f64.
    #[doc(hidden)]
    fn each(self, f: impl Fn(f64) -> f64) -> Self;
    /// `f` of each lane and the other's, one by one, in f64.
    #[doc(hidden)]
    fn each_with(self, other: Self, f: impl Fn(f64, f64) -> f64) -> Self;

    /// `e^x`
    #[inline(always)]
    fn exp(self) -> Self {
        math::exp(self)
    }
    /// `e^(self + rest)`, with a rest that is below the last place of `self`.
    #[doc(hidden)]
    #[inline(always)]
    fn exp_with_rest(self, rest: Self) -> Self {
        math::exp_of_sum(self, Some(rest))
    }
    /// `e^-|x|`, never above 1, and faster than `exp`. Of NaN, any number.
    #[inline(always)]
    fn exp_neg_abs(self) -> Self {
        math::decayed(self)
    }
    /// The natural logarithm.
    #[inline(always)]
    fn ln(self) -> Self {
        math::ln(self)
    }
    /// `log(1 + x)`
    #[inline(always)]
    fn ln_1p(self) -> Self {
        math::ln_1p(self)
    }
    /// The hyperbolic tangent.
    #[inline(always)]
    fn tanh(self) -> Self {
        math::tanh(self)
    }
    /// The error function.
    #[inline(always)]
    fn erf(self) -> Self {
        erf::erf(self)
    }
    /// `log(1 + e^x)`, which overflows nowhere.
    #[inline(always)]
    fn ln_1p_exp(self) -> Self {
        math::ln_1p_exp(self)
    }
    /// `1 / (1 + e^-x)`
    #[inline(always)]
    fn sigmoid(self) -> Self {
        math::sigmoid(self)
    }
    /// `factor sigmoid(x) sigmoid(-x)`, of a small factor.
    #[doc(hidden)]
    #[inline(always)]
    fn sigmoid_slope(self, factor: f64) -> Self {
        gates::sigmoid_slope(self, factor)
    }
}

macro_rules! vector {
    ($V:ident, $T:ty, $bits:ty, $v:ident, $m:ident, $u:ident, [$add:ident $sub:ident $mul:ident $div:ident],
     [$splat:ident $fma:ident $abs:ident $neg:ident $sqrt:ident $max:ident $min:ident],
     [$lt:ident $le:ident $eq:ident $select:ident $and_m:ident $or_m:ident $not_m:ident],
     [$and:ident $or:ident $not:ident]) => {
        #[derive(Clone, Copy)]
        pub struct $V<S: Simd>(pub S, pub S::$v);

        // The operations of a mask need the token, too.
        const _: () = {
            #[derive(Clone, Copy)]
            pub struct Mask<S: Simd>(S, S::$m);
            impl<S: Simd> BitAnd for Mask<S> {
                type Output = Self;
                #[inline(always)]
                fn bitand(self, other: Self) -> Self {
                    Mask(self.0, self.0.$and_m(self.1, other.1))
                }
            }
            impl<S: Simd> BitOr for Mask<S> {
                type Output = Self;
                #[inline(always)]
                fn bitor(self, other: Self) -> Self {
                    Mask(self.0, self.0.$or_m(self.1, other.1))
                }
            }
            impl<S: Simd> Not for Mask<S> {
                type Output = Self;
                #[inline(always)]
                fn not(self) -> Self {
                    Mask(self.0, self.0.$not_m(self.1))
                }
            }

            impl<S: Simd> Float for $V<S> {
                type Mask = Mask<S>;
                #[inline(always)]
                fn of(self, value: f64) -> Self {
                    $V(self.0, self.0.$splat(value as $T))
                }
                #[inline(always)]
                fn mul_add(self, a: Self, b: Self) -> Self {
                    if S::IS_SCALAR {
                        // pulp's rounds twice there.
                        let [x, a, b]: [$T; 3] = [self.1, a.1, b.1].map(|x| pulp::bytemuck::cast_slice(&[x])[0]);
                        return $V(self.0, self.0.$splat(x.mul_add(a, b)));
                    }
                    $V(self.0, self.0.$fma(self.1, a.1, b.1))
                }
                #[inline(always)]
                fn abs(self) -> Self {
                    $V(self.0, self.0.$abs(self.1))
                }
                #[inline(always)]
                fn sqrt(self) -> Self {
                    $V(self.0, self.0.$sqrt(self.1))
                }
                #[inline(always)]
                fn max(self, other: Self) -> Self {
                    $V(self.0, self.0.$max(self.1, other.1))
                }
                #[inline(always)]
                fn min(self, other: Self) -> Self {
                    $V(self.0, self.0.$min(self.1, other.1))
                }
                #[inline(always)]
                fn copysign(self, sign: Self) -> Self {
                    let s = self.0;
                    let bit = s.$splat(-0.0);
                    let own = s.$and(s.$not(bit), self.1);
                    $V(s, s.$or(own, s.$and(bit, sign.1)))
                }
                #[inline(always)]
                fn lt(self, other: Self) -> Mask<S> {
                    Mask(self.0, self.0.$lt(self.1, other.1))
                }
                #[inline(always)]
                fn le(self, other: Self) -> Mask<S> {
                    Mask(self.0, self.0.$le(self.1, other.1))
                }
                #[inline(always)]
                fn eq(self, other: Self) -> Mask<S> {
                    Mask(self.0, self.0.$eq(self.1, other.1))
                }
                #[inline(always)]
                fn each(self, f: impl Fn(f64) -> f64) -> Self {
                    let mut vector = [self.1];
                    let lanes: &mut [$T] = pulp::bytemuck::cast_slice_mut(&mut vector);
                    for x in lanes {
                        *x = f(f64::from(*x)) as $T;
                    }
                    $V(self.0, vector[0])
                }
                #[inline(always)]
                fn each_with(self, other: Self, f: impl Fn(f64, f64) -> f64) -> Self {
                    let (mut vector, other) = ([self.1], [other.1]);
                    let lanes: &mut [$T] = pulp::bytemuck::cast_slice_mut(&mut vector);
                    let others: &[$T] = pulp::bytemuck::cast_slice(&other);
                    for (x, y) in lanes.iter_mut().zip(others) {
                        *x = f(f64::from(*x), f64::from(*y)) as $T;
                    }
                    $V(self.0, vector[0])
                }
                #[inline(always)]
                fn select(mask: Mask<S>, yes: Self, no: Self) -> Self {
                    $V(yes.0, yes.0.$select(mask.1, yes.1, no.1))
                }
            }
        };

        impl<S: Simd> Neg for $V<S> {
            type Output = Self;
            #[inline(always)]
            fn neg(self) -> Self {
                $V(self.0, self.0.$neg(self.1))
            }
        }
        vector!(@ops $V, Add add $add, Sub sub $sub, Mul mul $mul, Div div $div);
    };
    (@ops $V:ident, $($Op:ident $op:ident $method:ident),+) => {$(
        impl<S: Simd> $Op for $V<S> {
            type Output = Self;
            #[inline(always)]
            fn $op(self, other: Self) -> Self {
                $V(self.0, self.0.$method(self.1, other.1))
            }
        }
        impl<S: Simd> $Op<f64> for $V<S> {
            type Output = Self;
            #[inline(always)]
            fn $op(self, other: f64) -> Self {
                $Op::$op(self, self.of(other))
            }
        }
    )+};
}

vector!(F32, f32, u32, f32s, m32s, u32s, [add_f32s sub_f32s mul_f32s div_f32s],
    [splat_f32s mul_add_e_f32s abs_f32s neg_f32s sqrt_f32s max_f32s min_f32s],
    [less_than_f32s less_than_or_equal_f32s equal_f32s select_f32s and_m32s or_m32s not_m32s],
    [and_f32s or_f32s not_f32s]);
vector!(F64, f64, u64, f64s, m64s, u64s, [add_f64s sub_f64s mul_f64s div_f64s],
    [splat_f64s mul_add_e_f64s abs_f64s neg_f64s sqrt_f64s max_f64s min_f64s],
    [less_than_f64s less_than_or_equal_f64s equal_f64s select_f64s and_m64s or_m64s not_m64s],
    [and_f64s or_f64s not_f64s]);

impl<S: Simd> math::Bits for F32<S> {
    const BITS: i32 = 24;
    const MAX_EXPONENT: i32 = 127;

    #[inline(always)]
    fn minus_bits(self, other: Self) -> Self {
        let s = self.0;
        let bits = |x: Self| s.transmute_u32s_f32s(x.1);
        F32(s, s.transmute_f32s_u32s(s.sub_u32s(bits(self), bits(other))))
    }

    #[inline(always)]
    fn power_of_2(self) -> Self {
        let s = self.0;
        // The lowest bits of 1.5 * 2^23 + n are n.
        let n = s.transmute_u32s_f32s((self + (1.5 * 8_388_608.0 + 127.0)).1);
        F32(s, s.transmute_f32s_u32s(s.wrapping_dyn_shl_u32s(n, s.splat_u32s(23))))
    }

    #[inline(always)]
    fn split(self) -> (Self, Self) {
        let s = self.0;
        let bits = s.transmute_u32s_f32s(self.1);
        // The exponent is 128 where the number is in [sqrt(1/2), sqrt(2)).
        let offset = math::SQRT_HALF_F32.wrapping_sub(128 << 23);
        let above = s.sub_u32s(bits, s.splat_u32s(offset));
        let k = s.wrapping_dyn_shr_u32s(above, s.splat_u32s(23));
        // 2^23 + k
        let k = s.or_u32s(k, s.splat_u32s(0x4b00_0000));
        let k = F32(s, s.transmute_f32s_u32s(k)) - (8_388_608.0 + 128.0);
        let low = s.and_u32s(above, s.splat_u32s(0x007f_ffff));
        let m = s.add_u32s(low, s.splat_u32s(math::SQRT_HALF_F32));
        (k, F32(s, s.transmute_f32s_u32s(m)))
    }
}

impl<S: Simd> math::Bits for F64<S> {
    const BITS: i32 = 53;
    const MAX_EXPONENT: i32 = 1023;

    #[inline(always)]
    fn minus_bits(self, other: Self) -> Self {
        let s = self.0;
        let bits = |x: Self| s.transmute_u64s_f64s(x.1);
        F64(s, s.transmute_f64s_u64s(s.sub_u64s(bits(self), bits(other))))
    }

    #[inline(always)]
    fn power_of_2(self) -> Self {
        let s = self.0;
        // The lowest bits of 1.5 * 2^52 + n are n.
        let n = s.transmute_u64s_f64s((self + (1.5 * 4_503_599_627_370_496.0 + 1023.0)).1);
        F64(s, s.transmute_f64s_u64s(s.mul_u64s(n, s.splat_u64s(1 << 52))))
    }

    #[inline(always)]
    fn split(self) -> (Self, Self) {
        let s = self.0;
        let bits = s.transmute_u64s_f64s(self.1);
        let offset = math::SQRT_HALF_F64.wrapping_sub(1024 << 52);
        let above = s.sub_u64s(bits, s.splat_u64s(offset));
        // 2^20 + k
        let k = s.and_u64s(shifted_down_20(s, above), s.splat_u64s(0x0000_0fff_0000_0000));
        let k = s.or_u64s(k, s.splat_u64s(0x4130_0000_0000_0000));
        let k = F64(s, s.transmute_f64s_u64s(k)) - (1_048_576.0 + 1024.0);
        let low = s.and_u64s(above, s.splat_u64s(0x000f_ffff_ffff_ffff));
        let m = s.add_u64s(low, s.splat_u64s(math::SQRT_HALF_F64));
        (k, F64(s, s.transmute_f64s_u64s(m)))
    }
}

/// The upper half of each lane; pulp shifts lanes of 32 bits only.
#[inline(always)]
fn shifted_down_20<S: Simd>(s: S, bits: S::u64s) -> S::u64s {
    if S::IS_SCALAR {
        let one: u64 = pulp::bytemuck::cast(bits);
        return pulp::bytemuck::cast(one >> 20);
    }
    let halves: S::u32s = pulp::bytemuck::cast(bits);
    pulp::bytemuck::cast(s.wrapping_dyn_shr_u32s(halves, s.splat_u32s(20)))
}
