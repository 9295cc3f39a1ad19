//! A minute in the life of a rollout: wrk through the proxy while the weights change 20 times a second; in the second
//! half the control plane is killed and started again.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::loader::Loader;
use crate::process::{self, Launch, OTHER_CORE, PROXY_CORE, Running};
use crate::workload::Workload;

/// How long, and how hard.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Seconds of load.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Changes a second.
    #[arg(long, default_value_t = 20)]
    changes: u32,
}

/// How long the control plane is gone.
const DOWN: Duration = Duration::from_secs(2);
const GATEWAY: u16 = 18_200;
const XDS: u16 = 18_201;
const HTTP: u16 = 18_202;
const ADMIN: u16 = 18_203;
const ORIGIN: u16 = 18_204;

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let (control, proxy) =
        (process::build("control", "weir-control")?, process::build("proxy", "weir-proxy")?);
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    std::fs::write(
        at("control.yaml"),
        format!(
            "xds: 127.0.0.1:{XDS}\nhttp: 127.0.0.1:{HTTP}\nsource: shop.yaml\ngateway: {{ port: {GATEWAY} }}\n"
        ),
    )?;
    std::fs::write(at("bootstrap.yaml"), bootstrap())?;
    write_weights(&at("shop.yaml"), 0)?;
    let launch = |program: &Path, arguments: &[&str]| Launch {
        program: program.to_owned(),
        arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
    };
    let (control_file, bootstrap_file) =
        (at("control.yaml").display().to_string(), at("bootstrap.yaml").display().to_string());
    let control = launch(&control, &["--config", &control_file, "--log-level", "error"]);
    let proxy = launch(
        &proxy,
        &["-c", &bootstrap_file, "--concurrency", "1", "--log-level", "error", "--drain-time-s", "1"],
    );
    let origin =
        launch(&std::env::current_exe()?, &["origin", &format!("127.0.0.1:{ORIGIN}")]).start(OTHER_CORE)?;
    process::wait_for_port(ORIGIN)?;
    let mut plane = Some(control.start(OTHER_CORE)?);
    let running = proxy.start(PROXY_CORE)?;
    process::wait_for_port(GATEWAY)?;

    let stop = AtomicBool::new(false);
    let started = Instant::now();
    let (load, changes) = std::thread::scope(|scope| {
        let changing = scope.spawn(|| change(&at("shop.yaml"), flags.changes, &stop));
        let killing = scope.spawn(|| -> Result<()> {
            std::thread::sleep(Duration::from_secs(flags.seconds / 2));
            plane.take().into_iter().for_each(Running::kill);
            std::thread::sleep(DOWN);
            plane = Some(control.start(OTHER_CORE)?);
            Ok(())
        });
        let load =
            Loader::find(folder.path()).run(GATEWAY, Workload::W1, flags.seconds, &OTHER_CORE.to_string());
        stop.store(true, Ordering::Relaxed);
        killing.join().expect("no panic")?;
        anyhow::Ok((load?, changing.join().expect("no panic")?))
    })?;
    let counts = arms()?;
    drop((running, plane, origin));

    let total: u64 = counts.iter().map(|(_, n)| n).sum();
    println!(
        "{} requests in {:.1} s, {} failed",
        load.requests,
        started.elapsed().as_secs_f64(),
        load.errors
    );
    println!(
        "{changes} changes of weights; the control plane was killed and started again after {} s",
        flags.seconds / 2
    );
    for (arm, count) in &counts {
        println!("  {arm}: {count}");
    }
    // v1 has 90 % in every version; the others share the rest in changing parts.
    let stable = counts.iter().find(|(arm, _)| arm == "v1").map_or(0, |(_, n)| *n);
    let off = stable as f64 - total as f64 * 0.9;
    println!("v1 should have {:.1} of {total}: {off:+.1}", total as f64 * 0.9);
    ensure!(load.errors == 0, "requests failed");
    Ok(())
}

/// Changes the weights until told to stop; how often it did.
fn change(file: &Path, changes: u32, stop: &AtomicBool) -> Result<u32> {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        write_weights(file, round)?;
        std::thread::sleep(Duration::from_secs(1) / changes);
    }
    Ok(round)
}

/// v1 keeps 90 of 100; v2 and v3 share 10, from 0/10 to 10/0.
fn write_weights(file: &Path, round: u32) -> Result<()> {
    let second = round % 11;
    let mut text = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: shop }\nspec:\n  rules:\n  - backendRefs:\n".to_owned();
    for (name, weight) in [("v1", 90), ("v2", second), ("v3", 10 - second)] {
        writeln!(text, "    - {{ name: {name}, weight: {weight} }}")?;
    }
    for name in ["v1", "v2", "v3"] {
        writeln!(
            text,
            "---\napiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{ name: {name} }}\nspec: {{ endpoints: [ {{ address: \"127.0.0.1:{ORIGIN}\" }} ] }}"
        )?;
    }
    let new = file.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(new, file)?;
    Ok(())
}

/// What the proxy counted for each arm.
fn arms() -> Result<Vec<(String, u64)>> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, ADMIN))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    let mut arms: Vec<(String, u64)> = Vec::new();
    for line in page.lines().filter(|l| l.starts_with("weir_requests_total{")) {
        let arm =
            line.split("arm=\"").nth(1).and_then(|rest| rest.split('"').next()).context("an odd line")?;
        let count: u64 = line.rsplit(' ').next().context("an odd line")?.parse()?;
        match arms.iter_mut().find(|(name, _)| name == arm) {
            Some((_, sum)) => *sum += count,
            None => arms.push((arm.to_owned(), count)),
        }
    }
    Ok(arms)
}

fn bootstrap() -> String {
    format!(
        "node: {{ id: soak }}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {ADMIN} }} }} }}
dynamic_resources:
  ads_config: {{ api_type: GRPC, transport_api_version: V3, grpc_services: [ {{ envoy_grpc: {{ cluster_name: control }} }} ] }}
  lds_config: {{ resource_api_version: V3, ads: {{}} }}
  cds_config: {{ resource_api_version: V3, ads: {{}} }}
static_resources:
  clusters:
  - name: control
    http2_protocol_options: {{}}
    load_assignment: {{ cluster_name: control, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {XDS} }} }} }} }} ] }} ] }}
"
    )
}
