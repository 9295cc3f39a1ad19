//! `/metrics`: the native families in the Prometheus text form.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use proxy_core::breaker::{Priority, Resource};
use proxy_core::config::Standing;
use proxy_core::snapshot::Snapshot;

use super::cells::{Carried, ClusterCells, Counter};
use super::histogram::Totals;
use super::registry::{CheckCounts, Registry};
use crate::accepted::Refusal;
use crate::forward::Reason;

impl Registry {
    /// The whole page. Nothing is computed before somebody asks.
    pub(crate) fn render(self: &Arc<Self>, snapshot: &Arc<Snapshot>) -> String {
        let mut families = prometheus_client::registry::Registry::default();
        families.register_collector(Box::new(Families(self.clone(), snapshot.clone())));
        let mut page = String::new();
        if encode(&mut page, &families).is_err() {
            tracing::error!("the metrics page could not be written");
        }
        page
    }
}

/// Values of the label `code_class`.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

#[derive(Debug)]
struct Families(Arc<Registry>, Arc<Snapshot>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.requests(&mut encoder)?;
        self.durations(&mut encoder)?;
        self.failures(&mut encoder)?;
        self.spilled(&mut encoder)?;
        self.carried(&mut encoder)?;
        self.grpc(&mut encoder)?;
        self.clusters(&mut encoder)?;
        self.endpoints(&mut encoder)?;
        self.listeners(&mut encoder)?;
        self.breakers(&mut encoder)?;
        self.tls(&mut encoder)?;
        self.xds(&mut encoder)?;
        let registry = &self.0;
        let refused = registry.listeners();
        let refused = refused.values().flatten().map(|cells| cells.connections_refused.value()).sum();
        let totals: [(&str, &str, u64); 12] = [
            (
                "weir_downstream_connections",
                "Connections accepted from clients",
                registry.total(|w| w.connections_opened.value()),
            ),
            (
                "weir_downstream_connections_refused",
                "Connections closed at once: too many in all, or from one source",
                refused,
            ),
            ("weir_faults_delayed", "Requests held up on purpose", registry.total(|w| w.delays.value())),
            ("weir_faults_aborted", "Requests refused on purpose", registry.total(|w| w.aborts.value())),
            (
                "weir_upstream_connections",
                "Connections opened to endpoints",
                registry.total(|w| w.upstream_connects.value()),
            ),
            (
                "weir_upstream_connection_failures",
                "Connections to endpoints that could not be opened",
                registry.total(|w| w.upstream_connect_failures.value()),
            ),
            (
                "weir_upstream_connection_reuses",
                "Requests that found an open connection",
                registry.total(|w| w.upstream_reuses.value()),
            ),
            (
                "weir_access_log_lines_dropped",
                "Access-log lines lost because the file was too slow",
                registry.total(|w| w.log_lines_dropped.value()),
            ),
            (
                "weir_worker_stalls",
                "Times that a worker did not come back to its event loop for a second",
                registry.worker_stalls.load(Ordering::Relaxed),
            ),
            (
                "weir_metric_series_overflowed",
                "Arms that are counted under the label overflow, as there are too many",
                registry.overflowed.load(Ordering::Relaxed),
            ),
            (
                "weir_http2_floods",
                "HTTP/2 connections ended for what their clients sent beside requests",
                registry.total(|w| w.http2_floods.value()),
            ),
            ("weir_panics", "Connections ended by a bug of the proxy", registry.total(|w| w.panics.value())),
        ];
        for (name, help, value) in totals {
            ConstCounter::new(value).encode(encoder.encode_descriptor(
                name,
                help,
                None,
                MetricType::Counter,
            )?)?;
        }
        let active =
            registry.total(|w| w.connections_opened.value().saturating_sub(w.connections_closed.value()));
        let gauges: [(&str, &str, u64); 4] = [
            ("weir_downstream_connections_active", "Connections open from clients", active),
            (
                "weir_snapshot_generation",
                "Number of the configuration snapshot that is served",
                registry.generation(),
            ),
            (
                "weir_xds_connected",
                "Whether the stream to the control plane is open",
                u64::from(registry.xds_connected.load(Ordering::Relaxed)),
            ),
            (
                "weir_xds_stale",
                "Whether what is served was kept from an earlier process, as no control plane has answered yet",
                u64::from(registry.xds_stale.load(Ordering::Relaxed)),
            ),
        ];
        for (name, help, value) in gauges {
            ConstGauge::new(value).encode(encoder.encode_descriptor(
                name,
                help,
                None,
                MetricType::Gauge,
            )?)?;
        }
        Ok(())
    }
}

impl Families {
    fn requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Responses by route, arm, cluster and class of status";
        let mut family = encoder.encode_descriptor("weir_requests", help, None, MetricType::Counter)?;
        self.0.arms().iter().try_for_each(|(key, cells)| {
            for (class, name) in CLASSES.into_iter().enumerate() {
                let count: u64 = cells.iter().map(|c| c.classes[class].value()).sum();
                if count > 0 {
                    let route = key.route.to_string();
                    let labels = [
                        ("route", route.as_str()),
                        ("arm", key.arm.as_str()),
                        ("cluster", key.cluster.as_str()),
                        ("code_class", name),
                    ];
                    ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
                }
            }
            Ok(())
        })
    }

    fn durations(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Time from a request's first byte to its response's last, in seconds";
        let mut family =
            encoder.encode_descriptor("weir_request_duration_seconds", help, None, MetricType::Histogram)?;
        self.0.arms().iter().try_for_each(|(key, cells)| {
            let mut totals = Totals::default();
            cells.iter().for_each(|c| c.duration.add_to(&mut totals));
            let buckets = totals.prometheus_buckets();
            let count = buckets.iter().map(|(_, n)| n).sum();
            let route = key.route.to_string();
            let labels =
                [("route", route.as_str()), ("arm", key.arm.as_str()), ("cluster", key.cluster.as_str())];
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                totals.sum_seconds(),
                count,
                &buckets,
                None,
            )
        })
    }

    /// What TCP proxies have carried.
    fn carried(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        type Figure = (&'static str, fn(&Carried) -> u64);
        let families: [(&str, &str, &str, [Figure; 2]); 2] = [
            (
                "weir_tcp_connections",
                "Connections that were carried as they are, by route, arm and how they ended",
                "outcome",
                [("broken", |c| c.connections[0].value()), ("ended", |c| c.connections[1].value())],
            ),
            (
                "weir_tcp_bytes",
                "Bytes of those connections",
                "direction",
                [("received", |c| c.received.value()), ("sent", |c| c.sent.value())],
            ),
        ];
        for (name, help, kind, figures) in families {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (key, cells) in &self.0.arms() {
                let route = key.route.to_string();
                for (value, figure) in figures {
                    let count: u64 = cells.iter().filter_map(|cells| cells.carried()).map(figure).sum();
                    if count == 0 {
                        continue;
                    }
                    let labels = [
                        ("route", route.as_str()),
                        ("arm", key.arm.as_str()),
                        ("cluster", key.cluster.as_str()),
                        (kind, value),
                    ];
                    ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }

    fn spilled(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests that another arm took, as this one had no usable endpoint";
        let mut family =
            encoder.encode_descriptor("weir_spilled_requests", help, None, MetricType::Counter)?;
        self.0.arms().iter().try_for_each(|(key, cells)| {
            let count: u64 = cells.iter().map(|cell| cell.spilled.value()).sum();
            if count > 0 {
                let route = key.route.to_string();
                let labels =
                    [("route", route.as_str()), ("arm", key.arm.as_str()), ("cluster", key.cluster.as_str())];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
            Ok(())
        })
    }

    fn grpc(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Calls of gRPC by status";
        let mut family = encoder.encode_descriptor("weir_grpc_calls", help, None, MetricType::Counter)?;
        self.0.arms().iter().try_for_each(|(key, cells)| {
            let mut sums = [0; 17];
            for cell in cells {
                cell.grpc_calls().zip(&mut sums).for_each(|(count, sum)| *sum += count);
            }
            let route = key.route.to_string();
            for (status, count) in sums.into_iter().enumerate().filter(|(_, count)| *count > 0) {
                let status = status.to_string();
                let labels = [
                    ("route", route.as_str()),
                    ("arm", key.arm.as_str()),
                    ("cluster", key.cluster.as_str()),
                    ("grpc_status", status.as_str()),
                ];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
            Ok(())
        })
    }

    /// What is counted by cluster.
    fn clusters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        type Figure = (&'static str, &'static str, fn(&ClusterCells) -> &Counter);
        const FIGURES: [Figure; 8] = [
            ("weir_cluster_requests", "Requests sent to endpoints, repetitions included", |c| &c.sent),
            ("weir_cluster_connections", "Connections opened to endpoints", |c| &c.connects),
            ("weir_cluster_connection_failures", "Connections to endpoints that failed", |c| {
                &c.connect_failures
            }),
            ("weir_cluster_connection_timeouts", "Connections to endpoints that took too long", |c| {
                &c.connect_timeouts
            }),
            ("weir_cluster_response_timeouts", "Responses that took longer than their route allows", |c| {
                &c.timeouts
            }),
            ("weir_cluster_dropped_requests", "Requests refused on purpose (drop_overloads)", |c| &c.dropped),
            ("weir_cluster_subset_fallbacks", "Requests for which no subset fitted", |c| &c.subset_fallbacks),
            ("weir_cluster_panic_picks", "Requests that went to any endpoint, as too few were well", |c| {
                &c.panics
            }),
        ];
        let clusters = self.0.clusters();
        for (name, help, figure) in FIGURES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (cluster, cells) in &clusters {
                let count: u64 = cells.iter().map(|cell| figure(cell).value()).sum();
                ConstCounter::new(count).encode(family.encode_family(&[("cluster", cluster.as_str())])?)?;
            }
        }
        let help = "Requests refused by a circuit breaker, by its limit";
        let name = "weir_cluster_breaker_refusals";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (cluster, cells) in &clusters {
            let sum = |figure: fn(&ClusterCells) -> &Counter| cells.iter().map(|c| figure(c).value()).sum();
            let pending: u64 = sum(|c| &c.pending_overflows);
            for (limit, count) in [("requests", sum(|c| &c.request_overflows)), ("pending_requests", pending)]
            {
                let labels = [("cluster", cluster.as_str()), ("limit", limit)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn endpoints(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Breakers over the outcomes of a cluster's calls, by state";
        let mut family = encoder.encode_descriptor("weir_breaker_windows", help, None, MetricType::Gauge)?;
        for (cluster, counts) in self.0.breakers.states() {
            for (state, count) in ["closed", "open", "half_open"].into_iter().zip(counts) {
                let labels = [("cluster", cluster.as_str()), ("state", state)];
                ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Active health checks of a cluster's endpoints, by what came of them";
        let mut family =
            encoder.encode_descriptor("weir_cluster_health_checks", help, None, MetricType::Counter)?;
        for (cluster, CheckCounts { passed, failed }) in self.0.health_checks() {
            for (result, count) in [("passed", passed), ("failed", failed)] {
                let labels = [("cluster", cluster.as_str()), ("result", result)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Endpoints of a cluster by health";
        let mut family =
            encoder.encode_descriptor("weir_cluster_endpoints", help, None, MetricType::Gauge)?;
        for (_, table) in self.1.clusters() {
            let states = [
                ("healthy", Standing::Healthy),
                ("degraded", Standing::Degraded),
                ("failing", Standing::Failing),
                ("unhealthy", Standing::Unhealthy),
            ];
            for (word, standing) in states {
                let count = table.endpoint_configs().filter(|e| e.standing() == standing).count();
                let labels = [("cluster", table.name.as_str()), ("health", word)];
                ConstGauge::new(count as u64).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn listeners(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let listeners = self.0.listeners();
        let help = "Responses by listener and class of status, those without a route included";
        let mut family =
            encoder.encode_descriptor("weir_listener_requests", help, None, MetricType::Counter)?;
        for (key, cells) in &listeners {
            for (class, name) in CLASSES.into_iter().enumerate() {
                let count: u64 = cells.iter().map(|cell| cell.classes[class].value()).sum();
                if count > 0 {
                    let labels = [("listener", key.listener.as_str()), ("code_class", name)];
                    ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        let help = "Connections open from clients, by listener";
        let name = "weir_listener_connections_active";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (key, cells) in &listeners {
            let active: u64 = cells
                .iter()
                .map(|cell| cell.connections_opened.value().saturating_sub(cell.connections_closed.value()))
                .sum();
            ConstGauge::new(active).encode(family.encode_family(&[("listener", key.listener.as_str())])?)?;
        }
        Ok(())
    }

    fn tls(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let registry = &self.0;
        let help = "TLS handshakes with clients, by whether an earlier session was taken up";
        let mut family = encoder.encode_descriptor("weir_tls_handshakes", help, None, MetricType::Counter)?;
        let kinds = [
            ("full", registry.total(|w| w.handshakes_full.value())),
            ("resumed", registry.total(|w| w.handshakes_resumed.value())),
        ];
        for (kind, count) in kinds {
            ConstCounter::new(count).encode(family.encode_family(&[("kind", kind)])?)?;
        }
        let help = "Connections that never got to a request, by reason";
        let name = "weir_connections_turned_away";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for refusal in Refusal::ALL {
            let count = registry.total(|w| w.refused_connections[refusal as usize].value());
            ConstCounter::new(count).encode(family.encode_family(&[("reason", refusal.label())])?)?;
        }
        let help = "Files of keys and certificates that were read again, by whether they could be used";
        let mut family = encoder.encode_descriptor("weir_tls_reloads", help, None, MetricType::Counter)?;
        let results = [("taken", &registry.tls_reloads), ("refused", &registry.tls_reload_failures)];
        for (result, count) in results {
            let count = count.load(Ordering::Relaxed);
            ConstCounter::new(count).encode(family.encode_family(&[("result", result)])?)?;
        }
        let help = "Days for which a certificate that is shown holds still";
        let name = "weir_certificate_days_left";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (origin, days) in registry.certificate_days() {
            ConstGauge::new(days).encode(family.encode_family(&[("certificate", origin.as_str())])?)?;
        }
        Ok(())
    }

    /// What may still be taken, so that a limit is seen before it is reached.
    fn breakers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "What a cluster's circuit breakers still allow at once";
        let name = "weir_circuit_breaker_remaining";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (_, table) in self.1.clusters() {
            for priority in Priority::ALL {
                for resource in Resource::ALL {
                    let in_use = table.state.in_use(priority, resource);
                    let left = table.thresholds.of(priority).limit(resource).saturating_sub(in_use);
                    let labels = [
                        ("cluster", table.name.as_str()),
                        ("priority", priority.as_str()),
                        ("limit", resource.as_str()),
                    ];
                    ConstGauge::new(u64::from(left)).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }

    fn failures(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests that the proxy answered itself or could not finish, by reason";
        let mut family = encoder.encode_descriptor("weir_failures", help, None, MetricType::Counter)?;
        for reason in Reason::ALL {
            let count = self.0.total(|w| w.failures[reason].value());
            let labels = [("reason", reason.label()), ("flag", reason.flag())];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn xds(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.0.xds(|counts| {
            let help = "Responses of the control plane by type and result";
            let mut family =
                encoder.encode_descriptor("weir_xds_updates", help, None, MetricType::Counter)?;
            for (result, by_type) in [("accepted", &counts.accepted), ("rejected", &counts.rejected)] {
                for (kind, count) in by_type {
                    let labels = [("type", kind.as_str()), ("result", result)];
                    ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
                }
            }
            let help = "Resources that set a field which is accepted and not acted upon";
            let mut family =
                encoder.encode_descriptor("weir_xds_ignored_fields", help, None, MetricType::Counter)?;
            for ((message, field), count) in &counts.ignored {
                let labels = [("message", message.as_str()), ("field", field.as_str())];
                ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
            }
            Ok(())
        })
    }
}
