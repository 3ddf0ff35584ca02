//! The views on plain memory in the place of tensors, each piece of it allocated
//! to the byte, so that Miri and valgrind see every step beside it:
//! docs/checks.md has the commands. No test here calls libtorch.

use super::{BLOCK, Blocks, Place, Source, Target, Work, blocks, drive};
use crate::kernel::element::Stored;
use crate::kernel::walk::Walk;
use half::{bf16, f16};
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// More than a block, and no multiple of one.
const COUNT: usize = BLOCK + 37;

fn place<S>(memory: &mut [S], stored: Stored, walk: Walk, width: usize) -> Place<'_> {
    let (data, extent) = (memory.as_mut_ptr().cast(), memory.len());
    Place { data, extent, stored, walk, width, tensor: PhantomData }
}

/// Runs `count` units, in blocks of at most `block`, on this thread.
fn work(count: usize, block: usize) -> Work {
    Work { count, grain: count, block }
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32 - 100.0).collect()
}

/// Every third one of a longer memory, and a transposed matrix.
fn strided() -> [(Walk, usize); 2] {
    [
        (Walk::Strided([(COUNT, 3)].into()), COUNT * 3 - 2),
        (Walk::Strided([(9, 1), (61, 9)].into()), COUNT),
    ]
}

/// Returns the place of element `i` of a walk.
fn offset(walk: &Walk, i: usize) -> usize {
    let mut found = 0;
    walk.pieces(i, 1, |at, _, _| found = at);
    found
}

#[test]
fn sources_of_every_walk() {
    let mut all = vec![(Walk::Flat, COUNT), (Walk::Constant, 1)];
    all.extend(strided());
    for (walk, extent) in all {
        let (mut x, mut y) = (numbers(extent), vec![0.0f32; COUNT]);
        let expected: Vec<f32> = (0..COUNT).map(|i| x[offset(&walk, i)]).collect();
        let source = Source::new(place(&mut x, Stored::Same, walk, 1), COUNT, false);
        let mut target = Target::new(place(&mut y, Stored::Same, Walk::Flat, 1), COUNT);
        let copy = |x: &[f32], y: &mut [MaybeUninit<f32>]| {
            y.iter_mut().zip(x).for_each(|(y, x)| _ = y.write(*x));
        };
        drive::<f32, f32>(work(COUNT, BLOCK), &source, &mut target, &copy).expect("no panic");
        assert_eq!(y, expected);
    }
}

#[test]
fn targets_of_every_walk() {
    for (walk, extent) in strided() {
        let mut y = vec![-1.0f32; extent];
        let mut expected = y.clone();
        (0..COUNT).for_each(|i| expected[offset(&walk, i)] = i as f32 - 100.0);
        let mut x = numbers(COUNT);
        let source = Source::new(place(&mut x, Stored::Same, Walk::Flat, 1), COUNT, false);
        let mut target = Target::new(place(&mut y, Stored::Same, walk, 1), COUNT);
        let copy = |x: &[f32], y: &mut [MaybeUninit<f32>]| {
            y.iter_mut().zip(x).for_each(|(y, x)| _ = y.write(*x));
        };
        drive::<f32, f32>(work(COUNT, BLOCK), &source, &mut target, &copy).expect("no panic");
        assert_eq!(y, expected);
    }
}

/// New memory that is not initialised, by several outputs at a time.
#[test]
fn into_fresh_memory() {
    let mut x = numbers(COUNT);
    let mut y: Vec<MaybeUninit<f32>> = vec![MaybeUninit::uninit(); COUNT];
    let mut z: Vec<MaybeUninit<bool>> = vec![MaybeUninit::uninit(); COUNT];
    let source = Source::new(place(&mut x, Stored::Same, Walk::Flat, 1), COUNT, false);
    let mut targets = (
        Target::new(place(&mut y, Stored::Same, Walk::Flat, 1), COUNT),
        Target::new(place(&mut z, Stored::Bool, Walk::Flat, 1), COUNT),
    );
    type Slots<'b> = <(f32, bool) as Blocks>::Slots<'b>;
    let body = |x: &[f32], (y, z): Slots<'_>| {
        for i in 0..x.len() {
            y[i].write(x[i] * 2.0);
            z[i].write(x[i] > 0.0);
        }
    };
    drive::<f32, (f32, bool)>(work(COUNT, BLOCK), &source, &mut targets, &body).expect("no panic");
    for (i, x) in numbers(COUNT).into_iter().enumerate() {
        // SAFETY: the kernel has written each.
        let found = unsafe { (y[i].assume_init(), z[i].assume_init()) };
        assert_eq!(found, (x * 2.0, x > 0.0));
    }
}

#[test]
fn other_types_in_memory() {
    let x = numbers(COUNT);
    let mut half: Vec<f16> = x.iter().map(|x| f16::from_f32(*x)).collect();
    let mut brain: Vec<bf16> = x.iter().map(|x| bf16::from_f32(*x)).collect();
    let mut bytes: Vec<u8> = (0..COUNT).map(|i| (i % 3) as u8).collect();
    let (mut y, mut z) = (vec![f16::ZERO; COUNT], vec![bf16::ZERO; COUNT]);
    let expected: Vec<f32> =
        (0..COUNT).map(|i| if i % 3 > 0 { half[i].to_f32() } else { brain[i].to_f32() }).collect();
    let flat = || Walk::Flat;
    let sources = (
        [
            Source::new(place(&mut half, Stored::Half, flat(), 1), COUNT, false),
            Source::new(place(&mut brain, Stored::BFloat16, flat(), 1), COUNT, false),
        ],
        Source::new(place(&mut bytes, Stored::Bool, flat(), 1), COUNT, false),
    );
    let mut targets = [
        Target::new(place(&mut y, Stored::Half, flat(), 1), COUNT),
        Target::new(place(&mut z, Stored::BFloat16, flat(), 1), COUNT),
    ];
    type Slots<'b> = <[f32; 2] as Blocks>::Slots<'b>;
    let body = |([a, b], choice): ([&[f32]; 2], &[bool]), [y, z]: Slots<'_>| {
        for i in 0..choice.len() {
            let x = if choice[i] { a[i] } else { b[i] };
            y[i].write(x);
            z[i].write(x);
        }
    };
    let work = work(COUNT, BLOCK);
    drive::<([f32; 2], bool), [f32; 2]>(work, &sources, &mut targets, &body).expect("no panic");
    for i in 0..COUNT {
        assert_eq!((y[i], z[i]), (f16::from_f32(expected[i]), bf16::from_f32(expected[i])));
    }
}

/// A tensor that is read and written, flat and with strides.
#[test]
fn in_place() {
    for (walk, extent) in [(Walk::Flat, COUNT)].into_iter().chain(strided()) {
        let mut y = numbers(extent);
        let mut expected = y.clone();
        (0..COUNT).for_each(|i| expected[offset(&walk, i)] *= 2.0);
        let data = place(&mut y, Stored::Same, walk.clone(), 1).data;
        let at = |walk| Place {
            data,
            extent,
            stored: Stored::Same,
            walk,
            width: 1,
            tensor: PhantomData,
        };
        let source = Source::new(at(walk.clone()), COUNT, true);
        let mut target = Target::new(at(walk), COUNT);
        let twice = |x: &[f32], y: &mut [MaybeUninit<f32>]| {
            y.iter_mut().zip(x).for_each(|(y, x)| _ = y.write(x + x));
        };
        drive::<f32, f32>(work(COUNT, BLOCK), &source, &mut target, &twice).expect("no panic");
        assert_eq!(y, expected);
    }
}

/// Rows, longer than a buffer too, with gaps between them; one weight for all.
#[test]
fn rows() {
    for (width, gap) in [(5, 0), (5, 2), (COUNT, 3), (0, 1)] {
        let rows = 4;
        let (mut x, mut weight) = (numbers(rows * (width + gap)), numbers(width));
        let mut y: Vec<MaybeUninit<f32>> = vec![MaybeUninit::uninit(); rows * width];
        let expected: Vec<f32> = (0..rows * width)
            .map(|i| x[i / width * (width + gap) + i % width] * weight[i % width])
            .collect();
        let walk = Walk::new([(rows, width + gap), (width, 1)]);
        let shared = Walk::new([(rows, 0), (width, 1)]);
        let sources = [
            Source::new(place(&mut x, Stored::Same, walk, width), rows, false),
            Source::new(place(&mut weight, Stored::Same, shared, width), rows, false),
        ];
        let mut target = Target::new(place(&mut y, Stored::Same, Walk::Flat, width), rows);
        let body = |[x, w]: [&[f32]; 2], y: &mut [MaybeUninit<f32>]| {
            let y = <f32 as Blocks>::rows(y);
            (0..y.len()).for_each(|i| y[i] += x[i] * w[i]);
        };
        drive::<[f32; 2], f32>(work(rows, 1), &sources, &mut target, &body).expect("no panic");
        // SAFETY: the kernel has written each.
        let found: Vec<f32> = y.iter().map(|y| unsafe { y.assume_init() }).collect();
        assert_eq!(found, expected);
    }
}

/// Several threads, each in its own part of one target.
#[test]
fn threads() {
    for (walk, extent) in [(Walk::Flat, COUNT)].into_iter().chain(strided()) {
        let (mut x, mut y) = (numbers(COUNT), vec![0.0f32; extent]);
        let source = Source::new(place(&mut x, Stored::Same, Walk::Flat, 1), COUNT, false);
        let target = Target::new(place(&mut y, Stored::Same, walk.clone(), 1), COUNT);
        let copy = |x: &[f32], y: &mut [MaybeUninit<f32>]| {
            y.iter_mut().zip(x).for_each(|(y, x)| _ = y.write(*x));
        };
        std::thread::scope(|scope| {
            for (from, to) in [(0, 100), (100, 101), (101, COUNT)] {
                let (source, target, copy) = (&source, &target, &copy);
                scope.spawn(move || blocks::<f32, f32>(source, target, from..to, 64, copy));
            }
        });
        let found: Vec<f32> = (0..COUNT).map(|i| y[offset(&walk, i)]).collect();
        assert_eq!(found, numbers(COUNT));
    }
}

/// Checks a tensor without elements, whose pointer leads nowhere.
#[test]
fn nothing() {
    let nowhere = |walk| Place {
        data: std::ptr::null_mut(),
        extent: 0,
        stored: Stored::Same,
        walk,
        width: 1,
        tensor: PhantomData,
    };
    let source = Source::new(nowhere(Walk::Constant), 0, false);
    let mut target = Target::new(nowhere(Walk::Flat), 0);
    let body = |_: &[f32], _: &mut [MaybeUninit<f32>]| panic!("called for nothing");
    drive::<f32, f32>(work(0, BLOCK), &source, &mut target, &body).expect("no panic");
}

#[test]
fn a_panic_comes_back() {
    let (mut x, mut y) = (numbers(3), vec![0.0f32; 3]);
    let source = Source::new(place(&mut x, Stored::Same, Walk::Flat, 1), 3, false);
    let mut target = Target::new(place(&mut y, Stored::Same, Walk::Flat, 1), 3);
    let body = |_: &[f32], _: &mut [MaybeUninit<f32>]| panic!("at 1");
    let payload = drive::<f32, f32>(work(3, BLOCK), &source, &mut target, &body).unwrap_err();
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"at 1"));
}

#[test]
#[should_panic(expected = "a walk out of the memory")]
fn a_walk_out_of_the_memory() {
    let mut x = numbers(9);
    Source::<f32>::new(place(&mut x, Stored::Same, Walk::Strided([(4, 3)].into()), 1), 4, false);
}

#[test]
#[should_panic(expected = "memory that is not aligned")]
fn memory_that_is_not_aligned() {
    let mut x = [0u8; 9];
    let start = usize::from((x.as_ptr() as usize).is_multiple_of(4));
    Target::<f32>::new(place(&mut x[start..], Stored::Same, Walk::Flat, 1), 2);
}
