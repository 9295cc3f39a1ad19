//! One control plane and many proxies: a weight changes, and each of them is told.
//!
//! The proxies are streams of one process: they subscribe as a proxy does, acknowledge what they get, and serve nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use xds_proto::envoy::config::core::v3::Node;
use xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use xds_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use xds_proto::type_url;

use crate::process::{self, Launch, OTHER_CORE, PROXY_CORE, Running};
use crate::publish::{self, Shop};

/// How many of everything.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Simulated proxies.
    #[arg(long, default_value_t = 1_000)]
    proxies: usize,
    /// Changes of a weight.
    #[arg(long, default_value_t = 10)]
    changes: u32,
    /// Clusters, for the second part: how much one changed endpoint among them costs a real proxy.
    #[arg(long, default_value_t = 10_000)]
    clusters: usize,
}

const XDS: u16 = 18_241;
const HTTP: u16 = 18_242;
const ADMIN: u16 = 18_243;
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let control = process::build("control", "weir-control")?;
    let proxy = process::build("proxy", "weir-proxy")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(weights(flags, &control))?;
    runtime.block_on(endpoints(flags, &control, &proxy))
}

/// A weight changes: when has each proxy heard of it?
async fn weights(flags: &Flags, control: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("shop.yaml");
    let shop = Shop { routes: 10, gateways: 1, per_resource: 10, path: None };
    publish::save(&file, &shop, [1, 2], 0)?;
    let plane = start(control, folder.path())?;
    let alone = plane.pss()?;
    let (heard, mut hearing) = mpsc::unbounded_channel();
    let mut streams = Vec::new();
    for number in 0..flags.proxies {
        let heard = heard.clone();
        streams.push(tokio::spawn(async move {
            if let Err(error) = stream(number, heard).await {
                eprintln!("proxy {number}: {error:#}");
            }
        }));
    }
    let mut settled = Heard::default();
    settled.all(&mut hearing, flags.proxies, type_url::ROUTE_CONFIGURATION).await?;
    let each = plane.pss()?.saturating_sub(alone) / flags.proxies as u64;
    let mut times = Histogram::<u64>::new_with_max(60_000_000, 3)?;
    let mut cpu = Vec::new();
    for change in 1..=flags.changes {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let before = plane.cpu_ticks()?;
        publish::save(&file, &shop, [1, 2], change as usize % 2)?;
        let saved = Instant::now();
        let mut told = Heard::default();
        told.all(&mut hearing, flags.proxies, type_url::ROUTE_CONFIGURATION).await?;
        for at in told.at.values() {
            times.record(at.saturating_duration_since(saved).as_micros() as u64)?;
        }
        let after = plane.cpu_ticks()?;
        cpu.push((after.0 + after.1 - before.0 - before.1) * 10);
    }
    cpu.sort_unstable();
    let ms = |quantile: f64| times.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "{} proxies, {} changes of a weight, ms from the saved file to the response at a proxy\n\n\
         | median | p99 | worst | CPU of the control plane a change, ms | memory a proxy, KiB |\n|---|---|---|---|---|\n\
         | {:.0} | {:.0} | {:.0} | {} | {} |\n",
        flags.proxies,
        flags.changes,
        ms(0.5),
        ms(0.99),
        ms(1.0),
        cpu[cpu.len() / 2],
        each >> 10
    );
    streams.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(())
}

/// One endpoint changes among many clusters: what is sent, and what does it cost a proxy?
async fn endpoints(flags: &Flags, control: &Path, proxy: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("shop.yaml");
    save_clusters(&file, flags.clusters, 1)?;
    let _plane = start(control, folder.path())?;
    let bootstrap = folder.path().join("bootstrap.yaml");
    std::fs::write(&bootstrap, publish::bootstrap("DELTA_GRPC", XDS, ADMIN, true))?;
    let arguments = ["-c", &bootstrap.display().to_string(), "--concurrency", "1", "--log-level", "error"];
    let arguments = arguments.map(str::to_owned).into();
    let running = Launch { program: proxy.to_owned(), arguments }.start(PROXY_CORE)?;
    let (heard, mut hearing) = mpsc::unbounded_channel();
    let stream = tokio::spawn(stream(0, heard));
    let mut settled = Heard::default();
    settled.all(&mut hearing, 1, type_url::CLUSTER_LOAD_ASSIGNMENT).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    while hearing.try_recv().is_ok() {}
    let quiet = running.cpu_ticks()?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let changes: u16 = 20;
    let before = running.cpu_ticks()?;
    let mut sent = Vec::new();
    for change in 0..changes {
        save_clusters(&file, flags.clusters, 2 + change)?;
        let told = tokio::time::timeout(PATIENCE, hearing.recv()).await?.context("the stream ended")?;
        sent.push((told.type_url.rsplit('.').next().unwrap_or_default().to_owned(), told.resources));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let after = running.cpu_ticks()?;
    let ticks = |(user, system): (u64, u64)| (user + system) as f64 * 10.0;
    // What it does without any change, in as much time.
    let idle = ticks(before) - ticks(quiet);
    sent.sort();
    sent.dedup();
    println!(
        "{} clusters, {changes} changes of one endpoint: sent each time {sent:?}; CPU of a proxy a change {:.2} ms (idle in the \
         same time: {idle:.0} ms in all)",
        flags.clusters,
        (ticks(after) - ticks(before)) / f64::from(changes),
    );
    stream.abort();
    Ok(())
}

fn start(control: &Path, folder: &Path) -> Result<Running> {
    let config = folder.join("control.yaml");
    std::fs::write(&config, format!("xds: 127.0.0.1:{XDS}\nhttp: 127.0.0.1:{HTTP}\nsource: shop.yaml\n"))?;
    process::wait_for_free(XDS, Duration::from_secs(10))?;
    let arguments = ["--config", &config.display().to_string(), "--log-level", "error"];
    let plane = Launch { program: control.to_owned(), arguments: arguments.map(str::to_owned).into() };
    let plane = plane.start(OTHER_CORE)?;
    process::wait_for_port(XDS)?;
    Ok(plane)
}

/// Backends of which the last has another port each time.
fn save_clusters(file: &Path, clusters: usize, port: u16) -> Result<()> {
    use std::fmt::Write as _;
    let mut text = String::new();
    for i in 0..clusters {
        let port = if i + 1 == clusters { port } else { 1 };
        writeln!(
            text,
            "apiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{ name: b{i} }}\nspec: {{ endpoints: [ {{ address: \"127.0.0.1:{port}\" }} ] }}\n---"
        )?;
    }
    publish::replace(file, &text)
}

/// A response that a proxy got.
#[derive(Debug)]
struct Told {
    proxy: usize,
    type_url: String,
    resources: usize,
    at: Instant,
}

/// Who heard, and when.
#[derive(Debug, Default)]
struct Heard {
    at: BTreeMap<usize, Instant>,
}

impl Heard {
    /// Waits until every proxy has got something of a type.
    async fn all(
        &mut self,
        hearing: &mut mpsc::UnboundedReceiver<Told>,
        proxies: usize,
        of_type: &str,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.at.len() < proxies {
            let told = tokio::time::timeout_at(deadline.into(), hearing.recv());
            let told = told.await.with_context(|| format!("{} of {proxies} were told", self.at.len()))?;
            let told = told.context("no stream is left")?;
            if told.type_url == of_type {
                self.at.insert(told.proxy, told.at);
            }
        }
        Ok(())
    }
}

/// One proxy: a connection and a stream of its own.
async fn stream(number: usize, heard: mpsc::UnboundedSender<Told>) -> Result<()> {
    let channel = Endpoint::from_shared(format!("http://127.0.0.1:{XDS}"))?.connect().await?;
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let (requests, outgoing) = mpsc::channel(16);
    let node = Node {
        id: format!("proxy-{number}"),
        cluster: "bench".to_owned(),
        user_agent_name: "weir".to_owned(),
        ..Node::default()
    };
    let subscribe = |type_url: &str, names: &[&str]| DeltaDiscoveryRequest {
        node: Some(node.clone()),
        type_url: type_url.to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryRequest::default()
    };
    requests.send(subscribe(type_url::CLUSTER, &[])).await?;
    requests.send(subscribe(type_url::LISTENER, &[])).await?;
    let mut responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
    while let Some(DeltaDiscoveryResponse { type_url, nonce, resources, .. }) = responses.message().await? {
        let at = Instant::now();
        heard.send(Told { proxy: number, type_url: type_url.clone(), resources: resources.len(), at })?;
        let ack = DeltaDiscoveryRequest {
            type_url: type_url.clone(),
            response_nonce: nonce,
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(ack).await?;
        let names: Vec<&str> = resources.iter().map(|resource| resource.name.as_str()).collect();
        match type_url.as_str() {
            type_url::CLUSTER => {
                requests.send(subscribe(type_url::CLUSTER_LOAD_ASSIGNMENT, &names)).await?;
            }
            type_url::LISTENER => {
                requests.send(subscribe(type_url::ROUTE_CONFIGURATION, &names)).await?;
            }
            _ => {}
        }
    }
    ensure!(false, "the stream of proxy {number} ended");
    Ok(())
}
