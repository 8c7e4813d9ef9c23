//! A fake Envoy: holds an ext_proc stream for each request, and sends the request where it is told.

use std::time::Duration;

use envoy_types::pb::{
    envoy::{
        config::core::v3::{HeaderMap, HeaderValue},
        service::ext_proc::v3::{
            HttpHeaders, ProcessingRequest, external_processor_client::ExternalProcessorClient,
            processing_request::Request, processing_response::Response,
        },
    },
    google::protobuf::value::Kind,
};
use reveille_api::Ladder;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};
use turmoil::net::{TcpListener, TcpStream};

use crate::{
    mutant::Mutant,
    node::{Machine, Met},
    oracle::{ANSWERED, Id},
    world::Dice,
};

/// Where a machine takes requests; the endpoint's own port is in them.
pub(crate) const DOOR: u16 = 80;
/// How long a caller waits for an actor that was reached.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// One Envoy.
#[derive(Clone)]
pub(crate) struct Envoy {
    /// The one to be used first in front.
    pub(crate) routers: Vec<Channel>,
    pub(crate) ladder: Ladder,
    pub(crate) mutant: Option<Mutant>,
}

impl Envoy {
    /// The longest that a request may take.
    pub(crate) fn budget(&self) -> Duration {
        self.ladder.ext_proc() * self.routers.len() as u32 + self.ladder.connect() + PATIENCE
    }

    /// One request, to its end: what the caller is told.
    pub(crate) async fn request(&self, actor: &str, id: Id) -> String {
        for router in &self.routers {
            let asked = timeout(self.ladder.ext_proc(), ask(router.clone(), actor)).await;
            let (stream, answers, endpoint) = match asked {
                Err(_) => return "the router did not answer in time".into(),
                // Nothing came of it: the next router.
                Ok(Err(Asked::Broke)) => continue,
                Ok(Err(Asked::Refused(reason))) => return reason,
                Ok(Ok(routed)) => routed,
            };
            let held = (self.mutant != Some(Mutant::StreamEndsEarly)).then_some((stream, answers));
            let connect = timeout(self.ladder.connect(), connect(&endpoint)).await;
            let Ok(Ok(connection)) = connect else { return "the machine is not there".into() };
            let answer = timeout(PATIENCE, exchange(connection, &endpoint, actor, id)).await;
            drop(held);
            return answer.unwrap_or("the actor did not answer in time").into();
        }
        "no router is there".into()
    }
}

enum Asked {
    Broke,
    Refused(String),
}

type Routed = (
    mpsc::Sender<ProcessingRequest>,
    Streaming<envoy_types::pb::envoy::service::ext_proc::v3::ProcessingResponse>,
    String,
);

/// Asks a router where to send a request.
async fn ask(router: Channel, actor: &str) -> Result<Routed, Asked> {
    let header = |key: &str, value: String| HeaderValue {
        key: key.into(),
        raw_value: value.into_bytes(),
        ..Default::default()
    };
    let headers = vec![
        header(":authority", format!("{actor}.demo.actors.test")),
        header(":method", "POST".into()),
    ];
    let headers = HttpHeaders { headers: Some(HeaderMap { headers }), ..Default::default() };
    let message =
        ProcessingRequest { request: Some(Request::RequestHeaders(headers)), ..Default::default() };
    let (messages, stream) = mpsc::channel(4);
    messages.send(message).await.map_err(|_| Asked::Broke)?;
    let mut client = ExternalProcessorClient::new(router);
    let answers = client.process(ReceiverStream::new(stream)).await;
    let mut answers = answers.map_err(|_| Asked::Broke)?.into_inner();
    let answer = answers.message().await.ok().flatten().ok_or(Asked::Broke)?;
    match answer.response {
        Some(Response::ImmediateResponse(refused)) => Err(Asked::Refused(refused.details)),
        Some(Response::RequestHeaders(_)) => {
            let mut metadata = answer.dynamic_metadata.unwrap_or_default().fields;
            let reveille = metadata.remove("reveille").and_then(|value| value.kind);
            let Some(Kind::StructValue(mut reveille)) = reveille else { return Err(Asked::Broke) };
            let endpoint = reveille.fields.remove("endpoint").and_then(|value| value.kind);
            let Some(Kind::StringValue(endpoint)) = endpoint else { return Err(Asked::Broke) };
            Ok((messages, answers, endpoint))
        }
        _ => Err(Asked::Broke),
    }
}

async fn connect(endpoint: &str) -> std::io::Result<TcpStream> {
    let host = endpoint.split(':').next().unwrap_or_default();
    TcpStream::connect((host, DOOR)).await
}

/// Sends the request; it may have reached the actor from here on.
async fn exchange(connection: TcpStream, endpoint: &str, actor: &str, id: Id) -> &'static str {
    let port = endpoint.rsplit(':').next().unwrap_or_default();
    let mut connection = BufReader::new(connection);
    let request = format!("{port} {actor} {id}\n");
    if connection.write_all(request.as_bytes()).await.is_err() {
        return "reset";
    }
    let mut answer = String::new();
    match connection.read_line(&mut answer).await {
        Ok(_) if answer == "done\n" => ANSWERED,
        Ok(_) if answer == "refused\n" => "refused by the endpoint",
        _ => "reset",
    }
}

/// The machine's side: its endpoints, all behind one door.
pub(crate) async fn serve(machine: Machine, dice: Dice) -> turmoil::Result {
    let listener = TcpListener::bind(("0.0.0.0", DOOR)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (machine, dice) = (machine.clone(), dice.clone());
        reveille_api::task::detach("request", async move {
            let mut stream = BufReader::new(stream);
            let answer = work(&mut stream, &machine, &dice).await;
            if let Some(answer) = answer {
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
    }
}

async fn work(
    stream: &mut BufReader<TcpStream>,
    machine: &Machine,
    dice: &Dice,
) -> Option<&'static str> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let mut words = line.split_whitespace();
    let port = words.next()?.parse().ok()?;
    let asked = words.next()?;
    let id = words.next()?.parse().ok()?;
    let Some((key, epoch)) = machine.connect(port) else { return Some("refused\n") };
    sleep(Duration::from_millis(dice.between(0, 100))).await;
    loop {
        match machine.meet(&key, epoch, asked, id) {
            Met::Done => return Some("done\n"),
            Met::Refused => return None,
            Met::Held => sleep(Duration::from_millis(5)).await,
        }
    }
}
