//! When each resource of the control plane was taken or refused last, for those who ask (CSDS).

use std::collections::HashMap;
use std::time::SystemTime;

use proxy_core::xds::Rejection;

/// By type URL and name.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    taken: HashMap<(String, String), SystemTime>,
    refused: HashMap<(String, String), Refused>,
}

/// The last refusal of a resource that was not taken since.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    pub(crate) at: SystemTime,
    pub(crate) version: String,
    pub(crate) reason: String,
}

/// Resources that are remembered; a control plane that names more is at odds with itself.
const MAX_REFUSED: usize = 10_000;

impl Ledger {
    /// A response that named these resources was judged.
    pub(crate) fn note(
        &mut self,
        type_url: &str,
        version: &str,
        names: Vec<String>,
        rejections: &[Rejection],
    ) {
        let at = SystemTime::now();
        for name in names {
            let of =
                |rejection: &&Rejection| rejection.resource.as_ref().is_none_or(|refused| *refused == name);
            let refusal = rejections.iter().find(of);
            let key = (type_url.to_owned(), name.clone());
            match refusal {
                None => {
                    self.refused.remove(&key);
                    self.taken.insert(key, at);
                }
                Some(rejection) if self.refused.len() < MAX_REFUSED => {
                    let reason = rejection.to_string();
                    self.refused.insert(key, Refused { at, version: version.to_owned(), reason });
                }
                Some(_) => {}
            }
        }
    }

    /// Forgets what is neither held nor refused. As long as no more is remembered than the `count` of what is held, there is
    /// nothing that must be forgotten.
    pub(crate) fn keep(&mut self, count: usize, is_held: impl Fn(&str, &str) -> bool) {
        if self.taken.len() <= count {
            return;
        }
        self.taken.retain(|(type_url, name), _| is_held(type_url, name));
    }

    pub(crate) fn taken_at(&self, type_url: &str, name: &str) -> Option<SystemTime> {
        self.taken.get(&(type_url.to_owned(), name.to_owned())).copied()
    }

    /// What was refused and not taken since.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (&str, &str, &Refused)> {
        self.refused.iter().map(|((type_url, name), refused)| (type_url.as_str(), name.as_str(), refused))
    }
}
