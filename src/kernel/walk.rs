//! [`Walk`]: the way from the place of an element in the order of a kernel to
//! its place in a tensor's memory.

use smallvec::SmallVec;

/// Through how many elements it goes, its owner knows.
#[derive(Clone, Debug, PartialEq)]
pub enum Walk {
    /// The elements follow one another.
    Flat,
    /// There is one element, seen again and again.
    Constant,
    /// Sizes and strides, in elements, from the outermost dimension to the
    /// innermost. Dimensions that lie in memory like one are one.
    Strided(Box<[(usize, usize)]>),
}

impl Walk {
    pub fn new(dims: impl IntoIterator<Item = (usize, usize)>) -> Walk {
        let mut joined = Vec::<(usize, usize)>::new();
        for (size, stride) in dims {
            if size == 0 {
                return Walk::Flat; // through no elements
            }
            match joined.last_mut() {
                // Sizes before one of 0 may be beyond all memory, so products wrap.
                Some(outer) if outer.1 == stride.wrapping_mul(size) || outer.0 == 1 => {
                    *outer = (outer.0.wrapping_mul(size), stride);
                }
                _ if size == 1 => {}
                _ => joined.push((size, stride)),
            }
        }
        match joined[..] {
            [] | [(_, 1)] => Walk::Flat,
            [(_, 0)] => Walk::Constant,
            _ => Walk::Strided(joined.into()),
        }
    }

    /// Returns whether it goes through `count` elements and no further than `extent`.
    #[inline]
    pub fn fits(&self, count: usize, extent: usize) -> bool {
        match self {
            Walk::Flat => count <= extent,
            Walk::Constant => extent > 0 || count == 0,
            Walk::Strided(dims) => {
                let own = dims.iter().map(|(size, _)| size).product::<usize>();
                let last = |(size, stride): &(usize, usize)| size.saturating_sub(1) * stride;
                own == count && (own == 0 || dims.iter().map(last).sum::<usize>() < extent)
            }
        }
    }

    /// Calls `f(offset, stride, n)` for each straight piece of the way through
    /// the `n` elements from `start` on.
    pub fn pieces(&self, start: usize, n: usize, mut f: impl FnMut(usize, usize, usize)) {
        let dims = match self {
            Walk::Flat => return f(start, 1, n),
            Walk::Constant => return f(0, 0, n),
            Walk::Strided(dims) => dims,
        };
        if n == 0 {
            return; // the innermost size may be 0
        }
        let (&(inner, stride), outer) = dims.split_last().expect("never empty");
        let mut at = Position::new(outer, start / inner);
        let (mut begin, mut left) = (start % inner, n);
        while left > 0 {
            let length = left.min(inner - begin);
            f(at.offset + begin * stride, stride, length);
            (begin, left) = (0, left - length);
            at.step(outer);
        }
    }
}

/// A place in the outer dimensions.
struct Position {
    index: SmallVec<[usize; 4]>,
    offset: usize,
}

impl Position {
    fn new(dims: &[(usize, usize)], mut place: usize) -> Position {
        let mut index = SmallVec::from_elem(0, dims.len());
        let mut offset = 0;
        for (i, (size, stride)) in dims.iter().enumerate().rev() {
            index[i] = place % size;
            offset += index[i] * stride;
            place /= size;
        }
        Position { index, offset }
    }

    fn step(&mut self, dims: &[(usize, usize)]) {
        for (i, (size, stride)) in dims.iter().enumerate().rev() {
            self.index[i] += 1;
            self.offset += stride;
            if self.index[i] < *size {
                return;
            }
            self.offset -= size * stride;
            self.index[i] = 0;
        }
    }
}

#[test]
fn dimensions_are_joined() {
    assert_eq!(Walk::new([(2, 12), (3, 4), (4, 1)]), Walk::Flat);
    assert_eq!(Walk::new([(2, 0), (3, 0)]), Walk::Constant);
    assert_eq!(Walk::new([]), Walk::Flat);
    assert_eq!(Walk::new([(1 << 40, 1 << 40), (1 << 40, 1), (0, 1)]), Walk::Flat);
    let strided = |dims: &[(usize, usize)]| Walk::Strided(dims.into());
    assert_eq!(Walk::new([(1, 9), (3, 8), (1, 5), (4, 2)]), strided(&[(12, 2)]));
    let walk = Walk::new([(3, 1), (4, 3)]);
    assert_eq!(walk, strided(&[(3, 1), (4, 3)]));
    assert!(walk.fits(12, 12) && !walk.fits(12, 11) && !walk.fits(11, 12));
    assert!(Walk::Constant.fits(9, 1) && Walk::Constant.fits(0, 0) && !Walk::Constant.fits(1, 0));
}

#[test]
fn every_piece_is_as_its_elements() {
    let walk = Walk::new([(3, 100), (4, 1), (5, 7)]);
    let offset = |i: usize| i / 20 * 100 + i / 5 % 4 + i % 5 * 7;
    for start in 0..60 {
        for n in 0..=60 - start {
            let mut found = Vec::new();
            walk.pieces(start, n, |at, stride, n| found.extend((0..n).map(|i| at + i * stride)));
            assert_eq!(found, (start..start + n).map(offset).collect::<Vec<_>>());
        }
    }
}
