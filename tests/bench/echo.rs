//! The least an ext_proc server can do: "go on" to every request, on a Unix socket, in a process of its own.

use std::path::Path;

use anyhow::Result;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HeadersResponse, ProcessingRequest, ProcessingResponse,
    external_processor_server::{ExternalProcessor, ExternalProcessorServer},
    processing_response,
};
use futures::{StreamExt, stream::BoxStream};
use reveille_api::net::Address;
use tonic::{Request, Response, Status, Streaming, transport::Server};

struct Echo;

#[tonic::async_trait]
impl ExternalProcessor for Echo {
    type ProcessStream = BoxStream<'static, Result<ProcessingResponse, Status>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let answers = request.into_inner().map(|request| {
            request.map(|_| ProcessingResponse {
                response: Some(processing_response::Response::RequestHeaders(
                    HeadersResponse::default(),
                )),
                ..Default::default()
            })
        });
        Ok(Response::new(answers.boxed()))
    }
}

/// Until it is killed.
pub(crate) async fn serve(socket: &Path) -> Result<()> {
    let incoming = Address::Unix(socket.to_owned()).listen().await?.incoming();
    let server = Server::builder().add_service(ExternalProcessorServer::new(Echo));
    Ok(server.serve_with_incoming(incoming).await?)
}
