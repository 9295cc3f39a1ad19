//! What a route changes of a request and its response: header lines, path and host.

use std::sync::Arc;

use crate::access::Format;
use crate::pattern::Substitution;
use crate::template::TemplateRewrite;

/// Header lines to take away and to add, at one level: arm, route, virtual host or route configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeaderEdits(Option<Arc<EditLists>>);

/// What [`HeaderEdits`] hold.
#[derive(Debug, Default, PartialEq)]
pub struct EditLists {
    /// Of the request, on its way to the endpoint.
    pub request: EditList,
    /// Of the response, on its way to the client.
    pub response: EditList,
}

/// Lines to take away, and then lines to add, in order.
#[derive(Debug, Default, PartialEq)]
pub struct EditList {
    /// Names, in lower case.
    pub remove: Vec<Box<str>>,
    /// Lines.
    pub add: Vec<HeaderAddition>,
}

impl EditList {
    /// Whether it changes nothing.
    pub const fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }
}

impl HeaderEdits {
    /// Nothing is kept of lists that change nothing.
    pub fn new(request: EditList, response: EditList) -> Self {
        let changes = !request.is_empty() || !response.is_empty();
        Self(changes.then(|| Arc::new(EditLists { request, response })))
    }

    /// The lists, if they change anything.
    pub fn lists(&self) -> Option<&EditLists> {
        self.0.as_deref()
    }
}

/// A line to add.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderAddition {
    /// In lower case.
    pub name: Box<str>,
    /// What it says.
    pub value: HeaderText,
    /// What becomes of lines of that name.
    pub append: Append,
    /// Whether a line without a value is added as well (`keep_empty_value`).
    pub keeps_empty: bool,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderText {
    /// Always the same.
    Fixed(Box<str>),
    /// Something of the request or the connection.
    Format(Arc<Format>),
}

/// What becomes of lines that are there (`HeaderValueOption.HeaderAppendAction`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Append {
    /// They stay, and another is added.
    #[default]
    Append,
    /// They stay, and nothing is added.
    AddIfAbsent,
    /// The new one takes their place.
    Overwrite,
    /// The new one takes their place, if there are any.
    OverwriteIfPresent,
}

/// What becomes of a path. The query stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PathRewrite {
    /// It stays.
    #[default]
    Keep,
    /// This takes the place of the prefix, or of the whole path, that was matched.
    Prefix(Box<str>),
    /// What an expression matches is replaced.
    Regex(Substitution),
    /// The parts that a template matched are put together anew.
    Template(Box<TemplateRewrite>),
}

/// What becomes of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HostRewrite {
    /// It stays.
    #[default]
    Keep,
    /// It is this.
    Literal(Box<str>),
    /// It is the host name of the endpoint, if that has one (`auto_host_rewrite`).
    Endpoint,
    /// It is what a header says, in lower case, if it is there.
    Header(Box<str>),
    /// It is made from the path without its query.
    PathRegex(Substitution),
}
