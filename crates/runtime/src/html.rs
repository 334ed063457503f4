//! What the rooms' own pages share. In: a title, text from anywhere. Out: HTML that works without scripts and style
//! sheets, in light and dark.

/// A whole page; `body` is HTML already.
pub fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{title}</title>\
         <body style=\"font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:12vh auto;padding:0 1em\">\
         <h1 style=\"font-size:1.3em\">{title}</h1>{body}</body></html>\n"
    )
}

/// Text for HTML and for quoted attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
