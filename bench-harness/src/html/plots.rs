//! Which charts a result has, and their points.

use std::collections::BTreeMap;

use super::chart::{Axis, Chart, Mark, Range, Scale, Series, ranges};
use super::{latency_text, latency_tick};
use crate::progress::{Second, SecondLatency};
use crate::recorder::quantile_of;
use crate::report::{LatencyReport, Report};
use crate::scenario::Kind;
use crate::stages::merged;
use crate::table::rate_text;

/// Most points of a line over time: more cannot be told apart.
const POINTS_MAX: usize = 600;
/// Points of a percentile curve to each tenfold of the axis.
const POINTS_PER_DECADE: f64 = 60.0;
/// Bars of a histogram to each tenfold of the axis.
const BARS_PER_DECADE: f64 = 24.0;
/// Shorter stages are drawn so long: one that begins and ends in the same turn took no time, and
/// has no place on a logarithmic axis.
const STAGE_US_MIN: f64 = 1.0;
/// Shares of messages that the percentile axis names.
const NAMED_SHARES: [(f64, &str); 7] = [
    (1.0, "0%"),
    (2.0, "50%"),
    (10.0, "90%"),
    (100.0, "99%"),
    (1e3, "99.9%"),
    (1e4, "99.99%"),
    (1e5, "99.999%"),
];

/// A figure's name, and the figure of a part of the result.
type Named<T> = (&'static str, fn(&T) -> f64);
type Titled = (&'static str, String, Chart);

/// The charts of one run, in order.
pub(super) fn of(report: &Report) -> Vec<Titled> {
    let own = [
        ("acknowledgement", &report.ack_latency),
        ("arrival", &report.delivery_latency),
        ("fetch", &report.fetch_latency),
    ];
    let latencies: Vec<(String, &LatencyReport)> = own
        .into_iter()
        .filter_map(|(name, latency)| Some((name.to_owned(), latency.as_ref()?)))
        .collect();
    let mut charts = Vec::new();
    charts.extend(by_percentile(&latencies));
    charts.extend(histogram(&latencies));
    charts.extend(latency_over_time(report));
    charts.extend(throughput_over_time(report));
    charts
}

/// Latency against the share of messages that it covers.
pub(super) fn by_percentile(latencies: &[(String, &LatencyReport)]) -> Option<Titled> {
    let series: Vec<Series> = latencies
        .iter()
        .zip(1..)
        .map(|((name, latency), colour)| Series {
            name: name.clone(),
            colour,
            mark: Mark::Step,
            points: percentile_points(&latency.histogram_ns),
        })
        .collect();
    let (low, high) = bounds(&series)?;
    let last = series.iter().flat_map(|series| &series.points);
    let last = last.map(|(x, _)| *x).fold(10.0, f64::max);
    let ticks = NAMED_SHARES.into_iter().filter(|(x, _)| *x <= last);
    let chart = Chart {
        label: "Latency by percentile of messages, both logarithmic".into(),
        x: Axis {
            title: "share of messages that are at least as fast (log scale)".into(),
            scale: Scale::Log,
            min: 1.0,
            max: last,
            ticks: ticks.map(|(x, name)| (x, name.to_owned())).collect(),
        },
        y: Axis::log("latency (log scale)", low, high, latency_tick),
        band: None,
        series,
        say: |_, y| latency_text(y),
    };
    let about = "A flat line is an even service; where it rises, the tail begins.";
    Some(("Latency by percentile", about.into(), chart))
}

/// Points of 1 / (1 - share) and the latency that the share does not exceed, in microseconds.
fn percentile_points(histogram: &[[u64; 2]]) -> Vec<(f64, f64)> {
    let total: u64 = histogram.iter().map(|[_, count]| count).sum();
    let mut points: Vec<(f64, f64)> = Vec::new();
    let mut faster = 0;
    for [ns, count] in histogram {
        // The bucket holds from here on; its last message stands for the slowest of all.
        let x = total as f64 / (total - faster) as f64;
        faster += count;
        let us = *ns as f64 / 1e3;
        match points.last_mut() {
            Some((last, y)) if (x / *last).log10() < 1.0 / POINTS_PER_DECADE => *y = us,
            _ => points.push((x, us)),
        }
    }
    if let Some((_, us)) = points.last().copied() {
        points.push((total as f64, us));
    }
    points
}

fn histogram(latencies: &[(String, &LatencyReport)]) -> Option<Titled> {
    // The first is what the run is about; one over the other could not be read.
    let (name, latency) = latencies.last()?;
    let step = 10f64.powf(1.0 / BARS_PER_DECADE);
    let mut bars: BTreeMap<i32, u64> = BTreeMap::new();
    for [ns, count] in &latency.histogram_ns {
        let us = (*ns as f64 / 1e3).max(1e-3);
        *bars
            .entry((us.log10() * BARS_PER_DECADE).floor() as i32)
            .or_default() += count;
    }
    let points: Vec<(f64, f64)> = bars
        .iter()
        .map(|(bar, count)| (10f64.powf(f64::from(*bar) / BARS_PER_DECADE), *count as f64))
        .collect();
    let (low, high) = (points.first()?.0, points.last()?.0 * step);
    let most = points.iter().map(|(_, count)| *count).fold(1.0, f64::max);
    let chart = Chart {
        label: format!("Histogram of the latency to {name}, both axes logarithmic"),
        x: Axis::log("latency (log scale)", low, high, latency_tick),
        // From below 1, so that a single message has a bar.
        y: Axis::log("messages (log scale)", 0.5, most, |count| match count {
            count if count < 1.0 => String::new(),
            count => rate_text(count),
        }),
        band: None,
        series: vec![Series {
            name: name.clone(),
            colour: latencies.len(),
            mark: Mark::Bars(step),
            points,
        }],
        say: |x, y| format!("from {}: {} messages", latency_text(x), rate_text(y)),
    };
    Some((
        "Histogram",
        format!("Messages by their latency to {name}."),
        chart,
    ))
}

fn latency_over_time(report: &Report) -> Option<Titled> {
    let of_second: fn(&Second) -> Option<SecondLatency> = match report.scenario.kind {
        Kind::Produce => |second| second.ack_latency,
        _ => |second| second.delivery_latency,
    };
    let what = match report.scenario.kind {
        Kind::Produce => "acknowledgement",
        _ => "arrival",
    };
    let seconds = thinned(&report.seconds);
    let figures: [Named<SecondLatency>; 3] = [
        ("p50", |latency| latency.p50_us),
        ("p99", |latency| latency.p99_us),
        ("max", |latency| latency.max_us),
    ];
    let series: Vec<Series> = figures
        .into_iter()
        .zip(1..)
        .map(|((name, figure), colour)| Series {
            name: name.to_owned(),
            colour,
            mark: Mark::Line,
            points: seconds
                .iter()
                .filter_map(|second| {
                    // The figures stand at the end of their second.
                    let worst = second.iter().filter_map(of_second);
                    let y = worst.map(|latency| figure(&latency)).reduce(f64::max)?;
                    Some((second.last()?.at_s, y))
                })
                .collect(),
        })
        .collect();
    let (low, high) = bounds(&series)?;
    let chart = Chart {
        label: format!("Latency to {what} of each second"),
        x: time_axis(&report.seconds),
        y: Axis::log("latency (log scale)", low, high, latency_tick),
        band: warm_up(report),
        series,
        say: |x, y| format!("{} at {x:.0} s", latency_text(y)),
    };
    let about = format!("To {what}, of what came in each second.");
    Some(("Latency over time", about, chart))
}

fn throughput_over_time(report: &Report) -> Option<Titled> {
    let figures: [Named<Second>; 2] = [
        ("acknowledged", |second| second.acked_per_s),
        ("received", |second| second.delivered_per_s),
    ];
    let seconds = thinned(&report.seconds);
    let mut series: Vec<Series> = figures
        .into_iter()
        .zip(1..)
        .map(|((name, figure), colour)| Series {
            name: name.to_owned(),
            colour,
            mark: Mark::Line,
            points: seconds
                .iter()
                .filter_map(|second| {
                    let sum: f64 = second.iter().map(figure).sum();
                    Some((second.last()?.at_s, sum / second.len() as f64))
                })
                .collect(),
        })
        .filter(|series| series.points.iter().any(|(_, y)| *y > 0.0))
        .collect();
    let x = time_axis(&report.seconds);
    let paced = report.scenario.kind != Kind::ConsumeBacklog;
    if let Some(rate) = report.scenario.rate_per_s.filter(|_| paced) {
        series.push(Series {
            name: "asked for".to_owned(),
            colour: 4,
            mark: Mark::Guide,
            points: vec![(0.0, rate as f64), (x.max, rate as f64)],
        });
    }
    let (_, high) = bounds(&series)?;
    let chart = Chart {
        label: "Messages per second over time".into(),
        x,
        y: Axis::from_zero("messages per second", high, rate_text),
        band: warm_up(report),
        series,
        say: |x, y| format!("{} msg/s at {x:.0} s", rate_text(y)),
    };
    let about = "Means of each second.";
    Some(("Throughput over time", about.into(), chart))
}

/// The broker's stages below what the client saw, if both measured something.
pub(super) fn stages(report: &Report) -> Option<String> {
    let mut times = merged(&report.broker.as_ref()?.stages);
    times.retain(|stage| stage.unit == "ns");
    let row = |name: &str, colour, histogram: &[[u64; 2]]| Range {
        name: name.to_owned(),
        colour,
        figures: [0.5, 0.99, 0.999, 1.0]
            .map(|q| (quantile_of(histogram, q) as f64 / 1e3).max(STAGE_US_MIN)),
    };
    let mut rows = Vec::new();
    let client = [
        ("client: acknowledged", &report.ack_latency),
        ("client: arrived", &report.delivery_latency),
    ];
    for (name, latency) in client {
        rows.extend(latency.as_ref().map(|l| row(name, 2, &l.histogram_ns)));
    }
    if times.is_empty() {
        return None;
    }
    rows.extend(
        times
            .iter()
            .map(|stage| row(stage.name, 1, &stage.histogram)),
    );
    let figures = || rows.iter().flat_map(|row| row.figures);
    let (low, high) = (
        figures().fold(f64::MAX, f64::min),
        figures().fold(0.0, f64::max),
    );
    let axis = Axis::log("time (log scale)", low, high, latency_tick);
    Some(ranges(
        "Times of the broker's stages and of the client",
        &rows,
        &axis,
    ))
}

/// Least and greatest y of all points; `None` without any that a logarithm takes.
fn bounds(series: &[Series]) -> Option<(f64, f64)> {
    let points = series.iter().flat_map(|series| &series.points);
    let ys = points.map(|(_, y)| *y).filter(|y| *y > 0.0);
    ys.fold(None, |bounds, y| match bounds {
        None => Some((y, y)),
        Some((low, high)) => Some((y.min(low), y.max(high))),
    })
}

/// The seconds, several to a point where there are too many.
fn thinned(seconds: &[Second]) -> Vec<&[Second]> {
    let to_a_point = seconds.len().div_ceil(POINTS_MAX).max(1);
    seconds.chunks(to_a_point).collect()
}

fn time_axis(seconds: &[Second]) -> Axis {
    let end_s = seconds.last().map_or(1.0, |second| second.at_s);
    Axis::to_exactly("seconds since the first message", end_s, |s| {
        let text = format!("{s:.1}");
        text.strip_suffix(".0")
            .map_or_else(|| text.clone(), str::to_owned)
    })
}

fn warm_up(report: &Report) -> Option<(f64, f64, &'static str)> {
    let is_paced = report.scenario.kind != Kind::ConsumeBacklog;
    let warmup_s = report.scenario.warmup_ms as f64 / 1e3;
    (is_paced && warmup_s > 0.0).then_some((0.0, warmup_s, "warm-up"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn a_percentile_curve_is_the_histogram() {
        let points = percentile_points(&[[1_000, 90], [2_000, 9], [50_000, 1]]);
        let rounded: Vec<(u64, u64)> = points
            .iter()
            .map(|(x, y)| (x.round() as u64, y.round() as u64))
            .collect();
        // 1 us up to 90% (1 in 10), 2 us up to 99% (1 in 100), then 50 us.
        assert_eq!(rounded, [(1, 1), (10, 2), (100, 50), (100, 50)]);
        assert!(percentile_points(&[]).is_empty());
    }

    #[test]
    fn a_long_histogram_is_thinned_and_keeps_its_maximum() {
        let histogram: Vec<[u64; 2]> = (1..100_000).map(|value| [value * 100, 1]).collect();
        let points = percentile_points(&histogram);
        assert!(points.len() < 500, "{}", points.len());
        assert_eq!(points.last().map(|(_, y)| y.round()), Some(10_000.0));
    }

    #[test]
    fn a_run_has_all_charts_and_a_long_one_no_more_points_than_can_be_seen() {
        let mut report = example();
        let second = report.seconds[0].clone();
        report.seconds = (1..=3_000)
            .map(|at| Second {
                at_s: f64::from(at),
                ..second.clone()
            })
            .collect();
        let charts = of(&report);
        let titles: Vec<&str> = charts.iter().map(|(title, ..)| *title).collect();
        let wanted = [
            "Latency by percentile",
            "Histogram",
            "Latency over time",
            "Throughput over time",
        ];
        assert_eq!(titles, wanted);
        for (title, _, chart) in &charts {
            let most = chart.series.iter().map(|s| s.points.len()).max();
            assert!(most <= Some(POINTS_MAX), "{title}: {most:?}");
        }
        assert!(stages(&report).is_some_and(|svg| svg.contains("client: acknowledged")));
    }
}
