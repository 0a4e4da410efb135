//! Several results on one page: their figures side by side, and their percentile curves in one
//! chart.

use super::{Page, escape, plots};
use crate::compare::{Comparison, Figure};
use crate::report::{LatencyReport, Report};

/// The page of several runs.
pub(crate) fn comparison(comparison: &Comparison) -> String {
    let names: Vec<&str> = comparison
        .results
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    let title = names.join(" against ");
    let mut page = Page::new(&title);
    page.put(format_args!("<h1>{}</h1>\n", escape(&title)));
    page.raw("<p class=\"quiet\">Ratios are to the first result.</p>\n");
    for difference in comparison.differences() {
        page.banner("note", "Note", &difference);
    }
    figures(&mut page, comparison);
    page.section("Latency by percentile");
    page.raw("<div class=\"charts\">");
    type Latency = fn(&Report) -> Option<&LatencyReport>;
    let latencies: [(&str, Latency); 3] = [
        ("To acknowledgement", |report| report.ack_latency.as_ref()),
        ("To arrival", |report| report.delivery_latency.as_ref()),
        ("Fetch", |report| report.fetch_latency.as_ref()),
    ];
    for (title, latency) in latencies {
        let curves: Vec<(String, &LatencyReport)> = comparison
            .results
            .iter()
            .filter_map(|(name, report)| Some((name.clone(), latency(report)?)))
            .collect();
        if let Some((_, about, chart)) = plots::by_percentile(&curves) {
            page.figure(title, &about, &chart);
        }
    }
    page.raw("</div>");
    page.section("What was run, and on what");
    page.raw("<div class=\"pair\">");
    for (name, report) in &comparison.results {
        page.card_of_facts(name, &facts(report));
    }
    page.raw("</div>");
    page.close("Written by millrace bench compare.")
}

fn figures(page: &mut Page, comparison: &Comparison) {
    page.raw("<div class=\"card\"><table><thead><tr><th></th>");
    for (name, _) in &comparison.results {
        page.put(format_args!("<th scope=\"col\">{}</th>", escape(name)));
    }
    page.raw("</tr></thead><tbody>");
    for row in comparison.rows() {
        page.put(format_args!(
            "<tr><th scope=\"row\">{}</th>",
            escape(row.name)
        ));
        for figure in &row.figures {
            put_figure(page, figure);
        }
        page.raw("</tr>");
    }
    page.raw("</tbody></table></div>\n");
}

fn put_figure(page: &mut Page, figure: &Figure) {
    let text = escape(&figure.text.replace(" us", " µs"));
    page.put(format_args!("<td>{text}"));
    if let Some(ratio) = figure.ratio {
        // In words too: colour alone tells not everybody.
        let (class, word) = match figure.better {
            Some(true) => ("better", ", better"),
            Some(false) => ("worse", ", worse"),
            None => ("quiet", ""),
        };
        page.put(format_args!(
            "<small class=\"{class}\">x {ratio:.2}{word}</small>"
        ));
    }
    page.raw("</td>");
}

fn facts(report: &Report) -> Vec<(String, String)> {
    let machine = &report.machine;
    let storage = report.storage.as_ref().map_or_else(
        || "not known".to_owned(),
        |storage| format!("{} on {}", storage.file_system, storage.device),
    );
    let (verified, more) = super::verified(report);
    let facts = [
        ("scenario", report.scenario.title()),
        ("load", report.scenario.shape()),
        ("measured", format!("{:.1} s", report.measured_s)),
        (
            "processor",
            format!("{}, {} cores", machine.cpu_model, machine.cpus),
        ),
        ("kernel", format!("Linux {}", machine.kernel)),
        ("storage", storage),
        ("commit of the tool", report.commit.clone()),
        ("verified", format!("{verified}: {more}")),
        ("warnings", report.warnings.join("; ")),
    ];
    let known = facts.into_iter().filter(|(_, value)| !value.is_empty());
    known
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn a_page_of_two_has_their_ratios_and_no_names_as_html() {
        let mut slower = example();
        let ack = slower
            .ack_latency
            .as_mut()
            .expect("the example was answered");
        ack.p99_us *= 3.0;
        let both = Comparison {
            results: vec![("<a>".into(), example()), ("b".into(), slower)],
        };
        let page = comparison(&both);
        assert!(page.contains("&lt;a&gt;") && !page.contains("<a>"));
        assert!(page.contains("x 3.00, worse"), "{page}");
        assert!(page.contains("<svg") && page.contains("</html>"));
    }
}
