//! Plots of the results.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::report::{Medians, Report, Row};

type Drawn = Result<(), Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A line: its name, color and value.
type Endpoint = (&'static str, RGBColor, fn(&Row) -> Option<f64>);
/// A part of a bar: its name, color and length.
type Component = (&'static str, RGBColor, fn(&Medians) -> f64);

const ALGORITHMS: [&str; 3] = ["RS256", "ES256", "EdDSA"];

const BLUE: RGBColor = RGBColor(0x2a, 0x6f, 0xbb);
const ORANGE: RGBColor = RGBColor(0xd9, 0x7a, 0x1e);
const GREEN: RGBColor = RGBColor(0x3c, 0x93, 0x62);
const GRAY: RGBColor = RGBColor(0x80, 0x80, 0x80);
const FONT: &str = "sans-serif";

/// Draws all plots.
pub(crate) fn draw(report: &Report, folder: &Path) -> Drawn {
    let refreshes: Vec<&Row> = report.rows.iter().filter(|row| row.name == "refresh").collect();
    if refreshes.is_empty() {
        return Ok(());
    }
    throughput(&refreshes, &folder.join("throughput.svg"))?;
    cpu(&refreshes, &folder.join("cpu.svg"))
}

/// Refreshes per second by connections, with a panel per algorithm.
fn throughput(rows: &[&Row], file: &Path) -> Drawn {
    let area = SVGBackend::new(file, (1080, 380)).into_drawing_area();
    area.fill(&WHITE)?;
    let area = area.titled("Refreshes per second, by connections", (FONT, 22))?;
    for (panel, algorithm) in area.split_evenly((1, ALGORITHMS.len())).iter().zip(ALGORITHMS) {
        let rows: Vec<&Row> =
            rows.iter().filter(|row| row.algorithm == algorithm).copied().collect();
        if !rows.is_empty() {
            throughput_of(panel, algorithm, &rows)?;
        }
    }
    area.present()?;
    Ok(())
}

fn throughput_of(panel: &Area<'_>, algorithm: &str, rows: &[&Row]) -> Drawn {
    let last = i32::try_from(rows.len())? - 1;
    let comparisons =
        rows.iter().filter_map(|row| row.comparisons.first()).map(|comparison| &comparison.medians);
    let all = rows.iter().map(|row| &row.matchbook).chain(comparisons);
    // Space for the legend.
    let highest = all.map(|medians| medians.per_second.median).fold(1.0, f64::max) * 1.25;
    let mut chart = ChartBuilder::on(panel)
        .caption(algorithm, (FONT, 18))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(56)
        .build_cartesian_2d(0..last.max(1), 0.0..highest)?;
    let connections = |index: &i32| {
        let row = usize::try_from(*index).ok().and_then(|index| rows.get(index));
        row.map_or_else(String::new, |row| row.connections.to_string())
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRAY.mix(0.25))
        .x_labels(rows.len())
        .x_label_formatter(&connections)
        .y_label_formatter(&|value| format!("{value:.0}"))
        .label_style((FONT, 13))
        .draw()?;
    let baseline =
        |row: &Row| row.comparisons.first().map(|comparison| comparison.medians.per_second.median);
    let ours = |row: &Row| Some(row.matchbook.per_second.median);
    let endpoints: [Endpoint; 2] = [("baseline", GRAY, baseline), ("Matchbook", BLUE, ours)];
    for (name, color, endpoint) in endpoints {
        let points: Vec<(i32, f64)> =
            (0..).zip(rows).filter_map(|(index, row)| Some((index, endpoint(row)?))).collect();
        let line = LineSeries::new(points.iter().copied(), color.stroke_width(2));
        chart
            .draw_series(line)?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, color.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .label_font((FONT, 13))
        .draw()?;
    Ok(())
}

/// Processor time per refresh, by process.
fn cpu(rows: &[&Row], file: &Path) -> Drawn {
    let mut bars: Vec<(String, Medians)> = Vec::new();
    for algorithm in ALGORITHMS {
        let mut of_algorithm = rows.iter().filter(|row| row.algorithm == algorithm);
        let Some(row) =
            of_algorithm.clone().find(|row| row.connections == 16).or(of_algorithm.next())
        else {
            continue;
        };
        bars.push((format!("Matchbook {algorithm}"), row.matchbook.clone()));
        bars.extend(
            row.comparisons
                .first()
                .map(|baseline| ("baseline".to_owned(), baseline.medians.clone())),
        );
    }
    let whole =
        |medians: &Medians| medians.server_cpu_us + medians.postgres_cpu_us + medians.redis_cpu_us;
    let highest = bars.iter().map(|(_, medians)| whole(medians)).fold(1.0, f64::max) * 1.1;
    let area = SVGBackend::new(file, (900, 400)).into_drawing_area();
    area.fill(&WHITE)?;
    let last = i32::try_from(bars.len())? - 1;
    let mut chart = ChartBuilder::on(&area)
        .caption("Processor time per refresh, µs", (FONT, 22))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(52)
        .build_cartesian_2d((0..last).into_segmented(), 0.0..highest)?;
    let name = |segment: &SegmentValue<i32>| match segment {
        SegmentValue::CenterOf(index) => usize::try_from(*index)
            .ok()
            .and_then(|index| bars.get(index))
            .map_or_else(String::new, |(name, _)| name.clone()),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRAY.mix(0.25))
        .x_labels(bars.len())
        .x_label_formatter(&name)
        .y_label_formatter(&|value| format!("{value:.0}"))
        .label_style((FONT, 13))
        .draw()?;
    let parts: [Component; 3] = [
        ("server", BLUE, |medians| medians.server_cpu_us),
        ("PostgreSQL", ORANGE, |medians| medians.postgres_cpu_us),
        ("Redis", GREEN, |medians| medians.redis_cpu_us),
    ];
    for (index, (part, color, _)) in parts.iter().enumerate() {
        let stacked = (0..).zip(&bars).map(|(bar, (_, medians))| {
            let below: f64 = parts[..index].iter().map(|(.., used)| used(medians)).sum();
            let above = below + parts[index].2(medians);
            let left = SegmentValue::Exact(bar);
            let right = SegmentValue::Exact(bar + 1);
            let mut bar = Rectangle::new([(left, below), (right, above)], color.filled());
            bar.set_margin(0, 0, 22, 22);
            bar
        });
        let color = *color;
        chart
            .draw_series(stacked)?
            .label(*part)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], color.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .label_font((FONT, 13))
        .draw()?;
    area.present()?;
    Ok(())
}
