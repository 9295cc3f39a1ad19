//! An explanation for people.

use std::fmt;

use super::answer::{ArmAnswer, Decision, Explanation, Forwarding, Verdict};

/// Routes that are told of one by one although the path alone rules them out.
const FEW: usize = 12;
/// Endpoints of an arm that are told of one by one.
const SOME: usize = 20;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listener, address, chain, method, host, path, .. } = self;
        writeln!(f, "{method} http://{host}{path}")?;
        writeln!(f, "  listener      {listener} on {address}")?;
        if !chain.is_empty() {
            writeln!(f, "  filter chain  {chain}")?;
        }
        match &self.virtual_host {
            Some((name, domain)) => writeln!(f, "  virtual host  {name}, by its domain {domain}")?,
            None => writeln!(f, "  virtual host  none")?,
        }
        self.write_routes(f)?;
        match &self.verdict {
            Verdict::Refused { status, why } => writeln!(f, "  answer        {status}: {why}"),
            Verdict::Redirected { status, location, .. } => {
                writeln!(f, "  answer        {status} to {location}")
            }
            Verdict::Answered { status, .. } => writeln!(f, "  answer        {status}, the route's own"),
            Verdict::Forwarded(forwarding) => forwarding.fmt(f),
        }
    }
}

impl Explanation {
    fn write_routes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_long = self.tried.len() > FEW;
        let mut left_out = 0;
        let mut heading = "routes";
        for tried in &self.tried {
            let name = &tried.route.route;
            match &tried.mismatch {
                Some(_) if is_long && !tried.path_fits => {
                    left_out += 1;
                    continue;
                }
                Some(why) => writeln!(f, "  {heading:<12}  {name}: no, {why}")?,
                None => writeln!(f, "  {heading:<12}  {name}: yes")?,
            }
            heading = "";
        }
        if left_out > 0 {
            writeln!(f, "  {heading:<12}  {left_out} others are for other paths")?;
        }
        Ok(())
    }
}

impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  decided by    {}", self.decision)?;
        if let Some(arm) = &self.spilled_from {
            writeln!(f, "                arm {arm} should take it and has no usable endpoint, so it spills")?;
        }
        let mut heading = "arms";
        for arm in &self.arms {
            let ArmAnswer { name, cluster, weight, share, .. } = arm;
            let takes = match *share {
                1.0 => "takes it".to_owned(),
                0.0 => "does not take it".to_owned(),
                share => format!("takes it with {}", percent(share)),
            };
            let cluster =
                if name.as_str() == *cluster { String::new() } else { format!(", cluster {cluster}") };
            writeln!(f, "  {heading:<12}  {name}{cluster}, weight {}: {takes}", weight.0)?;
            heading = "";
            if *share > 0.0 {
                self.write_endpoints(arm, f)?;
            }
        }
        if self.makes_cookie {
            writeln!(f, "  cookie        the response brings one that names the user and the arm")?;
        }
        Ok(())
    }
}

impl Forwarding {
    fn write_endpoints(&self, arm: &ArmAnswer, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let indent = "";
        if !arm.has_cluster {
            return writeln!(
                f,
                "{indent:18}answer {}: there is no cluster {:?}",
                self.cluster_not_found, arm.cluster
            );
        }
        if !arm.is_known {
            return writeln!(f, "{indent:18}its endpoints are known to the running proxy only");
        }
        if arm.endpoints.is_empty() {
            return writeln!(f, "{indent:18}answer 503: the cluster has no usable endpoint");
        }
        if !arm.part.is_empty() {
            writeln!(f, "{indent:18}of {}", arm.part)?;
        }
        if arm.is_panic {
            writeln!(f, "{indent:18}too few endpoints are well, so all are used")?;
        }
        for candidate in arm.endpoints.iter().take(SOME) {
            writeln!(f, "{indent:18}{} with {}", candidate.address, percent(candidate.share))?;
        }
        match arm.endpoints.len().saturating_sub(SOME) {
            0 => Ok(()),
            more => writeln!(f, "{indent:18}and {more} more"),
        }
    }
}

/// Up to four digits behind the point.
fn percent(share: f64) -> String {
    let digits = format!("{:.4}", share * 100.0);
    format!("{} %", digits.trim_end_matches('0').trim_end_matches('.'))
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => f.write_str("nothing: one arm takes all requests"),
            Self::Override(header) => write!(f, "the header {header}, which names the arm"),
            Self::User(by) => write!(f, "who asks: {by}"),
            Self::Draining => f.write_str("the user's cookie, which names an arm that is drained"),
            Self::Number { by, number, point, total } => {
                write!(f, "{by}: {number} is {point} of {total}")
            }
            Self::Turn(None) => f.write_str("the exact sequence: whose turn it is"),
            Self::Turn(Some(key)) => {
                write!(f, "the exact sequence, as the request does not say who asks ({key})")
            }
        }
    }
}
