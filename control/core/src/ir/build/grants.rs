//! Who may refer to what of another namespace.

use crate::model::{Kind, Objects, ReferenceGrantSpec};

/// All `ReferenceGrant`s.
pub(super) struct Grants<'a> {
    grants: Vec<(&'a str, &'a ReferenceGrantSpec)>,
}

/// Who refers.
#[derive(Debug, Clone, Copy)]
pub(super) struct From<'a> {
    pub(super) kind: Kind,
    pub(super) namespace: &'a str,
}

impl<'a> Grants<'a> {
    pub(super) fn of(objects: &'a Objects) -> Self {
        let grants = objects.reference_grants();
        Self { grants: grants.map(|grant| (grant.metadata.namespace.as_str(), &grant.spec)).collect() }
    }

    /// Whether a reference is within a namespace or was granted by the other one.
    pub(super) fn allow(&self, from: From<'_>, to: Kind, namespace: &str, name: &str) -> bool {
        from.namespace == namespace
            || self.grants.iter().any(|(of, grant)| {
                *of == namespace
                    && grant.from.iter().any(|f| {
                        f.group == from.kind.group()
                            && f.kind == from.kind.as_str()
                            && f.namespace == from.namespace
                    })
                    && grant.to.iter().any(|t| {
                        t.group == to.group()
                            && t.kind == to.as_str()
                            && t.name.as_deref().is_none_or(|only| only == name)
                    })
            })
    }
}
