//! What a command said, as a picture that moves. In: the command and its lines. Out: an SVG in which they appear one after
//! another, on light and dark pages alike; a reader who wants no motion, and a printer, see all of them at once.

use std::fmt::Write;

/// Lines are cut where a terminal of a laptop ends.
const COLUMNS: usize = 112;
/// Pixels of a line, and of a column of the fonts that are named.
const LINE: usize = 19;
const COLUMN: f32 = 7.83;
/// Seconds between a line and the next, and before the first.
const STEP: f32 = 0.35;
const START: f32 = 0.8;

/// The picture.
#[must_use]
pub fn svg(command: &str, lines: &[String]) -> String {
    let height = (lines.len() + 3) * LINE + 20;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "some pixels"
    )]
    let width = (COLUMNS as f32 * COLUMN) as usize + 40;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{command} in a terminal\">
<style>
  svg {{ --page: #f6f8fa; --edge: #d0d7de; --text: #1f2328; --quiet: #59636e; --good: #1a7f37; --head: #0550ae }}
  @media (prefers-color-scheme: dark) {{ svg {{ --page: #12161c; --edge: #2f3742; --text: #dfe5ec; --quiet: #9aa5b1; --good: #4cc66b; --head: #79b8ff }} }}
  rect {{ fill: var(--page); stroke: var(--edge) }}
  text {{ fill: var(--text); font: 13px ui-monospace, \"SF Mono\", Menlo, Consolas, \"DejaVu Sans Mono\", monospace; white-space: pre }}
  .quiet {{ fill: var(--quiet) }} .good {{ fill: var(--good); font-weight: bold }} .head {{ fill: var(--head); font-weight: bold }}
  g text {{ animation: show .05s linear both }}
  @keyframes show {{ from {{ opacity: 0 }} to {{ opacity: 1 }} }}
  @media (prefers-reduced-motion: reduce), print {{ g text {{ animation: none }} }}
</style>
<rect x=\".5\" y=\".5\" width=\"{}\" height=\"{}\" rx=\"8\"/>
<text x=\"20\" y=\"32\"><tspan class=\"quiet\">$ </tspan>{}</text>
<g>
",
        width - 1,
        height - 1,
        escaped(command)
    );
    for (n, line) in lines.iter().enumerate() {
        if line.is_empty() {
            continue;
        }
        let (y, delay) = ((n + 3) * LINE + 13, START + STEP * step(n));
        let _ =
            writeln!(out, "<text x=\"20\" y=\"{y}\" style=\"animation-delay:{delay:.2}s\">{}</text>", colored(line));
    }
    out.push_str("</g>\n</svg>\n");
    out
}

fn step(n: usize) -> f32 {
    f32::from(u16::try_from(n).unwrap_or(u16::MAX))
}

/// What has come out well, a heading, and what explains the line before.
fn colored(line: &str) -> String {
    let cut = |text: &str| match text.chars().count() > COLUMNS {
        true => text.chars().take(COLUMNS - 1).chain(['…']).collect(),
        false => text.to_string(),
    };
    let line = cut(line);
    match line.strip_prefix("  ok  ") {
        Some(rest) => format!("  <tspan class=\"good\">ok</tspan>  {}", escaped(rest)),
        None if !line.starts_with(' ') => format!("<tspan class=\"head\">{}</tspan>", escaped(&line)),
        None => format!("<tspan class=\"quiet\">{}</tspan>", escaped(&line)),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The same for two runs that differ in ports, times, amounts and random names only.
#[must_use]
pub fn same_for_all_runs(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split_inclusive([' ', '/', ':', '<', '>']) {
        let (body, end) = word.split_at(word.trim_end_matches([' ', '/', ':', '<', '>']).len());
        let random = |t: &str| t.len() >= 8 && t.trim_end_matches('…').bytes().all(|b| b.is_ascii_hexdigit());
        match body.strip_prefix("portcullis-demo-") {
            Some(_) => out.push_str("portcullis-demo-0"),
            None if random(body) => out.push('0'),
            // Ports, milliseconds, MiB; addresses have dots, and what a style says stays.
            None if !body.is_empty() && body.bytes().all(|b| b.is_ascii_digit()) => out.push('0'),
            None => out.push_str(body),
        }
        out.push_str(end);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_differ_in_numbers_and_not_in_words() {
        let run =
            |port, ms| format!("  ok  127.0.0.1 at http://127.0.0.1:{port} cut {ms} ms later, sha256:6b9b7d5b0bb4…\n");
        assert_eq!(same_for_all_runs(&run(45937, 8)), same_for_all_runs(&run(35171, 816)));
        assert_ne!(same_for_all_runs("127.0.0.1 gets in"), same_for_all_runs("127.0.0.2 gets in"));
        let lines = ["Who gets in".to_string(), "  ok  a < b".to_string(), String::new(), "x".repeat(200)];
        let svg = svg("portcullis demo", &lines);
        assert!(svg.contains("a &lt; b") && svg.contains("…</tspan>") && svg.matches("<text").count() == 4, "{svg}");
    }
}
