//! The REST interface of a control plane.

use serde_json::Value;

use crate::client::{Client, Response};

/// A control plane's HTTP port, and who asks.
#[derive(Debug, Clone)]
pub struct Api {
    /// The port.
    pub port: u16,
    /// Nobody's where unset.
    pub token: Option<String>,
}

impl Api {
    /// The same port, as somebody else.
    pub fn with(&self, token: Option<&str>) -> Self {
        Self { port: self.port, token: token.map(str::to_owned) }
    }

    /// Sends a request with these header lines, each with its line end.
    pub fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Response {
        let mut client = Client::connect(self.port);
        client.send(self.head(method, path, headers, body));
        client.response()
    }

    /// The bytes of a request.
    pub fn head(&self, method: &str, path: &str, headers: &str, body: &str) -> String {
        let token = self.token.as_ref().map(|t| format!("authorization: Bearer {t}\r\n")).unwrap_or_default();
        let json = if body.starts_with(['{', '[']) { "content-type: application/json\r\n" } else { "" };
        let length = body.len();
        format!(
            "{method} {path} HTTP/1.1\r\nhost: c\r\n{token}{json}{headers}content-length: {length}\r\n\r\n{body}"
        )
    }

    /// A page that must be there.
    pub fn get(&self, path: &str) -> Value {
        let response = self.send("GET", path, "", "");
        assert_eq!(response.status(), 200, "{path}: {response:?}");
        serde_json::from_slice(&response.body).expect("JSON")
    }

    /// Makes or changes the resources of a text.
    pub fn apply(&self, text: &str) -> Value {
        let response = self.send("POST", "/api/v1/apply", "", text);
        assert_eq!(response.status(), 200, "{}", response.text());
        serde_json::from_slice(&response.body).expect("JSON")
    }
}
