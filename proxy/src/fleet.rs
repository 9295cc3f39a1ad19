//! Tells the control plane what is served, and what came of it (`weir.fleet.v1`). An ACK says that a configuration was read;
//! this says that every worker serves it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;
use xds_proto::weir::fleet::v1::fleet_service_client::FleetServiceClient;
use xds_proto::weir::fleet::v1::{ArmCounts, ReportRequest, ReportResponse, ServedType};

use crate::controller::{Controller, SharedController};
use crate::xds::Channel;

/// The shortest interval that a control plane can set.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(3_600);
/// Snapshots whose origin is remembered: more are not under way at once.
const MAX_PENDING: usize = 1_024;

/// What each snapshot was made of, from the one that is served on.
#[derive(Debug, Default)]
pub(crate) struct Origins(VecDeque<(u64, Vec<ServedType>)>);

impl Origins {
    /// The snapshot of this generation says what these versions say.
    pub(crate) fn note(&mut self, generation: u64, versions: Vec<(&'static str, String)>) {
        let served = |(type_url, version): (&str, String)| ServedType {
            type_url: type_url.to_owned(),
            version_info: version,
        };
        let types = versions.into_iter().map(served).collect();
        match self.0.back_mut() {
            Some((last, known)) if *last == generation => *known = types,
            _ => {
                if self.0.len() == MAX_PENDING {
                    self.0.pop_front();
                }
                self.0.push_back((generation, types));
            }
        }
    }

    /// What is served by workers that are all at this generation or beyond.
    fn served(&mut self, generation: u64) -> Option<&(u64, Vec<ServedType>)> {
        while self.0.get(1).is_some_and(|(next, _)| *next <= generation) {
            self.0.pop_front();
        }
        self.0.front().filter(|(first, _)| *first <= generation)
    }
}

/// What was counted for each arm when it was told last, on whichever stream.
#[derive(Debug, Default)]
pub(crate) struct Counted(HashMap<[String; 3], ArmCounts>);

impl Counted {
    /// What came since then; nothing of an arm of which nothing came.
    fn since(&mut self, now: ArmCounts) -> Option<ArmCounts> {
        let key = [now.route.clone(), now.arm.clone(), now.cluster.clone()];
        let before = self.0.insert(key, now.clone()).unwrap_or_default();
        let requests = now.requests.saturating_sub(before.requests);
        let failures = now.failures.saturating_sub(before.failures);
        (requests > 0 || failures > 0).then_some(ArmCounts { requests, failures, ..now })
    }
}

/// Reports for as long as the stream of configuration lasts; nothing where the control plane does not take reports.
pub(crate) async fn report(controller: SharedController, channel: Channel) {
    let origin = channel.origin();
    let (requests, outgoing) = mpsc::unbounded_channel();
    let mut reporter = Reporter { controller, node_sent: false, told: None };
    if let Some(report) = reporter.report(true) {
        drop(requests.send(report));
    }
    let mut client = FleetServiceClient::with_origin(channel, origin);
    let mut responses = match client.report(UnboundedReceiverStream::new(outgoing)).await {
        Ok(responses) => responses.into_inner(),
        Err(status) => return tracing::debug!(%status, "the control plane takes no reports"),
    };
    let mut interval = None;
    let mut next = tokio::time::Instant::now();
    let adopted = reporter.controller.borrow().adopted.clone();
    let changed = reporter.controller.borrow().changed();
    loop {
        tokio::select! {
            response = responses.message() => match response {
                Ok(Some(ReportResponse { interval: Some(wanted) })) => {
                    let wanted = Duration::try_from(wanted).unwrap_or(LONGEST).clamp(SHORTEST, LONGEST);
                    interval = Some(wanted);
                    next = tokio::time::Instant::now() + wanted;
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(status) if status.code() == Code::Unimplemented => return,
                Err(status) => return tracing::debug!(%status, "reports to the control plane ended"),
            },
            () = tokio::time::sleep_until(next), if interval.is_some() => {}
            () = adopted.notified() => {}
            () = changed.notified() => {}
        }
        let now = tokio::time::Instant::now();
        if let Some(report) = reporter.report(interval.is_some() && now >= next) {
            if requests.send(report).is_err() {
                return;
            }
            next = now + interval.unwrap_or(LONGEST);
        }
    }
}

struct Reporter {
    controller: SharedController,
    node_sent: bool,
    /// What is served, as it was told last.
    told: Option<(u64, Vec<ServedType>)>,
}

impl Reporter {
    /// What there is to say: at once where something else is served, and whenever it `is_due`.
    fn report(&mut self, is_due: bool) -> Option<ReportRequest> {
        let mut controller = self.controller.borrow_mut();
        let generation = controller.registry.served_generation();
        let served = controller.origins.served(generation).cloned();
        if !is_due && served == self.told {
            return None;
        }
        self.told.clone_from(&served);
        let (generation, types) = served.unwrap_or_default();
        let Controller { registry, counted, .. } = &mut *controller;
        let arms = registry.arm_counts().filter_map(|now| counted.since(now)).collect();
        let node = (!std::mem::replace(&mut self.node_sent, true)).then(|| controller.node.clone());
        Some(ReportRequest { node, generation, types, arms })
    }
}
