//! From YAML text to resources, document by document.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_saphyr::{Budget, Options};
use xds_proto::json::{did_you_mean, yaml_message};

use super::{Backend, HttpRoute, TrafficPolicy};

const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";
const WEIR: &str = "weir.dev/v1";

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

/// A resource and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced<T> {
    /// Its document.
    pub origin: Origin,
    /// What it says.
    pub value: T,
}

/// All resources of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// `HTTPRoute`
    pub routes: Vec<Sourced<HttpRoute>>,
    /// `Backend`
    pub backends: Vec<Sourced<Backend>>,
    /// `TrafficPolicy`
    pub policies: Vec<Sourced<TrafficPolicy>>,
}

impl Objects {
    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.backends.is_empty() && self.policies.is_empty()
    }
}

/// A document that is not a resource. One sentence with the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct DocumentError {
    /// The file.
    pub file: Arc<str>,
    /// From 1.
    pub line: u64,
    /// From 1.
    pub column: u64,
    /// What is wrong.
    pub message: String,
}

/// What every document must say of itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    api_version: String,
    kind: String,
}

/// Documents that were read before, by their text: reading one takes ten times as long as everything that follows.
#[derive(Debug, Default)]
pub struct Memory {
    before: HashMap<String, Resource>,
    now: HashMap<String, Resource>,
}

impl Memory {
    /// A source is read anew: what is not met from here to the next time is forgotten.
    pub fn begin(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }
}

/// What a document says.
#[derive(Debug, Clone)]
enum Resource {
    Route(HttpRoute),
    Backend(Backend),
    Policy(TrafficPolicy),
}

/// Reads every document of `text` into `objects`.
///
/// # Errors
/// The first document that is not a resource of a known kind.
pub fn read(
    file: &Arc<str>,
    text: &str,
    memory: &mut Memory,
    objects: &mut Objects,
) -> Result<(), DocumentError> {
    for (line, document) in documents(text) {
        let resource = match memory.now.get(document).or_else(|| memory.before.get(document)) {
            Some(known) => known.clone(),
            None => Reader { file, line, document }.resource()?,
        };
        memory.now.entry(document.to_owned()).or_insert_with(|| resource.clone());
        let origin = Origin { file: file.clone(), line };
        match resource {
            Resource::Route(value) => objects.routes.push(Sourced { origin, value }),
            Resource::Backend(value) => objects.backends.push(Sourced { origin, value }),
            Resource::Policy(value) => objects.policies.push(Sourced { origin, value }),
        }
    }
    Ok(())
}

/// The documents of a YAML stream with the lines they start on; those that hold only comments are left out.
fn documents(text: &str) -> Vec<(u64, &str)> {
    let mut found = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    let mut offset = 0;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        if line.trim_end() == "---" {
            found.push((start_line, &text[start..offset]));
            (start, start_line) = (offset + line.len(), number + 1);
        }
        offset += line.len();
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

impl Reader<'_> {
    fn parse<T: DeserializeOwned>(&self) -> Result<T, DocumentError> {
        // The default budget refuses files of 10,000 rules.
        let mut budget = Budget::default();
        (budget.max_nodes, budget.max_events) = (10_000_000, 40_000_000);
        let mut options = Options::default();
        options.budget = Some(budget);
        serde_saphyr::from_str_with_options(self.document, options).map_err(|error| self.error(&error))
    }

    fn resource(&self) -> Result<Resource, DocumentError> {
        let Header { api_version, kind } = self.parse()?;
        Ok(match (api_version.as_str(), kind.as_str()) {
            (GATEWAY_API, "HTTPRoute") => Resource::Route(self.parse()?),
            (WEIR, "Backend") => Resource::Backend(self.parse()?),
            (WEIR, "TrafficPolicy") => Resource::Policy(self.parse()?),
            _ => return Err(self.unknown_kind(&api_version, &kind)),
        })
    }

    fn error(&self, error: &serde_saphyr::Error) -> DocumentError {
        let Problem { line, column, message } = problem(error);
        DocumentError { file: self.file.clone(), line: self.line - 1 + line, column, message }
    }

    fn unknown_kind(&self, api_version: &str, kind: &str) -> DocumentError {
        let known = ["HTTPRoute", "Backend", "TrafficPolicy"];
        let message = match known.into_iter().find(|k| *k == kind) {
            Some("HTTPRoute") => format!("apiVersion of an HTTPRoute is {GATEWAY_API}, not {api_version}"),
            Some(kind) => format!("apiVersion of a {kind} is {WEIR}, not {api_version}"),
            None => {
                let hint = did_you_mean(kind, known);
                format!("{api_version} {kind} is not a kind that this version knows{hint}")
            }
        };
        let line = self.document.lines().position(|l| l.starts_with("kind:") || l.starts_with("apiVersion:"));
        DocumentError {
            file: self.file.clone(),
            line: self.line + line.unwrap_or(0) as u64,
            column: 1,
            message,
        }
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

    fn objects(text: &str) -> Result<Objects, String> {
        let mut objects = Objects::default();
        read(&"shop.yaml".into(), text, &mut Memory::default(), &mut objects).map_err(|e| e.to_string())?;
        Ok(objects)
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
        assert_eq!(objects.routes[0].value.spec.rules[0].backend_refs[1].weight, 10);
        assert_eq!(objects.routes[0].value.metadata.namespace, "default");
        assert_eq!(objects.backends[0].origin.to_string(), "shop.yaml:16");
    }

    #[test]
    fn what_was_read_before_has_its_new_place() {
        let mut memory = Memory::default();
        let mut lines = Vec::new();
        for text in
            [BACKEND.to_owned(), format!("{ROUTE}---\n{BACKEND}"), BACKEND.replace("name: v1", "name: v2")]
        {
            memory.begin();
            let mut objects = Objects::default();
            read(&"shop.yaml".into(), &text, &mut memory, &mut objects).expect("valid");
            let backend = &objects.backends[0];
            lines.push((backend.value.metadata.name.clone(), backend.origin.line, memory.now.len()));
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
                ROUTE.replace("PathPrefix", "RegularExpression"),
                "`RegularExpression` is not supported here; known are Exact, PathPrefix",
            ),
            (ROUTE.replace("kind: HTTPRoute", "kind: HTTPRout"), "did you mean `HTTPRoute`?"),
            (
                ROUTE.replace("k8s.io/v1", "k8s.io/v1beta1"),
                "apiVersion of an HTTPRoute is gateway.networking.k8s.io/v1",
            ),
            (
                ROUTE.replace("    backendRefs:", "    filters: []\n    backendRefs:"),
                "unknown field `filters`",
            ),
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
