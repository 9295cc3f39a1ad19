//! The API over gRPC, as a program uses it.

use std::time::Duration;

use control::{ControlConfig, ControlPlane};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request};
use xds_proto::envoy::config::core::v3::Node;
use xds_proto::weir::control::v1::control_service_client::ControlServiceClient;
use xds_proto::weir::control::v1::{
    ApplyRequest, FlowEventsRequest, FlowRule, InstanceRequest, ListRequest, Registration, ResourceRequest,
    WatchRequest,
};
use xds_proto::weir::fleet::v1::fleet_service_client::FleetServiceClient;
use xds_proto::weir::fleet::v1::{ArmCounts, ReportRequest};

const BACKEND: &str = "apiVersion: weir.dev/v1\nkind: Backend\nmetadata: { name: v1 }\nspec: { endpoints: [{ address: 127.0.0.1:1 }] }\n";

struct Plane {
    plane: ControlPlane,
    channel: Channel,
    _folder: tempfile::TempDir,
}

impl Plane {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("control.yaml");
        std::fs::write(&file, "xds: 127.0.0.1:0\nhttp: 127.0.0.1:0\nstore: memory\n").expect("written");
        let config = ControlConfig::from_file(&file).expect("valid");
        let started = tokio::task::spawn_blocking(|| ControlPlane::start(config));
        let plane = started.await.expect("no panic").expect("it starts");
        let at = format!("http://{}", plane.xds);
        let channel = Channel::from_shared(at).expect("an address").connect().await.expect("connected");
        Self { plane, channel, _folder: folder }
    }

    fn client(&self) -> ControlServiceClient<Channel> {
        ControlServiceClient::new(self.channel.clone())
    }

    /// A call of the admin's.
    fn call<T>(&self, message: T) -> Request<T> {
        let token = self.plane.token.as_deref().expect("the first start");
        let value: MetadataValue<_> = format!("Bearer {token}").parse().expect("text");
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", value);
        request
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        assert!(self.plane.status().refusal.is_none());
    }
}

fn of(kind: &str, name: &str) -> ResourceRequest {
    ResourceRequest { kind: kind.to_owned(), name: name.to_owned(), ..ResourceRequest::default() }
}

#[tokio::test]
async fn resources_are_those_of_rest_and_so_are_refusals() {
    let plane = Plane::start().await;
    let mut client = plane.client();
    let nobody = client.get(of("Backend", "v1")).await.expect_err("no token");
    assert_eq!(nobody.code(), Code::Unauthenticated, "{nobody}");
    let mut changes = client.watch(plane.call(WatchRequest { from: 0 })).await.expect("watched").into_inner();

    let apply =
        |documents: &str, dry_run| plane.call(ApplyRequest { documents: documents.to_owned(), dry_run });
    let dry = client.apply(apply(BACKEND, true)).await.expect("fine").into_inner();
    assert_eq!((dry.version, dry.changes.len()), (1, 1));
    let missing = client.get(plane.call(of("Backend", "v1"))).await.expect_err("nothing was done");
    assert_eq!((missing.code(), missing.message()), (Code::NotFound, "there is no Backend v1"));
    let done = client.apply(apply(BACKEND, false)).await.expect("applied").into_inner();
    assert_eq!((done.version, &*done.changes[0]), (1, "Backend v1: created"));
    let change = changes.message().await.expect("a stream").expect("a change");
    assert_eq!((change.version, &*change.action, &*change.name), (1, "created", "v1"));
    assert!(change.json.contains("127.0.0.1:1"));

    let wrong = client.apply(apply(&BACKEND.replace("address", "adress"), false)).await.expect_err("unknown");
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert!(wrong.message().contains("did you mean"), "{wrong}");
    let path = client.get(plane.call(of("Backend", "../v1"))).await.expect_err("no name");
    assert_eq!(path.code(), Code::InvalidArgument);
    let list = ListRequest { kind: "Backend".to_owned(), namespace: "_".to_owned() };
    assert_eq!(client.list(plane.call(list)).await.expect("listed").into_inner().items.len(), 1);
    let stale = ResourceRequest { expected_version: 7, ..of("Backend", "v1") };
    let stale = client.delete(plane.call(stale)).await.expect_err("another version");
    assert_eq!(stale.code(), Code::FailedPrecondition, "{stale}");
    client.delete(plane.call(of("Backend", "v1"))).await.expect("deleted");
    assert_eq!(changes.message().await.expect("a stream").expect("a change").action, "deleted");
}

#[tokio::test]
async fn flow_rules_are_pushed_and_what_they_did_comes_back() {
    let plane = Plane::start().await;
    let mut client = plane.client();
    let rule = FlowRule {
        name: "stop".to_owned(),
        r#match: [("x-device".to_owned(), "old".to_owned())].into(),
        action: "drop".to_owned(),
        priority: 5,
        ..FlowRule::default()
    };
    let pushed = client.push_flow_rule(plane.call(rule.clone())).await.expect("taken").into_inner();
    assert_eq!(pushed.changes, ["FlowRule stop: created"]);
    let refused = FlowRule { action: "explode".to_owned(), ..rule };
    let refused = client.push_flow_rule(plane.call(refused)).await.expect_err("no action");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");

    let events = client.flow_events(plane.call(FlowEventsRequest {})).await.expect("followed");
    let mut events = events.into_inner();
    let arm = |route: &str, requests| ArmCounts { route: route.to_owned(), requests, ..ArmCounts::default() };
    let report = ReportRequest {
        node: Some(Node { id: "p1".to_owned(), ..Node::default() }),
        generation: 1,
        arms: vec![arm("weir/*/shop/0", 9), arm("weir/*/flow/stop", 3), arm("weir/*/flow/unknown", 4)],
        ..ReportRequest::default()
    };
    let mut fleet = FleetServiceClient::new(plane.channel.clone());
    let stream = tokio_stream::StreamExt::chain(tokio_stream::once(report), tokio_stream::pending());
    let _reports = fleet.report(stream).await.expect("taken");
    let event = tokio::time::timeout(Duration::from_secs(20), events.message()).await.expect("in time");
    let event = event.expect("a stream").expect("an event");
    assert_eq!((&*event.rule, &*event.namespace, &*event.node, event.requests), ("stop", "default", "p1", 3));
}

#[tokio::test]
async fn instances_register_and_must_say_that_they_are_there() {
    let plane = Plane::start().await;
    let mut client = plane.client();
    let instance =
        InstanceRequest { service: "shop".to_owned(), id: "a".to_owned(), ..InstanceRequest::default() };
    let gone = client.heartbeat(plane.call(instance.clone())).await.expect_err("never registered");
    assert_eq!(gone.code(), Code::NotFound);
    let registration = Registration {
        instance: Some(instance.clone()),
        address: "127.0.0.1:80".to_owned(),
        weight: 30,
        ..Registration::default()
    };
    client.register(plane.call(registration)).await.expect("registered");
    client.heartbeat(plane.call(instance.clone())).await.expect("it is there");
    client.deregister(plane.call(instance.clone())).await.expect("it goes");
    assert_eq!(client.heartbeat(plane.call(instance)).await.expect_err("gone").code(), Code::NotFound);
}

#[tokio::test]
async fn changes_that_are_no_longer_known_must_be_listed() {
    let plane = Plane::start().await;
    let mut client = plane.client();
    // More versions than are kept in memory.
    for port in 1..=1_030 {
        let documents = BACKEND.replace("127.0.0.1:1", &format!("127.0.0.1:{port}"));
        client.apply(plane.call(ApplyRequest { documents, dry_run: false })).await.expect("applied");
    }
    let gone = client.watch(plane.call(WatchRequest { from: 2 })).await.expect_err("too long ago");
    assert_eq!(gone.code(), Code::OutOfRange, "{gone}");
    assert!(gone.message().contains("list, then watch"), "{gone}");
    let list = ListRequest { kind: "Backend".to_owned(), ..ListRequest::default() };
    let listed = client.list(plane.call(list)).await.expect("listed").into_inner();
    let watched = client.watch(plane.call(WatchRequest { from: listed.version })).await;
    assert!(watched.is_ok(), "from there it goes on");
}
