//! A result as one page: no script, no network, charts inline.
//!
//! Everything that comes from outside this file (names, settings, errors of a broker) goes through
//! [`escape`].

mod chart;
mod comparison;
mod plots;

use std::fmt::Write;

use self::chart::Chart;
pub(crate) use self::comparison::comparison;
use crate::machine::Usage;
use crate::report::{LatencyReport, Rate, Report};
use crate::scenario::{Kind, Target};
use crate::table::{bytes_text, micros_text, rate_text};

const STYLE: &str = include_str!("style.css");

/// The page of one run.
pub(crate) fn report(report: &Report) -> String {
    let mut page = Page::new(&report.scenario.title());
    page.head(report);
    page.tiles(report);
    page.section("Latency and throughput");
    page.raw("<div class=\"charts\">");
    for (title, about, chart) in plots::of(report) {
        page.figure(title, &about, &chart);
    }
    page.raw("</div>");
    page.latencies(report);
    page.search(report);
    page.broker(report);
    page.verdict(report);
    page.section("What was run, and on what");
    page.raw("<div class=\"pair\">");
    page.card_of_facts("Scenario", &scenario_facts(report));
    page.card_of_facts("Machine", &machine_facts(report));
    page.raw("</div>");
    page.broker_config(report);
    page.finish(report)
}

/// Text that means itself in HTML, inside of elements and of attributes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            // Not allowed in a page, whatever stands for it.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A latency as a page shows it.
fn latency_text(us: f64) -> String {
    micros_text(us).replace("us", "µs")
}

/// A round latency for an axis.
fn latency_tick(us: f64) -> String {
    let (value, unit) = match us {
        us if us < 1_000.0 => (us, "µs"),
        us if us < 1_000_000.0 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    format!("{} {unit}", (value * 1e3).round() / 1e3)
}

/// A page that grows.
struct Page {
    out: String,
}

impl Page {
    fn new(title: &str) -> Self {
        let title = escape(title);
        let out = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
        );
        Self { out }
    }

    /// Puts HTML as it is: nothing from outside.
    fn raw(&mut self, html: &str) {
        self.out += html;
    }

    fn put(&mut self, html: std::fmt::Arguments<'_>) {
        self.out.write_fmt(html).expect("a string takes everything");
    }

    fn section(&mut self, title: &str) {
        self.put(format_args!("\n<h2>{}</h2>\n", escape(title)));
    }

    fn figure(&mut self, title: &str, about: &str, chart: &Chart) {
        self.figure_of(title, about, &chart.html());
    }

    fn figure_of(&mut self, title: &str, about: &str, html: &str) {
        let (title, about) = (escape(title), escape(about));
        self.put(format_args!(
            "<figure><h3>{title}</h3><figcaption>{about}</figcaption>{html}</figure>\n"
        ));
    }

    /// A line that must not be overlooked; `kind` is `good`, `bad` or `note`.
    fn banner(&mut self, kind: &str, head: &str, text: &str) {
        let (head, text) = (escape(head), escape(text));
        self.put(format_args!(
            "<p class=\"banner {kind}\"><b>{head}</b>{text}</p>\n"
        ));
    }

    /// A table whose first column names its rows.
    fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        self.raw("<div class=\"card\"><table><thead><tr>");
        for name in head {
            self.put(format_args!("<th scope=\"col\">{}</th>", escape(name)));
        }
        self.raw("</tr></thead><tbody>");
        for row in rows {
            self.raw("<tr>");
            for (column, cell) in row.iter().enumerate() {
                let cell = escape(cell);
                match column {
                    0 => self.put(format_args!("<th scope=\"row\">{cell}</th>")),
                    _ => self.put(format_args!("<td>{cell}</td>")),
                }
            }
            self.raw("</tr>");
        }
        self.raw("</tbody></table></div>\n");
    }

    fn card_of_facts(&mut self, title: &str, facts: &[(String, String)]) {
        let title = escape(title);
        self.put(format_args!(
            "<div class=\"card\"><h3>{title}</h3><table class=\"facts\"><tbody>"
        ));
        for (name, value) in facts {
            let (name, value) = (escape(name), escape(value));
            self.put(format_args!(
                "<tr><th scope=\"row\">{name}</th><td>{value}</td></tr>"
            ));
        }
        self.raw("</tbody></table></div>\n");
    }

    fn head(&mut self, report: &Report) {
        let scenario = &report.scenario;
        let title = scenario.about.as_deref().or(scenario.file.as_deref());
        let what = scenario.title();
        self.put(format_args!(
            "<h1>{}</h1>\n",
            escape(title.unwrap_or(&what))
        ));
        if title.is_some() {
            self.put(format_args!("<p>{}</p>\n", escape(&what)));
        }
        let seconds = format!("{:.1} s measured", report.measured_s);
        let shape = format!("{}; {seconds}", scenario.shape());
        self.put(format_args!("<p class=\"quiet\">{}</p>\n", escape(&shape)));
        if report.durable == Some(false) {
            self.banner("bad", "NOT DURABLE", "The broker's files are in memory.");
        }
        if scenario.target == Target::Sink {
            self.banner("bad", "NOT DURABLE", "The sink discards every message.");
        }
        if report.interrupted {
            let text = "What was measured until then follows.";
            self.banner("note", "Stopped early", text);
        }
        for failure in &report.failures {
            self.banner("bad", "Failed", failure);
        }
        for warning in &report.warnings {
            self.banner("note", "Warning", warning);
        }
    }

    fn tiles(&mut self, report: &Report) {
        self.raw("<div class=\"tiles\">");
        for (name, rate) in [("Sent", &report.sent), ("Received", &report.received)] {
            if let Some(rate) = rate {
                self.rate_tile(name, rate);
            }
        }
        let latencies = [
            ("Acknowledged", &report.ack_latency),
            ("Arrived", &report.delivery_latency),
            ("Fetched", &report.fetch_latency),
        ];
        for (name, latency) in latencies {
            let Some(latency) = latency else { continue };
            let more = format!("mean {}", latency_text(latency.mean_us));
            self.tile(
                &format!("{name}, p50"),
                &latency_text(latency.p50_us),
                &more,
            );
            self.tile(
                &format!("{name}, p99"),
                &latency_text(latency.p99_us),
                &more,
            );
        }
        if let Some(broker) = &report.broker {
            if let Some(cpu_s) = broker.cpu_s_per_million_messages {
                let more = format!("{:.1} s in all", broker.usage.cpu_s());
                self.tile("Broker CPU per million", &format!("{cpu_s:.2} s"), &more);
            }
            let memory = bytes_text(broker.usage.memory_peak_bytes as f64);
            self.tile("Broker peak memory", &memory, "");
        }
        let (verified, more) = verified(report);
        self.tile("Verified", verified, &more);
        self.raw("</div>\n");
    }

    fn rate_tile(&mut self, name: &str, rate: &Rate) {
        let value = rate_text(rate.messages_per_s);
        let more = format!("msg/s; {}/s", bytes_text(rate.bytes_per_s));
        self.tile(name, &value, &more);
    }

    fn tile(&mut self, name: &str, value: &str, more: &str) {
        let (name, value, more) = (escape(name), escape(value), escape(more));
        self.put(format_args!(
            "<div class=\"tile\"><div class=\"name\">{name}</div><div class=\"value\">{value}</div>\
             <div class=\"more\">{more}</div></div>"
        ));
    }

    fn latencies(&mut self, report: &Report) {
        let rows = [
            ("send to acknowledgement", &report.ack_latency),
            ("send to arrival", &report.delivery_latency),
            ("fetch", &report.fetch_latency),
            ("generator late", &report.generator_lateness),
        ];
        let rows: Vec<Vec<String>> = rows
            .into_iter()
            .filter_map(|(name, latency)| Some(latency_row(name, latency.as_ref()?)))
            .collect();
        if rows.is_empty() {
            return;
        }
        self.section("Latency in figures");
        let head = ["", "count", "mean", "p50", "p90", "p99", "p99.9", "max"];
        self.table(&head, &rows);
    }

    fn search(&mut self, report: &Report) {
        let Some(search) = &report.find_max else {
            return;
        };
        self.section("The search for the highest rate");
        let bound = search.p99_max_ms;
        match search.confirmed_per_s {
            Some(rate) => self.banner(
                "good",
                &format!("{} msg/s", rate_text(rate as f64)),
                &format!("is the highest rate whose p99 stayed below {bound} ms; shown above."),
            ),
            None => self.banner("bad", "Not found", "No rate held for the whole duration."),
        }
        let rows = search.probes.iter().map(|probe| {
            let generator = probe.generator.as_ref().map_or("", |_| "short of time");
            vec![
                rate_text(probe.rate_per_s as f64),
                rate_text(probe.achieved_per_s),
                latency_text(probe.p99_us),
                if probe.holds { "holds" } else { "too much" }.to_owned(),
                generator.to_owned(),
            ]
        });
        let head = ["msg/s asked", "msg/s done", "p99", "the bound", "generator"];
        self.table(&head, &rows.collect::<Vec<_>>());
    }

    fn broker(&mut self, report: &Report) {
        self.section("Where the time and the memory go");
        if let Some(stages) = plots::stages(report) {
            let about = "Bar: median to p99; thin line: to p99.9; dot: maximum. All shards \
                         together, warm-up included in the broker's own. Less than a \
                         microsecond is drawn as one: what begins and ends in one turn takes no \
                         time.";
            self.figure_of(
                "The broker's stages below the client's view",
                about,
                &stages,
            );
        }
        self.stage_table(report);
        let mut rows = Vec::new();
        if let Some(broker) = &report.broker {
            rows.push(usage_row("broker", &broker.usage));
        }
        rows.push(usage_row("generator", &report.generator));
        let head = [
            "",
            "CPU",
            "of it user",
            "system",
            "peak memory",
            "written",
            "read",
        ];
        self.table(&head, &rows);
        let Some(broker) = &report.broker else { return };
        let mut costs = Vec::new();
        if let Some(cpu_s) = broker.cpu_s_per_million_messages {
            costs.push(format!("{cpu_s:.2} s of CPU per million messages"));
        }
        if let Some(cpu_s) = broker.cpu_s_per_gigabyte {
            costs.push(format!("{cpu_s:.2} s of CPU per gigabyte accepted"));
        }
        if let Some(ratio) = broker.bytes_written_per_byte_accepted {
            costs.push(format!("{ratio:.2} bytes written per byte accepted"));
        }
        self.put(format_args!(
            "<p class=\"quiet\">Broker: {}.</p>\n",
            escape(&costs.join("; "))
        ));
    }

    fn stage_table(&mut self, report: &Report) {
        let stages = report.broker.iter().flat_map(|broker| &broker.stages);
        let rows: Vec<Vec<String>> = stages
            .map(|stage| {
                let text = |value: u64| match stage.unit.as_str() {
                    "ns" => latency_text(value as f64 / 1e3),
                    "bytes" => bytes_text(value as f64),
                    _ => rate_text(value as f64),
                };
                let mut row = vec![format!("{} {}", stage.shard, stage.name)];
                row.push(rate_text(stage.count as f64));
                row.extend([stage.p50, stage.p99, stage.p999, stage.max].map(text));
                row
            })
            .collect();
        if rows.is_empty() {
            return;
        }
        let mut meanings: Vec<(String, String)> = Vec::new();
        for stage in report.broker.iter().flat_map(|broker| &broker.stages) {
            let is_new = meanings.iter().all(|(name, _)| *name != stage.name);
            if let Some(meaning) = stage.meaning().filter(|_| is_new) {
                meanings.push(fact(&stage.name, meaning));
            }
        }
        self.raw("<details><summary>Every stage of every shard, and what they are</summary>");
        if !meanings.is_empty() {
            self.card_of_facts("From when to when", &meanings);
        }
        self.table(&["stage", "count", "p50", "p99", "p99.9", "max"], &rows);
        self.raw("</details>\n");
    }

    fn verdict(&mut self, report: &Report) {
        self.section("Verification");
        for refused in &report.refused {
            let text = format!(
                "{} x {} ({}) to {}",
                refused.count, refused.name, refused.code, refused.request
            );
            self.banner("bad", "Refused", &text);
        }
        if report.unanswered_messages > 0 {
            let text = format!("{} messages", report.unanswered_messages);
            self.banner("bad", "Unanswered", &text);
        }
        if report.offsets_not_rising > 0 {
            let text = format!(
                "{} acknowledged offsets did not rise",
                report.offsets_not_rising
            );
            self.banner("bad", "Wrong", &text);
        }
        let Some(verdict) = &report.verification else {
            let why = report.why_not_verified();
            let text = format!("Lost or doubled messages were not looked for: {why}.");
            self.banner("note", "Not verified", &text);
            return;
        };
        if verdict.is_clean() {
            let text = format!(
                "{} acknowledged messages: none lost, doubled, reordered or damaged.",
                rate_text(verdict.acknowledged as f64)
            );
            self.banner("good", "Verified", &text);
        }
        let counts = [
            ("sent", verdict.sent),
            ("acknowledged", verdict.acknowledged),
            ("delivered", verdict.delivered),
            ("lost", verdict.lost),
            ("doubled", verdict.doubled),
            ("reordered", verdict.reordered),
            ("damaged", verdict.damaged),
            (
                "delivered, not acknowledged",
                verdict.delivered_unacknowledged,
            ),
            ("of other runs", verdict.foreign),
        ];
        if !verdict.is_clean() {
            self.banner(
                "bad",
                "Wrong",
                "The broker broke a promise; the counts say which.",
            );
        }
        let row = counts.map(|(_, count)| rate_text(count as f64));
        let head: Vec<&str> = [""]
            .into_iter()
            .chain(counts.map(|(name, _)| name))
            .collect();
        let row = ["messages".to_owned()].into_iter().chain(row).collect();
        self.table(&head, &[row]);
    }

    fn broker_config(&mut self, report: &Report) {
        let config = report
            .broker
            .as_ref()
            .and_then(|broker| broker.config.as_ref());
        let settings = config.and_then(|config| config.as_array());
        let Some(settings) = settings else { return };
        let text = |setting: &serde_json::Value, key: &str| {
            let value = setting.get(key).and_then(|value| value.as_str());
            value.unwrap_or_default().to_owned()
        };
        let rows = settings.iter().map(|setting| {
            ["name", "value", "set_by"]
                .map(|key| text(setting, key))
                .to_vec()
        });
        self.raw("<details><summary>The broker's settings in force</summary>");
        self.table(&["setting", "value", "set by"], &rows.collect::<Vec<_>>());
        self.raw("</details>\n");
    }

    fn finish(mut self, report: &Report) -> String {
        let (tool, version, commit) = (&report.tool, &report.tool_version, &report.commit);
        let by = format!("Written by {tool} {version}, commit {commit}.");
        self.close(&by)
    }

    fn close(&mut self, footer: &str) -> String {
        self.put(format_args!(
            "<footer>{}</footer>\n</main>\n</body>\n</html>\n",
            escape(footer)
        ));
        std::mem::take(&mut self.out)
    }
}

fn verified(report: &Report) -> (&'static str, String) {
    match &report.verification {
        None => ("no", report.why_not_verified().to_owned()),
        Some(verdict) if verdict.is_clean() => (
            "clean",
            format!("{} messages", rate_text(verdict.acknowledged as f64)),
        ),
        Some(verdict) => (
            "WRONG",
            format!(
                "{} lost, {} doubled, {} reordered, {} damaged",
                verdict.lost, verdict.doubled, verdict.reordered, verdict.damaged
            ),
        ),
    }
}

fn latency_row(name: &str, latency: &LatencyReport) -> Vec<String> {
    let figures = [
        latency.mean_us,
        latency.p50_us,
        latency.p90_us,
        latency.p99_us,
        latency.p999_us,
        latency.max_us,
    ];
    let head = [name.to_owned(), rate_text(latency.count as f64)];
    head.into_iter().chain(figures.map(latency_text)).collect()
}

fn usage_row(name: &str, usage: &Usage) -> Vec<String> {
    let seconds = [usage.cpu_s(), usage.cpu_user_s, usage.cpu_system_s];
    let bytes = [
        usage.memory_peak_bytes,
        usage.storage_written_bytes,
        usage.storage_read_bytes,
    ];
    let seconds = seconds.map(|s| format!("{s:.2} s"));
    let bytes = bytes.map(|bytes| bytes_text(bytes as f64));
    [name.to_owned()]
        .into_iter()
        .chain(seconds)
        .chain(bytes)
        .collect()
}

fn fact(name: &str, value: impl ToString) -> (String, String) {
    (name.to_owned(), value.to_string())
}

fn scenario_facts(report: &Report) -> Vec<(String, String)> {
    let scenario = &report.scenario;
    let rate = match scenario.rate_per_s {
        Some(rate) if scenario.kind != Kind::ConsumeBacklog => {
            format!("{} msg/s, by the clock", rate_text(rate as f64))
        }
        _ => "as fast as answered".to_owned(),
    };
    let cores = if scenario.generator_cores.is_empty() {
        "left to the kernel".to_owned()
    } else {
        format!("{:?}", scenario.generator_cores)
    };
    let mut facts = vec![
        fact("file", scenario.file.as_deref().unwrap_or("none: flags")),
        fact("rate", rate),
        fact("message size", format!("{} B", scenario.sizes())),
        fact("batch", format!("up to {} B", scenario.batch_bytes)),
        fact(
            "compression",
            format!("{:?}", scenario.compression).to_lowercase(),
        ),
        fact(
            "connections x depth",
            format!("{} x {}", scenario.connections, scenario.depth),
        ),
        fact("partitions", scenario.partitions),
        fact("acks", scenario.acks_name()),
        fact("idempotent", if scenario.idempotent { "yes" } else { "no" }),
        fact(
            "consumers",
            format!(
                "{} to a group, groups: {}",
                scenario.consumers, scenario.fan_out
            ),
        ),
        fact(
            "generator threads",
            format!(
                "{}, cores {cores}; {}",
                scenario.threads,
                scenario.spin.line()
            ),
        ),
        fact(
            "broker cores",
            scenario.broker_cores.as_deref().unwrap_or("its own choice"),
        ),
        fact(
            "warm-up, duration",
            format!("{} ms, {} ms", scenario.warmup_ms, scenario.duration_ms),
        ),
    ];
    if scenario.backlog_messages > 0 {
        facts.push(fact(
            "backlog",
            format!("{} messages", scenario.backlog_messages),
        ));
    }
    if let Some(rate) = &report.built {
        facts.push(fact(
            "backlog built at",
            format!("{} msg/s", rate_text(rate.messages_per_s)),
        ));
    }
    facts
}

fn machine_facts(report: &Report) -> Vec<(String, String)> {
    let machine = &report.machine;
    let mut facts = vec![
        fact(
            "processor",
            format!("{}, {} cores", machine.cpu_model, machine.cpus),
        ),
        fact("memory", bytes_text(machine.memory_bytes as f64)),
        fact("kernel", format!("Linux {}", machine.kernel)),
    ];
    match &report.storage {
        None => facts.push(fact(
            "storage",
            "not known: the broker is not this tool's child",
        )),
        Some(storage) => {
            facts.push(fact("file system", &storage.file_system));
            facts.push(fact("device", &storage.device));
            facts.push(fact("directory", storage.directory.display()));
            let known = storage.device_facts.iter();
            facts.extend(known.map(|(name, value)| fact(&format!("device, {name}"), value)));
        }
    }
    facts.push(fact("commit of the tool", &report.commit));
    facts.push(fact("finished at", utc_text(report.finished_at_ms)));
    facts
}

/// A moment as `2026-11-25 18:56:39 UTC`, by the Gregorian calendar.
fn utc_text(since_epoch_ms: u64) -> String {
    let seconds = since_epoch_ms / 1_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March end with the leap day; 719,468 days before the epoch one of 400
    // years began.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn a_page_is_whole_and_asks_for_nothing() {
        let page = report(&example());
        for part in [
            "<h1>",
            "Acknowledged, p99",
            "Verification",
            "</html>",
            "<svg",
        ] {
            assert!(page.contains(part), "{part}");
        }
        for outside in [
            "http:", "https:", "<script", "<link", "src=", "@import", "url(",
        ] {
            assert!(!page.contains(outside), "{outside}");
        }
        for mishap in ["NaN", "inf\"", "None"] {
            assert!(!page.contains(mishap), "{mishap}");
        }
    }

    #[test]
    fn nothing_from_outside_is_taken_for_html() {
        let mut hostile = example();
        let evil = "<script>alert('\"&')</script>";
        hostile.scenario.about = Some(evil.into());
        hostile.scenario.topic = evil.into();
        hostile.scenario.file = Some(evil.into());
        hostile.scenario.target = Target::External(evil.into());
        hostile.machine.cpu_model = evil.into();
        hostile.machine.kernel = evil.into();
        hostile.commit = evil.into();
        hostile.failures = vec![evil.into()];
        hostile.warnings = vec![evil.into()];
        let broker = hostile.broker.as_mut().expect("the example has a broker");
        broker.config = Some(serde_json::json!([{"name": evil, "value": evil, "set_by": evil}]));
        broker.stages[0].name = evil.into();
        let page = report(&hostile);
        assert!(
            !page.contains("<script") && !page.contains("alert('"),
            "{page}"
        );
        assert!(page.contains("&lt;script&gt;alert(&#39;&quot;&amp;&#39;)&lt;/script&gt;"));
        assert_eq!(escape("a\u{0}b\u{1b}"), "a\u{fffd}b\u{fffd}");
    }

    #[test]
    fn moments_are_dates() {
        for (ms, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00 UTC"),
            (1_795_633_006_834, "2026-11-25 18:56:46 UTC"),
        ] {
            assert_eq!(utc_text(ms), text);
        }
        assert_eq!(latency_tick(20_000.0), "20 ms");
        assert_eq!(
            (latency_tick(0.2), latency_tick(5e6)),
            ("0.2 µs".into(), "5 s".into())
        );
    }

    #[test]
    fn a_run_without_any_message_still_has_a_page() {
        let mut empty = example();
        empty.sent = None;
        empty.received = None;
        empty.ack_latency = None;
        empty.delivery_latency = None;
        empty.generator_lateness = None;
        empty.seconds.clear();
        empty.broker = None;
        empty.verification = None;
        empty.storage = None;
        assert!(report(&empty).contains("Not verified"));
    }
}
