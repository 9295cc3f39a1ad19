//! The same counts under Envoy's names, for dashboards that ask for those. A series is here only where it means the same
//! as in Envoy; what is not counted is absent, never zero.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use proxy_core::breaker::{Priority, Resource};
use proxy_core::config::Standing;
use proxy_core::snapshot::Snapshot;

use super::cells::{ClusterCells, Counter, ListenerCells};
use super::histogram::Totals;
use super::registry::{CheckCounts, Registry};

/// What is asked of the process beside its counters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerState {
    pub(crate) uptime_seconds: u64,
    /// Envoy's number of the state: 0 live, 1 draining, 2 before and 3 during initialization.
    pub(crate) state: u64,
}

/// One series.
#[derive(Debug)]
pub(crate) struct Stat {
    /// `cluster`, `http`, `listener`, `server` and the like.
    group: &'static str,
    /// The instance, such as the cluster's name; empty for groups that have one only.
    instance: String,
    /// The name within the group, and in the Prometheus form without what became a label.
    name: String,
    prometheus: String,
    labels: Vec<(&'static str, String)>,
    value: u64,
    is_gauge: bool,
}

impl Stat {
    /// `cluster.shop.upstream_rq_total`
    pub(crate) fn full_name(&self) -> String {
        match self.instance.as_str() {
            "" => format!("{}.{}", self.group, self.name),
            instance => format!("{}.{instance}.{}", self.group, self.name),
        }
    }

    pub(crate) const fn value(&self) -> u64 {
        self.value
    }
}

struct Group<'a> {
    stats: &'a mut Vec<Stat>,
    group: &'static str,
    instance: String,
    labels: Vec<(&'static str, String)>,
}

impl Group<'_> {
    fn add(&mut self, name: &str, value: u64, is_gauge: bool) {
        self.stats.push(Stat {
            group: self.group,
            instance: self.instance.clone(),
            name: name.to_owned(),
            prometheus: name.to_owned(),
            labels: self.labels.clone(),
            value,
            is_gauge,
        });
    }

    fn counter(&mut self, name: &str, value: u64) {
        self.add(name, value, false);
    }

    fn gauge(&mut self, name: &str, value: u64) {
        self.add(name, value, true);
    }

    /// `upstream_rq_2xx`, which Prometheus knows as `upstream_rq_xx` with a label.
    fn classes(&mut self, prefix: &str, classes: [u64; 5]) {
        for (class, count) in (1..).zip(classes) {
            self.counter(&format!("{prefix}_{class}xx"), count);
            if let Some(stat) = self.stats.last_mut() {
                stat.prometheus = format!("{prefix}_xx");
                stat.labels.push(("envoy_response_code_class", class.to_string()));
            }
        }
    }
}

impl Registry {
    /// Every series, in no particular order.
    pub(crate) fn envoy_stats(&self, snapshot: &Snapshot, server: ServerState) -> Vec<Stat> {
        let mut stats = Vec::new();
        self.cluster_stats(snapshot, &mut stats);
        self.listener_stats(snapshot, &mut stats);
        self.server_stats(server, &mut stats);
        stats
    }

    fn cluster_stats(&self, snapshot: &Snapshot, stats: &mut Vec<Stat>) {
        let cells = self.clusters();
        let checks = self.health_checks();
        let mut by_cluster: BTreeMap<&str, [u64; 5]> = BTreeMap::new();
        let arms = self.arms();
        for (key, cells) in &arms {
            let classes = by_cluster.entry(key.cluster.as_str()).or_default();
            for cell in cells {
                classes.iter_mut().zip(&cell.classes).for_each(|(sum, count)| *sum += count.value());
            }
        }
        for (_, table) in snapshot.clusters() {
            let name = table.name.as_str();
            let sum = |figure: fn(&ClusterCells) -> &Counter| {
                cells.get(&table.name).into_iter().flatten().map(|cells| figure(cells).value()).sum()
            };
            let labels = vec![("envoy_cluster_name", name.to_owned())];
            let mut group = Group { stats, group: "cluster", instance: name.to_owned(), labels };
            let classes = by_cluster.get(name).copied().unwrap_or_default();
            group.classes("upstream_rq", classes);
            group.counter("upstream_rq_total", sum(|c| &c.sent));
            group.counter("upstream_rq_completed", classes.iter().sum());
            group.counter("lb_healthy_panic", sum(|c| &c.panics));
            group.counter("lb_subsets_fallback", sum(|c| &c.subset_fallbacks));
            group.counter("upstream_rq_pending_overflow", sum(|c| &c.pending_overflows));
            group.counter("upstream_rq_timeout", sum(|c| &c.timeouts));
            group.counter("upstream_cx_total", sum(|c| &c.connects));
            group.counter("upstream_cx_connect_fail", sum(|c| &c.connect_failures));
            group.counter("upstream_cx_connect_timeout", sum(|c| &c.connect_timeouts));
            group.counter("upstream_cx_overflow", sum(|c| &c.connection_overflows));
            let in_use =
                |resource| Priority::ALL.map(|p| u64::from(table.state.in_use(p, resource))).iter().sum();
            group.gauge("upstream_cx_active", in_use(Resource::Connections));
            group.gauge("upstream_rq_active", in_use(Resource::Requests));
            group.gauge("upstream_rq_pending_active", in_use(Resource::Pending));
            group.gauge("membership_total", table.endpoints.len() as u64);
            let of = |standing| table.endpoint_configs().filter(|e| e.standing() == standing).count() as u64;
            group.gauge("membership_healthy", of(Standing::Healthy));
            group.gauge("membership_degraded", of(Standing::Degraded));
            if let Some(CheckCounts { passed, failed }) = checks.get(&table.name).copied() {
                group.counter("health_check_attempt", passed + failed);
                group.counter("health_check_success", passed);
                group.counter("health_check_failure", failed);
                group.gauge("health_check_healthy", of(Standing::Healthy) + of(Standing::Degraded));
            }
            for priority in Priority::ALL {
                for (resource, short) in [
                    (Resource::Connections, "cx"),
                    (Resource::Pending, "rq_pending"),
                    (Resource::Requests, "rq"),
                    (Resource::Retries, "rq_retry"),
                ] {
                    let limit = table.thresholds.of(priority).limit(resource);
                    let left = limit.saturating_sub(table.state.in_use(priority, resource));
                    let prefix = format!("circuit_breakers.{}", priority.as_str());
                    group.gauge(&format!("{prefix}.{short}_open"), u64::from(left == 0));
                    let remaining = match resource {
                        Resource::Connections => "remaining_cx",
                        Resource::Pending => "remaining_pending",
                        Resource::Requests => "remaining_rq",
                        Resource::Retries => "remaining_retries",
                    };
                    group.gauge(&format!("{prefix}.{remaining}"), u64::from(left));
                }
            }
        }
    }

    fn listener_stats(&self, snapshot: &Snapshot, stats: &mut Vec<Stat>) {
        let addresses: BTreeMap<_, _> =
            snapshot.listeners().map(|(_, listener)| (&listener.name, &listener.address)).collect();
        let listeners = self.listeners();
        // Several listeners may share a prefix, and then share its series.
        let mut by_prefix: BTreeMap<&str, (u64, [u64; 5], u64, u64)> = BTreeMap::new();
        let mut tcp: BTreeMap<&str, [u64; 6]> = BTreeMap::new();
        for (key, cells) in &listeners {
            let sum =
                |figure: fn(&ListenerCells) -> &Counter| cells.iter().map(|c| figure(c).value()).sum::<u64>();
            let (opened, closed) = (sum(|c| &c.connections_opened), sum(|c| &c.connections_closed));
            let refused = sum(|c| &c.connections_refused);
            if sum(|c| &c.tcp.connections) > 0 {
                let figures: [fn(&ListenerCells) -> &Counter; 6] = [
                    |c| &c.tcp.connections,
                    |c| &c.tcp.received,
                    |c| &c.tcp.sent,
                    |c| &c.tcp.no_route,
                    |c| &c.tcp.idle_timeouts,
                    |c| &c.tcp.lifetimes,
                ];
                let sums = tcp.entry(&key.stat_prefix).or_default();
                sums.iter_mut().zip(figures).for_each(|(total, figure)| *total += sum(figure));
            } else {
                let (requests, classes, cx_total, cx_active) = by_prefix.entry(&key.stat_prefix).or_default();
                *requests += sum(|c| &c.requests);
                for (class, total) in classes.iter_mut().enumerate() {
                    *total += cells.iter().map(|c| c.classes[class].value()).sum::<u64>();
                }
                *cx_total += opened;
                *cx_active += opened.saturating_sub(closed);
            }
            let Some(address) = addresses.get(&key.listener) else { continue };
            let address = address.to_string().replace(':', "_");
            let labels = vec![("envoy_listener_address", address.clone())];
            let mut group = Group { stats, group: "listener", instance: address, labels };
            group.counter("downstream_cx_total", opened);
            group.gauge("downstream_cx_active", opened.saturating_sub(closed));
            group.counter("downstream_cx_overflow", refused);
        }
        self.route_updates(snapshot, stats);
        for (prefix, sums) in tcp {
            let labels = vec![("envoy_tcp_prefix", prefix.to_owned())];
            let mut group = Group { stats, group: "tcp", instance: prefix.to_owned(), labels };
            let names = [
                "downstream_cx_total",
                "downstream_cx_rx_bytes_total",
                "downstream_cx_tx_bytes_total",
                "downstream_cx_no_route",
                "idle_timeout",
                "max_downstream_connection_duration",
            ];
            names.into_iter().zip(sums).for_each(|(name, sum)| group.counter(name, sum));
        }
        for (prefix, (requests, classes, cx_total, cx_active)) in by_prefix {
            let labels = vec![("envoy_http_conn_manager_prefix", prefix.to_owned())];
            let mut group = Group { stats, group: "http", instance: prefix.to_owned(), labels };
            group.counter("downstream_rq_total", requests);
            group.classes("downstream_rq", classes);
            group.counter("downstream_cx_total", cx_total);
            group.gauge("downstream_cx_active", cx_active);
        }
    }

    /// Updates of route configurations, by the listener that they serve.
    fn route_updates(&self, snapshot: &Snapshot, stats: &mut Vec<Stat>) {
        self.xds(|counts| {
            for chain in snapshot.live_listeners().flat_map(|(_, listener)| &listener.chains) {
                let name = chain.routes.config.name.as_str();
                let Some((accepted, rejected)) = counts.routes.get(name) else { continue };
                let prefix = chain.http.stat_prefix.to_string();
                let labels = vec![
                    ("envoy_http_conn_manager_prefix", prefix.clone()),
                    ("envoy_rds_route_config", name.to_owned()),
                ];
                let mut group = Group { stats, group: "http", instance: prefix, labels };
                for (figure, count) in [("update_success", accepted), ("update_rejected", rejected)] {
                    group.counter(&format!("rds.{name}.{figure}"), *count);
                    if let Some(stat) = group.stats.last_mut() {
                        stat.prometheus = format!("rds_{figure}");
                    }
                }
            }
        });
    }

    fn server_stats(&self, server: ServerState, stats: &mut Vec<Stat>) {
        let mut group = Group { stats, group: "server", instance: String::new(), labels: Vec::new() };
        group.gauge("concurrency", self.workers.len() as u64);
        group.gauge("live", u64::from(server.state == 0));
        group.gauge("state", server.state);
        group.gauge("uptime", server.uptime_seconds);
        let connections =
            self.total(|w| w.connections_opened.value().saturating_sub(w.connections_closed.value()));
        group.gauge("total_connections", connections);
        if let Some(days) = self.certificate_days().into_iter().map(|(_, days)| days).min() {
            group.gauge("days_until_first_cert_expiring", days);
        }
        let connected = u64::from(self.xds_connected.load(Ordering::Relaxed));
        Group { group: "control_plane", ..group }.gauge("connected_state", connected);
        self.xds(|counts| {
            for (kind, group, prefix) in
                [("Cluster", "cluster_manager", "cds"), ("Listener", "listener_manager", "lds")]
            {
                let of = |map: &BTreeMap<String, u64>| map.get(kind).copied();
                let (accepted, rejected) = (of(&counts.accepted), of(&counts.rejected));
                if accepted.is_none() && rejected.is_none() {
                    continue;
                }
                let mut group = Group { stats, group, instance: String::new(), labels: Vec::new() };
                group.counter(&format!("{prefix}.update_success"), accepted.unwrap_or(0));
                group.counter(&format!("{prefix}.update_rejected"), rejected.unwrap_or(0));
            }
        });
    }

    /// The Prometheus text form.
    pub(crate) fn envoy_prometheus(&self, stats: &[&Stat]) -> String {
        let mut families: BTreeMap<String, Vec<&Stat>> = BTreeMap::new();
        for stat in stats {
            let name = format!("envoy_{}_{}", stat.group, stat.prometheus).replace(['.', '-'], "_");
            families.entry(name).or_default().push(stat);
        }
        let mut page = String::new();
        for (name, stats) in families {
            let kind = if stats.iter().all(|stat| stat.is_gauge) { "gauge" } else { "counter" };
            let _ = writeln!(page, "# TYPE {name} {kind}");
            for stat in stats {
                let _ = writeln!(page, "{name}{} {}", labels(&stat.labels, None), stat.value);
            }
        }
        self.durations(&mut page);
        page
    }

    /// `envoy_cluster_upstream_rq_time` and `envoy_http_downstream_rq_time`, in milliseconds.
    fn durations(&self, page: &mut String) {
        let mut by_cluster: BTreeMap<String, Totals> = BTreeMap::new();
        for (cluster, cells) in &self.clusters() {
            let totals = by_cluster.entry(cluster.to_string()).or_default();
            cells.iter().for_each(|cell| cell.duration.add_to(totals));
        }
        histogram("envoy_cluster_upstream_rq_time", "envoy_cluster_name", &by_cluster, page);
        let mut by_prefix: BTreeMap<String, Totals> = BTreeMap::new();
        for (key, cells) in &self.listeners() {
            let totals = by_prefix.entry(key.stat_prefix.to_string()).or_default();
            cells.iter().for_each(|cell| cell.duration.add_to(totals));
        }
        histogram("envoy_http_downstream_rq_time", "envoy_http_conn_manager_prefix", &by_prefix, page);
    }
}

/// The bounds of Envoy's histograms, in microseconds.
const BOUNDS: [u64; 19] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

fn histogram(name: &str, label: &'static str, series: &BTreeMap<String, Totals>, page: &mut String) {
    if !series.is_empty() {
        let _ = writeln!(page, "# TYPE {name} histogram");
    }
    for (instance, totals) in series {
        let own = [(label, instance.clone())];
        for micros in BOUNDS {
            let bound = (micros as f64 / 1e3).to_string();
            let _ = writeln!(page, "{name}_bucket{} {}", labels(&own, Some(&bound)), totals.below(micros));
        }
        let count = totals.count();
        let _ = writeln!(page, "{name}_bucket{} {count}", labels(&own, Some("+Inf")));
        let _ = writeln!(page, "{name}_sum{} {}", labels(&own, None), totals.sum_seconds() * 1e3);
        let _ = writeln!(page, "{name}_count{} {count}", labels(&own, None));
    }
}

fn labels(labels: &[(&'static str, String)], bound: Option<&str>) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let mut all: Vec<_> =
        labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    all.extend(bound.map(|bound| format!("le=\"{bound}\"")));
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}
