//! The status page as HTML: one file, no script, nothing from elsewhere.

use std::fmt::Write;

use super::view::View;

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width\"><meta http-equiv=\"refresh\" content=\"5\">\
<title>Reveille router</title><style>\
body{font:0.9rem/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222;background:#fff}\
table{border-collapse:collapse;width:100%;margin-bottom:2rem}\
th,td{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #ccc}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}th,td{border-color:#444}}\
</style></head><body><h1>Reveille router</h1>";

pub(super) fn render(view: &View) -> String {
    let mut page = String::with_capacity(8 * 1024);
    page.push_str(HEAD);
    let control_plane = match &view.control_plane {
        Some(up) => format!("session for {} ({})", age(up.for_ms), up.instance),
        None => "no session; bound actors are served".to_owned(),
    };
    let facts = [
        ("router", view.router.clone()),
        ("instance", view.instance.clone()),
        ("up", age(view.uptime_ms)),
        ("ready", view.unready.map_or_else(|| "yes".to_owned(), |why| format!("no: {why}"))),
        ("control plane", control_plane),
        ("requests in flight", view.in_flight.to_string()),
        ("requests parked", format!("{} of {}", view.parked, view.parking_capacity)),
    ];
    table(&mut page, &[], facts.map(|(name, value)| vec![name.to_owned(), value]));
    title(&mut page, "Wakes in progress", view.waking);
    let wakes = view.wakes.iter().map(|w| vec![w.actor.to_string(), age(w.age_ms)]);
    table(&mut page, &["actor", "for"], wakes);
    title(&mut page, "Revokes in flight", view.revoking);
    let revokes = view
        .revokes
        .iter()
        .map(|r| vec![r.actor.to_string(), r.epoch.to_string(), r.term.to_string(), age(r.age_ms)]);
    table(&mut page, &["actor", "epoch", "term", "for"], revokes);
    title(&mut page, "Bindings", usize::try_from(view.bound).unwrap_or_default());
    let bindings = view.bindings.iter().map(|b| {
        vec![
            b.actor.to_string(),
            b.epoch.to_string(),
            b.term.to_string(),
            b.endpoint.to_string(),
            b.woken_by.to_owned(),
            b.in_flight.to_string(),
            age(b.idle_ms),
        ]
    });
    let columns = ["actor", "epoch", "term", "endpoint", "woken by", "in flight", "idle"];
    table(&mut page, &columns, bindings);
    title(&mut page, "Envoys", view.envoy.envoys.len());
    let envoys = view.envoy.envoys.values().map(|envoy| {
        let acked = envoy.acked.iter().map(|(kind, acked)| format!("{kind} {}", acked.version));
        vec![
            envoy.node_id.clone(),
            envoy.build.clone(),
            envoy.protocol.to_owned(),
            acked.collect::<Vec<_>>().join(", "),
            envoy.last_nack.as_ref().map(|nack| nack.message.clone()).unwrap_or_default(),
        ]
    });
    table(&mut page, &["node", "version", "protocol", "has", "refused"], envoys);
    page.push_str("</body></html>\n");
    page
}

fn title(page: &mut String, title: &str, count: usize) {
    let _ = write!(page, "<h2>{title} ({count})</h2>");
}

fn table(page: &mut String, columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    page.push_str("<table>");
    if !columns.is_empty() {
        page.push_str("<tr>");
        for column in columns {
            let _ = write!(page, "<th scope=\"col\">{column}</th>");
        }
        page.push_str("</tr>");
    }
    for row in rows {
        page.push_str("<tr>");
        for cell in row {
            let _ = write!(page, "<td>{}</td>", escape(&cell));
        }
        page.push_str("</tr>");
    }
    page.push_str("</table>");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A duration for people.
fn age(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", ms as f64 / 1_000.0),
        60_000..3_600_000 => format!("{} min", ms / 60_000),
        3_600_000..86_400_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}
