//! A real Chromium without a window, spoken to by its DevTools protocol.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use futures::{SinkExt, StreamExt};
use nix::{sys::signal, unistd::Pid};
use reveille_api::task::detach;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpStream, sync::mpsc::UnboundedSender};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::Message};

use super::eventually;

/// The first start reads 300 MB from the disk.
const START: Duration = Duration::from_secs(60);
/// For one answer.
const LIMIT: Duration = Duration::from_secs(30);

/// It ends with this.
pub struct Browser {
    child: Child,
    _profile: TempDir,
    address: String,
}

/// How a page is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    pub width: u32,
    pub height: u32,
    pub phone: bool,
    pub dark: bool,
    pub script: bool,
}

impl Screen {
    pub const DESKTOP: Self =
        Self { width: 1280, height: 1400, phone: false, dark: false, script: true };
    pub const PHONE: Self = Self { width: 390, height: 844, phone: true, dark: true, script: true };
}

/// One tab.
pub struct Page {
    send: UnboundedSender<Message>,
    next: AtomicU64,
    session: String,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    answers: VecDeque<Value>,
    events: Vec<Value>,
}

/// True when there is a Chromium; without one the test fails in CI and is skipped elsewhere, loudly.
pub fn machine_has_one(test: &str) -> bool {
    let found = Command::new("chromium").arg("--version").output();
    if found.is_ok_and(|output| output.status.success()) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{test} needs chromium");
    eprintln!("SKIPPED {test}: it needs chromium: run deploy/setup.sh chromium");
    false
}

impl Browser {
    pub async fn start() -> Self {
        let profile = tempfile::Builder::new().prefix("rv").tempdir().expect("a directory");
        let mut child = Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
            .args(["--disable-component-update", "--disable-dev-shm-usage"])
            .args(["--remote-debugging-port=0", "about:blank"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("chromium starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (tell, told) = mpsc::channel();
        // Read to its end, so that it never blocks on the pipe.
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if let Some(at) = line.split("DevTools listening on ").nth(1) {
                    let _ = tell.send(at.to_owned());
                }
            }
        });
        let told = tokio::task::spawn_blocking(move || told.recv_timeout(START)).await;
        let address = told.expect("joined").expect("chromium says where it listens");
        Self { child, _profile: profile, address }
    }

    /// A new tab at this address.
    pub async fn open(&self, status: SocketAddr, screen: Screen) -> Page {
        let (socket, _) = tokio_tungstenite::connect_async(&self.address).await.expect("DevTools");
        let mut page = Page::new(socket);
        let target = page
            .ask("Target.createTarget", json!({ "url": "about:blank", "newWindow": true }))
            .await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = page.ask("Target.attachToTarget", attach).await;
        page.session = session["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.ask(&format!("{domain}.enable"), json!({})).await;
        }
        // Also while another tab is in front of it.
        page.ask("Emulation.setFocusEmulationEnabled", json!({ "enabled": true })).await;
        let Screen { width, height, phone, dark, script } = screen;
        let size =
            json!({ "width": width, "height": height, "mobile": phone, "deviceScaleFactor": 1 });
        page.ask("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = if dark { "dark" } else { "light" };
        let scheme = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        page.ask("Emulation.setEmulatedMedia", json!({ "features": scheme })).await;
        page.ask("Emulation.setScriptExecutionDisabled", json!({ "value": !script })).await;
        page.ask("Page.navigate", json!({ "url": format!("http://{status}/statusz") })).await;
        eventually("the page is loaded", LIMIT, || async {
            match page.events("Page.loadEventFired").is_empty() {
                true => Err("not yet"),
                false => Ok(()),
            }
        })
        .await;
        page
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its own children are of its group.
        let _ = signal::killpg(Pid::from_raw(self.child.id() as i32), signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Page {
    fn new(socket: WebSocketStream<MaybeTlsStream<TcpStream>>) -> Self {
        let (mut sink, mut stream) = socket.split();
        let (send, mut outbox) = tokio::sync::mpsc::unbounded_channel();
        detach("to chromium", async move {
            while let Some(message) = outbox.recv().await {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
        });
        let seen = Arc::new(Mutex::new(Seen::default()));
        let heard = Arc::clone(&seen);
        detach("from chromium", async move {
            while let Some(Ok(message)) = stream.next().await {
                let Ok(text) = message.to_text() else { continue };
                let Ok(value) = serde_json::from_str::<Value>(text) else { continue };
                let mut heard = heard.lock().expect("not poisoned");
                match value.get("id") {
                    Some(_) => heard.answers.push_back(value),
                    None => heard.events.push(value),
                }
            }
        });
        Self { send, next: AtomicU64::new(1), session: String::new(), seen }
    }

    /// One command and its result.
    pub async fn ask(&self, method: &str, params: Value) -> Value {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut command = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            command["sessionId"] = self.session.as_str().into();
        }
        self.send.send(Message::text(command.to_string())).expect("chromium runs");
        let answer = eventually(method, LIMIT, || async {
            let mut seen = self.seen.lock().expect("not poisoned");
            let at = seen.answers.iter().position(|answer| answer["id"] == id);
            at.and_then(|at| seen.answers.remove(at)).ok_or("no answer")
        })
        .await;
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// What came of this kind so far.
    pub fn events(&self, method: &str) -> Vec<Value> {
        let seen = self.seen.lock().expect("not poisoned");
        seen.events.iter().filter(|e| e["method"] == method).map(|e| e["params"].clone()).collect()
    }

    /// The value of an expression there.
    pub async fn eval(&self, expression: &str) -> Value {
        let params =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.ask("Runtime.evaluate", params).await;
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Text of the first element that matches.
    pub async fn text(&self, selector: &str) -> String {
        let text = self.eval(&format!("document.querySelector({selector:?})?.textContent")).await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until that has these words.
    pub async fn shows(&self, selector: &str, words: &str) -> String {
        eventually(&format!("{selector} shows {words:?}"), LIMIT, || async {
            let text = self.text(selector).await;
            if text.contains(words) { Ok(text) } else { Err(text) }
        })
        .await
    }

    /// One key, down and up: "Tab", "Enter", …
    pub async fn press(&self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "ArrowRight" => (39, ""),
            other => panic!("{other}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let params = json!({
                "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text,
            });
            self.ask("Input.dispatchKeyEvent", params).await;
        }
    }

    /// All of the page, as PNG.
    pub async fn screenshot(&self, path: &Path) {
        let whole = json!({ "format": "png", "captureBeyondViewport": true });
        let shot = self.ask("Page.captureScreenshot", whole).await;
        let data = shot["data"].as_str().expect("an image");
        std::fs::write(path, BASE64_STANDARD.decode(data).expect("base64")).expect("written");
    }

    /// Everything that the console would show in red.
    pub fn complaints(&self) -> Vec<Value> {
        let mut complaints = self.events("Runtime.exceptionThrown");
        let logged = self.events("Log.entryAdded").into_iter();
        complaints.extend(logged.filter(|event| event["entry"]["level"] != "verbose"));
        let said = self.events("Runtime.consoleAPICalled").into_iter();
        complaints.extend(said.filter(|event| event["type"] == "error"));
        complaints
    }

    /// Every address that was asked.
    pub fn asked(&self) -> Vec<String> {
        let asked = self.events("Network.requestWillBeSent").into_iter();
        asked.map(|event| event["request"]["url"].as_str().unwrap_or_default().to_owned()).collect()
    }
}
