//! W9: requests at a fixed rate on connections that stay, while all host routes are replaced from a file, several times.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::compare::peer;
use crate::compare::{LISTEN, ORIGINS};
use crate::process::{self, Launch, OTHER_CORE, PROXY_CORE, find_envoy};
use crate::workload::Workload;

/// How many routes, how often.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Virtual hosts, each with a route.
    #[arg(long, default_value_t = 10_000)]
    routes: usize,
    /// Requests a second on 64 connections.
    #[arg(long, default_value_t = 3_000)]
    rate: u64,
    /// Rounds; each measures every proxy once.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The weir-proxy binary; built from this workspace where unset.
    #[arg(long)]
    weir: Option<PathBuf>,
}

const CONNECTIONS: u64 = 64;
const REPLACEMENTS: usize = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// What one run of one proxy showed.
#[derive(Debug, Default)]
struct Outcome {
    requests: u64,
    errors: u64,
    closed: u64,
    /// Milliseconds from the renaming to the first answer by the new routes, for each replacement.
    first_new: Vec<f64>,
    /// The same to the last answer by the old ones.
    last_old: Vec<f64>,
    p999_micros: u64,
}

/// An answer: when it came, how long it took, and the number of the routes that gave it.
struct Answer {
    at: Instant,
    micros: u64,
    version: usize,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let weir = match &flags.weir {
        Some(path) => path.clone(),
        None => process::build("proxy", "weir-proxy")?,
    };
    let mut proxies = vec![(
        "weir",
        launch(&weir, folder.path(), &["--log-level", "error", "--drain-wait-s", "0", "--drain-time-s", "0"]),
    )];
    if let Some(envoy) = find_envoy() {
        proxies
            .push(("envoy", launch(&envoy, folder.path(), &["--disable-hot-restart", "--log-level", "off"])));
    }
    let origin = peer::origin(folder.path(), Workload::W1).start(OTHER_CORE)?;
    process::wait_for_port(ORIGINS[0])?;
    let mut all: Vec<Vec<Outcome>> = proxies.iter().map(|_| Vec::new()).collect();
    for round in 1..=flags.rounds {
        for ((name, launch), outcomes) in proxies.iter().zip(&mut all) {
            std::fs::write(folder.path().join("routes.json"), routes(flags.routes, 0))?;
            let running = launch.start(PROXY_CORE)?;
            process::wait_for_port(LISTEN)?;
            let outcome =
                measure(flags, folder.path()).with_context(|| format!("{name} in round {round}"))?;
            eprintln!("round {round}/{} {name:<8} {outcome:?}", flags.rounds);
            outcomes.push(outcome);
            drop(running);
            process::wait_for_free(LISTEN, Duration::from_secs(10))?;
        }
    }
    drop(origin);
    println!(
        "W9: {} host routes replaced {REPLACEMENTS} times under {} requests a second; medians of {} interleaved runs.\n",
        flags.routes, flags.rate, flags.rounds
    );
    println!(
        "| | requests | errors | connections closed | first new answer ms | last old answer ms | p99.9 ms |\n|---|---|---|---|---|---|---|"
    );
    for ((name, _), outcomes) in proxies.iter().zip(&all) {
        let sum = |figure: fn(&Outcome) -> u64| outcomes.iter().map(figure).sum::<u64>();
        let times =
            |figure: fn(&Outcome) -> &Vec<f64>| median(outcomes.iter().flat_map(figure).copied().collect());
        println!(
            "| {name} | {} | {} | {} | {:.0} | {:.0} | {:.2} |",
            sum(|o| o.requests),
            sum(|o| o.errors),
            sum(|o| o.closed),
            times(|o| &o.first_new),
            times(|o| &o.last_old),
            median(outcomes.iter().map(|o| o.p999_micros as f64 / 1e3).collect()),
        );
    }
    Ok(())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn launch(program: &Path, folder: &Path, more: &[&str]) -> Launch {
    let file = folder.join("replace.yaml");
    let config = format!(
        "node: {{ id: bench, cluster: bench }}
static_resources:
  listeners:
  - name: bench
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {LISTEN} }} }}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          http_filters:
          - name: router
            typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
          rds: {{ route_config_name: r, config_source: {{ path_config_source: {{ path: {}/routes.json }} }} }}
  clusters:
  - name: c
    connect_timeout: 1s
    load_assignment: {{ cluster_name: c, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }} ] }} ] }}
",
        folder.display(),
        ORIGINS[0]
    );
    let _ = std::fs::write(&file, config);
    let mut arguments =
        vec!["-c".to_owned(), file.display().to_string(), "--concurrency".to_owned(), "1".to_owned()];
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    Launch { program: program.to_owned(), arguments }
}

/// So many hosts, whose answers carry the version.
fn routes(count: usize, version: usize) -> String {
    let mut text = format!(
        "{{\"version_info\":\"{version}\",\"resources\":[{{\"@type\":\"type.googleapis.com/envoy.config.route.v3.RouteConfiguration\",\
         \"name\":\"r\",\"virtual_hosts\":["
    );
    for i in 0..count {
        let comma = if i > 0 { "," } else { "" };
        let _ = write!(
            text,
            "{comma}{{\"name\":\"h{i}\",\"domains\":[\"h{i}.example.com\"],\"routes\":[{{\"match\":{{\"prefix\":\"/\"}},\"route\":\
             {{\"cluster\":\"c\"}},\"response_headers_to_add\":[{{\"header\":{{\"key\":\"x-version\",\"value\":\"{version}\"}}}}]}}]}}"
        );
    }
    text.push_str("]}]}");
    text
}

fn measure(flags: &Flags, folder: &Path) -> Result<Outcome> {
    let path = folder.join("routes.json");
    let host = format!("h{}.example.com", flags.routes - 1);
    // Made before: writing them takes longer than serving them.
    let texts: Vec<_> = (1..=REPLACEMENTS).map(|version| routes(flags.routes, version)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        wait_for_routes(&host).await?;
        let start = Instant::now() + Duration::from_millis(50);
        let until = start + PAUSE * (REPLACEMENTS as u32 + 1);
        let interval = Duration::from_nanos(1_000_000_000 * CONNECTIONS / flags.rate);
        let tasks: Vec<_> = (0..CONNECTIONS)
            .map(|number| {
                let first = start + interval * number as u32 / CONNECTIONS as u32;
                tokio::spawn(connection(host.clone(), first, interval, until))
            })
            .collect();
        let mut replaced = Vec::new();
        for (version, text) in (1_u32..).zip(&texts) {
            let fresh = folder.join("fresh.json");
            std::fs::write(&fresh, text)?;
            tokio::time::sleep_until((start + PAUSE * version).into()).await;
            std::fs::rename(&fresh, &path)?;
            replaced.push(Instant::now());
        }
        let mut outcome = Outcome::default();
        let mut answers = Vec::new();
        for task in tasks {
            let (mut own, errors, closed) = task.await?;
            answers.append(&mut own);
            outcome.errors += errors;
            outcome.closed += closed;
        }
        outcome.requests = answers.len() as u64;
        for (number, at) in (1..).zip(&replaced) {
            let since = |answer: &Answer| answer.at.saturating_duration_since(*at).as_secs_f64() * 1e3;
            let new = answers.iter().filter(|answer| answer.version == number).map(since);
            outcome.first_new.push(new.fold(f64::INFINITY, f64::min));
            let old = answers.iter().filter(|answer| answer.version + 1 == number).map(since);
            outcome.last_old.push(old.fold(0.0, f64::max));
        }
        let mut latencies = Histogram::<u64>::new_with_max(60_000_000, 3)?;
        answers.iter().try_for_each(|answer| latencies.record(answer.micros.max(1)))?;
        outcome.p999_micros = latencies.value_at_quantile(0.999);
        Ok(outcome)
    })
}

/// The routes are served somewhat after the port is open.
async fn wait_for_routes(host: &str) -> Result<()> {
    for _ in 0..200 {
        let mut stream = TcpStream::connect(("127.0.0.1", LISTEN)).await?;
        if matches!(ask(&mut stream, host, &mut Vec::new()).await, Ok((200, _))) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("the routes are not served")
}

/// Asks at a fixed rate on one connection, which is opened again where it was closed.
async fn connection(
    host: String,
    first: Instant,
    interval: Duration,
    until: Instant,
) -> (Vec<Answer>, u64, u64) {
    let (mut answers, mut errors, mut closed) = (Vec::new(), 0, 0);
    let mut buffer = Vec::new();
    let mut stream = None;
    let mut due = first;
    while due < until {
        tokio::time::sleep_until(due.into()).await;
        let open = match stream.take() {
            Some(open) => open,
            None => match TcpStream::connect(("127.0.0.1", LISTEN)).await {
                Ok(open) => {
                    let _ = open.set_nodelay(true);
                    open
                }
                Err(_) => {
                    errors += 1;
                    due += interval;
                    continue;
                }
            },
        };
        let open = stream.insert(open);
        match ask(open, &host, &mut buffer).await {
            Ok((200, version)) => {
                let at = Instant::now();
                let micros = at.saturating_duration_since(due).as_micros() as u64;
                answers.push(Answer { at, micros, version });
            }
            Ok(_) => errors += 1,
            Err(_) => {
                (errors, closed) = (errors + 1, closed + 1);
                stream = None;
            }
        }
        due += interval;
    }
    (answers, errors, closed)
}

/// A request and its answer: the status and the version of the routes.
async fn ask(stream: &mut TcpStream, host: &str, buffer: &mut Vec<u8>) -> Result<(u16, usize)> {
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    buffer.clear();
    let head = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        ensure!(stream.read_buf(buffer).await? > 0, "closed");
    };
    let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<usize>().ok());
    let length = field("content-length:").unwrap_or(0);
    while buffer.len() < head + length {
        ensure!(stream.read_buf(buffer).await? > 0, "closed");
    }
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).context("a status")?;
    Ok((status, field("x-version:").unwrap_or(0)))
}
