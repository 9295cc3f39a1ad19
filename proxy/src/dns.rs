//! Names of endpoints: looked up beside the workers, for as long as a cluster names them. What was found last stays until
//! something else is found.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use proxy_core::config::{
    Address, ClusterName, DnsOptions, DnsTargets, Endpoint, LoadAssignment, LocalityEndpoints, LookupFamily,
};
use rand::RngExt as _;
use tokio::task::AbortHandle;

use crate::controller::SharedController;

/// Records that say they last for no time are asked for again after this.
const LEAST_TTL: Duration = Duration::from_secs(1);

/// Looks names up for as long as the process lives.
pub(crate) async fn follow(controller: SharedController) {
    let changed = controller.borrow().changed();
    let mut running: HashMap<ClusterName, (Arc<DnsTargets>, AbortHandle)> = HashMap::new();
    loop {
        let wanted: HashMap<ClusterName, Arc<DnsTargets>> = {
            let controller = controller.borrow();
            let targets = controller.client.resources().dns_targets();
            targets.map(|(cluster, targets)| (cluster.clone(), targets.clone())).collect()
        };
        running.retain(|cluster, (targets, task)| {
            let stays = wanted.get(cluster).is_some_and(|wanted| wanted == targets);
            if !stays {
                task.abort();
            }
            stays
        });
        for (cluster, targets) in wanted {
            running.entry(cluster.clone()).or_insert_with(|| {
                let work = keep_resolved(controller.clone(), cluster, targets.clone());
                (targets, tokio::task::spawn_local(work).abort_handle())
            });
        }
        changed.notified().await;
    }
}

/// The endpoints that names have at this moment, for somebody who tries one after the other: a preference of one family is
/// none then. None of those that cannot be looked up.
pub(crate) async fn endpoints_now(targets: &DnsTargets) -> Vec<Endpoint> {
    let mut options = targets.options.clone();
    options.all_addresses = true;
    if matches!(options.family, LookupFamily::V6Preferred | LookupFamily::V4Preferred) {
        options.family = LookupFamily::All;
    }
    let Ok(resolver) = resolver(&options) else { return Vec::new() };
    let targets = &DnsTargets { options, ..targets.clone() };
    let mut known = Vec::new();
    for name in &targets.names {
        known.push(lookup(&resolver, name, targets.options.family).await.ok());
    }
    expanded(targets, &known).endpoints().cloned().collect()
}

/// What is known of one name.
#[derive(Debug, Clone, Default)]
struct Known {
    addresses: Vec<IpAddr>,
    /// How long the records say that they last.
    lasts: Option<Duration>,
}

async fn keep_resolved(controller: SharedController, cluster: ClusterName, targets: Arc<DnsTargets>) {
    let options = &targets.options;
    let resolver = match resolver(options) {
        Ok(resolver) => resolver,
        Err(error) => return tracing::error!(%cluster, %error, "names cannot be looked up"),
    };
    let mut known: Vec<Option<Known>> = vec![None; targets.names.len()];
    let mut last: Option<LoadAssignment> = None;
    let (least, most) = options.failure_refresh;
    let mut failures: u32 = 0;
    loop {
        let mut failed = None;
        for (name, known) in targets.names.iter().zip(&mut known) {
            match lookup(&resolver, name, options.family).await {
                Ok(found) => *known = Some(found),
                Err(error) => failed = Some(format!("{name}: {error}")),
            }
        }
        let assignment = expanded(&targets, &known);
        // An empty one as well the first time: the cluster need not wait for a name that nobody knows.
        // A cluster that was gone for a moment has lost what was found.
        let is_held = controller.borrow().client.resources().holds_resolved(&cluster);
        if last.as_ref() != Some(&assignment) || !is_held {
            controller.borrow_mut().receive_resolved(cluster.clone(), targets.clone(), assignment.clone());
            last = Some(assignment);
        }
        let pause = match &failed {
            Some(error) => {
                if failures == 0 {
                    tracing::warn!(%cluster, "{error}; what was found before stays");
                }
                failures = failures.saturating_add(1);
                least.saturating_mul(1 << (failures - 1).min(16)).min(most)
            }
            None => {
                failures = 0;
                let lasts = known.iter().flatten().filter_map(|known| known.lasts).min();
                lasts.filter(|_| options.respects_ttl).map_or(options.refresh, |lasts| lasts.max(LEAST_TTL))
            }
        };
        let jitter = options.jitter.mul_f64(rand::rng().random_range(0.0..1.0));
        tokio::time::sleep(pause + jitter).await;
    }
}

fn resolver(options: &DnsOptions) -> Result<TokioResolver, hickory_resolver::net::NetError> {
    let mut builder = match options.resolvers.as_slice() {
        [] => TokioResolver::builder_tokio()?,
        servers => {
            let server = |address: &SocketAddr| {
                let mut server = match options.tcp {
                    true => NameServerConfig::tcp(address.ip()),
                    false => NameServerConfig::udp_and_tcp(address.ip()),
                };
                server.connections.iter_mut().for_each(|connection| connection.port = address.port());
                server
            };
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let settings = builder.options_mut();
    settings.ip_strategy = match options.family {
        LookupFamily::V6Preferred => LookupIpStrategy::Ipv6thenIpv4,
        LookupFamily::V4Preferred => LookupIpStrategy::Ipv4thenIpv6,
        LookupFamily::V4 => LookupIpStrategy::Ipv4Only,
        LookupFamily::V6 => LookupIpStrategy::Ipv6Only,
        LookupFamily::All => LookupIpStrategy::Ipv4AndIpv6,
    };
    settings.timeout = options.query_timeout;
    settings.attempts = options.query_tries as usize;
    // How often is asked is the cluster's affair.
    settings.cache_size = 0;
    // It was looked at before.
    settings.use_hosts_file = ResolveHosts::Never;
    builder.build()
}

/// What the hosts file of the machine says of a name. Nobody is asked for the other family then, as with `files dns` in
/// nsswitch.conf: a name server that is away would keep a name waiting that is known.
fn in_hosts(name: &str, family: LookupFamily) -> Option<Known> {
    let hosts = Hosts::from_system().ok()?;
    let name = Name::from_str_relaxed(name).ok()?;
    let of_type = |kind: RecordType| {
        let found = hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let records = found.iter().flat_map(|found| found.answers());
        records.filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>()
    };
    let (v4, v6) = (|| of_type(RecordType::A), || of_type(RecordType::AAAA));
    let or = |first: Vec<IpAddr>, second: &dyn Fn() -> Vec<IpAddr>| {
        if first.is_empty() { second() } else { first }
    };
    let mut addresses = match family {
        LookupFamily::V4 => v4(),
        LookupFamily::V6 => v6(),
        LookupFamily::V4Preferred => or(v4(), &v6),
        LookupFamily::V6Preferred => or(v6(), &v4),
        LookupFamily::All => [v4(), v6()].concat(),
    };
    addresses.sort_unstable();
    addresses.dedup();
    (!addresses.is_empty()).then_some(Known { addresses, lasts: None })
}

async fn lookup(
    resolver: &TokioResolver,
    name: &str,
    family: LookupFamily,
) -> Result<Known, hickory_resolver::net::NetError> {
    if let Ok(address) = name.parse() {
        return Ok(Known { addresses: vec![address], lasts: None });
    }
    if let Some(known) = in_hosts(name, family) {
        return Ok(known);
    }
    let found = resolver.lookup_ip(name).await?;
    let mut addresses: Vec<IpAddr> = found.iter().collect();
    // Servers turn the order of their answers; the same addresses must give the same endpoints.
    addresses.sort_unstable();
    addresses.dedup();
    Ok(Known { addresses, lasts: Some(found.valid_until().saturating_duration_since(Instant::now())) })
}

/// The endpoints that the names have now.
fn expanded(targets: &DnsTargets, known: &[Option<Known>]) -> LoadAssignment {
    let DnsTargets { template, names, options } = targets;
    let mut places = names.iter().zip(known);
    let localities = template.localities.iter().map(|locality| {
        let endpoints = locality.endpoints.iter().flat_map(|endpoint| {
            let (name, known) = places.next().map_or(("", None), |(name, known)| (&**name, known.as_ref()));
            let most = if options.all_addresses { usize::MAX } else { 1 };
            let addresses = known.into_iter().flat_map(|known| known.addresses.iter().copied()).take(most);
            addresses.map(|address| at(endpoint, name, address)).collect::<Vec<_>>()
        });
        LocalityEndpoints { endpoints: endpoints.collect(), ..locality.clone() }
    });
    LoadAssignment { localities: localities.collect(), ..template.clone() }
}

fn at(endpoint: &Endpoint, name: &str, address: IpAddr) -> Endpoint {
    let port = match &endpoint.address {
        Address::Socket(template) => template.port(),
        Address::Pipe(_) => 0,
    };
    let hostname = if endpoint.hostname.is_empty() { name.into() } else { endpoint.hostname.clone() };
    Endpoint { address: Address::Socket(SocketAddr::new(address, port)), hostname, ..endpoint.clone() }
}
