//! How an endpoint of a cluster is picked.

use std::collections::BTreeSet;
use std::sync::Arc;

use xds_proto::envoy::config::cluster::v3::LoadBalancingPolicy;
use xds_proto::envoy::config::cluster::v3::cluster::common_lb_config::{
    LocalityConfigSpecifier, LocalityWeightedLbConfig,
};
use xds_proto::envoy::config::cluster::v3::cluster::lb_subset_config::lb_subset_selector::LbSubsetSelectorFallbackPolicy;
use xds_proto::envoy::config::cluster::v3::cluster::lb_subset_config::{
    LbSubsetFallbackPolicy, LbSubsetSelector,
};
use xds_proto::envoy::config::cluster::v3::cluster::{
    CommonLbConfig, LbConfig, LbPolicy as WirePolicy, LbSubsetConfig, LeastRequestLbConfig,
    RoundRobinLbConfig,
};
use xds_proto::envoy::config::cluster::v3::load_balancing_policy::Policy;
use xds_proto::envoy::config::core::v3::{RuntimeDouble, TypedExtensionConfig};
use xds_proto::envoy::extensions::load_balancing_policies as policies;
use xds_proto::envoy::extensions::load_balancing_policies::common::v3::LocalityLbConfig;
use xds_proto::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config as locality;
use xds_proto::envoy::r#type::v3::Percent;
use xds_proto::type_url;

use super::cluster::enum_value;
use super::fault::{At, Fault, Translated, each, required};
use super::{endpoint, unpack};
use crate::config::{Balancing, LbPolicy, SubsetFallback, SubsetSelector, Subsets};

/// The fields of a cluster that say how an endpoint is picked.
pub(super) struct Wire {
    pub(super) lb_policy: i32,
    pub(super) lb_config: Option<LbConfig>,
    pub(super) load_balancing_policy: Option<LoadBalancingPolicy>,
    pub(super) common: Option<CommonLbConfig>,
    pub(super) subsets: Option<LbSubsetConfig>,
}

/// Of a choice among two, Envoy's default.
const CHOICES: u32 = 2;

pub(super) fn balancing(wire: Wire) -> Translated<Balancing> {
    let Wire { lb_policy, lb_config, load_balancing_policy, common, subsets } = wire;
    let mut balancing = Balancing::default();
    if let Some(CommonLbConfig {
        healthy_panic_threshold,
        update_merge_window: _,
        locality_config_specifier,
    }) = common
    {
        // update_merge_window: ignorable, as every update is one swap
        if let Some(Percent { value }) = healthy_panic_threshold {
            if !(0.0..=100.0).contains(&value) {
                let at = "common_lb_config.healthy_panic_threshold";
                return Err(Fault::new(format!("{value} is not from 0 to 100")).under(at));
            }
            balancing.panic_threshold = Some(value);
        }
        if let Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {})) =
            locality_config_specifier
        {
            balancing.by_locality = true;
        }
    }
    match load_balancing_policy {
        Some(typed) => {
            typed_policy(typed, &mut balancing, 0).at("load_balancing_policy")?;
            if subsets.is_some() {
                return Err(Fault::new("cannot stand beside load_balancing_policy").under("lb_subset_config"));
            }
        }
        None => {
            let policy = enum_value(lb_policy).at("lb_policy")?;
            balancing.policy = plain_policy(policy, lb_config)?;
            if let Some(message) = subsets {
                let subsets = self::subsets(message, &mut balancing).at("lb_subset_config")?;
                balancing.subsets = subsets.map(Arc::new);
            }
        }
    }
    Ok(balancing)
}

fn plain_policy(policy: WirePolicy, config: Option<LbConfig>) -> Translated<LbPolicy> {
    match (policy, config) {
        (WirePolicy::RoundRobin, None | Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig {}))) => {
            Ok(LbPolicy::RoundRobin)
        }
        (WirePolicy::Random, None) => Ok(LbPolicy::Random),
        (WirePolicy::LeastRequest, None) => Ok(LbPolicy::LeastRequest { choices: CHOICES }),
        (WirePolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(config))) => {
            let LeastRequestLbConfig { choice_count, active_request_bias } = config;
            least_request(choice_count, active_request_bias).at("least_request_lb_config")
        }
        (WirePolicy::RoundRobin | WirePolicy::Random | WirePolicy::LeastRequest, Some(_)) => {
            Err(Fault::new(format!("{} has no such settings", policy.as_str_name())).under("lb_config"))
        }
        (WirePolicy::LoadBalancingPolicyConfig, _) => {
            Err(Fault::new("is required").under("load_balancing_policy"))
        }
        (WirePolicy::RingHash | WirePolicy::Maglev | WirePolicy::ClusterProvided, _) => {
            let reason = format!("{} is not supported by this version", policy.as_str_name());
            Err(Fault::new(reason).under("lb_policy"))
        }
    }
}

fn least_request(choices: Option<u32>, bias: Option<RuntimeDouble>) -> Translated<LbPolicy> {
    // runtime_key: ignorable
    if bias.is_some_and(|RuntimeDouble { default_value, runtime_key: _ }| default_value != 1.0) {
        return Err(Fault::new("only 1 is supported").under("active_request_bias.default_value"));
    }
    match choices.unwrap_or(CHOICES) {
        choices @ 2..=100 => Ok(LbPolicy::LeastRequest { choices }),
        choices => Err(Fault::new(format!("{choices} is not from 2 to 100")).under("choice_count")),
    }
}

/// The newer form. The first policy is taken; the others must be known as well.
fn typed_policy(message: LoadBalancingPolicy, balancing: &mut Balancing, depth: usize) -> Translated<()> {
    let LoadBalancingPolicy { policies } = message;
    let first = policies.into_iter().next().ok_or_else(|| Fault::new("is required").under("policies"))?;
    let Policy { typed_extension_config } = first;
    let at = "policies[0].typed_extension_config";
    let TypedExtensionConfig { name: _, typed_config } = required(at, typed_extension_config)?;
    let any = required("typed_config", typed_config).at(at)?;
    let name = type_url::message_name(&any.type_url);
    let policy = match name.strip_prefix("envoy.extensions.load_balancing_policies.").unwrap_or_default() {
        "round_robin.v3.RoundRobin" => {
            let policies::round_robin::v3::RoundRobin { locality_lb_config } = unpack(&any).at(at)?;
            balancing.by_locality |= by_locality(locality_lb_config);
            Ok(LbPolicy::RoundRobin)
        }
        "random.v3.Random" => {
            let policies::random::v3::Random { locality_lb_config } = unpack(&any).at(at)?;
            balancing.by_locality |= by_locality(locality_lb_config);
            Ok(LbPolicy::Random)
        }
        "least_request.v3.LeastRequest" => {
            let policies::least_request::v3::LeastRequest {
                choice_count,
                active_request_bias,
                locality_lb_config,
            } = unpack(&any).at(at)?;
            balancing.by_locality |= by_locality(locality_lb_config);
            least_request(choice_count, active_request_bias)
        }
        "wrr_locality.v3.WrrLocality" if depth == 0 => {
            let policies::wrr_locality::v3::WrrLocality { endpoint_picking_policy } = unpack(&any).at(at)?;
            balancing.by_locality = true;
            let inner = required("endpoint_picking_policy", endpoint_picking_policy);
            return inner
                .and_then(|inner| typed_policy(inner, balancing, depth + 1).at("endpoint_picking_policy"))
                .at("typed_config")
                .at(at);
        }
        _ => Err(Fault::new(format!("{name} is not supported here"))),
    };
    balancing.policy = policy.at("typed_config").at(at)?;
    Ok(())
}

fn by_locality(config: Option<LocalityLbConfig>) -> bool {
    let LocalityLbConfig { locality_config_specifier } = config.unwrap_or_default();
    matches!(
        locality_config_specifier,
        Some(locality::LocalityConfigSpecifier::LocalityWeightedLbConfig(
            policies::common::v3::locality_lb_config::LocalityWeightedLbConfig {}
        ))
    )
}

fn subsets(message: LbSubsetConfig, balancing: &mut Balancing) -> Translated<Option<Subsets>> {
    let LbSubsetConfig {
        fallback_policy,
        default_subset,
        subset_selectors,
        locality_weight_aware,
        panic_mode_any,
    } = message;
    if locality_weight_aware && !balancing.by_locality {
        let reason = "needs common_lb_config.locality_weighted_lb_config";
        return Err(Fault::new(reason).under("locality_weight_aware"));
    }
    // Without it, subsets are balanced without a look at localities.
    balancing.by_locality &= locality_weight_aware || subset_selectors.is_empty();
    if subset_selectors.is_empty() && fallback_policy == LbSubsetFallbackPolicy::AnyEndpoint as i32 {
        return Ok(None);
    }
    let default = default_subset.map(endpoint::labels).transpose().at("default_subset")?.unwrap_or_default();
    let fallback = match enum_value(fallback_policy).at("fallback_policy")? {
        LbSubsetFallbackPolicy::NoFallback => SubsetFallback::None,
        LbSubsetFallbackPolicy::AnyEndpoint => SubsetFallback::Any,
        LbSubsetFallbackPolicy::DefaultSubset => SubsetFallback::Default,
    };
    let selectors = each("subset_selectors", subset_selectors, selector)?;
    Ok(Some(Subsets { selectors, fallback, default, panic_mode_any }))
}

fn selector(message: LbSubsetSelector) -> Translated<SubsetSelector> {
    let LbSubsetSelector { keys, fallback_policy, fallback_keys_subset } = message;
    let sorted = |keys: Vec<String>| keys.into_iter().map(Into::into).collect::<BTreeSet<Box<str>>>();
    let keys = sorted(keys);
    if keys.is_empty() {
        return Err(Fault::new("at least one is required").under("keys"));
    }
    let fewer = sorted(fallback_keys_subset);
    let policy = enum_value(fallback_policy).at("fallback_policy")?;
    if !fewer.is_empty() && policy != LbSubsetSelectorFallbackPolicy::KeysSubset {
        return Err(Fault::new("is for fallback_policy KEYS_SUBSET").under("fallback_keys_subset"));
    }
    let fallback = match policy {
        LbSubsetSelectorFallbackPolicy::NotDefined => None,
        LbSubsetSelectorFallbackPolicy::NoFallback => Some(SubsetFallback::None),
        LbSubsetSelectorFallbackPolicy::AnyEndpoint => Some(SubsetFallback::Any),
        LbSubsetSelectorFallbackPolicy::DefaultSubset => Some(SubsetFallback::Default),
        LbSubsetSelectorFallbackPolicy::KeysSubset => {
            if fewer.is_empty() || !fewer.is_subset(&keys) || fewer.len() == keys.len() {
                let reason = "must be some of keys, but not all of them";
                return Err(Fault::new(reason).under("fallback_keys_subset"));
            }
            Some(SubsetFallback::Keys(fewer.into_iter().collect()))
        }
    };
    Ok(SubsetSelector { keys: keys.into_iter().collect(), fallback })
}
