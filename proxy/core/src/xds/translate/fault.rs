//! What is wrong with a value, and the way to it.

use std::fmt::Display;

/// A value that makes no sense. The path grows outwards as the error returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) path: String,
    pub(super) reason: String,
}

pub(super) type Translated<T> = Result<T, Fault>;

impl Fault {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { path: String::new(), reason: reason.into() }
    }

    /// The same fault, seen from the message that holds `segment`.
    pub(super) fn under(mut self, segment: impl Display) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{segment}{dot}{}", self.path);
        self
    }
}

pub(super) trait At {
    /// Says in which field a failure lies.
    fn at(self, segment: impl Display) -> Self;
}

impl<T> At for Translated<T> {
    fn at(self, segment: impl Display) -> Self {
        self.map_err(|fault| fault.under(segment))
    }
}

/// Translates each element; a failure names its index.
pub(super) fn each<M, T>(
    field: &str,
    messages: Vec<M>,
    translate: impl FnMut(M) -> Translated<T>,
) -> Translated<Vec<T>> {
    let translated = messages.into_iter().map(translate).enumerate();
    translated.map(|(i, result)| result.at(format_args!("{field}[{i}]"))).collect()
}

/// A field that must be set.
pub(super) fn required<T>(field: &str, value: Option<T>) -> Translated<T> {
    value.ok_or_else(|| Fault::new("is required").under(field))
}
