//! Circuit breakers: limits on what goes on at once in a cluster, over all workers
//! (`envoy.config.cluster.v3.CircuitBreakers`), and windows over the outcomes of its last calls.

mod window;

use std::sync::atomic::{AtomicU32, Ordering};

pub use window::{Pass, Window, WindowOptions, WindowState};

/// Which of a cluster's two sets of limits a request counts against (`RouteAction.priority`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Most requests.
    #[default]
    Default,
    /// Requests with limits of their own, so that they get through when the others do not.
    High,
}

impl Priority {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Default, Self::High];

    /// As xDS and metrics spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::High => "high",
        }
    }
}

/// The limits of one priority. Envoy's defaults where unset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Connections to all endpoints together.
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// Requests under way.
    pub requests: u32,
    /// Retries under way.
    pub retries: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { connections: 1024, pending: 1024, requests: 1024, retries: 3 }
    }
}

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Connections.
    Connections,
    /// Requests that wait for a connection.
    Pending,
    /// Requests under way.
    Requests,
    /// Retries under way.
    Retries,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Connections, Self::Pending, Self::Requests, Self::Retries];

    /// As metrics spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Pending => "pending_requests",
            Self::Requests => "requests",
            Self::Retries => "retries",
        }
    }
}

impl Thresholds {
    /// The limit on a resource.
    pub const fn limit(&self, resource: Resource) -> u32 {
        match resource {
            Resource::Connections => self.connections,
            Resource::Pending => self.pending,
            Resource::Requests => self.requests,
            Resource::Retries => self.retries,
        }
    }
}

/// What goes on in a cluster. Outlives snapshots; a new snapshot's limits hold for what starts under it.
#[derive(Debug, Default)]
pub struct ClusterState {
    default: Gauges,
    high: Gauges,
}

/// Each on a cache line of its own: all workers write them.
#[derive(Debug, Default)]
struct Gauges {
    connections: Padded,
    pending: Padded,
    requests: Padded,
    retries: Padded,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Padded(AtomicU32);

impl ClusterState {
    fn gauge(&self, priority: Priority, resource: Resource) -> &AtomicU32 {
        let gauges = match priority {
            Priority::Default => &self.default,
            Priority::High => &self.high,
        };
        match resource {
            Resource::Connections => &gauges.connections.0,
            Resource::Pending => &gauges.pending.0,
            Resource::Requests => &gauges.requests.0,
            Resource::Retries => &gauges.retries.0,
        }
    }

    /// How many there are at the moment.
    pub fn in_use(&self, priority: Priority, resource: Resource) -> u32 {
        self.gauge(priority, resource).load(Ordering::Relaxed)
    }

    /// Takes one, unless the limit is reached. Cost: one atomic addition, and another where it is refused.
    #[must_use]
    pub fn try_take(&self, priority: Priority, resource: Resource, thresholds: &Thresholds) -> bool {
        let gauge = self.gauge(priority, resource);
        if gauge.fetch_add(1, Ordering::Relaxed) < thresholds.limit(resource) {
            return true;
        }
        gauge.fetch_sub(1, Ordering::Relaxed);
        false
    }

    /// Takes one whatever the limit: each worker may hold one connection to each endpoint, or it could starve.
    pub fn take(&self, priority: Priority, resource: Resource) {
        self.gauge(priority, resource).fetch_add(1, Ordering::Relaxed);
    }

    /// Gives back what [`ClusterState::try_take`] or [`ClusterState::take`] took.
    pub fn give_back(&self, priority: Priority, resource: Resource) {
        self.gauge(priority, resource).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_admits_exactly_so_many_at_once() {
        let state = ClusterState::default();
        let limits = Thresholds { requests: 2, ..Thresholds::default() };
        let take = || state.try_take(Priority::Default, Resource::Requests, &limits);
        assert_eq!([take(), take(), take(), take()], [true, true, false, false]);
        state.give_back(Priority::Default, Resource::Requests);
        assert_eq!([take(), take()], [true, false]);
        assert_eq!(state.in_use(Priority::Default, Resource::Requests), 2);
    }

    #[test]
    fn priorities_and_resources_do_not_share() {
        let state = ClusterState::default();
        let limits = Thresholds { connections: 1, pending: 1, requests: 1, retries: 1 };
        for priority in Priority::ALL {
            for resource in Resource::ALL {
                assert!(state.try_take(priority, resource, &limits), "{priority:?} {resource:?}");
                assert!(!state.try_take(priority, resource, &limits), "{priority:?} {resource:?}");
            }
        }
    }

    #[test]
    fn a_limit_of_zero_admits_nothing() {
        let limits = Thresholds { requests: 0, ..Thresholds::default() };
        assert!(!ClusterState::default().try_take(Priority::Default, Resource::Requests, &limits));
    }
}
