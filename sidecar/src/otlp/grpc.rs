//! OTLP over gRPC.

mod foreign;
mod given;

use std::{error::Error, time::Duration};

use async_trait::async_trait;
use bytes::{Buf as _, BufMut as _, Bytes};
use http::{
    Uri,
    header::{HeaderMap, HeaderValue, USER_AGENT},
    uri::PathAndQuery,
};
use tonic::{
    Request, Status,
    client::Grpc as Client,
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};

use self::{
    foreign::{Checked, Foreign},
    given::Given,
};
use super::{
    USER_AGENT_NAME, answer,
    connect::{Connector, in_time},
    error::{Accepted, Cause, ExportError},
    no_answer::{late, no_answer},
    transport::{ExportRequest, Transport},
};
use crate::{
    config::{Compression, Signal},
    files::FileError,
};

/// Calls one method of one receiver.
#[derive(Debug)]
pub(super) struct Grpc {
    signal: Signal,
    connector: Connector,
    client: Client<Checked>,
    given: Given,
}

impl Grpc {
    /// Connects when first used, and again, after resolving the name anew, when the connection has broken.
    pub(super) fn new(signal: Signal, connector: Connector) -> Self {
        let target = connector.target();
        let given = Given::default();
        let accepted = target.compression.map(encoding_name);
        let mut client = Client::new(Checked::new(channel(&connector), accepted, given.clone()));
        if let Some(encoding) = target.compression.map(encoding) {
            client = client.send_compressed(encoding).accept_compressed(encoding);
        }
        Self {
            signal,
            connector,
            client,
            given,
        }
    }
}

#[async_trait]
impl Transport for Grpc {
    async fn send(&mut self, request: ExportRequest) -> Result<Accepted, ExportError> {
        let target = self.connector.target();
        let metadata = metadata(&self.connector).map_err(|error| {
            ExportError::new(self.signal, target, Cause::Setup(error.to_string()))
        })?;
        self.given.forget();
        let call = call(&mut self.client, self.signal, request.encoded, metadata);
        let (cause, retry_after) = match in_time(target, call).await {
            Ok(Ok(body)) => match answer::accepted(&body) {
                Ok(accepted) => return Ok(accepted),
                Err(cause) => (cause, None),
            },
            Ok(Err(status)) => match failure(&status, &self.connector, &self.given) {
                (silent @ Cause::Silent(_), retry_after) => {
                    let mismatch = self.connector.ask_in_http1().await;
                    (mismatch.map_or(silent, Cause::Mismatch), retry_after)
                }
                failure => failure,
            },
            Err(cause) => (late(cause, &self.connector), None),
        };
        Err(ExportError::new(self.signal, target, cause).after(retry_after))
    }
}

async fn call(
    client: &mut Client<Checked>,
    signal: Signal,
    request: Bytes,
    metadata: MetadataMap,
) -> Result<Bytes, Status> {
    client.ready().await.map_err(Status::from_error)?;
    let mut request = Request::new(request);
    *request.metadata_mut() = metadata;
    let path = PathAndQuery::from_static(match signal {
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    });
    let answer = client.unary(request, path, Encoded).await?;
    Ok(answer.into_inner())
}

/// A channel that connects when first used. The connector does TLS itself, with certificates that may change, so the
/// channel is configured without TLS.
fn channel(connector: &Connector) -> Channel {
    let target = connector.target();
    let mut endpoint =
        Endpoint::from(Uri::from_static("http://receiver")).origin(target.endpoint.clone());
    // The caller limits the whole call. A limit of the channel's own would expire at the same time, with an error that does not
    // look like one.
    if let Some(limit) = target.timeout {
        endpoint = endpoint.connect_timeout(limit);
    }
    endpoint.connect_with_connector_lazy(connector.clone())
}

fn metadata(connector: &Connector) -> Result<MetadataMap, FileError> {
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_NAME));
    headers.extend(connector.headers()?);
    Ok(MetadataMap::from_headers(headers))
}

const fn encoding(compression: Compression) -> CompressionEncoding {
    match compression {
        Compression::Gzip => CompressionEncoding::Gzip,
        Compression::Zstd => CompressionEncoding::Zstd,
    }
}

const fn encoding_name(compression: Compression) -> HeaderValue {
    HeaderValue::from_static(match compression {
        Compression::Gzip => "gzip",
        Compression::Zstd => "zstd",
    })
}

/// A status with a source was made on this side: there was no answer, or none of gRPC. So was one without a source beside a success: the
/// answer cannot be read.
fn failure(status: &Status, connector: &Connector, given: &Given) -> (Cause, Option<Duration>) {
    let mut next = Error::source(status);
    while let Some(error) = next {
        if let Some(Foreign { cause, retry_after }) = error.downcast_ref() {
            return (cause.clone(), *retry_after);
        }
        next = error.source();
    }
    match Error::source(status) {
        Some(source) => (no_answer(source, connector), None),
        None if given.is_success() => (unreadable(status), None),
        None => answer::grpc_failure(status),
    }
}

/// The error about a success without a message that can be read: whether the receiver took the request is unknown.
fn unreadable(status: &Status) -> Cause {
    let why = status.message();
    // tonic reports it in its message only.
    Cause::NotOtlp(if why.starts_with("protocol error: missing grpc-status") {
        "its gRPC answer ends without a status".to_owned()
    } else {
        format!("its gRPC answer cannot be read: {why}")
    })
}

/// A codec of bytes: requests are encoded already, and [`answer`] decodes answers, as for HTTP.
#[derive(Clone, Copy, Debug)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        Self
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.reserve(message.len());
        to.put(message);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let mut body = bytes::BytesMut::with_capacity(from.remaining());
        body.put(from);
        Ok(Some(body.freeze()))
    }
}
