//! The status page in a real browser.

use std::{path::Path, time::Duration};

use nix::sys::signal::Signal;

use crate::{
    COUNTER,
    harness::{
        browser::{self, Browser, Page, Screen},
        cluster::{Cluster, Options},
        eventually, machine_can_run_it,
        manifest::Manifests,
        processes,
    },
};

/// Text that stands out too little from what is behind it, as the WCAG count it (AA: 4.5 to 1).
const TOO_PALE: &str = r#"(() => {
  const rgb = (text) => text.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const pale = [];
  for (const element of document.body.querySelectorAll('*')) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !element.checkVisibility() || ['SCRIPT', 'STYLE'].includes(element.tagName)) continue;
    const [a, b] = [light(rgb(getComputedStyle(element).color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) pale.push(`${element.innerText}: ${ratio.toFixed(2)}`);
  }
  return pale;
})()"#;

/// Elements that stick out of the window, but for what scrolls by itself.
const TOO_WIDE: &str = r#"[document.documentElement.scrollWidth - innerWidth, innerWidth]"#;

async fn looks_right(page: &Page, name: &str) {
    page.screenshot(&Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)).await;
    let pale = page.eval(TOO_PALE).await;
    assert_eq!(pale, serde_json::json!([]), "{name}");
    let wide = page.eval(TOO_WIDE).await;
    assert!(wide[0].as_i64() <= Some(0), "{name} is wider than its window: {wide}");
    // Of nobody's but this machine's.
    let origin = page.eval("location.origin").await;
    let own = |url: &String| {
        url.starts_with(origin.as_str().expect("an origin")) || url.starts_with("data:")
    };
    let asked = page.asked();
    assert!(asked.iter().all(own), "{name}: {asked:#?}");
    assert_eq!(page.complaints(), [] as [serde_json::Value; 0], "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_page_shows_a_wake_while_it_happens_on_a_desk_and_on_a_phone() {
    if !machine_can_run_it("the status page") || !browser::machine_has_one("the status page") {
        return;
    }
    // One worker, and somebody who keeps it: the other one's wake lasts until that is suspended.
    let manifests = Manifests::new()
        .counter("demo", "counter", "")
        .counter("demo", "warm", "idle: { keepWarm: true }")
        .actor("demo", "counter", "counter")
        .actor("demo", "holder", "warm");
    let cluster = Cluster::start(Options { workers: 1, ..Options::new(manifests) }).await;
    let holder = cluster.client.get("holder.demo.actors.localhost", "/").await;
    assert_eq!(holder.count().count, 1);
    let browser = Browser::start().await;
    let desk = browser.open(cluster.status, Screen::DESKTOP).await;
    let phone = browser.open(cluster.status, Screen::PHONE).await;
    desk.shows("#live", "live").await;
    desk.shows("#wakes", "Nothing wakes").await;
    desk.shows("#actors", "Running 1").await;
    desk.eval("window.mark = 'not loaded again'").await;

    let client = cluster.client.clone();
    // Its wake has 20 s, which may be too few for a browser on a busy machine: then there is another one.
    let waiting = tokio::spawn(async move {
        loop {
            let answer = client.get(COUNTER, "/").await;
            if answer.reason() != Some("no_capacity") {
                return answer;
            }
        }
    });
    for page in [&desk, &phone] {
        let wakes = page.shows("#wakes", "demo/counter").await;
        assert!(wakes.contains("waits for a worker"), "{wakes}");
        page.shows("#tiles", "1/1").await;
        page.shows("#actors", "Waking 1").await;
        page.shows("#parking", "1 of ").await;
        page.shows("#envoys", "listener").await;
        page.shows("#active", "demo/holder").await;
    }
    looks_right(&desk, "statusz-desk.png").await;
    looks_right(&phone, "statusz-phone.png").await;

    cluster.ok(&["suspend", "actor", "holder", "-n", "demo"]).await;
    assert_eq!(waiting.await.expect("joined").count().count, 1);
    let requests = desk.shows("#requests", "demo/counter").await;
    assert!(requests.contains("cold_start"), "{requests}");
    cluster.client.get("nobody.demo.actors.localhost", "/").await;
    desk.shows("#requests", "actor_not_found").await;
    desk.shows("#bindings", "demo/counter").await;
    assert_eq!(desk.eval("window.mark").await, "not loaded again");

    works_by_keyboard(&desk).await;
    survives_the_control_plane(&cluster, &desk).await;
    looks_right(&desk, "statusz-desk-alone.png").await;
    works_without_script(&cluster, &browser).await;
    drop((desk, phone, browser));
    cluster.stop().await;
}

async fn works_by_keyboard(page: &Page) {
    let focus = "document.activeElement.id || document.activeElement.className";
    page.press("Tab").await;
    assert_eq!(page.eval(focus).await, "skip");
    page.press("Tab").await;
    assert_eq!(page.eval(focus).await, "pause");
    page.press("Enter").await;
    page.shows("#live", "paused").await;
    page.press("Enter").await;
    page.shows("#live", "live").await;
    page.press("Tab").await;
    let table = page.eval(focus).await;
    assert!(table.as_str().is_some_and(|id| id.ends_with("-table")), "{table}");
    // Still there after what it is in was made anew.
    let before = page.asked().len();
    eventually("it has looked again", Duration::from_secs(20), || async {
        if page.asked().len() > before + 2 { Ok(()) } else { Err(page.asked().len()) }
    })
    .await;
    assert_eq!(page.eval(focus).await, table);
}

/// One that says nothing: what it said last stays, and how old that is is told.
async fn survives_the_control_plane(cluster: &Cluster, page: &Page) {
    let control_plane = cluster.pid_of("controlplane").expect("it runs");
    processes::signal(control_plane, Signal::SIGSTOP);
    let badges = page.shows("#badges", "the control plane does not tell of the fleet").await;
    assert!(badges.contains("ago is shown"), "{badges}");
    let actors = page.text("#actors").await;
    assert!(actors.contains("Running 1"), "{actors}");
    processes::signal(control_plane, Signal::SIGCONT);
    eventually("it is heard again", Duration::from_secs(30), || async {
        let badges = page.text("#badges").await;
        if badges.contains("does not tell") { Err(badges) } else { Ok(()) }
    })
    .await;
}

async fn works_without_script(cluster: &Cluster, browser: &Browser) {
    let screen = Screen { script: false, ..Screen::DESKTOP };
    let page = browser.open(cluster.status, screen).await;
    let html = page.ask("DOM.getDocument", serde_json::json!({ "depth": -1 })).await.to_string();
    assert!(html.contains("demo/counter"), "{html}");
    eventually("it loads itself again", Duration::from_secs(30), || async {
        match page.events("Page.loadEventFired").len() {
            0 | 1 => Err(page.asked()),
            _ => Ok(()),
        }
    })
    .await;
}
