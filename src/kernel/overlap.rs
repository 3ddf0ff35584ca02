//! Whether tensors share memory, with each other or with themselves.

use super::dims::order;
use super::layout::Operand;
use crate::ffi::memory::Memory;
use smallvec::SmallVec;

/// The bytes of a tensor.
struct Footprint {
    start: usize,
    /// The size of one element, in bytes.
    element: usize,
    /// Sizes and strides in bytes, of the dimensions that lead to other places.
    dims: SmallVec<[(usize, usize); 4]>,
}

impl Footprint {
    fn of(x: &Operand<'_>) -> Footprint {
        let element = x.element_size();
        let pairs = x.memory.sizes.iter().zip(x.memory.strides);
        let dims = pairs.filter(|(size, stride)| **size > 1 && **stride > 0);
        let dims = dims.map(|(size, stride)| (*size as usize, *stride as usize * element));
        let dims = dims.collect();
        Footprint { start: x.memory.data as usize, element, dims }
    }

    /// Returns the range from the first byte to behind the last one, through strides below
    /// `least`.
    fn length(&self, least: usize) -> usize {
        let inner = self.dims.iter().filter(|(_, stride)| *stride < least);
        self.element + inner.map(|(size, stride)| (size - 1) * stride).sum::<usize>()
    }
}

/// Returns whether some byte may belong to both. Parts of one matrix that lie beside
/// each other do not share any, nor do elements that take turns.
pub(super) fn overlap(a: &Operand<'_>, b: &Operand<'_>) -> bool {
    if a.memory.count == 0 || b.memory.count == 0 {
        return false;
    }
    let (a, b) = (Footprint::of(a), Footprint::of(b));
    let end = |x: &Footprint| x.start + x.length(usize::MAX);
    let near = a.start < end(&b) && b.start < end(&a);
    let strides = || a.dims.iter().chain(&b.dims).map(|(_, stride)| *stride);
    near && !strides().any(|least| {
        // The strides from `least` on lead to multiples of `period`; what lies
        // inside them is `a`'s for some bytes of a period and `b`'s for others.
        let period = strides().filter(|stride| *stride >= least).fold(0, gcd);
        let shift = (b.start as i128 - a.start as i128).rem_euclid(period as i128) as usize;
        shift >= a.length(least) && shift + b.length(least) <= period
    })
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Returns whether no two elements share a place: each stride is longer than all that
/// lies inside it.
pub(super) fn is_injective(x: Memory<'_>) -> bool {
    let mut inside = 0;
    order(x.sizes, Some(x.strides)).iter().rev().filter(|&&dim| x.sizes[dim] > 1).all(|&dim| {
        let free = x.strides[dim] > inside;
        inside += (x.sizes[dim] - 1) * x.strides[dim];
        free
    })
}

/// Compared with a list of all bytes.
#[test]
fn overlaps_of_every_kind() {
    use super::element::Stored;
    let sizes = [[1, 1], [2, 1], [1, 3], [2, 2], [3, 2]];
    let strides = [[0, 1], [4, 1], [1, 4], [4, 2], [2, 1], [6, 3], [3, 3]];
    let mut found = [0; 2];
    let all = || sizes.iter().flat_map(|size| strides.iter().map(move |stride| (size, stride)));
    for ((size_a, stride_a), (size_b, stride_b)) in all().flat_map(|a| all().map(move |b| (a, b))) {
        for (start, dtypes) in (0..20).flat_map(|i| [(i * 8, [7, 7]), (i * 4, [7, 6])]) {
            let at = |start: usize, sizes, strides, dtype| Operand {
                memory: Memory {
                    sizes,
                    strides,
                    count: 1,
                    data: (80 + start) as *const u8,
                    dtype,
                    contiguous: false,
                    dense: false,
                },
                stored: Stored::Same,
                seen: dtype,
            };
            let a = at(0, &size_a[..], &stride_a[..], dtypes[0]);
            let b = at(start, &size_b[..], &stride_b[..], dtypes[1]);
            let bytes = |x: &Operand<'_>| {
                let (size, stride, bytes) = (x.memory.sizes, x.memory.strides, x.element_size());
                let places = (0..size[0]).flat_map(move |i| (0..size[1]).map(move |j| (i, j)));
                let offsets = places.map(move |(i, j)| (i * stride[0] + j * stride[1]) as usize);
                let start = x.memory.data as usize;
                let all = offsets.flat_map(move |at| (0..bytes).map(move |i| at * bytes + i));
                all.map(|at| start + at).collect::<std::collections::HashSet<_>>()
            };
            let shared = !bytes(&a).is_disjoint(&bytes(&b));
            assert!(overlap(&a, &b) || !shared, "{size_a:?} {stride_a:?} {size_b:?} {stride_b:?}");
            found[usize::from(overlap(&a, &b) && !shared)] += 1;
        }
    }
    assert!(found[1] * 10 < found[0], "{} of {} for nothing", found[1], found[0]);
}
