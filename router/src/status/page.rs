//! The status page as HTML: one file that needs nothing from anywhere.
//!
//! All of it is made here, also what is shown later: the script asks for the page again and takes over the parts that
//! have changed (`data-live`). Without the script it loads itself again. What the browser may do is in [`policy`]: run this
//! script, use these styles, ask this address.

use std::{fmt::Write, sync::LazyLock};

use base64::{Engine, prelude::BASE64_STANDARD};
use reveille_envoy::ads;
use sha2::{Digest, Sha256};

use super::{
    html::{Cell, age, bar, bytes, escape, micros, table},
    view::{Request, View},
    whole::{Count, Known},
};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The `Content-Security-Policy` of the page.
pub(super) fn policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let hash = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text));
        let (style, script) = (hash(STYLE), hash(SCRIPT));
        format!(
            "default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; connect-src 'self'; \
             img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
    });
    &POLICY
}

pub(super) fn render(view: &View) -> String {
    let mut page = String::with_capacity(32 * 1024);
    let name = escape(&view.router);
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"referrer\" content=\"no-referrer\">\
         <link rel=\"icon\" href=\"data:,\">\
         <title>{name} · Reveille</title>\
         <noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>\
         <style>{STYLE}</style></head><body>\
         <a class=\"skip\" href=\"#main\">Skip to what goes on</a>\
         <header><h1>Reveille<small>router {name}</small></h1>"
    );
    part(&mut page, "badges", "div", "badges", |page| badges(page, view));
    page.push_str(
        "<span id=\"live\" role=\"status\"></span><button id=\"pause\" type=\"button\" hidden>Pause</button></header>\
         <main id=\"main\" tabindex=\"-1\">",
    );
    part(&mut page, "tiles", "div", "tiles", |page| tiles(page, view));
    page.push_str("<div class=\"two\">");
    section(&mut page, "actors", |page| actors(page, view));
    section(&mut page, "workers", |page| workers(page, view));
    page.push_str("</div>");
    section(&mut page, "wakes", |page| wakes(page, view));
    section(&mut page, "requests", |page| requests(page, view));
    section(&mut page, "active", |page| active(page, view));
    page.push_str("<div class=\"two\">");
    section(&mut page, "parking", |page| parking(page, view));
    section(&mut page, "revokes", |page| revokes(page, view));
    page.push_str("</div>");
    section(&mut page, "envoys", |page| envoys(page, &view.envoy));
    section(&mut page, "bindings", |page| bindings(page, view));
    page.push_str(
        "</main><footer>The same as JSON: <code>curl -H 'accept: application/json' …/statusz</code>. \
         <a href=\"/metrics\">Metrics</a>, <a href=\"/readyz\">readiness</a>. \
         One actor: <code>reveille explain actor NAME</code>.</footer>",
    );
    let _ = writeln!(page, "<script>{SCRIPT}</script></body></html>");
    page
}

/// Something that the script keeps as it is now.
fn part(page: &mut String, id: &str, tag: &str, class: &str, fill: impl FnOnce(&mut String)) {
    let _ = write!(page, "<{tag} id=\"{id}\" class=\"{class}\" data-live>");
    fill(page);
    let _ = write!(page, "</{tag}>");
}

fn section(page: &mut String, id: &str, fill: impl FnOnce(&mut String)) {
    let _ = write!(page, "<section id=\"{id}\" aria-labelledby=\"{id}-title\" data-live>");
    fill(page);
    page.push_str("</section>");
}

fn title(page: &mut String, id: &str, title: &str, more: &str) {
    let _ = write!(page, "<h2 id=\"{id}-title\">{title} <small>{more}</small></h2>");
}

fn badge(page: &mut String, class: &str, text: &str) {
    let _ = write!(page, "<span class=\"badge {class}\">{}</span>", escape(text));
}

fn badges(page: &mut String, view: &View) {
    match view.unready {
        None => badge(page, "good", "ready"),
        Some(why) => badge(page, "bad", &format!("not ready: {why}")),
    }
    match &view.control_plane {
        Some(up) => badge(page, "good", &format!("session for {}", age(up.for_ms))),
        None => badge(page, "bad", "no session with the control plane; bound actors are served"),
    }
    if let Some(why) = &view.fleet.unanswered {
        let known = match view.fleet.known {
            Some(_) => format!("what it said {} ago is shown", age(view.fleet.age_ms)),
            None => "it has not said anything yet".to_owned(),
        };
        badge(
            page,
            "bad",
            &format!("the control plane does not tell of the fleet ({why}): {known}"),
        );
    }
    if view.fleet.known.as_ref().is_some_and(|known| known.draining) {
        badge(page, "warn", "draining: nothing is woken");
    }
    badge(page, "", &format!("up {}", age(view.uptime_ms)));
}

fn tile(page: &mut String, number: &str, what: &str, class: &str) {
    let number = escape(number);
    let _ = write!(
        page,
        "<div class=\"tile\"><b class=\"{class}\">{number}</b><span>{what}</span></div>"
    );
}

fn tiles(page: &mut String, view: &View) {
    let warn = |is: bool| if is { "warn" } else { "" };
    if let Some(known) = &view.fleet.known {
        let all: u64 = known.actors_by_state.iter().map(|count| count.count).sum();
        let (used, workers) = known.workers();
        tile(page, &all.to_string(), "actors", "");
        let full = workers > 0 && used == workers;
        tile(page, &format!("{used}/{workers}"), "workers in use", warn(full));
    }
    // Of all routers, as they report; of this one, when nobody else can be asked.
    let at_actors = view.fleet.known.as_ref().map(|known| known.requests_in_flight);
    let at_actors = at_actors.unwrap_or_else(|| view.in_flight.max(0).cast_unsigned());
    tile(page, &at_actors.to_string(), "requests at actors", "");
    tile(page, &view.parked.to_string(), "requests that wait here", warn(view.parked > 0));
    let waking = view.fleet.known.as_ref().map_or(view.waking, |known| known.waking as usize);
    tile(page, &waking.to_string(), "wakes in progress", warn(waking > 0));
    tile(page, &view.revoking.to_string(), "revokes to this router", "");
}

/// A bar with a legend that says it in words. The colour is that of the place in the list.
fn counts(page: &mut String, counts: &[Count], colours: &[usize]) {
    let coloured = || counts.iter().zip(colours);
    bar(page, "bar", coloured().map(|(count, colour)| (*colour, count.count)));
    page.push_str("<ul class=\"legend\">");
    for (Count { state, count }, colour) in coloured() {
        let none = if *count == 0 { " class=\"none\"" } else { "" };
        let _ = write!(
            page,
            "<li{none}><svg viewBox=\"0 0 1 1\" aria-hidden=\"true\"><rect class=\"c{colour}\" width=\"1\" height=\"1\"/>\
             </svg>{state} <b>{count}</b></li>"
        );
    }
    page.push_str("</ul>");
}

fn unknown(page: &mut String) {
    page.push_str("<p class=\"empty\">The control plane has not told yet.</p>");
}

fn actors(page: &mut String, view: &View) {
    title(page, "actors", "Actors by state", "");
    match &view.fleet.known {
        Some(known) => counts(page, &known.actors_by_state, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        None => unknown(page),
    }
}

fn workers(page: &mut String, view: &View) {
    title(page, "workers", "Workers by state", "");
    let Some(known) = &view.fleet.known else { return unknown(page) };
    counts(page, &known.workers_by_state, &[1, 2, 3, 4, 7, 9, 10]);
    nodes(page, known);
}

fn nodes(page: &mut String, known: &Known) {
    let rows = known.nodes.iter().map(|node| {
        let seen =
            node.last_seen_ms.map_or_else(|| "not yet".to_owned(), |ms| format!("{} ago", age(ms)));
        let ready = match node.ready {
            true => Cell::Html("<span class=\"good\">ready</span>".into()),
            false => Cell::Html(format!("<span class=\"bad\">not ready, heard {seen}</span>")),
        };
        [
            node.name.clone().into(),
            ready,
            format!("{}/{}", node.workers_used, node.workers).into(),
            bytes(node.snapshot_bytes).into(),
            bytes(node.disk_free_bytes).into(),
        ]
    });
    let columns = [
        ("node", "name"),
        ("", "nowrap"),
        ("workers", "num"),
        ("snapshots", "num wide"),
        ("disk free", "num wide"),
    ];
    table(page, "workers", columns, rows, "No node has registered.");
}

fn wakes(page: &mut String, view: &View) {
    let known = view.fleet.known.as_ref();
    let waiting = known.map_or(0, |known| known.waiting_for_worker);
    let more = match waiting {
        0 => String::new(),
        n => format!("{n} without a worker yet"),
    };
    title(page, "wakes", "Wakes in progress", &more);
    let whole = known.map(|known| known.wakes.as_slice()).unwrap_or_default();
    let phase = |phase: &str| match phase {
        "place" => "waits for a worker",
        "start" => "the node restores or starts it",
        "thaw" => "its processes go on",
        _ => "under way",
    };
    let told = whole.iter().map(|wake| {
        let here = view.wakes.iter().find(|own| own.actor.to_string() == wake.actor);
        [
            wake.actor.clone().into(),
            phase(wake.phase).into(),
            wake.kind.into(),
            wake.worker.clone().into(),
            age(wake.for_ms).into(),
            here.map(|own| age(own.age_ms)).unwrap_or_default().into(),
        ]
    });
    // What the control plane knows nothing of yet, or no more.
    let own = view.wakes.iter().filter(|own| {
        let name = own.actor.to_string();
        !whole.iter().any(|wake| wake.actor == name)
    });
    let own = own.map(|own| {
        let asked = "asked of the control plane";
        [
            own.actor.to_string().into(),
            asked.into(),
            "".into(),
            "".into(),
            "".into(),
            age(own.age_ms).into(),
        ]
    });
    let columns = [
        ("actor", "name"),
        ("phase", ""),
        ("from", "wide nowrap"),
        ("worker", "wide nowrap"),
        ("in this phase", "num"),
        ("this router waits", "num wide"),
    ];
    table(page, "wakes", columns, told.chain(own), "Nothing wakes.");
}

fn requests(page: &mut String, view: &View) {
    title(page, "requests", "Last requests", "that waited, were refused here, or lost their actor");
    let rows = view.requests.iter().map(|request| {
        [
            format!("{} ago", age(request.age_ms)).into(),
            subject(request),
            outcome(request),
            request.times.into(),
            micros(request.held_us).into(),
            timing(request),
        ]
    });
    let columns = [
        ("when", "nowrap"),
        ("actor", "name"),
        ("reason", "nowrap"),
        ("alike", "num wide"),
        ("waited", "num"),
        ("of that", "wide"),
    ];
    table(page, "requests", columns, rows, "None yet.");
    page.push_str(
        "<p class=\"note\">Requests to actors that are awake are not listed: nothing is noted on their way. Nor is what \
         Envoy alone sees, as a connection that breaks later: its access log has that. Alike ones that follow closely are one \
         line, with the times of the one that waited longest.</p>",
    );
}

/// Who it was for, and what Envoy calls it.
fn subject(request: &Request) -> Cell {
    let mut html = escape(request.actor.as_deref().unwrap_or("–")).into_owned();
    if let Some(id) = &request.request_id {
        let _ = write!(html, "<br><small class=\"wide\">{}</small>", escape(id));
    }
    Cell::Html(html)
}

fn outcome(request: &Request) -> Cell {
    let class = match request.end {
        "woken" => "good",
        "left" => "warn",
        _ => "bad",
    };
    Cell::Html(format!("<span class=\"{class}\">{}</span>", escape(request.reason)))
}

/// Where the time went.
fn timing(request: &Request) -> Cell {
    let Some(phases) = &request.phases else { return "".into() };
    let of = |name| (name, phases.get(name).copied().unwrap_or_default());
    let parts = [(7, "park"), (4, "place"), (3, "fetch"), (1, "restore"), (5, "ready")];
    let parts = parts.map(|(colour, name)| (colour, of(name)));
    let mut html = String::new();
    bar(&mut html, "thin", parts.map(|(colour, (_, us))| (colour, us)));
    let told = parts.into_iter().filter(|(_, (_, us))| *us >= 100);
    let told: Vec<_> = told.map(|(_, (name, us))| format!("{name} {}", micros(us))).collect();
    let _ = write!(html, " {}", told.join(", "));
    Cell::Html(html)
}

fn active(page: &mut String, view: &View) {
    let Some(known) = &view.fleet.known else {
        title(page, "active", "Busiest actors", "");
        return unknown(page);
    };
    let more = match known.active_count as usize {
        all if all > known.active.len() => {
            format!("{} of {all} that do not sleep", known.active.len())
        }
        _ => String::new(),
    };
    title(page, "active", "Busiest actors", &more);
    let rows = known.active.iter().map(|actor| {
        let idle = actor.idle_ms.map(age).unwrap_or_default();
        [
            actor.actor.clone().into(),
            actor.state.into(),
            actor.in_flight.into(),
            format!("{:.1}", actor.requests_per_second).into(),
            idle.into(),
            actor.epoch.into(),
            actor.worker.clone().into(),
        ]
    });
    let columns = [
        ("actor", "name"),
        ("state", "nowrap"),
        ("in flight", "num"),
        ("requests/s", "num"),
        ("idle", "num"),
        ("epoch", "num wide"),
        ("worker", "wide nowrap"),
    ];
    table(page, "active", columns, rows, "All actors are at rest.");
}

fn parking(page: &mut String, view: &View) {
    title(page, "parking", "Parking", "of this router");
    let free = view.parking_capacity.saturating_sub(view.parked) as u64;
    bar(page, "bar", [(2, view.parked as u64), (0, free)]);
    let limits = &view.limits;
    let facts = [
        ("wait now", format!("{} of {} places", view.parked, view.parking_capacity)),
        ("of one namespace", format!("{} places at the most", limits.parked_per_namespace)),
        (
            "of one actor",
            format!(
                "{} places at the most, fewer if its template says so",
                limits.parked_per_actor
            ),
        ),
        ("a request waits", format!("{} at the most", age(limits.park_ms))),
        ("a wake may take", format!("{} at the most", age(limits.wake_ms))),
    ];
    let rows = facts.map(|(name, value)| [name.into(), value.into()]);
    table(page, "parking", [("limit", "nowrap"), ("value", "")], rows, "");
}

fn revokes(page: &mut String, view: &View) {
    title(page, "revokes", "Revokes in flight", &format!("{}", view.revoking));
    let rows = view.revokes.iter().map(|revoke| {
        [
            revoke.actor.to_string().into(),
            revoke.epoch.to_string().into(),
            revoke.term.into(),
            age(revoke.age_ms).into(),
        ]
    });
    let columns = [("actor", "name"), ("epoch", "num"), ("term", "num"), ("for", "num")];
    table(page, "revokes", columns, rows, "No binding is being given up.");
}

fn envoys(page: &mut String, fleet: &ads::View) {
    title(page, "envoys", "Envoys", "connected here, with the configuration they have");
    let rows = fleet.envoys.values().map(|envoy| {
        let mut has = String::new();
        for (kind, acked) in &envoy.acked {
            let _ = write!(has, "{kind} <b>{}</b><br>", escape(&acked.version));
        }
        let nack = match &envoy.last_nack {
            None => Cell::Html("<span class=\"good\">nothing</span>".into()),
            Some(nack) => Cell::Html(format!(
                "<span class=\"bad\">refused {} {}, {} times</span><br>{}",
                nack.kind,
                escape(&nack.version),
                nack.times,
                escape(&nack.message)
            )),
        };
        [
            envoy.node_id.clone().into(),
            envoy.build.clone().into(),
            envoy.protocol.into(),
            Cell::Html(has),
            nack,
        ]
    });
    let columns = [
        ("node", "name"),
        ("version", "wide nowrap"),
        ("protocol", "wide nowrap"),
        ("configuration", "break"),
        ("refused", "break"),
    ];
    table(page, "envoys", columns, rows, "No Envoy is connected.");
    let gone = fleet
        .nacks
        .iter()
        .filter(|nack| !fleet.envoys.values().any(|envoy| envoy.last_nack.as_ref() == Some(*nack)));
    for nack in gone {
        let (node, kind, version) = (escape(&nack.node_id), nack.kind, escape(&nack.version));
        let message = escape(&nack.message);
        let _ = write!(
            page,
            "<p class=\"note\">Before that {node} refused {kind} {version}: {message}</p>"
        );
    }
}

fn bindings(page: &mut String, view: &View) {
    let more = match usize::try_from(view.bound).unwrap_or_default() {
        all if all > view.bindings.len() => format!("{} of {all}", view.bindings.len()),
        all => all.to_string(),
    };
    title(page, "bindings", "Bindings of this router", &more);
    let rows = view.bindings.iter().map(|binding| {
        [
            binding.actor.to_string().into(),
            binding.endpoint.to_string().into(),
            binding.in_flight.into(),
            age(binding.idle_ms).into(),
            binding.woken_by.into(),
            binding.epoch.to_string().into(),
            binding.term.into(),
        ]
    });
    let columns = [
        ("actor", "name"),
        ("endpoint", "nowrap"),
        ("in flight", "num"),
        ("idle", "num wide"),
        ("woken by", "wide nowrap"),
        ("epoch", "num wide"),
        ("term", "num wide"),
    ];
    table(
        page,
        "bindings",
        columns,
        rows,
        "None: the first request to each actor asks the control plane.",
    );
}
