//! Asks the router as Envoy does, with Envoy's own full types.

use std::collections::BTreeMap;

use envoy_types::pb::{
    envoy::{
        config::core::v3::{HeaderMap, HeaderValue},
        service::ext_proc::v3::{
            HttpHeaders, ImmediateResponse, ProcessingRequest, ProcessingResponse,
            external_processor_client::ExternalProcessorClient, processing_request::Request,
            processing_response::Response,
        },
    },
    google::protobuf::value::Kind,
};
use reveille_api::task;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};

use super::soon;

/// One HTTP request. Dropping it is its end.
pub(super) struct Exchange {
    messages: mpsc::Sender<ProcessingRequest>,
    answers: mpsc::Receiver<Result<ProcessingResponse, Status>>,
    _stream: JoinSet<()>,
}

/// What the router said of it.
#[derive(Debug)]
pub(super) enum Answer {
    /// The metadata Envoy routes by.
    Routed(BTreeMap<String, String>),
    Refused(Box<ImmediateResponse>),
}

pub(super) async fn get(channel: &Channel, host: &str) -> Exchange {
    Exchange::begin(channel, &[(":authority", host), (":method", "GET")]).await
}

impl Exchange {
    pub(super) async fn begin(channel: &Channel, headers: &[(&str, &str)]) -> Self {
        let mut client = ExternalProcessorClient::new(channel.clone());
        let (messages, stream) = mpsc::channel(4);
        let headers = headers.iter().map(|(key, value)| HeaderValue {
            key: (*key).into(),
            raw_value: value.as_bytes().to_vec(),
            ..Default::default()
        });
        let headers = HttpHeaders {
            headers: Some(HeaderMap { headers: headers.collect() }),
            ..Default::default()
        };
        send(&messages, Request::RequestHeaders(headers)).await;
        let (sender, answers) = mpsc::channel(4);
        let mut task = JoinSet::new();
        // Even the head of the answer comes only with its first message.
        task::spawn(&mut task, "exchange", async move {
            let answers = client.process(ReceiverStream::new(stream)).await;
            let mut answers = answers.expect("a stream").into_inner();
            while let Some(answer) = answers.message().await.transpose() {
                let _ = sender.send(answer).await;
            }
        });
        Self { messages, answers, _stream: task }
    }

    pub(super) async fn answer(&mut self) -> Answer {
        let response = self.next().await;
        match response.response {
            Some(Response::RequestHeaders(_)) => {
                let metadata = response.dynamic_metadata.expect("metadata").fields;
                let Some(Kind::StructValue(reveille)) = &metadata["reveille"].kind else {
                    panic!("{metadata:?}");
                };
                let fields = reveille.fields.iter().map(|(key, value)| match &value.kind {
                    Some(Kind::StringValue(text)) => (key.clone(), text.clone()),
                    other => panic!("{other:?}"),
                });
                Answer::Routed(fields.collect())
            }
            Some(Response::ImmediateResponse(refused)) => Answer::Refused(Box::new(refused)),
            other => panic!("{other:?}"),
        }
    }

    /// Where it was sent.
    pub(super) async fn endpoint(&mut self) -> String {
        match self.answer().await {
            Answer::Routed(fields) => fields["endpoint"].clone(),
            Answer::Refused(refused) => panic!("refused: {}", refused.details),
        }
    }

    /// Why it was refused.
    pub(super) async fn reason(&mut self) -> String {
        match self.answer().await {
            Answer::Routed(fields) => panic!("routed: {fields:?}"),
            Answer::Refused(refused) => refused.details.replacen("reveille_", "", 1),
        }
    }

    /// The actor's answer has trailers.
    pub(super) async fn trailers(&mut self) -> Option<Response> {
        send(&self.messages, Request::ResponseTrailers(Default::default())).await;
        self.next().await.response
    }

    /// Says that nothing more comes, and waits until the router has said the same.
    pub(super) async fn close(self) {
        let Self { messages, mut answers, _stream } = self;
        drop(messages);
        let ended = async { answers.recv().await.is_none().then_some(()) };
        soon("end of the answers", ended).await;
    }

    /// The error that the router ends it with.
    pub(super) async fn error(&mut self) -> Status {
        soon("error", async { self.answers.recv().await?.err() }).await
    }

    async fn next(&mut self) -> ProcessingResponse {
        soon("answer", self.answers.recv()).await.expect("no error")
    }
}

async fn send(messages: &mpsc::Sender<ProcessingRequest>, request: Request) {
    let message = ProcessingRequest { request: Some(request), ..Default::default() };
    messages.send(message).await.expect("a stream");
}
