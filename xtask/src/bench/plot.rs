//! The pictures of docs/benchmarks.md.

use std::path::Path;

use anyhow::{Context as _, Result};
use plotters::{
    coord::{ranged1d::Ranged, types::RangedCoordf64},
    prelude::*,
};

use super::results::{Measured, NOBODY, thousands};

/// A bar for each watcher: what it adds to an operation. The axis is logarithmic, because the peers are many
/// times as far away as premod's kinds are from each other.
pub(crate) fn bars(path: &Path, measured: &Measured, operation: &str) -> Result<()> {
    let mut bars: Vec<(&str, i64)> = measured
        .watchers()
        .into_iter()
        .filter(|watcher| !watcher.starts_with(NOBODY) && !watcher.contains("tracked"))
        .filter_map(|watcher| Some((watcher, measured.added(watcher, operation)?.max(1))))
        .collect();
    bars.reverse();
    let most = bars.iter().map(|bar| bar.1).max().context("no bar")?;
    let root = SVGBackend::new(path, (820, 60 + 40 * bars.len() as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let caption = format!("{operation}: instructions added ({})", measured.release);
    let mut chart = ChartBuilder::on(&root)
        .caption(caption, ("sans-serif", 17))
        .margin(8)
        .margin_right(70)
        .x_label_area_size(24)
        .y_label_area_size(210)
        .build_cartesian_2d(
            (1f64..most as f64 * 1.5).log_scale(),
            0f64..bars.len() as f64,
        )?;
    let names = bars.clone();
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_labels(6)
        .x_label_formatter(&|count| thousands(*count as u64))
        .y_labels(0)
        .draw()?;
    for (number, (watcher, count)) in names.iter().enumerate() {
        let bottom = number as f64;
        let colour = if watcher.starts_with("premod") {
            RGBColor(38, 110, 160)
        } else {
            RGBColor(190, 120, 60)
        };
        let corners = [(1.0, bottom + 0.2), (*count as f64, bottom + 0.8)];
        chart.draw_series([Rectangle::new(corners, colour.filled())])?;
        let text = ("sans-serif", 14).into_font();
        let (x, y) = chart.backend_coord(&(*count as f64, bottom + 0.5));
        root.draw(&Text::new(
            thousands(*count as u64),
            (x + 5, y - 7),
            text.clone(),
        ))?;
        let (_, y) = chart.backend_coord(&(1.0, bottom + 0.5));
        root.draw(&Text::new((*watcher).to_owned(), (10, y - 7), text))?;
    }
    root.present().context("cannot draw")
}

/// What an already dirty write costs with more and more inodes tracked, a line for each kernel.
pub(crate) fn growth(path: &Path, kernels: &[Series]) -> Result<()> {
    let most = kernels
        .iter()
        .flat_map(|(_, points)| points.iter().map(|point| point.1))
        .fold(1.0, f64::max);
    let root = SVGBackend::new(path, (720, 360)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(
            "already dirty pwrite: instructions added, by tracked inodes",
            ("sans-serif", 17),
        )
        .margin(10)
        .margin_right(30)
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d((900f64..1_100_000f64).log_scale(), 0f64..most * 1.3)?;
    chart
        .configure_mesh()
        .x_label_formatter(&|count| thousands(*count as u64))
        .y_label_formatter(&|count| thousands(*count as u64))
        .draw()?;
    draw_lines(&mut chart, kernels, SeriesLabelPosition::MiddleRight)?;
    root.present().context("cannot draw")
}

/// What share of the events is lost by their rate, a line for each kernel and size of the buffer.
pub(crate) fn losses(path: &Path, lines: &[Series]) -> Result<()> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let fastest = points().map(|point| point.0).fold(1.0, f64::max);
    let most = points().map(|point| point.1).fold(1.0, f64::max);
    let root = SVGBackend::new(path, (720, 400)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("events lost, by rate", ("sans-serif", 17))
        .margin(10)
        .margin_right(30)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0f64..fastest * 1.1, 0f64..most * 1.2)?;
    chart
        .configure_mesh()
        .x_desc("events per second")
        .y_desc("lost, in percent")
        .x_label_formatter(&|count| thousands(*count as u64))
        .draw()?;
    draw_lines(&mut chart, lines, SeriesLabelPosition::UpperLeft)?;
    root.present().context("cannot draw")
}

/// Named points, in order.
pub(crate) type Series = (String, Vec<(f64, f64)>);

type Chart<'a, 'b, X> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, RangedCoordf64>>;

/// A line of its own colour for each series, and what they are called.
fn draw_lines<'a, 'b: 'a, X: Ranged<ValueType = f64>>(
    chart: &mut Chart<'a, 'b, X>,
    lines: &[Series],
    names_at: SeriesLabelPosition,
) -> Result<()> {
    for (number, (name, points)) in lines.iter().enumerate() {
        let colour = Palette99::pick(number).to_rgba();
        chart
            .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?
            .label(name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
    }
    chart
        .configure_series_labels()
        .position(names_at)
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()?;
    Ok(())
}
