use axum::http::Method;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use super::*;

async fn send(app: &App, request: Request) -> (StatusCode, HeaderMap, Bytes) {
    let (parts, body) = app.router().oneshot(request).await.unwrap().into_parts();
    (parts.status, parts.headers, body.collect().await.unwrap().to_bytes())
}

async fn get_from(app: &App, uri: &str) -> (StatusCode, HeaderMap, Bytes) {
    send(app, Request::get(uri).header(header::HOST, "c.demo.test").body(Body::empty()).unwrap())
        .await
}

async fn get_json(app: &App, uri: &str) -> Value {
    let (status, headers, body) = get_from(app, uri).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers[header::CONTENT_TYPE], "application/json");
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn the_count_grows_and_the_nonce_stays() {
    let app = App::new().unwrap();
    let (first, second) = (get_json(&app, "/").await, get_json(&app, "/").await);
    assert_eq!(first["count"], 1);
    assert_eq!(second["count"], 2);
    assert_eq!(first["nonce"], second["nonce"]);
    assert_eq!(first["host"], "c.demo.test");
    let keys: Vec<_> = first.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys.len(), 5, "{keys:?}");
}

#[tokio::test]
async fn two_processes_have_two_nonces() {
    assert_ne!(App::new().unwrap().nonce(), App::new().unwrap().nonce());
}

#[tokio::test]
async fn without_a_host_header_the_authority_counts() {
    let app = App::new().unwrap();
    let request = Request::get("http://h2.demo.test:81/").body(Body::empty()).unwrap();
    let (_, _, body) = send(&app, request).await;
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["host"], "h2.demo.test:81");
}

#[tokio::test(start_paused = true)]
async fn ticks_count_tenths_of_a_second() {
    let app = App::new().unwrap();
    tokio::select! {
        never = app.tick(Duration::from_millis(100)) => match never {},
        () = sleep(Duration::from_millis(1050)) => {}
    }
    assert_eq!(get_json(&app, "/").await["ticks"], 10);
}

#[tokio::test(start_paused = true)]
async fn slow_waits_as_long_as_asked() {
    let app = App::new().unwrap();
    let start = tokio::time::Instant::now();
    assert_eq!(get_json(&app, "/slow?ms=2500").await["ms"], 2500);
    assert_eq!(start.elapsed().as_millis(), 2500);
}

#[tokio::test(start_paused = true)]
async fn sse_sends_numbered_events_and_waits_only_between_them() {
    let app = App::new().unwrap();
    let start = tokio::time::Instant::now();
    let (_, headers, body) = get_from(&app, "/sse?events=3&ms=1000").await;
    assert_eq!(headers[header::CONTENT_TYPE], "text/event-stream");
    assert_eq!(body, "data: 1\n\ndata: 2\n\ndata: 3\n\n");
    assert_eq!(start.elapsed().as_secs(), 2);
}

#[tokio::test]
async fn echo_digests_a_streamed_body() {
    let app = App::new().unwrap();
    let chunks = ["a", "b", "c"].map(|text| Ok::<_, Infallible>(Bytes::from(text)));
    let request = Request::post("/echo").body(Body::from_stream(stream::iter(chunks))).unwrap();
    let (_, _, body) = send(&app, request).await;
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["length"], 3);
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(answer["sha256"], abc);
}

#[tokio::test(start_paused = true)]
async fn a_tally_counts_ids_in_order_and_names_the_actor_and_the_body() {
    let app = App::new().unwrap();
    let request = Request::post("/tally?id=7").header(header::HOST, "c.demo.test");
    let (_, _, body) = send(&app, request.body(Body::from("abc")).unwrap()).await;
    let first: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (&first["id"], &first["count"], &first["host"]),
        (&7.into(), &1.into(), &"c.demo.test".into())
    );
    assert_eq!((&first["nonce"], &first["body"]["length"]), (&app.nonce().into(), &3.into()));
    assert!(first["actor"].is_string(), "{first}");
    let (_, _, events) = get_from(&app, "/tally/sse?id=20&events=2&ms=10").await;
    let events = String::from_utf8(events.to_vec()).unwrap();
    assert!(events.contains("\"id\":21,\"count\":3"), "{events}");
    assert_eq!(get_json(&app, "/tally/ids").await, json!([7, 20, 21]));
    assert_eq!(get_json(&app, "/").await["count"], 1, "another count");
}

#[tokio::test]
async fn bytes_are_as_many_as_asked_and_repeat_across_chunks() {
    let app = App::new().unwrap();
    for n in [0, 1, BYTES_CHUNK, 3 * BYTES_CHUNK + 7] {
        let (_, headers, body) = get_from(&app, &format!("/bytes?n={n}")).await;
        assert_eq!(headers[header::CONTENT_LENGTH], n.to_string().as_str());
        assert_eq!(body.len(), n);
        assert!(body.iter().enumerate().all(|(at, &byte)| usize::from(byte) == at % BYTES_PERIOD));
    }
}

#[tokio::test]
async fn fill_adds_up() {
    let app = App::new().unwrap();
    assert_eq!(get_json(&app, "/fill?mb=1").await["mb"], 1);
    assert_eq!(get_json(&app, "/fill?mb=2").await["mb"], 3);
}

#[tokio::test]
async fn headers_come_back_with_repeated_ones_joined() {
    let app = App::new().unwrap();
    let request =
        Request::get("/headers").header("x-a", "1").header("X-A", "2").body(Body::empty()).unwrap();
    let (_, _, body) = send(&app, request).await;
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), json!({ "x-a": "1, 2" }));
}

#[tokio::test]
async fn a_bad_query_is_refused_in_one_line() {
    let app = App::new().unwrap();
    for uri in ["/slow", "/slow?ms=x", "/sse?events=-1", "/bytes?n=1e3", "/fill?mb=1000000"] {
        let (status, _, body) = get_from(&app, uri).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{uri}");
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert_eq!(text.trim_end().lines().count(), 1, "{uri}: {text}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused() {
    let app = App::new().unwrap();
    assert_eq!(get_from(&app, "/nothing").await.0, StatusCode::NOT_FOUND);
    let request = Request::builder().method(Method::DELETE).uri("/").body(Body::empty()).unwrap();
    assert_eq!(send(&app, request).await.0, StatusCode::METHOD_NOT_ALLOWED);
}
