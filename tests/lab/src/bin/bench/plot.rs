//! Plots of a run, as SVG that is readable on light and on dark pages.

use std::{fmt::Write as _, fs, io, path::Path};

use crate::{
    figures::Figures,
    worker::{End, Workload},
};

const MIB: f64 = 1024.0 * 1024.0;

/// Pixels.
const WIDTH: f64 = 820.0;
const LABEL: f64 = 310.0;
/// Room for a value behind the longest bar.
const VALUE: f64 = 90.0;
const BAR: f64 = 14.0;
const GAP: f64 = 4.0;
const GROUP_GAP: f64 = 14.0;
const TOP: f64 = 64.0;

/// Colours that both kinds of pages carry (Okabe and Ito's), and the page's own in both.
const STYLE: &str = "svg{font:12px system-ui,sans-serif}\
.page{fill:#fff}text{fill:#1f2328}.quiet{fill:#59636e}.a{fill:#0072b2}.b{fill:#e69f00}\
@media(prefers-color-scheme:dark){.page{fill:#0d1117}text{fill:#f0f6fc}.quiet{fill:#9198a1}.a{fill:#56b4e9}}";

const CLASSES: [&str; 2] = ["a", "b"];

/// Horizontal bars in groups.
#[derive(Debug, PartialEq)]
struct Bars {
    title: String,
    /// What the bars of each group are, at most two.
    series: Vec<String>,
    groups: Vec<Group>,
    /// Behind each value.
    unit: &'static str,
    digits: usize,
}

#[derive(Debug, PartialEq)]
struct Group {
    label: String,
    values: Vec<Option<f64>>,
}

/// Reads the JSON of a run, and writes its plots into a directory.
pub(crate) fn plot(json: &Path, into: &Path) -> io::Result<()> {
    let figures = serde_json::from_str(&fs::read_to_string(json)?)?;
    fs::create_dir_all(into)?;
    for (name, svg) in plots(&figures) {
        fs::write(into.join(name), svg)?;
    }
    Ok(())
}

/// The file's name and text of each plot that the run has figures for.
pub(crate) fn plots(figures: &Figures) -> Vec<(&'static str, String)> {
    let mut plots = Vec::new();
    for (name, workload) in [
        ("exchange.svg", Workload::RequestResponse),
        ("connection.svg", Workload::ConnectPerRequest),
    ] {
        plots.push((name, programs(figures, workload).svg()));
    }
    plots.push(("memory.svg", memory(figures).svg()));
    if let Some(growth) = growth(figures) {
        plots.push(("growth.svg", growth.svg()));
    }
    plots
}

fn programs(figures: &Figures, workload: Workload) -> Bars {
    let ns = |exchanges: bool| {
        let ends = End::ALL.map(|end| {
            let at = figures.at(workload, end)?;
            let counted = if exchanges {
                &at.exchanges
            } else {
                &at.default
            };
            Some(counted.ns.median)
        });
        ends.to_vec()
    };
    let mut groups = vec![
        Group::new("flowcar", ns(false)),
        Group::new("flowcar, FLOWCAR_EXCHANGE=on", ns(true)),
    ];
    for peer in &figures.peers {
        let mut work = peer.workloads.iter();
        let work = work.find(|work| work.workload == workload && work.sees_each());
        if let Some(work) = work {
            groups.push(Group::new(&peer.title(), vec![Some(work.ns.median); 2]));
        }
    }
    let unit = match workload {
        Workload::ConnectPerRequest => "connection with one exchange",
        _ => workload.unit(),
    };
    Bars {
        title: format!("Kernel programs: nanoseconds of each {unit}, less empty programs"),
        series: vec!["client's end".to_owned(), "server's end".to_owned()],
        groups,
        unit: "ns",
        digits: 0,
    }
}

fn memory(figures: &Figures) -> Bars {
    let mib = |bytes: f64| vec![Some(bytes / MIB)];
    let mut groups = vec![Group::new(
        "flowcar, idle",
        mib(figures.process.rss_bytes as f64),
    )];
    if let Some(at) = figures.at(Workload::ConnectPerRequest, End::Client) {
        let rss = at.default.process.rss_bytes.median;
        groups.push(Group::new("flowcar, a connection per request", mib(rss)));
    }
    for peer in &figures.peers {
        let rss = peer
            .workloads
            .iter()
            .map(|work| work.process.rss_bytes.median);
        if let Some(most) = rss.reduce(f64::max) {
            groups.push(Group::new(&peer.title(), mib(most)));
        }
    }
    Bars {
        title: "Resident memory of the process".to_owned(),
        series: vec!["MiB".to_owned()],
        groups,
        unit: "MiB",
        digits: 1,
    }
}

fn growth(figures: &Figures) -> Option<Bars> {
    let growth = figures.growth.as_ref()?;
    let steps = growth.steps.iter().map(|step| {
        let mib = |bytes: u64| bytes as f64 / MIB;
        let values = vec![Some(mib(step.rss_bytes)), step.kernel_bytes.map(mib)];
        Group::new(&format!("{} flows", step.flows), values)
    });
    Some(Bars {
        title: "Memory by open flows".to_owned(),
        series: vec!["resident".to_owned(), "of the kernel".to_owned()],
        groups: steps.collect(),
        unit: "MiB",
        digits: 1,
    })
}

// === impl Group ===

impl Group {
    fn new(label: &str, values: Vec<Option<f64>>) -> Self {
        Self {
            label: label.to_owned(),
            values,
        }
    }
}

// === impl Bars ===

impl Bars {
    fn svg(&self) -> String {
        let values = self.groups.iter().flat_map(|group| &group.values);
        let most = values.flatten().copied().fold(0.0, f64::max);
        let scale = (WIDTH - LABEL - VALUE) / if most > 0.0 { most } else { 1.0 };
        let mut body = String::new();
        let mut y = TOP;
        for group in &self.groups {
            let _ = writeln!(
                body,
                r#"<text x="{}" y="{:.0}" text-anchor="end">{}</text>"#,
                LABEL - 10.0,
                y + BAR - 3.0,
                escaped(&group.label)
            );
            for (value, class) in group.values.iter().zip(CLASSES) {
                if let Some(value) = value {
                    self.bar(&mut body, y, *value, scale, class);
                    y += BAR + GAP;
                }
            }
            y += GROUP_GAP;
        }
        let mut head = String::new();
        let mut x = LABEL;
        for (name, class) in self.series.iter().zip(CLASSES) {
            let _ = writeln!(
                head,
                r#"<rect class="{class}" x="{x:.0}" y="36" width="12" height="12"/><text class="quiet" x="{:.0}" y="46">{}</text>"#,
                x + 18.0,
                escaped(name)
            );
            x += 150.0;
        }
        let title = escaped(&self.title);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y:.0}\" role=\"img\" aria-label=\"{title}\">\n\
             <style>{STYLE}</style>\n\
             <rect class=\"page\" width=\"100%\" height=\"100%\"/>\n\
             <text x=\"16\" y=\"22\" font-weight=\"600\">{title}</text>\n\
             {head}{body}</svg>\n"
        )
    }

    fn bar(&self, body: &mut String, y: f64, value: f64, scale: f64, class: &str) {
        // What is less than an empty program is noise.
        let width = (value * scale).max(1.0);
        let digits = self.digits;
        let _ = writeln!(
            body,
            r#"<rect class="{class}" x="{LABEL}" y="{y:.0}" width="{width:.1}" height="{BAR}"/><text class="quiet" x="{:.1}" y="{:.0}">{value:.digits$} {}</text>"#,
            LABEL + width + 6.0,
            y + BAR - 3.0,
            self.unit
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Bars {
        Bars {
            title: "A < B".to_owned(),
            series: vec!["one".to_owned(), "two".to_owned()],
            groups: vec![
                Group::new("x", vec![Some(10.0), Some(20.0)]),
                Group::new("y", vec![Some(-3.0), None]),
            ],
            unit: "ns",
            digits: 0,
        }
    }

    #[test]
    fn the_longest_bar_fills_the_width_and_the_others_are_in_proportion() {
        let svg = two().svg();
        for width in ["210.0", "420.0", "1.0"] {
            let bar = format!(r#"width="{width}""#);
            assert!(svg.contains(&bar), "{width}: {svg}");
        }
        assert!(svg.contains(">-3 ns<"), "{svg}");
        assert_eq!(svg.matches("<rect class=\"b\"").count(), 2, "{svg}");
    }

    #[test]
    fn a_plot_is_well_formed_and_has_both_colour_schemes() {
        let svg = two().svg();
        assert!(svg.contains("A &lt; B"), "{svg}");
        assert!(svg.contains("prefers-color-scheme:dark"), "{svg}");
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }
}
