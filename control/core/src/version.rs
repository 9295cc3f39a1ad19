//! Versions: every configuration that was ever served, immutable, each with its parent.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use crate::ir::Ir;

/// One configuration and how it came to be.
#[derive(Debug, Clone)]
pub struct Version {
    /// Counts up from 1.
    pub number: u64,
    /// The version it replaced.
    pub parent: Option<u64>,
    /// Who made it.
    pub author: String,
    /// When it was taken.
    pub time: SystemTime,
    /// Why.
    pub reason: String,
    /// What it says.
    pub ir: Arc<Ir>,
}

/// The versions of this control plane, the newest last.
#[derive(Debug, Default)]
pub struct History {
    versions: VecDeque<Arc<Version>>,
}

impl History {
    /// Versions that are kept.
    pub const LIMIT: usize = 256;

    /// Takes a configuration as the next version. `None`: it says the same as the current one.
    pub fn append(&mut self, ir: Ir, author: &str, reason: &str, time: SystemTime) -> Option<Arc<Version>> {
        let current = self.current();
        if current.is_some_and(|version| *version.ir == ir) {
            return None;
        }
        let version = Arc::new(Version {
            number: current.map_or(1, |v| v.number + 1),
            parent: current.map(|v| v.number),
            author: author.to_owned(),
            time,
            reason: reason.to_owned(),
            ir: Arc::new(ir),
        });
        if self.versions.len() == Self::LIMIT {
            self.versions.pop_front();
        }
        self.versions.push_back(version.clone());
        Some(version)
    }

    /// The newest version.
    pub fn current(&self) -> Option<&Arc<Version>> {
        self.versions.back()
    }

    /// All that are kept, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Version>> {
        self.versions.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Gateway;
    use proxy_core::config::Address;
    use std::collections::BTreeMap;

    fn ir(port: u16) -> Ir {
        let address = Address::Socket(([127, 0, 0, 1], port).into());
        Ir { gateway: Gateway { address, access_log: None }, hosts: vec![], backends: BTreeMap::new() }
    }

    #[test]
    fn versions_have_parents_and_do_not_repeat() {
        let mut history = History::default();
        let now = SystemTime::UNIX_EPOCH;
        assert_eq!(history.append(ir(1), "a", "first", now).expect("new").parent, None);
        assert!(history.append(ir(1), "a", "again", now).is_none());
        let second = history.append(ir(2), "b", "moved", now).expect("new");
        assert_eq!((second.number, second.parent), (2, Some(1)));
    }

    #[test]
    fn the_history_is_bounded() {
        let mut history = History::default();
        for port in 0..1_000 {
            history.append(ir(port), "a", "", SystemTime::UNIX_EPOCH);
        }
        assert_eq!(history.iter().count(), History::LIMIT);
        assert_eq!(history.current().expect("one").number, 1_000);
    }
}
