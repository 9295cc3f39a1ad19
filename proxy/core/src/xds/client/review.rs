//! A response between being read and being answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use xds_proto::gate::IgnoredField;
use xds_proto::type_url;

use super::{Origin, rejection};
use crate::config::Config;
use crate::xds::kind::Kind;
use crate::xds::{Rejection, Resources};

/// A response that was looked at and not yet answered. Whoever opens sockets and compiles may still refuse parts of it.
#[derive(Debug)]
pub struct Review {
    /// Where it came from; the client itself where unset.
    pub(super) origin: Option<Origin>,
    pub(super) type_url: String,
    pub(super) kind: Option<Kind>,
    pub(super) version: String,
    pub(super) nonce: String,
    pub(super) candidate: Resources,
    pub(super) config: Config,
    pub(super) rejections: Vec<Rejection>,
    pub(super) refused_whole: bool,
    pub(super) ignored: BTreeSet<IgnoredField>,
    /// When what it brought is gone again, by name.
    pub(super) expiries: BTreeMap<String, Option<Instant>>,
}

impl Review {
    /// What will be served if nobody objects.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// All resources that will be held if nobody objects.
    pub const fn resources(&self) -> &Resources {
        &self.candidate
    }

    /// Refuses a listener that cannot be opened; the one that it would replace stays.
    pub fn refuse_listener(&mut self, current: &Resources, name: &str, reason: String) {
        self.candidate.restore_listener(name, current);
        self.rejections.push(rejection(type_url::LISTENER, Some(name), reason));
        self.config = self.candidate.settle();
    }

    /// Refuses a cluster that cannot be used; the one that it would replace stays.
    pub fn refuse_cluster(&mut self, current: &Resources, name: &str, reason: String) {
        self.candidate.restore_cluster(name, current);
        self.rejections.push(rejection(type_url::CLUSTER, Some(name), reason));
        self.config = self.candidate.settle();
    }

    /// Refuses a secret that cannot be used; the one that it would replace stays.
    pub fn refuse_secret(&mut self, current: &Resources, name: &str, reason: String) {
        self.candidate.restore_secret(name, current);
        self.rejections.push(rejection(type_url::SECRET, Some(name), reason));
        self.config = self.candidate.settle();
    }

    /// Refuses the response as a whole: what is served, and held, stays as it is in `current`.
    pub fn refuse_whole(&mut self, current: &Resources, reason: String) {
        self.config = current.config();
        self.refuse(reason);
    }

    /// Whether the response brought a resource that is not held yet as it is.
    pub fn brings(&self, current: &Resources, type_url: &str, name: &str) -> bool {
        let Some(kind) = Kind::of(type_url) else { return false };
        match (self.candidate.raw(kind, name), current.raw(kind, name)) {
            (Some(new), Some(old)) => !Arc::ptr_eq(new, old),
            (new, _) => new.is_some(),
        }
    }

    pub(super) fn refuse(&mut self, reason: String) {
        self.refused_whole = true;
        self.rejections.push(rejection(&self.type_url, None, reason));
    }

    /// What the client has found out itself.
    pub(super) fn own(mut candidate: Resources, type_url: &str) -> Self {
        let config = candidate.settle();
        Self {
            origin: None,
            kind: None,
            type_url: type_url.to_owned(),
            version: String::new(),
            nonce: String::new(),
            candidate,
            config,
            rejections: Vec::new(),
            refused_whole: false,
            ignored: BTreeSet::new(),
            expiries: BTreeMap::new(),
        }
    }
}
