//! gRPC through a wake: the four kinds of call, with metadata, errors, deadlines and callers that leave.

use std::{net::Shutdown, time::Duration};

use bytes::{Buf, BufMut, Bytes};
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use hyper::{body::Frame, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

use crate::harness::{
    cluster::{Cluster, Options},
    eventually, machine_can_run_it,
    manifest::Manifests,
    wire,
};

const HOST: &str = "echo.demo.actors.localhost";
const TOKEN: &[u8] = &[0, 1, 0xfe, 0xff];

/// Messages are bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// A client of `demo.Echo`, as generated code would be.
struct Echo(Grpc<Channel>);

impl Echo {
    async fn connect(cluster: &Cluster, host: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{}", cluster.http)).expect("a URI");
        let origin = format!("http://{host}").parse().expect("a URI");
        Self(Grpc::new(endpoint.origin(origin).connect().await.expect("connects")))
    }

    fn path(method: &str) -> hyper::http::uri::PathAndQuery {
        format!("/demo.Echo/{method}").parse().expect("a path")
    }

    async fn unary(
        &mut self,
        method: &str,
        request: Request<Bytes>,
    ) -> Result<tonic::Response<Bytes>, Status> {
        self.0.ready().await.expect("connected");
        self.0.unary(request, Self::path(method), Raw).await
    }
}

fn message(text: &'static str) -> Request<Bytes> {
    let mut request = Request::new(Bytes::from(text));
    request.metadata_mut().insert_bin("token-bin", MetadataValue::from_bytes(TOKEN));
    request
}

async fn cluster(extra: &str) -> Cluster {
    // Not the port and not the protocol of most.
    let spec =
        format!("port: 9001\nprotocol: h2c\nenv: [{{ name: PORT, value: \"9001\" }}]\n{extra}");
    let manifests = Manifests::new().counter("demo", "echo", &spec).actor("demo", "echo", "echo");
    Cluster::start(Options::new(manifests)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_call_passes_through_a_wake_with_its_metadata() {
    if !machine_can_run_it("gRPC") {
        return;
    }
    let cluster = cluster("").await;
    let mut echo = Echo::connect(&cluster, HOST).await;
    let asleep = async || {
        cluster.ok(&["suspend", "actor", "echo", "-n", "demo"]).await;
    };

    let answer = echo.unary("Talk", message("hello")).await.expect("an answer");
    let token = answer.metadata().get_bin("token-bin").expect("came back");
    assert_eq!(token.to_bytes().expect("base64"), TOKEN);
    assert_eq!(answer.into_inner(), "hello");

    asleep().await;
    echo.0.ready().await.expect("connected");
    let parts = stream::iter(["a", "b", "c"].map(Bytes::from));
    let joined = echo.0.client_streaming(Request::new(parts), Echo::path("Join"), Raw).await;
    assert_eq!(joined.expect("an answer").into_inner(), "abc");

    asleep().await;
    echo.0.ready().await.expect("connected");
    let split = echo.0.server_streaming(message("xyz"), Echo::path("Split"), Raw).await;
    let mut split = split.expect("an answer").into_inner();
    for letter in ["x", "y", "z"] {
        assert_eq!(split.message().await.expect("a message").expect("not yet the end"), letter);
    }
    assert!(split.message().await.expect("status OK").is_none());
    // Trailers came, with nothing unexpected in them.
    assert!(split.trailers().await.expect("trailers").is_some());

    asleep().await;
    echo.0.ready().await.expect("connected");
    let (sender, receiver) = mpsc::channel(1);
    let (talk, ()) = tokio::join!(
        echo.0.streaming(Request::new(ReceiverStream::new(receiver)), Echo::path("Talk"), Raw),
        async { sender.send(Bytes::from("0")).await.expect("taken") },
    );
    let mut talk = talk.expect("an answer").into_inner();
    assert_eq!(talk.message().await.expect("a message").expect("open"), "0");
    // Each answer comes before the next question is asked.
    for turn in ["1", "2", "3"] {
        sender.send(Bytes::from(turn)).await.expect("taken");
        assert_eq!(talk.message().await.expect("a message").expect("open"), turn);
    }
    drop(sender);
    assert!(talk.message().await.expect("status OK").is_none());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_actors_own_failure_is_passed_on_and_a_caller_who_leaves_is_no_longer_in_flight() {
    if !machine_can_run_it("gRPC failures") {
        return;
    }
    let cluster = cluster("idle: { suspendAfter: 2s }\n").await;
    let mut echo = Echo::connect(&cluster, HOST).await;
    let failure = echo.unary("Fail", message("")).await.expect_err("it fails");
    assert_eq!((failure.code(), failure.message()), (Code::FailedPrecondition, "as you wish"));
    let token = failure.metadata().get_bin("token-bin").expect("came back");
    assert_eq!(token.to_bytes().expect("base64"), TOKEN);
    assert!(failure.metadata().get("x-reveille-reason").is_none(), "{failure:?}");
    let failure = echo.unary("Nothing", message("")).await.expect_err("there is none");
    assert_eq!(failure.code(), Code::Unimplemented);

    // A deadline: the client leaves, and the actor, which waits for ever, is free to sleep.
    let mut late = message("");
    late.set_timeout(Duration::from_millis(300));
    let failure = echo.unary("Wait", late).await.expect_err("too late");
    assert!(matches!(failure.code(), Code::DeadlineExceeded | Code::Cancelled), "{failure:?}");
    cluster.reaches("demo", "echo", "Suspended").await;

    // Gone in the middle of a stream, with the same end.
    let socket = std::net::TcpStream::connect(cluster.http).expect("connects");
    let the_same = socket.try_clone().expect("another handle");
    socket.set_nonblocking(true).expect("as tokio wants it");
    let io = TokioIo::new(TcpStream::from_std(socket).expect("registered"));
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), io).await.expect("speaks HTTP/2");
    tokio::task::spawn(connection);
    let first = Frame::data(Bytes::from_static(b"\0\0\0\0\x03one"));
    let request = hyper::Request::post(format!("http://{HOST}/demo.Echo/Talk"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(wire::stream(stream::iter([Ok(first)]).chain(stream::pending())));
    let answer = sender.send_request(request.expect("a request")).await.expect("an answer");
    let first = answer.into_body().frame().await.expect("open").expect("a frame");
    assert_eq!(first.into_data().expect("data"), &b"\0\0\0\0\x03one"[..]);
    let running = cluster.actor("demo", "echo").await;
    assert_eq!((&running["state"], &running["epoch"]), (&"Running".into(), &2.into()));
    the_same.shutdown(Shutdown::Both).expect("open until now");
    cluster.reaches("demo", "echo", "Suspended").await;
    cluster.stop().await;
}

/// A caller who does not wait for the wake ends its call and not the wake.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_before_the_actor_is_awake_ends_the_call_alone() {
    if !machine_can_run_it("gRPC deadline") {
        return;
    }
    let cluster = cluster("").await;
    let mut echo = Echo::connect(&cluster, HOST).await;
    let hasty = async {
        let mut hasty = Echo::connect(&cluster, HOST).await;
        hasty.unary("Talk", message("")).await
    };
    // As long as it takes to be on its way, which no sandbox beats.
    let begun = eventually("the wake has begun", Duration::from_secs(30), || async {
        let actor = cluster.actor("demo", "echo").await;
        if actor["epoch"] == 1 { Ok(()) } else { Err(actor.to_string()) }
    });
    tokio::select! {
        biased;
        () = begun => {}
        answer = hasty => panic!("answered before anybody saw the wake: {answer:?}"),
    }
    assert_eq!(echo.unary("Talk", message("hello")).await.expect("awake").into_inner(), "hello");
    assert_eq!(cluster.actor("demo", "echo").await["epoch"], 1);
    cluster.stop().await;
}
