//! OTLP by gRPC.

use opentelemetry_proto::tonic::collector::{
    logs::v1::{
        ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status, async_trait, codec::CompressionEncoding, transport::Server,
};

use super::{Hand, MOST_BODY, Received};

pub(super) async fn serve(listener: TcpListener, hand: Hand) {
    let [gzip, zstd] = [CompressionEncoding::Gzip, CompressionEncoding::Zstd];
    let metrics = MetricsServiceServer::new(Taker(hand.clone()))
        .max_decoding_message_size(MOST_BODY)
        .accept_compressed(gzip)
        .accept_compressed(zstd);
    let traces = TraceServiceServer::new(Taker(hand.clone()))
        .max_decoding_message_size(MOST_BODY)
        .accept_compressed(gzip)
        .accept_compressed(zstd);
    let logs = LogsServiceServer::new(Taker(hand))
        .max_decoding_message_size(MOST_BODY)
        .accept_compressed(gzip)
        .accept_compressed(zstd);
    let served = Server::builder()
        .add_service(metrics)
        .add_service(traces)
        .add_service(logs)
        .serve_with_incoming(TcpListenerStream::new(listener));
    if let Err(error) = served.await {
        tracing::error!(%error, "gRPC is not taken any more");
    }
}

struct Taker(Hand);

impl Taker {
    async fn take(&self, export: Received) -> Result<(), Status> {
        let stopping = |_| Status::unavailable("the sink is stopping");
        self.0.send(export).await.map_err(stopping)
    }
}

#[async_trait]
impl MetricsService for Taker {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.take(Received::Metrics(request.into_inner())).await?;
        Ok(Response::new(Default::default()))
    }
}

#[async_trait]
impl TraceService for Taker {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.take(Received::Traces(request.into_inner())).await?;
        Ok(Response::new(Default::default()))
    }
}

#[async_trait]
impl LogsService for Taker {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.take(Received::Logs(request.into_inner())).await?;
        Ok(Response::new(Default::default()))
    }
}
