//! What was measured, kept by contestant, figure and round. In: numbers. Out: medians, ratios, table cells.

use std::collections::BTreeMap;

use super::pairs::Who;

/// A figure of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    /// Gbit/s with one stream, both ways' mean.
    Rate1,
    /// Gbit/s with eight.
    Rate8,
    /// CPU seconds of both ends per GiB, one stream.
    Cpu1,
    /// The same, eight.
    Cpu8,
    /// Requests per second at 64 kept-alive connections.
    Requests,
    RequestP50,
    RequestP99,
    /// CPU microseconds of both ends per request.
    RequestCpu,
    /// New connections per second, 32 in flight.
    Opens,
    OpenP50,
    OpenP99,
    OpenCpu,
    /// Openings that failed.
    OpenFailed,
    /// MiB resident before any visitor.
    IdleEdge,
    IdleClient,
    /// KiB per idle open visitor at 1,000.
    Held1kEdge,
    Held1kClient,
    /// The same at 10,000.
    Held10kEdge,
    Held10kClient,
    /// Mbit/s of one and of eight streams with a lossy link between the ends.
    Lossy1,
    Lossy8,
    /// Mbit/s of a fast visitor alone, and beside one behind a lossy link.
    FastAlone,
    FastBeside,
}

/// Everything measured in one run.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    values: BTreeMap<(Who, Figure), BTreeMap<usize, f64>>,
    /// What went wrong, in words, for the foot of the table.
    pub(crate) notes: Vec<String>,
}

impl Figures {
    pub(crate) fn put(&mut self, who: Who, figure: Figure, round: usize, value: f64) {
        self.values.entry((who, figure)).or_default().insert(round, value);
    }

    /// The median over the rounds.
    pub(crate) fn get(&self, who: Who, figure: Figure) -> Option<f64> {
        median(self.values.get(&(who, figure))?.values().copied().collect())
    }

    /// The median of the ratios within each round, which outlives a noisy machine better than a ratio of medians.
    pub(crate) fn ratio(&self, (a, fa): (Who, Figure), (b, fb): (Who, Figure)) -> Option<f64> {
        let (a, b) = (self.values.get(&(a, fa))?, self.values.get(&(b, fb))?);
        median(a.iter().filter_map(|(round, x)| b.get(round).filter(|y| **y > 0.0).map(|y| x / y)).collect())
    }

    pub(crate) fn has(&self, who: Who) -> bool {
        self.values.keys().any(|(w, _)| *w == who)
    }

    /// A cell: the median with so many decimals, or a dash.
    pub(crate) fn cell(&self, who: Who, figure: Figure, decimals: usize) -> String {
        self.get(who, figure).map_or_else(|| "–".to_string(), |v| number(v, decimals))
    }
}

/// The middle value, or the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    match n {
        0 => None,
        _ if n % 2 == 1 => Some(values[n / 2]),
        _ => Some((values[n / 2 - 1] + values[n / 2]) / 2.0),
    }
}

/// `12,345` or `1.23`.
pub(crate) fn number(v: f64, decimals: usize) -> String {
    let plain = format!("{v:.decimals$}");
    let (whole, rest) = plain.split_once('.').map_or((plain.as_str(), String::new()), |(w, r)| (w, format!(".{r}")));
    let mut out = String::new();
    for (i, c) in whole.chars().enumerate() {
        let left = whole.len() - i;
        if i > 0 && left.is_multiple_of(3) && !whole.starts_with('-') {
            out.push(',');
        }
        out.push(c);
    }
    out + &rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
        let mut f = Figures::default();
        for (round, (ours, theirs)) in [(1.0, 2.0), (9.0, 3.0), (2.0, 2.0)].into_iter().enumerate() {
            f.put(Who::Plain, Figure::Cpu1, round, ours);
            f.put(Who::RatholePlain, Figure::Cpu1, round, theirs);
        }
        assert_eq!(f.ratio((Who::Plain, Figure::Cpu1), (Who::RatholePlain, Figure::Cpu1)), Some(1.0));
        assert_eq!(f.ratio((Who::Plain, Figure::Cpu1), (Who::Bore, Figure::Cpu1)), None);
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(number(1_234_567.0, 0), "1,234,567");
        assert_eq!(number(999.4, 0), "999");
        assert_eq!(number(0.656, 2), "0.66");
        assert_eq!(number(12345.678, 1), "12,345.7");
    }
}
