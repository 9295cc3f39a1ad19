//! Parts of a cluster by the labels of endpoints (`lb_subset_config`).

use std::collections::HashMap;

use super::choices::Choices;
use super::level::{self, Numbers};
use crate::config::{Balancing, Endpoint, Labels, LoadAssignment, SubsetFallback};

/// The choices of a cluster and of each of its subsets.
#[derive(Debug, Default)]
pub struct SubsetChoices {
    /// Among all endpoints.
    pub all: Choices,
    subsets: Option<Box<Parts>>,
}

#[derive(Debug)]
struct Parts {
    by_labels: HashMap<Labels, Choices>,
    default: Choices,
    nobody: Choices,
    config: std::sync::Arc<crate::config::Subsets>,
}

/// Which choices a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Among all endpoints; no subset was asked for, or the cluster has none.
    All,
    /// In the subset that was asked for.
    Subset,
    /// In what stands in for it.
    Fallback,
}

impl SubsetChoices {
    /// Compiles them.
    pub fn new(assignment: &LoadAssignment, balancing: &Balancing) -> Self {
        let mut numbers = Numbers::new();
        let all = level::choices(assignment, balancing, &mut numbers, |_| true);
        let subsets = balancing.subsets.as_ref().map(|config| {
            let mut by_labels: HashMap<Labels, Choices> = HashMap::new();
            for endpoint in assignment.endpoints() {
                for selector in &config.selectors {
                    let Some(labels) = picked(&endpoint.labels, &selector.keys) else { continue };
                    by_labels.entry(labels).or_insert_with_key(|labels| {
                        level::choices(assignment, balancing, &mut numbers, |endpoint| fits(endpoint, labels))
                    });
                }
            }
            let default = level::choices(assignment, balancing, &mut numbers, |endpoint| {
                fits(endpoint, &config.default)
            });
            Box::new(Parts { by_labels, default, nobody: Choices::default(), config: config.clone() })
        });
        Self { all, subsets }
    }

    /// The choices for a request that wants endpoints with `labels`. Cost: nothing where the cluster has no subsets; else a
    /// hash of the labels.
    pub fn of(&self, labels: Option<&Labels>) -> (&Choices, Way) {
        let Some(parts) = &self.subsets else { return (&self.all, Way::All) };
        let (choices, way) = match labels {
            None => (self.fallback(parts, &parts.config.fallback, None), Way::Fallback),
            // A subset whose endpoints are all unwell is that subset still, as in Envoy.
            Some(labels) => match parts.by_labels.get(labels) {
                Some(choices) => (Some(choices), Way::Subset),
                None => {
                    let mut selectors = parts.config.selectors.iter();
                    let selector = selectors.find(|selector| selector.keys.iter().eq(labels.keys()));
                    let own = selector.and_then(|selector| selector.fallback.as_ref());
                    (self.fallback(parts, own.unwrap_or(&parts.config.fallback), Some(labels)), Way::Fallback)
                }
            },
        };
        match choices {
            Some(choices) if !choices.is_empty() => (choices, way),
            _ if parts.config.panic_mode_any => (&self.all, Way::Fallback),
            Some(choices) => (choices, way),
            None => (&parts.nobody, Way::Fallback),
        }
    }

    fn fallback<'a>(
        &'a self,
        parts: &'a Parts,
        fallback: &SubsetFallback,
        labels: Option<&Labels>,
    ) -> Option<&'a Choices> {
        match fallback {
            SubsetFallback::None => None,
            SubsetFallback::Any => Some(&self.all),
            SubsetFallback::Default => Some(&parts.default),
            SubsetFallback::Keys(keys) => {
                let fewer = picked(labels?, keys)?;
                parts.by_labels.get(&fewer).or_else(|| {
                    // The smaller selector may have a way out of its own.
                    let mut selectors = parts.config.selectors.iter();
                    let selector = selectors.find(|selector| selector.keys == *keys)?;
                    match selector.fallback.as_ref().unwrap_or(&parts.config.fallback) {
                        SubsetFallback::Keys(_) | SubsetFallback::None => None,
                        other => self.fallback(parts, other, None),
                    }
                })
            }
        }
    }
}

/// The labels of these keys, if all are there.
fn picked(labels: &Labels, keys: &[Box<str>]) -> Option<Labels> {
    keys.iter().map(|key| Some((key.clone(), labels.get(key)?.clone()))).collect()
}

fn fits(endpoint: &Endpoint, labels: &Labels) -> bool {
    labels.iter().all(|(key, value)| endpoint.labels.get(key) == Some(value))
}
