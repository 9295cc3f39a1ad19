//! From YAML text to resources, document by document.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use foldhash::fast::RandomState;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_saphyr::{Budget, Options};
use xds_proto::json::{did_you_mean, place_of, yaml_message};

use super::resource::Read;
use super::{Kind, ObjectKey, Resource, validate};

/// Where a document stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// The document's first line, from 1.
    pub line: u64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A document of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Where it stands.
    pub origin: Origin,
    /// What it says, or why it is not taken.
    pub content: Result<Arc<Resource>, Refused>,
}

/// A document that is not a resource. One sentence with the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct Refused {
    /// The file.
    pub file: Arc<str>,
    /// From 1.
    pub line: u64,
    /// From 1.
    pub column: u64,
    /// What is wrong.
    pub message: String,
    /// What it is called, where that can be read: what is served under this name stays.
    pub key: Option<ObjectKey>,
}

/// What every document must say of itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    api_version: String,
    kind: String,
    #[serde(default)]
    metadata: Name,
}

/// As little as names a resource.
#[derive(Default, Deserialize)]
struct Name {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: Option<String>,
}

/// Documents that were read before, by their text: reading one takes ten times as long as everything that follows.
#[derive(Debug, Default)]
pub struct Memory {
    before: HashMap<String, Arc<Resource>, RandomState>,
    now: HashMap<String, Arc<Resource>, RandomState>,
}

impl Memory {
    /// A source is read anew: what is not met from here to the next time is forgotten.
    pub fn begin(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }
}

/// Reads every document of `text`. What is wrong with one is said of that one.
pub fn read(file: &Arc<str>, text: &str, memory: &mut Memory) -> Vec<Document> {
    let document = |(line, document)| {
        let origin = Origin { file: file.clone(), line };
        if let Some((text, resource)) = memory.before.remove_entry(document) {
            memory.now.insert(text, resource.clone());
            return Document { origin, content: Ok(resource) };
        }
        if let Some(resource) = memory.now.get(document) {
            return Document { origin, content: Ok(resource.clone()) };
        }
        let content = Reader { file, line, document }.resource().map(Arc::new);
        if let Ok(resource) = &content {
            memory.now.insert(document.to_owned(), resource.clone());
        }
        Document { origin, content }
    };
    documents(text).into_iter().map(document).collect()
}

/// The documents of a YAML stream with the lines they start on; those that hold only comments are left out.
pub(crate) fn documents(text: &str) -> Vec<(u64, &str)> {
    let mut found = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    for mark in memchr::memmem::find_iter(text.as_bytes(), b"---") {
        let is_at_start = mark == 0 || text.as_bytes()[mark - 1] == b'\n';
        let line = text[mark..].split_inclusive('\n').next().unwrap_or_default();
        if !is_at_start || mark < start || line.trim_end() != "---" {
            continue;
        }
        let document = &text[start..mark];
        found.push((start_line, document));
        start_line += memchr::memchr_iter(b'\n', document.as_bytes()).count() as u64 + 1;
        start = mark + line.len();
    }
    found.push((start_line, &text[start..]));
    let says_something =
        |document: &str| document.lines().map(str::trim).any(|l| !l.is_empty() && !l.starts_with('#'));
    found.retain(|(_, document)| says_something(document));
    found
}

struct Reader<'a> {
    file: &'a Arc<str>,
    line: u64,
    document: &'a str,
}

impl Read for Reader<'_> {
    type Error = Box<serde_saphyr::Error>;

    fn read<T: DeserializeOwned>(&self) -> Result<T, Self::Error> {
        // The default budget refuses files of 10,000 rules.
        let mut budget = Budget::default();
        (budget.max_nodes, budget.max_events) = (10_000_000, 40_000_000);
        let mut options = Options::default();
        options.budget = Some(budget);
        serde_saphyr::from_str_with_options(self.document, options).map_err(Box::new)
    }
}

impl Reader<'_> {
    fn resource(&self) -> Result<Resource, Refused> {
        let header: Header = self.read().map_err(|error| self.refused(&error, None))?;
        let kind = self.kind(&header)?;
        let Name { name, namespace } = header.metadata;
        let key = ObjectKey::new(kind, namespace.as_deref().unwrap_or("default"), &name);
        let mut resource =
            Resource::read_as(kind, self).map_err(|error| self.refused(&error, Some(key.clone())))?;
        if !kind.is_namespaced() {
            resource.metadata_mut().namespace.clear();
        }
        validate(&resource).map_err(|flaw| {
            let place = place_of(self.document, &flaw.path);
            let (line, column) = place.map_or((1, 1), |place| (place.line, place.column));
            let message = format!("{key}: {flaw}");
            Refused { file: self.file.clone(), line: self.line - 1 + line, column, message, key: Some(key) }
        })?;
        Ok(resource)
    }

    fn kind(&self, header: &Header) -> Result<Kind, Refused> {
        let Header { api_version, kind, .. } = header;
        let message = match Kind::by_name(kind) {
            Some(known) if known.reads(api_version) => return Ok(known),
            Some(known) => {
                let article = if known.as_str().starts_with(['H', 'E']) { "an" } else { "a" };
                format!("apiVersion of {article} {kind} is {}, not {api_version}", known.api_version())
            }
            None => {
                let hint = did_you_mean(kind, Kind::ALL.map(Kind::as_str));
                format!("{api_version} {kind} is not a kind that this version knows{hint}")
            }
        };
        let line = self.document.lines().position(|l| l.starts_with("kind:") || l.starts_with("apiVersion:"));
        Err(Refused {
            file: self.file.clone(),
            line: self.line + line.unwrap_or(0) as u64,
            column: 1,
            message,
            key: None,
        })
    }

    fn refused(&self, error: &serde_saphyr::Error, key: Option<ObjectKey>) -> Refused {
        let Problem { line, column, mut message } = problem(error);
        // What is wrong with a secret may be the secret.
        if key.as_ref().is_some_and(|key| key.kind == Kind::Secret) && !message.starts_with("unknown field") {
            message = "this is no value that a Secret has here".to_owned();
        }
        let key = key.filter(|key| !key.name.is_empty());
        Refused { file: self.file.clone(), line: self.line - 1 + line, column, message, key }
    }
}

/// What is wrong with a document, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// From 1.
    pub line: u64,
    /// From 1.
    pub column: u64,
    /// One sentence.
    pub message: String,
}

/// An error of the YAML reader in the words of this program.
pub fn problem(error: &serde_saphyr::Error) -> Problem {
    let message = match error.without_snippet() {
        serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => {
            let hint = did_you_mean(field, expected.iter().copied());
            let hint = if hint.is_empty() { format!("; known are {}", expected.join(", ")) } else { hint };
            format!("unknown field `{field}`{hint}")
        }
        serde_saphyr::Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("`{variant}` is not supported here; known are {}", expected.join(", "))
        }
        other => yaml_message(other),
    };
    let location = error.location();
    Problem { line: location.map_or(1, |l| l.line()), column: location.map_or(1, |l| l.column()), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(text: &str) -> Result<Vec<(Origin, Arc<Resource>)>, String> {
        let read = read(&"shop.yaml".into(), text, &mut Memory::default()).into_iter();
        read.map(|d| d.content.map(|content| (d.origin, content)).map_err(|e| e.to_string())).collect()
    }

    const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: shop }
spec:
  hostnames: [shop.example.com]
  rules:
  - matches:
    - path: { type: PathPrefix, value: /cart }
      headers: [{ name: x-canary, value: v2 }]
    backendRefs:
    - { name: v1, weight: 90 }
    - { name: v2, weight: 10 }
";

    const BACKEND: &str = "# a comment
apiVersion: weir.dev/v1
kind: Backend
metadata: { name: v1, labels: { app: shop } }
spec: { endpoints: [{ address: 127.0.0.1:80, labels: { version: v1 } }] }
";

    #[test]
    fn documents_are_told_apart_and_remember_their_line() {
        let objects = objects(&format!("{ROUTE}---\n# nothing\n---\n{BACKEND}")).expect("valid");
        let Resource::HttpRoute(route) = &*objects[0].1 else { panic!("{:?}", objects[0]) };
        assert_eq!(route.spec.rules[0].backend_refs[1].weight, 10);
        assert_eq!(route.metadata.namespace, "default");
        assert_eq!(objects[1].0.to_string(), "shop.yaml:16");
    }

    #[test]
    fn what_was_read_before_has_its_new_place() {
        let mut memory = Memory::default();
        let mut lines = Vec::new();
        for text in
            [BACKEND.to_owned(), format!("{ROUTE}---\n{BACKEND}"), BACKEND.replace("name: v1", "name: v2")]
        {
            memory.begin();
            let documents = read(&"shop.yaml".into(), &text, &mut memory);
            let backend = documents.last().expect("a backend");
            let name = backend.content.as_ref().expect("valid").metadata().name.clone();
            lines.push((name, backend.origin.line, memory.now.len()));
        }
        assert_eq!(lines, [("v1".into(), 1, 1), ("v1".into(), 14, 2), ("v2".into(), 1, 1)]);
    }

    #[test]
    fn a_misspelt_field_is_placed_and_the_right_one_suggested() {
        let wrong = ROUTE.replace("weight: 10", "weigth: 10");
        assert_eq!(
            objects(&wrong).expect_err("refused"),
            "shop.yaml:12:19: unknown field `weigth`, did you mean `weight`?"
        );
    }

    #[test]
    fn the_place_counts_from_the_files_start() {
        let wrong = format!("{ROUTE}---\n{}", BACKEND.replace("endpoints", "endpoint"));
        let error = objects(&wrong).expect_err("refused");
        assert!(error.starts_with("shop.yaml:18:"), "{error}");
    }

    #[test]
    fn what_cannot_be_read_is_said_in_one_line() {
        let cases = [
            (ROUTE.replace("weight: 10", "weight: -5"), "shop.yaml:12:"),
            (
                ROUTE.replace("PathPrefix", "Prefix"),
                "`Prefix` is not supported here; known are PathPrefix, Exact, RegularExpression",
            ),
            (ROUTE.replace("kind: HTTPRoute", "kind: HTTPRout"), "did you mean `HTTPRoute`?"),
            (
                ROUTE.replace("k8s.io/v1", "k8s.io/v1beta2"),
                "apiVersion of an HTTPRoute is gateway.networking.k8s.io/v1",
            ),
            (ROUTE.replace("    backendRefs:", "    filter: []\n    backendRefs:"), "unknown field `filter`"),
            ("a: [".to_owned(), "shop.yaml:1:"),
            (
                "kind: Backend\nkind: Backend\napiVersion: weir.dev/v1\n".to_owned(),
                "shop.yaml:2:1: duplicate",
            ),
            (BACKEND.replace("  name: v1,", "").replace("name: v1, ", ""), "missing field `name`"),
        ];
        for (text, part) in cases {
            let error = objects(&text).expect_err(part);
            assert!(error.contains(part), "{error:?} lacks {part:?}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
