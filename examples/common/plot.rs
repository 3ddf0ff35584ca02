//! Curves in a coordinate system, drawn to an SVG file.

use anyhow::{Context, Result};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The title and the axes.
pub struct Frame<'a> {
    pub title: &'a str,
    /// The labels of the two axes.
    pub axes: [&'a str; 2],
    pub x: Range<f64>,
    pub y: Range<f64>,
    pub legend: SeriesLabelPosition,
}

pub struct Curve {
    /// Its entry in the legend, none when empty.
    label: String,
    color: RGBColor,
    style: Style,
    points: Vec<(f64, f64)>,
}

impl Curve {
    pub fn new(label: &str, color: RGBColor, style: Style, points: Vec<(f64, f64)>) -> Curve {
        Curve { label: label.to_owned(), color, style, points }
    }
}

/// The form in which points are drawn.
#[allow(dead_code, reason = "not every example uses each")]
pub enum Style {
    /// Each joined to the next.
    Line,
    /// The first joined to the second, the third to the fourth, ... by thin lines.
    Segments,
    /// Dots.
    Dots,
}

// Colours that differ for the colour-blind too (Okabe and Ito, 2008).
pub const BLUE: RGBColor = RGBColor(0, 114, 178);
pub const ORANGE: RGBColor = RGBColor(213, 94, 0);

/// The size of the picture in pixels.
const SIZE: (u32, u32) = (800, 560);

/// plotters places everything on whole pixels: drawn so much larger, and shown
/// in `SIZE`, curves come out smooth.
const SCALE: u32 = 8;

/// Draws `curves`, the later ones on top, and returns the path of the file.
pub fn draw(file: &str, frame: &Frame<'_>, curves: &[Curve]) -> Result<PathBuf> {
    // Git ignores `target`, where cargo puts all that it builds.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/examples-output");
    let path = folder.join(file);
    let picture = svg(frame, curves)?;
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(&path, picture))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn svg(frame: &Frame<'_>, curves: &[Curve]) -> Result<String> {
    let mut text = String::new();
    let (width, height) = (SIZE.0 * SCALE, SIZE.1 * SCALE);
    let area = SVGBackend::with_string(&mut text, (width, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let below = area.margin(12 * SCALE, 0, 0, 0).titled(frame.title, font(20))?;
    let mut chart = ChartBuilder::on(&below)
        .margin(16 * SCALE)
        .margin_right(32 * SCALE)
        .x_label_area_size(44 * SCALE)
        .y_label_area_size(60 * SCALE)
        .build_cartesian_2d(frame.x.clone(), frame.y.clone())?;
    mesh(&mut chart, frame)?;
    for curve in curves {
        add(&mut chart, curve)?;
    }
    chart
        .configure_series_labels()
        .position(frame.legend.clone())
        .label_font(font(14))
        .legend_area_size(30 * SCALE)
        .margin(10 * SCALE)
        .background_style(WHITE.mix(0.9))
        .draw()?;
    area.present()?;
    drop((chart, below, area));
    let drawn = format!(r#"width="{width}" height="{height}" viewBox"#);
    let shown = format!(r#"width="{}" height="{}" viewBox"#, SIZE.0, SIZE.1);
    Ok(text.replacen(&drawn, &shown, 1))
}

fn font(size: u32) -> (&'static str, u32) {
    ("sans-serif", size * SCALE)
}

type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// The axes, with lines at their ticks.
fn mesh(chart: &mut Chart<'_>, frame: &Frame<'_>) -> Result<()> {
    // "10" and "0.5", with neither "10.0" nor "-0" nor "0.30000000000000004".
    let tick = |value: &f64| ((value * 1e9).round() / 1e9 + 0.0).to_string();
    chart
        .configure_mesh()
        .x_desc(frame.axes[0])
        .y_desc(frame.axes[1])
        .x_label_formatter(&tick)
        .y_label_formatter(&tick)
        .axis_desc_style(font(14))
        .label_style(font(13))
        .set_all_tick_mark_size(4 * SCALE)
        .axis_style(BLACK.stroke_width(SCALE))
        .bold_line_style(BLACK.mix(0.15).stroke_width(SCALE))
        .light_line_style(TRANSPARENT)
        .draw()?;
    Ok(())
}

fn add(chart: &mut Chart<'_>, curve: &Curve) -> Result<()> {
    let (points, color) = (&curve.points, curve.color);
    let drawn = match curve.style {
        Style::Line => chart.draw_series([line(points, 2, color)])?,
        Style::Segments => chart.draw_series(points.chunks_exact(2).map(|p| line(p, 1, color)))?,
        Style::Dots => chart.draw_series(points.iter().map(|&p| dot(p, color)))?,
    };
    if !curve.label.is_empty() {
        let (drawn, scale) = (drawn.label(&curve.label), SCALE as i32);
        match curve.style {
            Style::Dots => drawn.legend(move |(x, y)| dot((x + 10 * scale, y), color)),
            _ => drawn.legend(move |(x, y)| line(&[(x, y), (x + 20 * scale, y)], 2, color)),
        };
    }
    Ok(())
}

fn line<P: Copy>(points: &[P], width: u32, color: RGBColor) -> PathElement<P> {
    PathElement::new(points.to_vec(), color.stroke_width(width * SCALE))
}

fn dot<P>(at: P, color: RGBColor) -> Circle<P, u32> {
    Circle::new(at, 4 * SCALE, color.filled())
}
