//! Medians, ratios, a table and a picture.

use std::fmt::Write as _;

use super::Sample;
use crate::workload::{Wire, Workload};

pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) version: String,
    pub(super) samples: Vec<Sample>,
}

impl Row {
    pub(super) fn new(name: &'static str, version: &str) -> Self {
        Self { name, version: version.to_owned(), samples: Vec::new() }
    }

    fn median(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        let mut figures: Vec<f64> = self.samples.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        match figures.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => figures[middle],
            _ => f64::midpoint(figures[middle - 1], figures[middle]),
        }
    }

    fn range(&self) -> (f64, f64) {
        let figures = self.samples.iter().map(Sample::cpu);
        figures.fold((f64::INFINITY, 0.0), |(low, high), x| (low.min(x), high.max(x)))
    }
}

pub(super) struct Report {
    pub(super) rows: Vec<Row>,
    pub(super) workload: Workload,
    pub(super) seconds: u64,
    pub(super) rounds: usize,
    pub(super) loader: &'static str,
}

impl Report {
    pub(super) fn to_markdown(&self) -> String {
        let mut text = format!(
            "{}. {}ne worker on core 0, load ({}) and origin on core 1, unless it says \
             otherwise; medians of {} interleaved runs of {} s.\n\n",
            self.workload.title(),
            if self.workload.wire() == Wire::Answered { "O" } else { "A 95/5 split; o" },
            self.loader,
            self.rounds,
            self.seconds
        );
        if self.workload.rate().is_some() {
            self.latencies(&mut text);
            return text;
        }
        let unit = self.workload.unit();
        let _ = writeln!(
            text,
            "| | {} | min–max | of it user | ratio | {}/s | errors |\n|---|---|---|---|---|---|---|",
            unit.figure, unit.counts
        );
        let weir = self.rows.first().map_or(f64::NAN, |row| row.median(Sample::cpu));
        for row in &self.rows {
            let (low, high) = row.range();
            let factor = unit.factor;
            let (low, high) = (low * factor, high * factor);
            let _ = writeln!(
                text,
                "| {} {} | {:.2} | {low:.2}–{high:.2} | {:.2} | {:.2} | {:.0} | {} |",
                row.name,
                row.version,
                row.median(Sample::cpu) * factor,
                row.median(Sample::user) * factor,
                row.median(Sample::cpu) / weir,
                row.median(|s| s.requests as f64) / self.seconds as f64,
                row.samples.iter().map(|s| s.errors).sum::<u64>(),
            );
        }
        text.push_str("\nratio: CPU against weir's.\n");
        text
    }

    fn latencies(&self, text: &mut String) {
        text.push_str("| | p50 ms | p99 ms | p99.9 ms | CPU µs/request | requests/s | errors |\n|---|---|---|---|---|---|---|\n");
        for row in &self.rows {
            let at = |place: usize| row.median(|s| s.latencies[place] as f64 / 1_000.0);
            let _ = writeln!(
                text,
                "| {} {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} | {} |",
                row.name,
                row.version,
                at(0),
                at(1),
                at(2),
                row.median(Sample::cpu),
                row.median(|s| s.requests as f64) / self.seconds as f64,
                row.samples.iter().map(|s| s.errors).sum::<u64>(),
            );
        }
    }

    /// The two figures of a bar: dark, and whole.
    fn bar(&self, row: &Row) -> (f64, f64) {
        if self.workload.rate().is_some() {
            let at = |place: usize| row.median(|s| s.latencies[place] as f64 / 1_000.0);
            return (at(0), at(1));
        }
        let factor = self.workload.unit().factor;
        (row.median(Sample::user) * factor, row.median(Sample::cpu) * factor)
    }

    /// A bar a peer: user time, then system time.
    pub(super) fn to_svg(&self) -> String {
        const LEFT: f64 = 170.0;
        const WIDTH: f64 = 440.0;
        const ROW: f64 = 34.0;
        let caption = match self.workload.rate() {
            Some(_) => "latency in ms: p99; dark: p50".to_owned(),
            None => format!("{}; dark: user", self.workload.unit().figure),
        };
        let widest = self.rows.iter().map(|r| self.bar(r).1).fold(f64::MIN_POSITIVE, f64::max);
        let scale = WIDTH / widest;
        let height = 60.0 + ROW * self.rows.len() as f64;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 700 {height}\" font-family=\"sans-serif\" \
             font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"10\" y=\"22\" font-size=\"15\">{}. {caption}</text>\n",
            self.workload.title()
        );
        for (i, row) in self.rows.iter().enumerate() {
            let y = 40.0 + ROW * i as f64;
            let (user, cpu) = self.bar(row);
            let _ = writeln!(
                svg,
                "<text x=\"10\" y=\"{:.0}\">{} {}</text>\
                 <rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{:.1}\" height=\"22\" fill=\"#9db8d9\"/>\
                 <rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{:.1}\" height=\"22\" fill=\"#274b7a\"/>\
                 <text x=\"{:.1}\" y=\"{:.0}\">{cpu:.1}</text>",
                y + 16.0,
                row.name,
                row.version,
                cpu * scale,
                user * scale,
                LEFT + cpu * scale + 6.0,
                y + 16.0,
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}
