//! Metrics, as every product shows them. In: declared metrics and their values now. Out: Prometheus's text exposition
//! format 0.0.4 (<https://prometheus.io/docs/instrumenting/exposition_formats/>), written here and nowhere else.
//!
//! Names follow <https://prometheus.io/docs/practices/naming/>: one prefix, base units, `_total` at the end of counters. A
//! declaration that does not is refused by the compiler.
//!
//! ```
//! use runtime::metrics::Exposition;
//!
//! runtime::declare_metrics! {
//!     REQUESTS: counter = "portcullis_demo_requests_total", "Requests by status.";
//! }
//!
//! let mut out = Exposition::new();
//! out.family(&REQUESTS, |samples| samples.add(&[("status", "200")], 7_u64));
//! assert!(out.finish().ends_with("portcullis_demo_requests_total{status=\"200\"} 7\n"));
//! ```

use std::fmt::Write as _;

/// `Content-Type` of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What every name begins with.
const PREFIX: &str = "portcullis_";

/// The program's version, as a label; its value is always 1.
const BUILD_INFO: Metric = Metric::gauge("portcullis_build_info", "The version of this program, as a label.");

/// What a metric counts or measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations in buckets.
    Histogram,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A declared metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    /// The name that it had before, or that inlets-pro gives it: shown as a metric of its own with the same values.
    old_name: Option<&'static str>,
}

impl Metric {
    /// A counter; its name ends with `_total`.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str) -> Metric {
        assert!(ends_with(name, "_total"), "a counter's name ends with _total");
        Metric::new(name, Kind::Counter, help)
    }

    /// A gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str) -> Metric {
        assert!(
            !ends_with(name, "_total") && !ends_with(name, "_gauge"),
            "a gauge's name says neither _total nor _gauge"
        );
        Metric::new(name, Kind::Gauge, help)
    }

    /// A histogram of seconds.
    #[must_use]
    pub const fn seconds(name: &'static str, help: &'static str) -> Metric {
        assert!(ends_with(name, "_seconds"), "a duration's name ends with _seconds");
        Metric::new(name, Kind::Histogram, help)
    }

    const fn new(name: &'static str, kind: Kind, help: &'static str) -> Metric {
        assert!(starts_with(name, PREFIX), "a metric's name begins with portcullis_");
        assert!(ends_with(help, "."), "a metric's help is a sentence");
        Metric { name, kind, help, old_name: None }
    }

    /// The same, shown under an older name too.
    #[must_use]
    pub const fn also(self, old_name: &'static str) -> Metric {
        Metric { old_name: Some(old_name), ..self }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

/// Declares the metrics of a module as constants and, for the test of its golden file, all of them as `METRICS`.
#[macro_export]
macro_rules! declare_metrics {
    ($($ident:ident: $kind:ident = $name:literal, $help:literal $(, also $old:literal)?;)+) => {
        $(const $ident: $crate::metrics::Metric = $crate::metrics::Metric::$kind($name, $help)$(.also($old))?;)+

        /// All metrics of this module.
        #[cfg(test)]
        pub(crate) const METRICS: &[$crate::metrics::Metric] = &[$($ident),+];
    };
}

/// Name, type and help of each metric, a line each, older names below: what a product's golden file holds.
#[must_use]
pub fn catalogue(metrics: &[Metric]) -> String {
    let mut out = String::new();
    for m in metrics {
        let _ = writeln!(out, "{} ({}): {}", m.name, m.kind.word(), m.help);
        if let Some(old) = m.old_name {
            let _ = writeln!(out, "  also {old}");
        }
    }
    out
}

/// A sample's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A whole number.
    Count(u64),
    /// Any other: seconds.
    Real(f64),
}

impl From<u64> for Value {
    fn from(n: u64) -> Value {
        Value::Count(n)
    }
}

impl From<usize> for Value {
    fn from(n: usize) -> Value {
        Value::Count(n as u64)
    }
}

impl From<bool> for Value {
    fn from(is: bool) -> Value {
        Value::Count(u64::from(is))
    }
}

impl From<f64> for Value {
    fn from(x: f64) -> Value {
        Value::Real(x)
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Count(n) => n.fmt(f),
            Value::Real(x) => x.fmt(f),
        }
    }
}

/// The text, family by family.
#[derive(Debug)]
pub struct Exposition {
    out: String,
}

impl Exposition {
    /// A text that says so far which version this is.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it is not empty")]
    pub fn new() -> Exposition {
        let mut new = Exposition { out: String::with_capacity(4096) };
        new.family(&BUILD_INFO, |samples| samples.add(&[("version", env!("CARGO_PKG_VERSION"))], true));
        new
    }

    /// A metric of one value.
    pub fn one(&mut self, metric: &Metric, value: impl Into<Value>) {
        let value = value.into();
        self.family(metric, |samples| samples.add(&[], value));
    }

    /// A metric with its samples; `samples` runs once for each of its names.
    pub fn family(&mut self, metric: &Metric, samples: impl Fn(&mut Samples<'_>)) {
        self.head(metric.name, metric.kind, metric.help, "");
        samples(&mut Samples { name: metric.name, out: &mut self.out });
        if let Some(old) = metric.old_name {
            self.head(old, metric.kind, metric.help, &format!(" Old name of {}.", metric.name));
            samples(&mut Samples { name: old, out: &mut self.out });
        }
    }

    fn head(&mut self, name: &str, kind: Kind, help: &str, more: &str) {
        let kind = kind.word();
        let _ = writeln!(self.out, "# HELP {name} {help}{more}\n# TYPE {name} {kind}");
    }

    /// The whole text.
    #[must_use]
    pub fn finish(self) -> String {
        self.out
    }
}

/// The samples of one family.
#[derive(Debug)]
pub struct Samples<'a> {
    name: &'a str,
    out: &'a mut String,
}

impl Samples<'_> {
    /// A sample. Labels come in any characters; their names are ours.
    pub fn add(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) {
        self.line("", labels, None, value.into());
    }

    /// A histogram: for each upper bound how many observations were at most that (cumulative), the sum of all, and
    /// their number.
    pub fn histogram(&mut self, labels: &[(&str, &str)], buckets: &[(f64, u64)], sum: f64, count: u64) {
        for (bound, n) in buckets {
            self.line("_bucket", labels, Some(&bound.to_string()), Value::Count(*n));
        }
        self.line("_bucket", labels, Some("+Inf"), Value::Count(count));
        self.line("_sum", labels, None, Value::Real(sum));
        self.line("_count", labels, None, Value::Count(count));
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], le: Option<&str>, value: Value) {
        self.out.push_str(self.name);
        self.out.push_str(suffix);
        let labels = labels.iter().copied().chain(le.map(|le| ("le", le)));
        let mut open = '{';
        for (name, text) in labels {
            self.out.push(open);
            open = ',';
            self.out.push_str(name);
            self.out.push_str("=\"");
            escape(text, self.out);
            self.out.push('"');
        }
        if open == ',' {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }
}

/// A label's value as the format wants it.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

const fn starts_with(text: &str, with: &str) -> bool {
    text.len() >= with.len() && same(text.as_bytes(), 0, with.as_bytes())
}

const fn ends_with(text: &str, with: &str) -> bool {
    text.len() >= with.len() && same(text.as_bytes(), text.len() - with.len(), with.as_bytes())
}

/// True if `part` stands in `text` at `from`; the caller has seen that it fits.
const fn same(text: &[u8], from: usize, part: &[u8]) -> bool {
    let mut i = 0;
    while i < part.len() {
        if text[from + i] != part[i] {
            return false;
        }
        i += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const VISITS: Metric = Metric::counter("portcullis_test_visits_total", "Visits by host.").also("visits_total");
    const TOOK: Metric = Metric::seconds("portcullis_test_duration_seconds", "Time taken.");
    const OPEN: Metric = Metric::gauge("portcullis_test_open", "Open now.");

    #[test]
    fn the_format() {
        let mut out = Exposition::new();
        out.family(&VISITS, |s| {
            s.add(&[("host", "a\"b\\c\nd"), ("code", "200")], 3_u64);
            s.add(&[("host", "x")], 4_usize);
        });
        out.family(&TOOK, |s| s.histogram(&[("host", "x")], &[(0.005, 1), (1.0, 2)], 2.5, 3));
        out.one(&OPEN, true);
        let wanted = format!(
            "# HELP portcullis_build_info The version of this program, as a label.\n\
             # TYPE portcullis_build_info gauge\n\
             portcullis_build_info{{version=\"{}\"}} 1\n",
            env!("CARGO_PKG_VERSION")
        ) + r#"# HELP portcullis_test_visits_total Visits by host.
# TYPE portcullis_test_visits_total counter
portcullis_test_visits_total{host="a\"b\\c\nd",code="200"} 3
portcullis_test_visits_total{host="x"} 4
# HELP visits_total Visits by host. Old name of portcullis_test_visits_total.
# TYPE visits_total counter
visits_total{host="a\"b\\c\nd",code="200"} 3
visits_total{host="x"} 4
# HELP portcullis_test_duration_seconds Time taken.
# TYPE portcullis_test_duration_seconds histogram
portcullis_test_duration_seconds_bucket{host="x",le="0.005"} 1
portcullis_test_duration_seconds_bucket{host="x",le="1"} 2
portcullis_test_duration_seconds_bucket{host="x",le="+Inf"} 3
portcullis_test_duration_seconds_sum{host="x"} 2.5
portcullis_test_duration_seconds_count{host="x"} 3
# HELP portcullis_test_open Open now.
# TYPE portcullis_test_open gauge
portcullis_test_open 1
"#;
        assert_eq!(out.finish(), wanted);
    }

    #[test]
    fn the_catalogue() {
        assert_eq!(
            catalogue(&[VISITS, OPEN]),
            "portcullis_test_visits_total (counter): Visits by host.\n  also visits_total\n\
             portcullis_test_open (gauge): Open now.\n"
        );
    }
}
