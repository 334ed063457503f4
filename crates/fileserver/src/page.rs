//! Pages, pure. In: what a folder holds and how to sort it, or what went wrong. Out: HTML that works without scripts,
//! in light and dark, on small screens.

use runtime::html;
use std::cmp::Ordering;
use std::fmt::Write as _;

use super::path::encode;
use super::root::Entry;

/// How a folder is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) by: By,
    pub(super) down: bool,
}

/// By what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Name,
    Size,
    Time,
}

impl Order {
    /// Reads `sort=name|size|time` and `order=asc|desc`; anything else is the default, by name.
    pub(super) fn read(query: &str) -> Order {
        let value = |key: &str| query.split('&').find_map(|p| p.strip_prefix(key)?.strip_prefix('='));
        let by = match value("sort") {
            Some("size") => By::Size,
            Some("time") => By::Time,
            _ => By::Name,
        };
        Order { by, down: value("order") == Some("desc") }
    }

    /// Folders first, then as asked; equals by name.
    pub(super) fn sort(self, entries: &mut [Entry]) {
        entries.sort_by(|a, b| {
            let folders = b.folder.cmp(&a.folder);
            let asked = match self.by {
                By::Name => Ordering::Equal,
                // What a folder takes on disk says nothing.
                By::Size if a.folder => Ordering::Equal,
                By::Size => a.size.cmp(&b.size),
                By::Time => a.modified.cmp(&b.modified),
            };
            let by_name = natural(&a.name, &b.name);
            let turned = |o: Ordering| if self.down { o.reverse() } else { o };
            match self.by {
                By::Name => folders.then(turned(by_name)),
                By::Size | By::Time => folders.then(turned(asked)).then(by_name),
            }
        });
    }
}

/// As people sort: case does not count, and numbers count as numbers (`2.txt` before `10.txt`).
fn natural(a: &[u8], b: &[u8]) -> Ordering {
    let (mut x, mut y) = (a, b);
    while let (Some(p), Some(q)) = (x.first(), y.first()) {
        if p.is_ascii_digit() && q.is_ascii_digit() {
            let (m, n) = (digits(x), digits(y));
            let (trimmed_m, trimmed_n) = (trim_zeros(m), trim_zeros(n));
            let by_value = trimmed_m.len().cmp(&trimmed_n.len()).then_with(|| trimmed_m.cmp(trimmed_n));
            if by_value != Ordering::Equal {
                return by_value;
            }
            (x, y) = (x.get(m.len()..).unwrap_or_default(), y.get(n.len()..).unwrap_or_default());
            continue;
        }
        let by_letter = p.to_ascii_lowercase().cmp(&q.to_ascii_lowercase());
        if by_letter != Ordering::Equal {
            return by_letter;
        }
        (x, y) = (x.get(1..).unwrap_or_default(), y.get(1..).unwrap_or_default());
    }
    x.len().cmp(&y.len()).then_with(|| a.cmp(b))
}

fn digits(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

fn trim_zeros(digits: &[u8]) -> &[u8] {
    let start = digits.iter().position(|b| *b != b'0').unwrap_or(digits.len());
    digits.get(start..).unwrap_or_default()
}

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2128;--soft:#5f6b7a;--line:#e4e8ee;--paper:#fff;--back:#f6f7f9;--link:#0b57d0;--row:#f2f5fa;--folder:#d99a1c}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#98a3b3;--line:#2b323c;--paper:#171b21;--back:#101318;--link:#8ab4f8;--row:#1e242c;--folder:#e3b341}}\
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--ink);font:16px/1.5 system-ui,-apple-system,\"Segoe UI\",Roboto,sans-serif}\
main{max-width:60rem;margin:0 auto;padding:2rem 1rem 3rem}h1{font-size:1.25rem;font-weight:600;margin:0 0 1rem;overflow-wrap:anywhere}\
a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}a:focus-visible{outline:2px solid var(--link);outline-offset:2px;border-radius:3px}\
h1 span{color:var(--soft);font-weight:400;padding:0 .25rem}\
.box{background:var(--paper);border:1px solid var(--line);border-radius:10px;overflow:hidden}\
table{width:100%;border-collapse:collapse;table-layout:fixed}th,td{padding:.5rem 1rem;text-align:left;white-space:nowrap}\
th{font-size:.8125rem;font-weight:600;border-bottom:1px solid var(--line)}th a{color:var(--soft);display:block}th[aria-sort] a{color:var(--ink)}\
td{border-bottom:1px solid var(--line)}tr:last-child td{border-bottom:0}tbody tr:hover{background:var(--row)}\
.name{width:auto}.size{width:7.5rem;text-align:right;font-variant-numeric:tabular-nums}.time{width:12rem;font-variant-numeric:tabular-nums}\
td.size,td.time{color:var(--soft);font-size:.9375rem}\
td.name a{display:flex;gap:.625rem;align-items:center;min-width:0}td.name b{font-weight:400;overflow:hidden;text-overflow:ellipsis}\
svg{flex:none;width:1.125rem;height:1.125rem;fill:none;stroke:var(--soft);stroke-width:1.5;stroke-linejoin:round}svg.d{fill:var(--folder);stroke:var(--folder)}\
p{color:var(--soft);margin:1rem 0 0;font-size:.9375rem}.empty{padding:1.5rem 1rem;margin:0}\
@media(max-width:40rem){main{padding:1rem .75rem 2rem}.time{display:none}.size{width:6rem}th,td{padding:.625rem .75rem}}";

const FOLDER: &str =
    "<svg class=\"d\" viewBox=\"0 0 18 18\" aria-hidden=\"true\"><path d=\"M2 4.5h5l1.5 2H16v8H2z\"/></svg>";
const FILE: &str =
    "<svg viewBox=\"0 0 18 18\" aria-hidden=\"true\"><path d=\"M4 2h6.5L14 5.5V16H4zM10.5 2v3.5H14\"/></svg>";
const UP: &str = "<svg viewBox=\"0 0 18 18\" aria-hidden=\"true\"><path d=\"M9 15V4M4.5 8.5 9 4l4.5 4.5\"/></svg>";

/// The page of a folder. `names` is the way from the root; `cut` says that there is more than is shown.
pub(super) fn folder(names: &[Vec<u8>], entries: &[Entry], order: Order, cut: bool) -> String {
    let shown: Vec<String> = names.iter().map(|n| escape(n)).collect();
    let title = format!("/{}{}", shown.join("/"), if shown.is_empty() { "" } else { "/" });
    let mut out = String::with_capacity(4096 + entries.len() * 256);
    head(&mut out, &format!("Index of {title}"));
    out.push_str("<h1>");
    crumbs(&mut out, &shown);
    out.push_str("</h1>\n<div class=\"box\">");
    if entries.is_empty() && names.is_empty() {
        out.push_str("<p class=\"empty\">This folder is empty.</p>");
    } else {
        out.push_str("<table><thead><tr>");
        for (by, key, class, word) in [
            (By::Name, "name", "name", "Name"),
            (By::Size, "size", "size", "Size"),
            (By::Time, "time", "time", "Modified (UTC)"),
        ] {
            let current = order.by == by;
            let (turn, arrow, aria) = match (current, order.down) {
                (true, false) => ("desc", " ↑", " aria-sort=\"ascending\""),
                (true, true) => ("asc", " ↓", " aria-sort=\"descending\""),
                (false, _) => ("asc", "", ""),
            };
            let _ = write!(
                out,
                "<th class=\"{class}\"{aria}><a href=\"?sort={key}&amp;order={turn}\">{word}{arrow}</a></th>"
            );
        }
        out.push_str("</tr></thead><tbody>\n");
        if !names.is_empty() {
            let _ = writeln!(
                out,
                "<tr><td class=\"name\"><a href=\"../\">{UP}<b>Parent folder</b></a></td><td class=\"size\"></td><td class=\"time\"></td></tr>"
            );
        }
        for entry in entries {
            row(&mut out, entry);
        }
        out.push_str("</tbody></table>");
    }
    out.push_str("</div>\n");
    let (folders, files) = (entries.iter().filter(|e| e.folder).count(), entries.iter().filter(|e| !e.folder).count());
    let bytes: u64 = entries.iter().filter(|e| !e.folder).map(|e| e.size).sum();
    let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    let _ = write!(out, "<p>{}, {}, {}", plural(folders, "folder"), plural(files, "file"), size(bytes));
    out.push_str(if cut { ". There is more; only these are shown.</p>" } else { "</p>" });
    out.push_str("\n</main></body></html>\n");
    out
}

/// A page that says what went wrong. `text` is our own words.
pub(super) fn plain(title: &str, text: &str) -> String {
    let mut out = String::with_capacity(4096);
    head(&mut out, title);
    let _ = write!(out, "<h1>{title}</h1>\n<p>{text}</p>\n</main></body></html>\n");
    out
}

fn head(out: &mut String, title: &str) {
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"robots\" content=\"noindex\"><title>{title}</title><style>{STYLE}</style></head>\n<body><main>\n"
    );
}

/// The way from the root, each step a link. Relative links, so that it works below any prefix.
fn crumbs(out: &mut String, shown: &[String]) {
    let up = |steps: usize| if steps == 0 { "./".to_string() } else { "../".repeat(steps) };
    let _ = write!(out, "<a href=\"{}\">Files</a>", up(shown.len()));
    for (i, name) in shown.iter().enumerate() {
        out.push_str("<span>/</span>");
        let _ = match shown.len() - 1 - i {
            0 => write!(out, "{name}"),
            steps => write!(out, "<a href=\"{}\">{name}</a>", up(steps)),
        };
    }
}

fn row(out: &mut String, entry: &Entry) {
    let (icon, slash, length, exact) = if entry.folder {
        (FOLDER, "/", "–".to_string(), String::new())
    } else {
        (FILE, "", size(entry.size), format!(" title=\"{} bytes\"", entry.size))
    };
    // `./` keeps a name with a colon from being read as a scheme.
    let (link, name, time) = (encode(&entry.name), escape(&entry.name), addr::to_the_minute(entry.modified));
    let _ = writeln!(
        out,
        "<tr><td class=\"name\"><a href=\"./{link}{slash}\" title=\"{name}\">{icon}<b>{name}{slash}</b></a></td>\
         <td class=\"size\"{exact}>{length}</td><td class=\"time\"><time>{time}</time></td></tr>"
    );
}

/// For HTML text and quoted attributes. Bytes that are no UTF-8 are shown as replacement characters, control
/// characters and those that turn the direction of writing too.
pub(super) fn escape(name: &[u8]) -> String {
    let harmless = |c: char| {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns { '\u{fffd}' } else { c }
    };
    html::escape(&String::from_utf8_lossy(name).chars().map(harmless).collect::<String>())
}

/// `1.5 MiB`: three digits at most, so that columns are easy to compare.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value < 9.95);
    format!("{value:.digits$} {}", UNITS.get(unit).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, folder: bool, size: u64, modified: i64) -> Entry {
        Entry { name: name.as_bytes().to_vec(), folder, size, modified }
    }

    fn sorted(query: &str) -> Vec<String> {
        let mut entries = vec![
            entry("b10.txt", false, 5, 30),
            entry("B2.txt", false, 900, 10),
            entry("a.txt", false, 5, 20),
            entry("zoo", true, 1, 99),
            entry("Art", true, 2, 1),
        ];
        Order::read(query).sort(&mut entries);
        entries.into_iter().map(|e| String::from_utf8(e.name).unwrap()).collect()
    }

    #[test]
    fn sorts_as_people_do() {
        assert_eq!(sorted(""), ["Art", "zoo", "a.txt", "B2.txt", "b10.txt"]);
        assert_eq!(sorted("sort=name&order=desc"), ["zoo", "Art", "b10.txt", "B2.txt", "a.txt"]);
        assert_eq!(sorted("sort=size&order=asc"), ["Art", "zoo", "a.txt", "b10.txt", "B2.txt"]);
        assert_eq!(sorted("sort=size&order=desc"), ["Art", "zoo", "B2.txt", "a.txt", "b10.txt"]);
        assert_eq!(sorted("order=desc&sort=time"), ["zoo", "Art", "b10.txt", "a.txt", "B2.txt"]);
        assert_eq!(sorted("sort=<script>&order=x"), sorted(""));
    }

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (10 * 1024, "10 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (5_368_709_120, "5.0 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn names_cannot_break_out_of_the_page() {
        let evil = "\"><script>alert('1')</script>&\u{202e}\n.txt";
        let page = folder(
            &[evil.as_bytes().to_vec()],
            &[entry(evil, false, 1, 0), entry("javascript:x", false, 1, 0)],
            Order::read(""),
            false,
        );
        assert!(
            !page.contains("<script") && !page.contains('\u{202e}') && !page.contains("href=\"javascript"),
            "{page}"
        );
        assert!(page.contains("&lt;script&gt;"));
    }
}
