//! The digits as a task for networks of tch's: f32 images, classes as labels.

use crate::digits;
use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use tch::{Kind, Tensor, kind::INT64_CPU};

/// `images` is [n, 64] in f32, `labels` is [n].
pub struct Set {
    pub images: Tensor,
    pub labels: Tensor,
}

/// Splits the data in random order, 80 % for training and the rest for the test.
pub fn read() -> Result<[Set; 2]> {
    let all = digits::read(&digits::default_path())?;
    let all = Set { images: all.images.to_kind(Kind::Float), labels: all.labels };
    let (training, test) = (all.len() * 4 / 5, all.len() - all.len() * 4 / 5);
    println!("{training} images for training, {test} for the test\n");
    let parts = Tensor::randperm(all.len(), INT64_CPU);
    let parts = parts.split_with_sizes([training, test], 0);
    Ok([all.pick(&parts[0]), all.pick(&parts[1])])
}

impl Set {
    pub fn len(&self) -> i64 {
        self.images.size()[0]
    }

    /// All images once, in random order, `size` at a time.
    pub fn batches(&self, size: i64) -> impl Iterator<Item = Set> {
        let order = Tensor::randperm(self.len(), INT64_CPU).split(size, 0);
        order.into_iter().map(|batch| self.pick(&batch))
    }

    fn pick(&self, positions: &Tensor) -> Set {
        let pick = |t: &Tensor| t.index_select(0, positions);
        Set { images: pick(&self.images), labels: pick(&self.labels) }
    }
}

/// The share of the rows of `scores` that are largest at their label.
pub fn accuracy(scores: &Tensor, labels: &Tensor) -> Result<f64> {
    let right = scores.argmax(1, false).eq_tensor(labels);
    Ok(f64::try_from(right.to_kind(Kind::Double).mean(None))?)
}

/// Shown while `what` trains, on a terminal.
pub fn progress(epochs: usize, what: &str) -> Result<ProgressBar> {
    let style =
        ProgressStyle::with_template("{bar:40} {prefix}: epoch {pos} of {len}, {eta} left")?;
    Ok(ProgressBar::new(epochs as u64).with_style(style).with_prefix(what.to_owned()))
}
