//! From a saved file to moved traffic: one weight changes among many routes, under one control plane, with each proxy that is
//! installed and each form of the stream.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::loader::Loader;
use crate::process::{self, Launch, OTHER_CORE, PROXY_CORE};
use crate::workload::Workload;

/// How often, among how many.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Changes of weight; each moves all traffic of a route.
    #[arg(long, default_value_t = 20)]
    flips: u32,
    /// Routes in all.
    #[arg(long, default_value_t = 10)]
    routes: usize,
    /// Gateways that share them; each has a route configuration of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=200))]
    gateways: u16,
    /// Routes in one `HTTPRoute`.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    per_resource: u16,
    /// Send as many requests as go through, meanwhile.
    #[arg(long)]
    load: bool,
}

/// What is kept in the file.
#[derive(Debug)]
pub(crate) struct Shop {
    pub(crate) routes: usize,
    pub(crate) gateways: u16,
    pub(crate) per_resource: u16,
    /// Of the last route, instead of its own.
    pub(crate) path: Option<&'static str>,
}

/// Where the gateway is whose route changes. The others are behind it.
const PROXY: u16 = 18_230;
const XDS: u16 = 18_221;
const HTTP: u16 = 18_222;
const ADMIN: u16 = 18_223;
/// How long a change may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let control = process::build("control", "weir-control")?;
    let weir = process::build("proxy", "weir-proxy")?;
    let envoy = std::env::var_os("ENVOY").map(PathBuf::from).or_else(|| process::find("envoy"));
    println!(
        "{} flips of one weight among {} routes on {} gateways, ms from the saved file to the first answer of the other arm",
        flags.flips, flags.routes, flags.gateways
    );
    println!("\n| proxy | form | median | worst | failed |\n|---|---|---|---|---|");
    for form in ["GRPC", "DELTA_GRPC"] {
        for (name, program) in [("weir", Some(&weir)), ("envoy", envoy.as_ref())] {
            let Some(program) = program else { continue };
            let (mut times, failed) = measure(flags, &control, name, program, form)?;
            times.sort_unstable();
            let median = times.get(times.len() / 2).copied().unwrap_or_default();
            let worst = times.last().copied().unwrap_or_default();
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            println!("| {name} | {form} | {:.1} | {:.1} | {failed} |", ms(median), ms(worst));
        }
    }
    Ok(())
}

fn measure(
    flags: &Flags,
    control: &Path,
    name: &str,
    program: &Path,
    form: &str,
) -> Result<(Vec<Duration>, u32)> {
    let folder = tempfile::tempdir()?;
    let Flags { routes, gateways, per_resource, load, .. } = *flags;
    let at = |name: &str| folder.path().join(name);
    let backends = [backend("v1")?, backend("v2")?];
    std::fs::write(
        at("control.yaml"),
        format!("xds: 127.0.0.1:{XDS}\nhttp: 127.0.0.1:{HTTP}\nsource: shop.yaml\n"),
    )?;
    std::fs::write(at("bootstrap.yaml"), bootstrap(form, XDS, ADMIN, gateways > 1))?;
    let shop = Shop { routes, gateways, per_resource, path: load.then_some("/") };
    save(&at("shop.yaml"), &shop, backends, 0)?;
    let launch = |program: &Path, arguments: &[&str]| Launch {
        program: program.to_owned(),
        arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
    };
    let (control_file, bootstrap_file) =
        (at("control.yaml").display().to_string(), at("bootstrap.yaml").display().to_string());
    let _plane = launch(control, &["--config", &control_file, "--log-level", "error"]).start(OTHER_CORE)?;
    process::wait_for_port(XDS)?;
    let arguments: &[&str] = match name {
        "weir" => &["--log-level", "error", "--drain-time-s", "0", "--drain-wait-s", "0"],
        _ => &["--log-level", "error", "--disable-hot-restart"],
    };
    let proxy = launch(program, &[&["-c", &bootstrap_file, "--concurrency", "1"], arguments].concat());
    let _proxy = proxy.start(PROXY_CORE)?;
    process::wait_for_port(PROXY)?;
    // The last of the routes: nothing is found before it.
    let path = shop.path.map_or_else(|| format!("/route-{}", routes - 1), str::to_owned);
    let mut client = Client::connect()?;
    let mut failed = 0;
    client.wait_for("v1", &path, &mut failed)?;
    failed = 0;
    let mut times = Vec::new();
    let seconds = 3 + u64::from(flags.flips) / 10;
    let cores = OTHER_CORE.to_string();
    let loading = load.then(|| {
        let loader = Loader::find(folder.path());
        std::thread::spawn(move || loader.run(PROXY, Workload::W1, seconds, &cores))
    });
    if load {
        std::thread::sleep(Duration::from_secs(1));
    }
    for flip in 1..=flags.flips {
        let arm = (flip % 2) as usize;
        save(&at("shop.yaml"), &shop, backends, arm)?;
        let saved = Instant::now();
        client.wait_for(["v1", "v2"][arm], &path, &mut failed)?;
        times.push(saved.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    if let Some(loading) = loading {
        let load = loading.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
        println!(
            "{name}, {form}: {} requests in {seconds} s beside it, {} failed",
            load.requests, load.errors
        );
    }
    Ok((times, failed))
}

/// A connection that stays open.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect() -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PROXY))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Asks until this arm answers; answers that are not 200 are counted.
    fn wait_for(&mut self, arm: &str, path: &str, failed: &mut u32) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let Ok((status, body)) = self.get(path) else {
                // A connection has its number of requests.
                *self = Self::connect()?;
                continue;
            };
            if status != 200 {
                *failed += 1;
            } else if body == arm {
                return Ok(());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        bail!("{arm} never answered")
    }

    fn get(&mut self, path: &str) -> Result<(u16, String)> {
        write!(self.0.get_mut(), "GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n")?;
        let (mut status, mut length) = (0, 0);
        let mut line = String::new();
        loop {
            line.clear();
            ensure!(self.0.read_line(&mut line)? > 0, "the connection is over");
            let text = line.trim_end().to_ascii_lowercase();
            if let Some(rest) = text.strip_prefix("http/1.1 ") {
                status = rest.get(..3).context("no status")?.parse()?;
            } else if let Some(rest) = text.strip_prefix("content-length:") {
                length = rest.trim().parse()?;
            } else if text.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

/// A backend that answers with its name. It ends with the process.
fn backend(name: &'static str) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                let mut reader = BufReader::new(stream);
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
                    if line.trim_end().is_empty() {
                        let answer =
                            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
                        if reader.get_mut().write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                    line.clear();
                }
            });
        }
    });
    Ok(port)
}

/// Routes of which the last leads to one of two arms, and all others to the first.
pub(crate) fn save(file: &Path, shop: &Shop, backends: [u16; 2], arm: usize) -> Result<()> {
    let mut text = String::new();
    let gateways = usize::from(shop.gateways);
    if gateways > 1 {
        for (i, port) in (PROXY..).take(gateways).enumerate() {
            writeln!(
                text,
                "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: g{i} }}\nspec:\n  gatewayClassName: weir\n  addresses: [ {{ value: 127.0.0.1 }} ]\n  listeners: [ {{ name: http, protocol: HTTP, port: {port} }} ]\n---"
            )?;
        }
    }
    let all: Vec<usize> = (0..shop.routes).collect();
    for (i, chunk) in all.chunks(shop.per_resource.into()).rev().enumerate() {
        writeln!(
            text,
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: shop-{} }}\nspec:",
            chunk[0]
        )?;
        if gateways > 1 {
            writeln!(text, "  parentRefs: [ {{ name: g{} }} ]", i % gateways)?;
        }
        writeln!(text, "  rules:")?;
        for route in chunk {
            let second = if *route + 1 == shop.routes { arm as u32 * 100 } else { 0 };
            let own = format!("/route-{route}");
            let path = shop.path.filter(|_| *route + 1 == shop.routes).unwrap_or(&own);
            writeln!(text, "  - matches: [ {{ path: {{ value: {path} }} }} ]")?;
            let first = 100 - second;
            writeln!(
                text,
                "    backendRefs: [ {{ name: v1, weight: {first} }}, {{ name: v2, weight: {second} }} ]"
            )?;
        }
        text.push_str("---\n");
    }
    for (name, port) in ["v1", "v2"].into_iter().zip(backends) {
        writeln!(
            text,
            "apiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{ name: {name} }}\nspec: {{ endpoints: [ {{ address: \"127.0.0.1:{port}\" }} ] }}\n---"
        )?;
    }
    replace(file, &text)
}

/// Puts a file in its place in one step.
pub(crate) fn replace(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(new, file)?;
    Ok(())
}

/// With a listener of its own, or with all that there are.
pub(crate) fn bootstrap(form: &str, xds: u16, admin: u16, has_gateways: bool) -> String {
    let listeners = if has_gateways { "  lds_config: { resource_api_version: V3, ads: {} }" } else { "" };
    let own = if has_gateways { String::new() } else { own_listener() };
    format!(
        "node: {{ id: bench, cluster: bench }}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {admin} }} }} }}
dynamic_resources:
  ads_config: {{ api_type: {form}, transport_api_version: V3, grpc_services: [ {{ envoy_grpc: {{ cluster_name: control }} }} ] }}
  cds_config: {{ resource_api_version: V3, ads: {{}} }}
{listeners}
static_resources:
  clusters:
  - name: control
    typed_extension_protocol_options: {{ envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{ \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {{ http2_protocol_options: {{}} }} }} }}
    load_assignment: {{ cluster_name: control, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {xds} }} }} }} }} ] }} ] }}
{own}"
    )
}

fn own_listener() -> String {
    format!(
        "  listeners:
  - name: own
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {PROXY} }} }}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: own
          rds: {{ route_config_name: weir, config_source: {{ resource_api_version: V3, ads: {{}} }} }}
          http_filters: [ {{ name: router, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }} ]
"
    )
}
