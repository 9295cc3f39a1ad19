//! The fleet service: what proxies serve, and what came of it, as they report it.

use std::sync::Arc;
use std::time::Duration;

use control_core::fleet::{ArmCounts, ArmKey, Report};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use xds_proto::weir::fleet::v1::fleet_service_server::FleetService;
use xds_proto::weir::fleet::v1::{ReportRequest, ReportResponse};

use crate::hub::Hub;

pub(crate) struct Reports {
    hub: Arc<Hub>,
    interval: Duration,
}

impl Reports {
    pub(crate) const fn new(hub: Arc<Hub>, interval: Duration) -> Self {
        Self { hub, interval }
    }
}

#[tonic::async_trait]
impl FleetService for Reports {
    type ReportStream = ReceiverStream<Result<ReportResponse, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let mut reports = request.into_inner();
        let (responses, outgoing) = mpsc::channel(1);
        let hub = self.hub.clone();
        let interval = prost_types_duration(self.interval);
        tokio::spawn(async move {
            let mut id = None;
            let _ = responses.send(Ok(ReportResponse { interval: Some(interval) })).await;
            while let Ok(Some(ReportRequest { node, generation, types, arms })) = reports.message().await {
                if let Some(node) = node.filter(|_| id.is_none()) {
                    id = Some(node.id);
                }
                let Some(id) = &id else {
                    let _ =
                        responses.send(Err(Status::invalid_argument("the first report has no node"))).await;
                    return;
                };
                let report = Report {
                    generation,
                    types: types.into_iter().map(|served| (served.type_url, served.version_info)).collect(),
                    arms: arms
                        .into_iter()
                        .map(|arm| {
                            let key = ArmKey { route: arm.route, arm: arm.arm, cluster: arm.cluster };
                            (key, ArmCounts { requests: arm.requests, failures: arm.failures })
                        })
                        .collect(),
                };
                tracing::debug!(node = id, generation, "reported");
                hub.report(id, report);
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

fn prost_types_duration(time: Duration) -> xds_proto::prost_types::Duration {
    time.try_into().unwrap_or_default()
}
