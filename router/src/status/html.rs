//! Pieces of the page. Everything that comes from outside goes through [`escape`].

use std::{borrow::Cow, fmt::Write};

/// A column: its head, and the class of its cells.
pub(super) type Column = (&'static str, &'static str);

/// One cell.
pub(super) enum Cell {
    Text(Cow<'static, str>),
    /// Made here, of parts that are escaped.
    Html(String),
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<&'static str> for Cell {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        number.to_string().into()
    }
}

impl From<u32> for Cell {
    fn from(number: u32) -> Self {
        number.to_string().into()
    }
}

pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return text.into();
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe.into()
}

/// A table that is wider than a phone scrolls by itself, also by keyboard. `empty` stands where there are no rows.
pub(super) fn table<const N: usize>(
    page: &mut String,
    id: &str,
    columns: [Column; N],
    rows: impl IntoIterator<Item = [Cell; N]>,
    empty: &str,
) {
    let mut rows = rows.into_iter().peekable();
    if rows.peek().is_none() {
        let _ = write!(page, "<p class=\"empty\">{empty}</p>");
        return;
    }
    let _ = write!(
        page,
        "<div class=\"scroll\" id=\"{id}-table\" tabindex=\"0\" role=\"region\" aria-labelledby=\"{id}-title\">\
         <table><thead><tr>"
    );
    for (head, class) in columns {
        let _ = write!(page, "<th scope=\"col\" class=\"{class}\">{head}</th>");
    }
    page.push_str("</tr></thead><tbody>");
    for row in rows {
        page.push_str("<tr>");
        for (cell, (_, class)) in row.into_iter().zip(columns) {
            let text = match &cell {
                Cell::Text(text) => escape(text),
                Cell::Html(html) => html.as_str().into(),
            };
            let _ = write!(page, "<td class=\"{class}\">{text}</td>");
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table></div>");
}

/// A bar of parts, each in the colour of its number. Said in words by what stands beside it.
pub(super) fn bar(page: &mut String, class: &str, parts: impl IntoIterator<Item = (usize, u64)>) {
    let parts: Vec<_> = parts.into_iter().filter(|(_, size)| *size > 0).collect();
    let all = parts.iter().map(|(_, size)| *size).sum::<u64>().max(1) as f64;
    let _ = write!(
        page,
        "<svg class=\"{class}\" viewBox=\"0 0 1000 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">"
    );
    let mut x = 0.0;
    for (colour, size) in parts {
        let width = size as f64 / all * 1_000.0;
        let _ = write!(
            page,
            "<rect class=\"c{colour}\" x=\"{x:.1}\" width=\"{width:.1}\" height=\"10\"/>"
        );
        x += width;
    }
    page.push_str("</svg>");
}

/// A duration for people.
pub(super) fn age(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", ms as f64 / 1_000.0),
        60_000..3_600_000 => format!("{} min", ms / 60_000),
        3_600_000..86_400_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

/// One that is well below a second.
pub(super) fn micros(us: u64) -> String {
    match us {
        0..10_000 => format!("{:.1} ms", us as f64 / 1_000.0),
        us => age(us / 1_000),
    }
}

pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    let digits = usize::from(value < 10.0 && unit != "B");
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let mut page = String::new();
        let evil = "<img src=x onerror='a()'>\"&";
        table(&mut page, "t", [("head", "")], [[evil.to_owned().into()]], "none");
        assert!(page.contains("&lt;img src=x onerror=&#39;a()&#39;&gt;&quot;&amp;"), "{page}");
        assert!(!page.contains("<img"), "{page}");
    }

    #[test]
    fn durations_and_sizes_are_short() {
        assert_eq!([age(999), age(1_500), age(61_000)], ["999 ms", "1.5 s", "1 min"]);
        assert_eq!([micros(1_240), micros(141_000)], ["1.2 ms", "141 ms"]);
        assert_eq!([bytes(12), bytes(1_536), bytes(10 << 20)], ["12 B", "1.5 KiB", "10 MiB"]);
    }
}
