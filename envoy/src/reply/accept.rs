//! Which shape an `Accept` header asks for (RFC 9110, §12.5.1).
//!
//! | range | asks for |
//! | --- | --- |
//! | `application/problem+json`, `application/json` | JSON |
//! | `text/html` | HTML |
//! | `text/plain`, `text/*` | text |
//! | `*/*`, `application/*` | JSON, where nothing above is asked for as much |
//!
//! The greatest quality decides, and where two are the same the upper row. What names none of these gets JSON all the same:
//! the status and the headers of the answer matter more than its body.
//!
//! There are two readers of this: [`shape`] in the router, and Envoy for its own answers by [`condition`], which has but regular
//! expressions and so compares qualities by their first decimal.

use super::Shape;

/// What one range asks for; the last one wins between equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Anything,
    Text,
    Html,
    Json,
}

/// The shape for this header's value.
pub(super) fn shape(accept: &str) -> Shape {
    match accept.split(',').filter_map(asked).max().map(|(_, asked)| asked) {
        Some(Asked::Html) => Shape::Html,
        Some(Asked::Text) => Shape::Text,
        Some(Asked::Json | Asked::Anything) | None => Shape::Json,
    }
}

/// One element of the list: its quality in thousandths, and what it asks for. Nothing when that is no answer of ours,
/// not wanted (quality 0) or malformed.
fn asked(element: &str) -> Option<(u16, Asked)> {
    let mut parts = element.split(';').map(str::trim);
    let asked = match parts.next()?.to_ascii_lowercase().as_str() {
        "application/problem+json" | "application/json" => Asked::Json,
        "text/html" => Asked::Html,
        "text/plain" | "text/*" => Asked::Text,
        "*/*" | "application/*" => Asked::Anything,
        _ => return None,
    };
    let mut parameters = parts.filter_map(|parameter| parameter.split_once('='));
    let quality = match parameters.find(|(name, _)| name.eq_ignore_ascii_case("q")) {
        Some((_, value)) => thousandths(value)?,
        None => 1000,
    };
    (quality > 0).then_some((quality, asked))
}

/// A `qvalue`: 0 to 1 with at most three decimals.
fn thousandths(value: &str) -> Option<u16> {
    let (whole, decimals) = value.split_once('.').unwrap_or((value, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !matches!(whole, "0" | "1") || decimals.len() > 3 || !digits(decimals) {
        return None;
    }
    let thousandths = format!("{whole}{decimals:0<3}").parse().ok()?;
    (thousandths <= 1000).then_some(thousandths)
}

/// Whether an `Accept` header asks for a shape, for a reader without arithmetic: some level has to hold.
pub(crate) fn condition(shape: Shape) -> Vec<Level> {
    const JSON: &str = r"application/(problem\+)?json";
    const HTML: &str = "text/html";
    const TEXT: &str = r"text/(plain|\*)";
    const ANYTHING: &str = r"(\*|application)/\*";
    let (wanted, not_as_much, not_more): (_, &[_], &[_]) = match shape {
        Shape::Html => (HTML, &[JSON], &[TEXT, ANYTHING]),
        Shape::Text => (TEXT, &[JSON, HTML], &[ANYTHING]),
        Shape::Json | Shape::Grpc => return Vec::new(),
    };
    // Most clients are done after the first.
    let levels = (1..=10).rev().map(|tenths| {
        let not_as_much = not_as_much.iter().map(|range| at_least(range, tenths));
        let not_more = not_more.iter().filter(|_| tenths < 10);
        let not_more = not_more.map(|range| at_least(range, tenths + 1));
        Level { wanted: at_least(wanted, tenths), unless: not_as_much.chain(not_more).collect() }
    });
    levels.collect()
}

/// One quality: the header matches `wanted`, and nothing of `unless`. Regular expressions, to be found anywhere in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    pub(crate) wanted: String,
    pub(crate) unless: Vec<String>,
}

/// Finds an element of the list with this range, and a quality of so many tenths or more. Written with the ranges of ASCII, as
/// Envoy takes no expression of more than 100 instructions.
fn at_least(range: &str, tenths: u8) -> String {
    /// A parameter that is not `q`.
    const PARAMETER: &str = r" *; *[!-+\--:<-PR-pr-~][ -+\--:<-~]*";
    let quality = match tenths {
        10.. => "1".to_owned(),
        tenths => format!(r"(1|0\.[{tenths}-9])"),
    };
    format!("(?i)(^|[ ,]){range}({PARAMETER})*( *; *q={quality}[ -+.-~-]*)? *(,|$)")
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};
    use regex::Regex;

    use super::*;

    /// As Envoy decides.
    fn shape_by_conditions(accept: &str) -> Shape {
        let found = |pattern: &String| Regex::new(pattern).unwrap().is_match(accept);
        let holds = |level: &Level| found(&level.wanted) && !level.unless.iter().any(found);
        let asked_for = |shape: &Shape| condition(*shape).iter().any(holds);
        [Shape::Html, Shape::Text].into_iter().find(asked_for).unwrap_or(Shape::Json)
    }

    proptest! {
        #[test]
        fn envoy_and_the_router_read_a_header_in_the_same_way(
            elements in prop::collection::vec((
                select(vec![
                    "text/html", "text/plain", "text/*", "application/json", "application/problem+json",
                    "*/*", "application/*", "image/png", "application/xhtml+xml", "TEXT/Html",
                ]),
                select(vec!["", ";charset=utf-8", " ; level=1"]),
                select(vec![
                    "", ";q=0", ";q=0.1", "; q=0.2", ";Q=0.3", " ; q=0.50", ";q=0.8;x=y", ";q=0.9", ";q=1.0", ";q=0.000",
                ]),
            ), 0..5),
            separator in select(vec![",", ", ", " , "]),
        ) {
            let elements: Vec<_> = elements.into_iter().map(|(r, p, q)| format!("{r}{p}{q}")).collect();
            let accept = elements.join(separator);
            prop_assert_eq!(shape_by_conditions(&accept), shape(&accept), "{}", accept);
        }
    }

    #[test]
    fn the_greatest_quality_decides() {
        let cases = [
            // Browsers.
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Shape::Html),
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8",
                Shape::Html,
            ),
            // curl, fetch, axios.
            ("*/*", Shape::Json),
            ("application/json, text/plain, */*", Shape::Json),
            // Qualities, in any order and spelling.
            ("text/html;q=0.1, application/problem+json;q=0.9", Shape::Json),
            ("application/json;q=0.2,text/html;q=0.3,text/plain;q=0.25", Shape::Html),
            ("text/plain;q=0.301, text/html;q=0.3", Shape::Text),
            ("TEXT/HTML ; charset=utf-8 ; Q=0.5 , text/plain;q=0.4", Shape::Html),
            ("text/html;q=1.000, text/plain;q=0.999", Shape::Html),
            // Not wanted.
            ("text/html;q=0, text/plain;q=0.5", Shape::Text),
            ("text/html;q=0.0", Shape::Json),
            ("text/html;q=0, */*", Shape::Json),
            // A wildcard counts when it is wanted more, and not when it is wanted as much.
            ("text/html;q=0.5, */*", Shape::Json),
            ("*/*, text/html", Shape::Html),
            ("text/*", Shape::Text),
            ("application/*;q=0.9, text/plain", Shape::Text),
            // Between equals: JSON, HTML, text.
            ("text/plain, text/html", Shape::Html),
            ("text/html, application/json", Shape::Json),
            // None of ours, and nonsense.
            ("image/png", Shape::Json),
            ("text/html2", Shape::Json),
            ("", Shape::Json),
            (";q=1,,text/html;q=2,text/html;q=0.1234,text/html;q=x,text/html;q=", Shape::Json),
            ("text/html;q=1.001", Shape::Json),
        ];
        for (accept, shape) in cases {
            assert_eq!(super::shape(accept), shape, "{accept}");
        }
    }
}
