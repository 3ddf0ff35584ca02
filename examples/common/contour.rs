//! Contour lines of a function of two numbers.

use anyhow::Result;
use std::ops::Range;

/// Cells along each side of the grid.
const CELLS: usize = 200;

type Point = (f64, f64);

/// A point of the grid with the value there.
type Sample = (Point, f64);

/// Returns for each of `levels` the line on which `f` has that value, in pieces: the
/// first point belongs to the second, the third to the fourth, and so on.
pub fn lines(
    f: impl Fn(f64, f64) -> Result<f64>,
    x: &Range<f64>,
    y: &Range<f64>,
    levels: &[f64],
) -> Result<Vec<Vec<Point>>> {
    let place = |range: &Range<f64>, i: usize| {
        range.start + (range.end - range.start) * i as f64 / CELLS as f64
    };
    let sample = |i, j| -> Result<Sample> {
        let (x, y) = (place(x, i), place(y, j));
        Ok(((x, y), f(x, y)?))
    };
    let row = |j| (0..=CELLS).map(|i| sample(i, j)).collect::<Result<Vec<_>>>();
    let grid = (0..=CELLS).map(row).collect::<Result<Vec<_>>>()?;
    Ok(levels.iter().map(|&level| line(&grid, level)).collect())
}

/// Halves each cell of the grid: a plane through the corners of a triangle
/// crosses a level in one straight piece or not at all.
fn line(grid: &[Vec<Sample>], level: f64) -> Vec<Point> {
    let mut line = Vec::new();
    for (lower, upper) in grid.iter().zip(&grid[1..]) {
        for i in 0..CELLS {
            let [a, b, c, d] = [lower[i], lower[i + 1], upper[i], upper[i + 1]];
            line.extend(piece([a, b, c], level));
            line.extend(piece([b, c, d], level));
        }
    }
    line
}

/// Two points, or none.
fn piece([a, b, c]: [Sample; 3], level: f64) -> impl Iterator<Item = Point> {
    [(a, b), (b, c), (c, a)].into_iter().filter_map(move |(p, q)| crossing(p, q, level))
}

/// Returns the place between two samples where the level is reached, by linear
/// interpolation.
fn crossing(((x0, y0), f0): Sample, ((x1, y1), f1): Sample, level: f64) -> Option<Point> {
    let share = (level - f0) / (f1 - f0);
    let point = (x0 + share * (x1 - x0), y0 + share * (y1 - y0));
    ((f0 < level) != (f1 < level)).then_some(point)
}
