//! The handwritten digits of `data/digits`, as tensors.

use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use tch::Tensor;

const PIXELS: usize = 64;
const INK: i64 = 16;

/// `images` is [n, 64] in f64, each pixel from 0 to 1; `labels` is [n], 0 to 9.
pub struct Digits {
    pub images: Tensor,
    pub labels: Tensor,
}

/// The file in this repository, which data/digits/README.md describes.
pub fn default_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/digits/digits.csv")
}

pub fn read(path: &Path) -> Result<Digits> {
    let file = path.display();
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {file}, expected there: the digits as CSV"))?;
    let mut pixels = Vec::new();
    let mut labels = Vec::new();
    for (line, n) in text.lines().zip(1..) {
        let label = image(line, &mut pixels).with_context(|| format!("{file}, line {n}"))?;
        labels.push(label);
    }
    ensure!(!labels.is_empty(), "{file}: expected one image a line, found an empty file");
    let images = Tensor::from_slice(&pixels).reshape([-1, PIXELS as i64]);
    Ok(Digits { images, labels: Tensor::from_slice(&labels) })
}

/// Adds the pixels of one line and returns its label.
fn image(line: &str, pixels: &mut Vec<f64>) -> Result<i64> {
    let fields: Vec<&str> = line.split(',').collect();
    let found = fields.len();
    ensure!(
        found == PIXELS + 1,
        "expected 65 integers (64 pixels and the digit), found {found} fields"
    );
    for (i, field) in fields[..PIXELS].iter().enumerate() {
        let pixel = integer(field, INK).with_context(|| format!("field {}, a pixel", i + 1))?;
        pixels.push(pixel as f64 / INK as f64);
    }
    integer(fields[PIXELS], 9).context("field 65, the digit")
}

fn integer(field: &str, max: i64) -> Result<i64> {
    match field.trim().parse() {
        Ok(value) if (0..=max).contains(&value) => Ok(value),
        _ => bail!("expected an integer from 0 to {max}, found {field:?}"),
    }
}
