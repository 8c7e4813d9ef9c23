use std::{pin::pin, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{
    page::{CONNECTIONS, LONGEST, REQUEST, converse},
    *,
};
use crate::net::Address;

crate::labels! {
    enum Way "way" {
        In "in",
        Out "out",
    }
}
crate::labels! {
    enum End "end" {
        Done "done",
        Failed "failed",
    }
}

struct Part1 {
    registry: Registry,
    unready: Option<&'static str>,
    others: Vec<Other>,
}

impl Watched for Part1 {
    fn registry(&self) -> &Registry {
        &self.registry
    }

    fn unready(&self) -> Option<&'static str> {
        self.unready
    }

    fn others(&self) -> &[Other] {
        &self.others
    }
}

fn counting(name: &str, prefix: &str) -> (Registry, Closed<(Way, End), Counter>) {
    let mut registry = Registry::with_prefix(prefix);
    let ends = Closed::<(Way, End), Counter>::default();
    registry.register(name, "How they ended", ends.clone());
    (registry, ends)
}

#[test]
fn every_combination_of_labels_is_there_from_the_start_and_is_counted_by_itself() {
    let (registry, ends) = counting("ends", "reveille_test");
    ends.get((Way::Out, End::Failed)).inc();
    let (_, text) = exposition(&registry, None);
    assert_eq!(
        text,
        "# HELP reveille_test_ends_total How they ended.\n\
         # TYPE reveille_test_ends_total counter\n\
         reveille_test_ends_total{way=\"in\",end=\"done\"} 0\n\
         reveille_test_ends_total{way=\"in\",end=\"failed\"} 0\n\
         reveille_test_ends_total{way=\"out\",end=\"done\"} 0\n\
         reveille_test_ends_total{way=\"out\",end=\"failed\"} 1\n"
    );
}

#[test]
fn every_value_of_a_label_is_its_own_and_looks_like_one() {
    fn check<L: Label>() {
        let values: Vec<_> = L::all().into_iter().map(L::value).collect();
        let mut distinct = values.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), values.len(), "{values:?}");
        let good = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(values.iter().all(|value| value.chars().all(good)), "{values:?}");
    }
    check::<Reason>();
    check::<WakeKind>();
    check::<Part>();
    check::<ActorState>();
}

#[test]
fn the_reference_has_each_family_once_with_its_labels_and_their_values() {
    let (mut registry, _) = counting("ends", "reveille_test");
    registry.register("took_seconds", "How long", durations());
    let found = families(&registry);
    assert_eq!(found.len(), 2);
    assert_eq!(
        (found[0].name.as_str(), found[0].kind.as_str()),
        ("reveille_test_ends_total", "counter")
    );
    let keys: Vec<_> = found[0].labels.keys().collect();
    assert_eq!(keys, ["end", "way"]);
    assert_eq!(found[1].kind, "histogram");
    assert!(found[1].labels.is_empty(), "{found:?}");
    let page = reference(&[Described { title: "Test", page: "Nowhere.", registry }]);
    assert!(
        page.contains("| `reveille_test_ends_total` | counter | `end`, `way` | How they ended |"),
        "{page}"
    );
    assert!(page.contains("| `end` | `done` `failed` |"), "{page}");
}

/// One exchange, as a scraper does.
async fn get(address: &Address, path: &str, accept: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let Address::Tcp(address) = address else { panic!("{address}") };
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

async fn serving(part: Part1, address: &Address) -> (Address, tokio::task::JoinSet<()>) {
    let listener = listen(address).await.unwrap();
    let bound = listener.address().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    crate::task::spawn(&mut tasks, "page", async {
        serve(listener, routes(Arc::new(part)), CancellationToken::new()).await;
    });
    (bound, tasks)
}

#[tokio::test]
async fn one_page_has_the_series_of_the_parts_beside_it_and_says_who_does_not_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (registry, _) = counting("ends", "reveille_node");
    // Whom it has beside it is not asked: else two that name each other would never be done.
    let beside = format!("controlplane=unix:{}/nobody", dir.path().display());
    let node = Part1 { registry, unready: Some("not yet"), others: vec![beside.parse().unwrap()] };
    let socket = Address::Unix(dir.path().join("node.http"));
    let (_, _node) = serving(node, &socket).await;
    let (registry, _) = counting("ends", "reveille_router");
    let others = vec![
        format!("node={socket}").parse().unwrap(),
        format!("dns=unix:{}/nobody", dir.path().display()).parse().unwrap(),
    ];
    let router = Part1 { registry, unready: None, others };
    let (address, _router) = serving(router, &"127.0.0.1:0".parse().unwrap()).await;

    let text = get(&address, "/metrics", "*/*").await;
    for line in [
        "content-type: text/plain; version=0.0.4",
        "reveille_router_ends_total{way=\"in\",end=\"done\"} 0",
        "reveille_node_ends_total{way=\"in\",end=\"done\"} 0",
        "reveille_part_up{part=\"node\"} 1",
        "reveille_part_up{part=\"dns\"} 0",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    assert!(!text.contains("controlplane"), "{text}");
    let text = get(&address, "/metrics", "application/openmetrics-text").await;
    assert_eq!(text.matches("# EOF\n").count(), 1, "{text}");
    assert!(text.ends_with("# EOF\n") && text.contains("reveille_node_ends_total"), "{text}");
    let text = own(&address).await.unwrap();
    assert!(text.contains("reveille_router_ends_total") && !text.contains("node"), "{text}");
}

#[tokio::test]
async fn one_page_is_ready_when_the_parts_beside_it_are() {
    let dir = tempfile::tempdir().unwrap();
    let page = |name: &str| Address::Unix(dir.path().join(name));
    let other = |name: &str| format!("{name}={}", page(name)).parse().unwrap();
    // Whom it has beside it is not asked.
    let (_, _node) = serving(Part1 { others: vec![other("dns")], ..plain() }, &page("node")).await;
    let starts = Part1 { unready: Some("it starts"), ..plain() };
    let (_, _starts) = serving(starts, &page("envoy")).await;
    let answer = async |others: &[&str]| {
        let others = others.iter().map(|name| other(name)).collect();
        let part = Part1 { others, ..plain() };
        let (address, _router) = serving(part, &"127.0.0.1:0".parse().unwrap()).await;
        assert!(get(&address, "/healthz", "*/*").await.starts_with("HTTP/1.1 200"));
        assert!(get(&address, "/readyz?only=own", "*/*").await.starts_with("HTTP/1.1 200"));
        get(&address, "/readyz", "*/*").await
    };
    assert!(answer(&["node"]).await.starts_with("HTTP/1.1 200"));
    for (others, said) in
        [(["node", "envoy"], "envoy is not ready: "), (["node", "dns"], "dns is not ready: ")]
    {
        let answer = answer(&others).await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains(said), "{answer}");
    }
}

#[tokio::test]
async fn a_part_that_is_not_ready_says_why_and_lives() {
    let (registry, _) = counting("ends", "reveille_test");
    let part = Part1 { registry, unready: Some("no session yet"), others: Vec::new() };
    let (address, _part) = serving(part, &"127.0.0.1:0".parse().unwrap()).await;
    let answer = get(&address, "/readyz", "*/*").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("no session yet\n"), "{answer}");
    assert!(get(&address, "/healthz", "*/*").await.starts_with("HTTP/1.1 200"));
}

#[test]
fn what_is_no_part_beside_this_one_is_told_what_to_write() {
    for wrong in ["node", "actor=unix:/x", "node=unix:", "=127.0.0.1:1", "router=127.0.0.1:1"] {
        let error = wrong.parse::<Other>().unwrap_err().to_string();
        assert!(error.contains("PART=ADDRESS") && error.contains("controlplane"), "{error}");
        assert!(!error.contains("router"), "{error}");
    }
}

fn plain() -> Part1 {
    Part1 { registry: Registry::default(), unready: None, others: Vec::new() }
}

#[tokio::test]
async fn connections_are_bounded_and_who_sends_half_a_request_gives_its_place_back() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (address, _part) = serving(plain(), &"127.0.0.1:0".parse().unwrap()).await;
    let Address::Tcp(tcp) = address else { panic!("{address}") };
    let begin = tokio::time::Instant::now();
    let mut halves = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut half = tokio::net::TcpStream::connect(tcp).await.unwrap();
        half.write_all(b"GET /healthz HTTP/1.1\r\nhost").await.unwrap();
        halves.push(half);
    }
    let answer = tokio::time::timeout(6 * REQUEST, get(&address, "/healthz", "*/*")).await;
    assert!(answer.expect("an answer").starts_with("HTTP/1.1 200"));
    assert!(begin.elapsed() >= REQUEST, "one above the limit was answered");
    let ended = tokio::time::timeout(6 * REQUEST, halves[0].read_u8()).await;
    ended.expect("an end").expect_err("an end");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_not_waited_for_for_ever() {
    use tokio::io::AsyncWriteExt;
    let (mut client, server) = tokio::io::duplex(64);
    client.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let conversation = converse(server, routes(Arc::new(plain())), CancellationToken::new());
    tokio::time::timeout(2 * LONGEST, conversation).await.expect("an end");
}

#[tokio::test(start_paused = true)]
async fn half_a_request_does_not_hold_up_a_stop() {
    use tokio::io::AsyncWriteExt;
    let (mut client, server) = tokio::io::duplex(64);
    client.write_all(b"GET /healthz HTTP/1.1\r\nhost").await.unwrap();
    let stop = CancellationToken::new();
    let mut conversation = pin!(converse(server, routes(Arc::new(plain())), stop.clone()));
    let begun = tokio::time::timeout(REQUEST / 2, &mut conversation).await;
    begun.expect_err("it is read");
    stop.cancel();
    tokio::time::timeout(REQUEST / 3, conversation).await.expect("an end");
}
