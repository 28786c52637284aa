//! Prometheus' text format, version 0.0.4: families with help and type, samples with escaped labels, histograms. It knows
//! no metric.
//!
//! It is our own code because client libraries keep about 800 bytes for each series, which would be most of the memory of a
//! daemon with many workspaces.

use std::fmt::{Display, Write as _};

/// What kind of metric a family is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The families that were written so far.
#[derive(Debug, Default)]
pub(super) struct Page(String);

impl Page {
    /// Begins a family. Its samples must follow before the next one begins.
    pub(super) fn family<'a>(&'a mut self, kind: Kind, name: &'a str, help: &str) -> Family<'a> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        push(
            &mut self.0,
            format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"),
        );
        Family {
            text: &mut self.0,
            name,
        }
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}

/// A family whose samples are being written.
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: &'a str,
}

impl Family<'_> {
    /// Writes one sample. The family's labels are always the same ones, in the same order.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.suffixed("", labels, None, value);
    }

    pub(super) fn histogram<const N: usize>(
        &mut self,
        labels: &[(&str, &str)],
        histogram: &Histogram<N>,
    ) {
        let mut below = 0;
        for (bound, count) in histogram.bounds.iter().zip(histogram.counts) {
            below += count;
            self.suffixed("_bucket", labels, Some(bound), below);
        }
        self.suffixed("_bucket", labels, Some(&"+Inf"), histogram.count);
        self.suffixed("_sum", labels, None, histogram.sum);
        self.suffixed("_count", labels, None, histogram.count);
    }

    fn suffixed(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        le: Option<&dyn Display>,
        value: impl Display,
    ) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let mut open = '{';
        for (label, value) in labels {
            self.text.push(open);
            self.text.push_str(label);
            self.text.push_str("=\"");
            escape(self.text, value);
            self.text.push('"');
            open = ',';
        }
        if let Some(bound) = le {
            push(self.text, format_args!("{open}le=\"{bound}\""));
            open = ',';
        }
        let close = if open == ',' { "}" } else { "" };
        push(self.text, format_args!("{close} {value}\n"));
    }
}

fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}

fn push(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(what);
}

#[derive(Clone, Debug)]
pub(super) struct Histogram<const N: usize> {
    bounds: &'static [f64; N],
    counts: [u64; N],
    count: u64,
    sum: f64,
}

impl<const N: usize> Histogram<N> {
    /// An empty one. The bounds ascend; the last bucket, without one, is added.
    pub(super) const fn new(bounds: &'static [f64; N]) -> Self {
        Self {
            bounds,
            counts: [0; N],
            count: 0,
            sum: 0.0,
        }
    }

    pub(super) fn observe(&mut self, seconds: f64) {
        if let Some((_, count)) = self
            .bounds
            .iter()
            .zip(&mut self.counts)
            .find(|(bound, _)| seconds <= **bound)
        {
            *count += 1;
        }
        self.count += 1;
        self.sum += seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_the_format_says() {
        const BOUNDS: [f64; 2] = [0.5, 10.0];
        let mut page = Page::default();
        page.family(Kind::Gauge, "a", "One \\ two\nthree.")
            .sample(&[("x", "q\"b\\n\ne"), ("y", "ü")], 1.5);
        page.family(Kind::Counter, "b_total", "B.").sample(&[], 7);
        let mut histogram = Histogram::new(&BOUNDS);
        [0.5, 0.6, 11.0]
            .into_iter()
            .for_each(|seconds| histogram.observe(seconds));
        page.family(Kind::Histogram, "c_seconds", "C.")
            .histogram(&[("x", "y")], &histogram);
        insta::assert_snapshot!(page.into_text(), @r#"
        # HELP a One \\ two\nthree.
        # TYPE a gauge
        a{x="q\"b\\n\ne",y="ü"} 1.5
        # HELP b_total B.
        # TYPE b_total counter
        b_total 7
        # HELP c_seconds C.
        # TYPE c_seconds histogram
        c_seconds_bucket{x="y",le="0.5"} 1
        c_seconds_bucket{x="y",le="10"} 2
        c_seconds_bucket{x="y",le="+Inf"} 3
        c_seconds_sum{x="y"} 12.1
        c_seconds_count{x="y"} 3
        "#);
    }
}
