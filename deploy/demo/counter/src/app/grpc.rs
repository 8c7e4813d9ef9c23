//! `demo.Echo`: gRPC in all four kinds of stream. A message is bytes, whatever they mean.
//!
//! | method | takes | answers |
//! | --- | --- | --- |
//! | `Talk` | any number | each of them, at once; with one it is a unary call |
//! | `Join` | any number | one: all of them together |
//! | `Split` | one | one for each of its bytes |
//! | `Fail` | any number | `FAILED_PRECONDITION` |
//! | `Wait` | any number | nothing, ever |
//!
//! The request's metadata `token-bin` comes back: with the answer, or with the failure.

use std::pin::Pin;

use axum::body::Body;
use axum::extract::{Path, Request};
use axum::http::Response;
use bytes::{Buf, BufMut, Bytes};
use futures::future::{Either, Pending, Ready, pending, ready};
use futures::{Stream, StreamExt, TryFutureExt, TryStreamExt, stream};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{BinaryMetadataValue, MetadataMap};
use tonic::server::{Grpc, StreamingService};
use tonic::{Status, Streaming};

const TOKEN: &str = "token-bin";

type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;
type Answer = Result<tonic::Response<Messages>, Status>;

/// Every kind of call is a stream in each direction: how many messages there are, is between client and method.
pub(super) async fn serve(Path(method): Path<String>, request: Request) -> Response<Body> {
    Grpc::new(Raw).streaming(Method(method), request).await.map(Body::new)
}

struct Method(String);

impl StreamingService<Bytes> for Method {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Either<Ready<Answer>, Pending<Answer>>;

    fn call(&mut self, request: tonic::Request<Streaming<Bytes>>) -> Self::Future {
        let (metadata, _, messages) = request.into_parts();
        let token = metadata.get_bin(TOKEN).cloned();
        let answers = match self.0.as_str() {
            "Talk" => messages.boxed(),
            "Join" => {
                let joined = messages.try_fold(Vec::new(), async |mut all, message| {
                    all.extend_from_slice(&message);
                    Ok(all)
                });
                stream::once(joined.map_ok(Bytes::from)).boxed()
            }
            "Split" => messages
                .map_ok(|message| {
                    stream::iter((0..message.len()).map(move |at| Ok(message.slice(at..=at))))
                })
                .try_flatten()
                .boxed(),
            "Fail" => {
                let mut status = Status::failed_precondition("as you wish");
                carry(status.metadata_mut(), token);
                return Either::Left(ready(Err(status)));
            }
            "Wait" => return Either::Right(pending()),
            _ => {
                let status = Status::unimplemented("demo.Echo has no such method");
                return Either::Left(ready(Err(status)));
            }
        };
        let mut response = tonic::Response::new(answers);
        carry(response.metadata_mut(), token);
        Either::Left(ready(Ok(response)))
    }
}

fn carry(metadata: &mut MetadataMap, token: Option<BinaryMetadataValue>) {
    if let Some(token) = token {
        metadata.insert_bin(TOKEN, token);
    }
}

/// Messages as they are.
#[derive(Clone, Copy)]
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
