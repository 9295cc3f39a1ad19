//! Medians, ratios, a table and a picture.

use std::fmt::Write as _;

use super::Sample;

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
    pub(super) connections: usize,
    pub(super) seconds: u64,
    pub(super) rounds: usize,
    pub(super) loader: &'static str,
}

impl Report {
    pub(super) fn to_markdown(&self) -> String {
        let mut text = format!(
            "W1: HTTP/1.1 keep-alive, {} connections, 1 KiB answers, a prefix route to a 95/5 split. One worker on core 0, \
             load ({}) and origin on core 1; medians of {} interleaved runs of {} s.\n\n",
            self.connections, self.loader, self.rounds, self.seconds
        );
        text.push_str("| | CPU µs/request | min–max | of it user | ratio | requests/s | errors |\n|---|---|---|---|---|---|---|\n");
        let weir = self.rows.first().map_or(f64::NAN, |row| row.median(Sample::cpu));
        for row in &self.rows {
            let (low, high) = row.range();
            let _ = writeln!(
                text,
                "| {} {} | {:.2} | {low:.2}–{high:.2} | {:.2} | {:.2} | {:.0} | {} |",
                row.name,
                row.version,
                row.median(Sample::cpu),
                row.median(Sample::user),
                row.median(Sample::cpu) / weir,
                row.median(|s| s.requests as f64) / self.seconds as f64,
                row.samples.iter().map(|s| s.errors).sum::<u64>(),
            );
        }
        text.push_str("\nratio: CPU a request against weir's.\n");
        text
    }

    /// A bar a peer: user time, then system time.
    pub(super) fn to_svg(&self) -> String {
        const LEFT: f64 = 130.0;
        const WIDTH: f64 = 480.0;
        const ROW: f64 = 34.0;
        let widest = self.rows.iter().map(|r| r.median(Sample::cpu)).fold(1.0, f64::max);
        let scale = WIDTH / widest;
        let height = 60.0 + ROW * self.rows.len() as f64;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 700 {height}\" font-family=\"sans-serif\" \
             font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"10\" y=\"22\" font-size=\"15\">CPU µs a request (W1); dark: user</text>\n"
        );
        for (i, row) in self.rows.iter().enumerate() {
            let y = 40.0 + ROW * i as f64;
            let (cpu, user) = (row.median(Sample::cpu), row.median(Sample::user));
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
