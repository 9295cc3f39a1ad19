//! What is different between two versions of a resource: by path, and as text.

use serde::Serialize;
use serde_json::Value;

/// A field that is different.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Such as `spec.rules[0].backendRefs[1].weight`.
    pub path: String,
    /// What it was; none where it was not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    /// What it is; none where it is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Value>,
}

/// The fields that are different. Items of lists that have a name, or refer to one, are compared by it.
pub fn differences(from: Option<&Value>, to: Option<&Value>) -> Vec<Difference> {
    let mut found = Vec::new();
    compare("", from, to, &mut found);
    found
}

fn compare(path: &str, from: Option<&Value>, to: Option<&Value>, found: &mut Vec<Difference>) {
    match (from, to) {
        (from, to) if from == to => {}
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let added = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(added) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(&path, a.get(key), b.get(key), found);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}[{i}]"), Some(a), Some(b), found);
            }
        }
        (from, to) => {
            found.push(Difference { path: path.to_owned(), from: from.cloned(), to: to.cloned() });
        }
    }
}

/// The lines that are different, with three around them, as `diff -u` shows them. Empty where none are.
pub fn unified(name: &str, from: &str, to: &str, labels: (&str, &str)) -> String {
    if from == to {
        return String::new();
    }
    let header = (format!("{name} ({})", labels.0), format!("{name} ({})", labels.1));
    similar::TextDiff::from_lines(from, to)
        .unified_diff()
        .context_radius(3)
        .header(&header.0, &header.1)
        .to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_told_by_their_paths() {
        let (from, to) = (
            json!({ "spec": { "arms": [{ "w": 90 }, { "w": 10 }], "gone": 1 } }),
            json!({ "spec": { "arms": [{ "w": 90 }, { "w": 30 }], "new": true } }),
        );
        let found = differences(Some(&from), Some(&to));
        let paths: Vec<_> = found.iter().map(|d| (d.path.as_str(), d.from.clone(), d.to.clone())).collect();
        assert_eq!(
            paths,
            [
                ("spec.arms[1].w", Some(json!(10)), Some(json!(30))),
                ("spec.gone", Some(json!(1)), None),
                ("spec.new", None, Some(json!(true))),
            ]
        );
        assert!(differences(Some(&from), Some(&from)).is_empty());
    }

    #[test]
    fn text_is_told_by_its_lines() {
        let text = unified("HTTPRoute shop", "a\nb\n", "a\nc\n", ("1", "2"));
        assert_eq!(text, "--- HTTPRoute shop (1)\n+++ HTTPRoute shop (2)\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n");
        assert_eq!(unified("x", "a", "a", ("1", "2")), "");
    }
}
