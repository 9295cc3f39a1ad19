//! What changes something. Only for whoever may open the Unix socket, or knows the token; only by POST, so that no page
//! in a browser does it by accident.

use std::fmt;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::{Method, Request, StatusCode};

use super::{Page, TEXT, not_allowed, reply};
use crate::controller::{SharedController, begin_drain};

/// Sets what is logged; the sentence says why it cannot.
type SetLogLevel = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// The powers of the privileged port.
#[derive(Clone)]
pub(crate) struct Privileged {
    /// Asked of every request over TCP.
    pub(crate) token: Option<Arc<str>>,
    pub(crate) set_log_level: Option<Arc<SetLogLevel>>,
}

impl fmt::Debug for Privileged {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Privileged").field("has_token", &self.token.is_some()).finish_non_exhaustive()
    }
}

impl Privileged {
    pub(super) fn answer(&self, controller: &SharedController, request: &Request<Incoming>) -> Page {
        if !self.admits(request) {
            let words = "this port wants `authorization: Bearer` with its token\n";
            return reply(StatusCode::UNAUTHORIZED, TEXT, words.to_owned());
        }
        let path = request.uri().path();
        const PATHS: [&str; 5] =
            ["/drain_listeners", "/healthcheck/fail", "/healthcheck/ok", "/logging", "/quitquitquit"];
        if !PATHS.contains(&path) {
            let words = format!("there is no {path} here; there are {}\n", PATHS.join(", "));
            return reply(StatusCode::NOT_FOUND, TEXT, words);
        }
        if request.method() != Method::POST {
            return not_allowed("this changes something, and wants POST\n", "POST");
        }
        let done = || reply(StatusCode::OK, TEXT, "OK\n".to_owned());
        match path {
            "/drain_listeners" => begin_drain(controller),
            "/healthcheck/fail" => controller.borrow_mut().health_failed = true,
            "/healthcheck/ok" => controller.borrow_mut().health_failed = false,
            "/quitquitquit" => controller.borrow().quit.notify_one(),
            _ => return self.logging(request.uri().query().unwrap_or_default()),
        }
        tracing::info!(path, "asked for on the privileged port");
        done()
    }

    /// Compared in full, whatever the first difference, so that time tells nothing.
    fn admits(&self, request: &Request<Incoming>) -> bool {
        let Some(token) = &self.token else { return true };
        let given = request.headers().get(AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
        let given = given.strip_prefix(b"Bearer ").unwrap_or_default();
        let differs = given.iter().zip(token.as_bytes()).fold(0, |all, (a, b)| all | (a ^ b));
        given.len() == token.len() && differs == 0
    }

    /// `?level=debug`, in Envoy's words or as a filter by module.
    fn logging(&self, query: &str) -> Page {
        let level = query.split('&').find_map(|pair| pair.strip_prefix("level="));
        let (Some(level), Some(set)) = (level, &self.set_log_level) else {
            return reply(StatusCode::BAD_REQUEST, TEXT, "level is missing, as in ?level=debug\n".to_owned());
        };
        match set(level) {
            Ok(()) => reply(StatusCode::OK, TEXT, format!("{level}\n")),
            Err(reason) => reply(StatusCode::BAD_REQUEST, TEXT, format!("{reason}\n")),
        }
    }
}
