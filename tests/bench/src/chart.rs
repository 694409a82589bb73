//! Draws lines as SVG. Its text stays text.

use anyhow::{Result, anyhow};
use plotters::{
    chart::{ChartBuilder, ChartContext},
    coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged},
    prelude::{
        Cartesian2d, Circle, DrawingArea, IntoDrawingArea, LineSeries, RGBColor, SVGBackend, ShapeStyle,
        WHITE,
    },
    style::{
        Color, IntoFont, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};
use std::{ops::Range, path::Path};

const SIZE: (u32, u32) = (760, 420);

/// The space around the drawing, in pixels: the title above, the line names on the right, the axis labels left and
/// below.
const TITLE: u32 = 56;
const RIGHT: u32 = 150;
const LEFT: u32 = 72;
const BELOW: u32 = 52;

/// The colour of the highlighted line, and those of everything else.
const ACCENT: RGBColor = RGBColor(109, 40, 217);
const GREY: RGBColor = RGBColor(120, 120, 130);
const INK: RGBColor = RGBColor(40, 40, 48);
const GRID: RGBColor = RGBColor(228, 228, 232);

/// The least distance between the names of two lines, in pixels.
const LABEL_HEIGHT: i32 = 16;

/// An axis that reaches from its first mark to its last.
struct Axis(Vec<f64>);

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let range = self.range();
        let part = (value - range.start) / (range.end - range.start);
        from + (part * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.0.clone()
    }

    fn range(&self) -> Range<f64> {
        let (first, last) = (self.0.first().copied().unwrap_or(0.0), self.0.last().copied().unwrap_or(1.0));
        first..last.max(first + f64::EPSILON)
    }
}

/// How an axis places a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// In proportion, from zero.
    Linear,
    /// By the logarithm: ten times the value is one step further.
    Log,
}

/// A line.
pub struct Line {
    /// Its name, which stands at its end.
    pub name: String,
    /// Whether the chart highlights it.
    pub accent: bool,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// A chart.
pub struct Chart {
    /// The title.
    pub title: String,
    /// The circumstances of the measurement.
    pub subtitle: String,
    /// The horizontal axis's label, with its unit.
    pub x_label: &'static str,
    /// The horizontal axis's scale.
    pub x_scale: Scale,
    /// The horizontal axis's marks with their labels. The first and the last mark are its ends.
    pub x_marks: Vec<(f64, String)>,
    /// The vertical axis's label, with its unit.
    pub y_label: &'static str,
    /// The vertical axis's scale.
    pub y_scale: Scale,
    /// The lines.
    pub lines: Vec<Line>,
}

impl Scale {
    fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.max(f64::MIN_POSITIVE).log10(),
        }
    }

    fn value(self, place: f64) -> f64 {
        match self {
            Self::Linear => place,
            Self::Log => 10_f64.powf(place),
        }
    }

    /// Lists round values from below `least` to above `most`.
    pub fn marks(self, least: f64, most: f64) -> Vec<f64> {
        match self {
            Self::Linear => {
                let rough = (most / 5.0).max(f64::MIN_POSITIVE);
                let power = 10_f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|step| *step >= rough);
                let step = step.unwrap_or(10.0 * power);
                (0..=(most / step).ceil() as u32).map(|n| f64::from(n) * step).collect()
            }
            Self::Log => {
                let fine = most / least < 1_000.0;
                let factors: &[f64] = if fine { &[1.0, 2.0, 5.0] } else { &[1.0] };
                let decades = least.log10().floor() as i32..=most.log10().ceil() as i32;
                let all: Vec<f64> =
                    decades.flat_map(|n| factors.iter().map(move |factor| factor * 10_f64.powi(n))).collect();
                let first = all.iter().rposition(|mark| *mark <= least).unwrap_or(0);
                let last = all.iter().position(|mark| *mark >= most).unwrap_or(all.len() - 1);
                all.get(first..=last.max(first)).unwrap_or_default().to_vec()
            }
        }
    }
}

impl Chart {
    /// Draws the chart into a file.
    pub fn draw(&self, path: &Path) -> Result<()> {
        let area = SVGBackend::new(path, SIZE).into_drawing_area();
        self.draw_on(&area).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        area.present().map_err(|error| anyhow!("{}: {error}", path.display()))
    }

    fn draw_on<'a>(&self, area: &DrawingArea<SVGBackend<'a>, plotters::coord::Shift>) -> Result<()> {
        area.fill(&WHITE)?;
        area.draw_text(&self.title, &text(21, INK, HPos::Left), (16, 14))?;
        area.draw_text(&self.subtitle, &text(15, GREY, HPos::Left), (16, 38))?;
        let mut chart = ChartBuilder::on(area)
            .margin_top(TITLE + 10)
            .margin_right(RIGHT)
            .margin_left(8)
            .margin_bottom(6)
            .x_label_area_size(BELOW)
            .y_label_area_size(LEFT)
            .build_cartesian_2d(self.x_axis(), self.y_axis())?;
        let marked = |place: &f64| {
            let mark =
                self.x_marks.iter().find(|(value, _)| (self.x_scale.place(*value) - place).abs() < 1e-9);
            mark.map_or_else(String::new, |(_, label)| label.clone())
        };
        chart
            .configure_mesh()
            .axis_style(GREY)
            .bold_line_style(GRID)
            .light_line_style(WHITE.mix(0.0))
            .label_style(text(15, INK, HPos::Left))
            .axis_desc_style(text(16, INK, HPos::Left))
            .x_desc(self.x_label)
            .y_desc(self.y_label)
            .x_label_formatter(&marked)
            .y_label_formatter(&|place| short(self.y_scale.value(*place)))
            .draw()?;
        for line in &self.lines {
            let colour = if line.accent { ACCENT } else { GREY };
            let points: Vec<(f64, f64)> =
                line.points.iter().map(|(x, y)| (self.x_scale.place(*x), self.y_scale.place(*y))).collect();
            chart.draw_series(LineSeries::new(
                points.iter().copied(),
                ShapeStyle::from(colour).stroke_width(2),
            ))?;
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
        }
        self.name_lines(area, &chart)
    }

    /// Writes each name at its line's end, or below the name above it.
    fn name_lines<'a>(
        &self,
        area: &DrawingArea<SVGBackend<'a>, plotters::coord::Shift>,
        chart: &ChartContext<'a, SVGBackend<'a>, Cartesian2d<Axis, Axis>>,
    ) -> Result<()> {
        let mut names: Vec<((i32, i32), &Line)> = Vec::new();
        for line in &self.lines {
            if let Some((x, y)) = line.points.last() {
                names.push((chart.backend_coord(&(self.x_scale.place(*x), self.y_scale.place(*y))), line));
            }
        }
        names.sort_by_key(|((_, y), _)| *y);
        let mut lowest = i32::MIN / 2;
        for ((x, y), line) in names {
            lowest = y.max(lowest + LABEL_HEIGHT);
            let colour = if line.accent { ACCENT } else { GREY };
            area.draw_text(&line.name, &text(16, colour, HPos::Left), (x + 9, lowest - 7))?;
        }
        Ok(())
    }

    fn x_axis(&self) -> Axis {
        Axis(self.x_marks.iter().map(|(value, _)| self.x_scale.place(*value)).collect())
    }

    fn y_axis(&self) -> Axis {
        let values = || self.lines.iter().flat_map(|line| &line.points).map(|(_, y)| *y);
        let (least, most) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN_POSITIVE, f64::max));
        Axis(self.y_scale.marks(least, most).into_iter().map(|value| self.y_scale.place(value)).collect())
    }
}

fn text(size: i32, colour: RGBColor, anchor: HPos) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&colour).pos(Pos::new(anchor, VPos::Top))
}

/// Writes a number as people do on an axis: 0.5, 20, 5,000, 100 k, 1 M.
pub fn short(value: f64) -> String {
    let plain = |value: f64| {
        let text = format!("{value:.2}");
        let text = text.trim_end_matches('0').trim_end_matches('.').to_owned();
        match text.split_at_checked(text.len().saturating_sub(3)) {
            Some((thousands, rest)) if value >= 1e3 && !text.contains('.') => format!("{thousands},{rest}"),
            _ => text,
        }
    };
    match value {
        _ if value >= 1e6 => format!("{} M", plain(value / 1e6)),
        _ if value >= 1e4 => format!("{} k", plain(value / 1e3)),
        _ => plain(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.5, 20.0, 999.0, 5_000.0, 100_000.0, 1_000_000.0].map(short);
        assert_eq!(shown, ["0", "0.5", "20", "999", "5,000", "100 k", "1 M"]);
    }

    #[test]
    fn marks_are_round_and_enclose() {
        assert_eq!(Scale::Linear.marks(3.0, 940.0), [0.0, 200.0, 400.0, 600.0, 800.0, 1_000.0]);
        assert_eq!(Scale::Log.marks(3.0, 40.0), [2.0, 5.0, 10.0, 20.0, 50.0]);
        assert_eq!(Scale::Log.marks(3.0, 40_000.0).len(), 6);
    }
}
