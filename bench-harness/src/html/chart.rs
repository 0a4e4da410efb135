//! Charts as inline SVG: axes, lines, bars and ranges, with colours from the page's style so that
//! light, dark and paper each get their own.

use std::fmt::Write;

use super::escape;

const WIDTH: f64 = 720.0;
/// Of a chart that has a row of the page to itself.
const WIDE: f64 = 1_320.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 92.0;
/// Half of the last label of an axis must fit in.
const RIGHT: f64 = 34.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 60.0;
/// Points of a line that are marked one by one, with their values to hover over.
const MARKED_POINTS_MAX: usize = 60;
/// Ticks that a linear axis aims at.
const TICKS: f64 = 5.0;
/// Decades beyond which a logarithmic axis labels powers of ten alone.
const LABELLED_DECADES_MAX: f64 = 2.2;

/// How values become places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    Linear,
    /// Values are above 0.
    Log,
}

/// One direction of a chart.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) title: String,
    pub(super) scale: Scale,
    pub(super) min: f64,
    pub(super) max: f64,
    /// Value and label, rising.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// An even axis from 0 to at least `max`.
    pub(super) fn from_zero(title: &str, max: f64, label: fn(f64) -> String) -> Self {
        let step = round_step(max.max(f64::MIN_POSITIVE) / TICKS);
        let steps = (max / step).ceil().max(1.0);
        let ticks = (0..=steps as u32).map(|number| f64::from(number) * step);
        Self {
            title: title.to_owned(),
            scale: Scale::Linear,
            min: 0.0,
            max: steps * step,
            ticks: ticks.map(|value| (value, label(value))).collect(),
        }
    }

    /// An even axis of exactly 0 to `max`.
    pub(super) fn to_exactly(title: &str, max: f64, label: fn(f64) -> String) -> Self {
        let mut axis = Self::from_zero(title, max, label);
        axis.ticks.retain(|(value, _)| *value <= max);
        Self { max, ..axis }
    }

    /// A logarithmic axis that holds `min` to `max`, both above 0.
    pub(super) fn log(title: &str, min: f64, max: f64, label: fn(f64) -> String) -> Self {
        let steps = [1.0, 2.0, 5.0];
        let (first, last) = (min.log10().floor() as i32, max.log10().ceil() as i32);
        let round: Vec<f64> = (first..=last)
            .flat_map(|decade| steps.map(|step| step * 10f64.powi(decade)))
            .collect();
        let low = round.iter().copied().rfind(|value| *value <= min);
        let high = round.iter().copied().find(|value| *value >= max);
        let min = low.unwrap_or(min);
        let max = high.unwrap_or(max).max(min * 2.0);
        let is_short = (max / min).log10() <= LABELLED_DECADES_MAX;
        let is_decade = |value: f64| (value.log10() - value.log10().round()).abs() < 1e-6;
        let shown = |value: &f64| {
            (min * 0.999..=max * 1.001).contains(value) && (is_short || is_decade(*value))
        };
        let ticks = round.iter().copied().filter(shown);
        Self {
            title: title.to_owned(),
            scale: Scale::Log,
            min,
            max,
            ticks: ticks.map(|value| (value, label(value))).collect(),
        }
    }

    /// Where `value` lies, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let value = value.clamp(self.min, self.max);
        match self.scale {
            Scale::Linear => (value - self.min) / (self.max - self.min),
            Scale::Log => (value / self.min).ln() / (self.max / self.min).ln(),
        }
    }
}

/// 1, 2 or 5 times a power of ten that is about `step` or more.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    // A little more than a round step is the round step: 10.02 s are ten seconds.
    let factor = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|f| f * power * 1.05 >= step);
    factor.unwrap_or(10.0) * power
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mark {
    Line,
    /// From each point on its value holds until the next.
    Step,
    /// A thin line without points: a bound, an aim.
    Guide,
    /// A bar of the given width at each point, in the axis' own scale: from `x` to `x * width`.
    Bars(f64),
}

/// Points in one colour.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: String,
    /// Which of the page's series colours, from 1.
    pub(super) colour: usize,
    pub(super) mark: Mark,
    pub(super) points: Vec<(f64, f64)>,
}

/// One chart.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    /// What it shows, for those who cannot see it.
    pub(super) label: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    /// Part of the x axis that does not count, with its name.
    pub(super) band: Option<(f64, f64, &'static str)>,
    pub(super) series: Vec<Series>,
    /// Says a point's values.
    pub(super) say: fn(f64, f64) -> String,
}

impl Chart {
    /// The chart with its legend, as a figure's inside.
    pub(super) fn html(&self) -> String {
        let mut out = String::new();
        if self.series.len() > 1 {
            out += "<ul class=\"legend\">";
            for series in &self.series {
                let kind = match series.mark {
                    Mark::Bars(_) => "bar",
                    Mark::Guide => "guide",
                    Mark::Line | Mark::Step => "line",
                };
                put(
                    &mut out,
                    format_args!(
                        "<li><svg class=\"key\" viewBox=\"0 0 26 10\" aria-hidden=\"true\">\
                         <path class=\"{kind} c{}\" d=\"M1 5H25\"/></svg>{}</li>",
                        series.colour,
                        escape(&series.name)
                    ),
                );
            }
            out += "</ul>";
        }
        put(
            &mut out,
            format_args!(
                "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
                 aria-label=\"{}\">",
                escape(&self.label)
            ),
        );
        self.put_band(&mut out);
        self.put_axes(&mut out);
        for series in &self.series {
            self.put_series(&mut out, series);
        }
        out += "</svg>";
        out
    }

    fn at_x(&self, value: f64) -> f64 {
        LEFT + self.x.share(value) * (WIDTH - LEFT - RIGHT)
    }

    fn at_y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.share(value) * (HEIGHT - TOP - BOTTOM)
    }

    fn put_band(&self, out: &mut String) {
        let Some((from, to, name)) = self.band else {
            return;
        };
        let (left, right) = (self.at_x(from), self.at_x(to));
        if right - left < 1.0 {
            return;
        }
        let (width, height) = (right - left, HEIGHT - TOP - BOTTOM);
        put(
            out,
            format_args!(
                "<rect class=\"band\" x=\"{left:.1}\" y=\"{TOP}\" width=\"{width:.1}\" \
                 height=\"{height}\"/><text class=\"bandname\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                left + 5.0,
                TOP + 14.0,
                escape(name)
            ),
        );
    }

    fn put_axes(&self, out: &mut String) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for (value, label) in &self.y.ticks {
            let y = self.at_y(*value);
            put(
                out,
                format_args!(
                    "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>\
                     <text class=\"tick\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                    LEFT - 8.0,
                    y + 5.0,
                    escape(label)
                ),
            );
        }
        for (value, label) in &self.x.ticks {
            let x = self.at_x(*value);
            put(
                out,
                format_args!(
                    "<path class=\"grid\" d=\"M{x:.1} {TOP}V{bottom}\"/><text class=\"tick\" \
                     text-anchor=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                    bottom + 20.0,
                    escape(label)
                ),
            );
        }
        let (middle_x, middle_y) = ((LEFT + right) / 2.0, (TOP + bottom) / 2.0);
        put(
            out,
            format_args!(
                "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>\
                 <text class=\"title\" text-anchor=\"middle\" x=\"{middle_x}\" y=\"{}\">{}</text>\
                 <text class=\"title\" text-anchor=\"middle\" \
                 transform=\"translate(15 {middle_y}) rotate(-90)\">{}</text>",
                HEIGHT - 10.0,
                escape(&self.x.title),
                escape(&self.y.title)
            ),
        );
    }

    fn put_series(&self, out: &mut String, series: &Series) {
        if let Mark::Bars(width) = series.mark {
            return self.put_bars(out, series, width);
        }
        let mut path = String::new();
        let mut previous: Option<(f64, f64)> = None;
        for (x, y) in &series.points {
            let (x, y) = (self.at_x(*x), self.at_y(*y));
            match (previous, series.mark) {
                (None, _) => put(&mut path, format_args!("M{x:.1} {y:.1}")),
                (Some(_), Mark::Step) => put(&mut path, format_args!("H{x:.1}V{y:.1}")),
                (Some(_), _) => put(&mut path, format_args!("L{x:.1} {y:.1}")),
            }
            previous = Some((x, y));
        }
        let kind = if series.mark == Mark::Guide {
            "guide"
        } else {
            "line"
        };
        let colour = series.colour;
        put(
            out,
            format_args!("<path class=\"{kind} c{colour}\" d=\"{path}\"/>"),
        );
        if series.mark != Mark::Line || series.points.len() > MARKED_POINTS_MAX {
            return;
        }
        for (x, y) in &series.points {
            put(
                out,
                format_args!(
                    "<circle class=\"dot c{colour}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\">\
                     <title>{}: {}</title></circle>",
                    self.at_x(*x),
                    self.at_y(*y),
                    escape(&series.name),
                    escape(&(self.say)(*x, *y))
                ),
            );
        }
    }

    fn put_bars(&self, out: &mut String, series: &Series, width: f64) {
        let bottom = HEIGHT - BOTTOM;
        for (x, y) in &series.points {
            let (left, top) = (self.at_x(*x), self.at_y(*y));
            let right = self.at_x(x * width);
            put(
                out,
                format_args!(
                    "<rect class=\"bar c{}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" \
                     height=\"{:.1}\"><title>{}</title></rect>",
                    series.colour,
                    (right - left - 0.6).max(0.8),
                    (bottom - top).max(0.8),
                    escape(&(self.say)(*x, *y))
                ),
            );
        }
    }
}

/// One row of a chart of ranges: how far values spread.
#[derive(Clone, Debug)]
pub(super) struct Range {
    pub(super) name: String,
    pub(super) colour: usize,
    /// From the lowest of these figures to the highest: median, p99, p99.9, maximum.
    pub(super) figures: [f64; 4],
}

/// Rows of ranges over one logarithmic axis: a thick bar from the median to the p99, a thin one on
/// to the p99.9, and a mark at the maximum.
pub(super) fn ranges(label: &str, rows: &[Range], x: &Axis) -> String {
    const ROW: f64 = 26.0;
    const NAMES: f64 = 210.0;
    let height = TOP + ROW * rows.len() as f64 + BOTTOM;
    let bottom = height - BOTTOM;
    let at = |value: f64| NAMES + x.share(value) * (WIDE - NAMES - RIGHT);
    let mut out = format!(
        "<svg class=\"chart\" viewBox=\"0 0 {WIDE} {height}\" role=\"img\" aria-label=\"{}\">",
        escape(label)
    );
    for (value, label) in &x.ticks {
        let x = at(*value);
        put(
            &mut out,
            format_args!(
                "<path class=\"grid\" d=\"M{x:.1} {TOP}V{bottom}\"/>\
                 <text class=\"tick\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                bottom + 20.0,
                escape(label)
            ),
        );
    }
    for (number, row) in rows.iter().enumerate() {
        let y = TOP + ROW * (number as f64 + 0.5);
        let [p50, p99, p999, max] = row.figures.map(at);
        put(
            &mut out,
            format_args!(
                "<text class=\"rowname\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
                 <path class=\"whisker c{colour}\" d=\"M{p99:.1} {y:.1}H{p999:.1}\"/>\
                 <rect class=\"bar c{colour}\" x=\"{p50:.1}\" y=\"{:.1}\" width=\"{:.1}\" \
                 height=\"12\"/><circle class=\"dot c{colour}\" cx=\"{max:.1}\" cy=\"{y:.1}\" \
                 r=\"3.5\"/>",
                NAMES - 10.0,
                y + 5.0,
                escape(&row.name),
                y - 6.0,
                (p99 - p50).max(2.0),
                colour = row.colour,
            ),
        );
    }
    put(
        &mut out,
        format_args!(
            "<path class=\"axis\" d=\"M{NAMES} {TOP}V{bottom}H{}\"/><text class=\"title\" \
             text-anchor=\"middle\" x=\"{}\" y=\"{}\">{}</text></svg>",
            WIDE - RIGHT,
            (NAMES + WIDE - RIGHT) / 2.0,
            height - 10.0,
            escape(&x.title)
        ),
    );
    out
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(value: f64) -> String {
        format!("{value}")
    }

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn an_even_axis_has_round_ticks() {
        let axis = Axis::from_zero("t", 97.0, plain);
        assert_eq!(labels(&axis), ["0", "20", "40", "60", "80", "100"]);
        let axis = Axis::to_exactly("t", 97.0, plain);
        assert_eq!((axis.max, labels(&axis).len()), (97.0, 5));
        assert!(
            Axis::from_zero("t", 0.0, plain).max > 0.0,
            "nothing is no reason to divide by it"
        );
    }

    #[test]
    fn a_log_axis_holds_its_values() {
        let axis = Axis::log("t", 130.0, 4_200.0, plain);
        assert_eq!((axis.min, axis.max), (100.0, 5_000.0));
        assert_eq!(labels(&axis), ["100", "200", "500", "1000", "2000", "5000"]);
        let wide = Axis::log("t", 1.0, 1_000_000.0, plain);
        assert_eq!(labels(&wide).len(), 7, "decades alone");
        let middle = axis.share((100.0f64 * 5_000.0).sqrt());
        assert!((middle - 0.5).abs() < 1e-9, "{middle}");
        let point = Axis::log("t", 100.0, 100.0, plain);
        assert!(point.max > point.min);
    }

    #[test]
    fn names_cannot_break_out_of_a_chart() {
        let chart = Chart {
            label: "a \"quoted\" <label>".into(),
            x: Axis::from_zero("<x>", 10.0, plain),
            y: Axis::log("&y", 1.0, 10.0, plain),
            band: Some((0.0, 2.0, "warm-up")),
            series: ["<one>", "two"]
                .into_iter()
                .zip(1..)
                .map(|(name, colour)| Series {
                    name: name.into(),
                    colour,
                    mark: Mark::Line,
                    points: vec![(1.0, 2.0), (3.0, 4.0)],
                })
                .collect(),
            say: |x, y| format!("<{x}, {y}>"),
        };
        let html = chart.html();
        for broken in ["<one>", "<x>", "<label>", "\"quoted\"", "<1, 2>", "&y<"] {
            assert!(!html.contains(broken), "{broken}");
        }
        assert!(html.contains("&lt;one&gt;: &lt;1, 2&gt;"), "{html}");
        assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
    }
}
