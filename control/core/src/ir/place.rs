//! Where endpoints and proxies are.

/// A zone of a region.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The larger part; empty where unknown.
    pub region: String,
    /// The smaller; empty where unknown.
    pub zone: String,
}

impl Place {
    /// How far another place is: 0 in the same zone, 1 in the same region, 2 elsewhere. What is not known is elsewhere.
    pub fn distance(&self, other: &Self) -> u32 {
        let is_same = |a: &str, b: &str| !a.is_empty() && a == b;
        // Many say the zone alone.
        let may_be_same_region =
            self.region.is_empty() || other.region.is_empty() || self.region == other.region;
        match is_same(&self.zone, &other.zone) && may_be_same_region {
            true => 0,
            false if is_same(&self.region, &other.region) => 1,
            false => 2,
        }
    }

    /// Whether nothing is known of it.
    pub const fn is_unknown(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty()
    }
}
