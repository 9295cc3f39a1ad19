//! The admin ports: a read-only one, which changes nothing, whatever is asked, and a privileged one, which is a Unix
//! socket or wants a token.

mod csds;
mod grpc;
mod health;
mod pages;
mod privileged;

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;

use http_body_util::Full;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;

use crate::controller::{Controller, SharedController};
use crate::executor::OnThisThread;
use crate::explain::Ask;
use crate::listener::Acceptor;

pub(crate) use privileged::Privileged;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// The content type of the Prometheus text form that the encoder writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The content type of Prometheus' own text form.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

type Page = Response<Full<Bytes>>;
/// A body that may go on; it stays on the controller's thread.
type Stream = Pin<Box<dyn Body<Data = Bytes, Error = Infallible>>>;

/// What a port answers with.
pub(crate) enum Desk {
    ReadOnly,
    Privileged(Privileged),
}

/// Serves an admin port for as long as the process lives.
pub(crate) async fn serve(controller: SharedController, acceptor: Acceptor, desk: Desk) -> io::Result<()> {
    let listening = acceptor.into_listener()?;
    let desk = Rc::new(desk);
    loop {
        match listening.accept().await {
            Ok((socket, _)) => {
                drop(tokio::task::spawn_local(connection(controller.clone(), desk.clone(), socket)));
            }
            Err(error) => {
                tracing::warn!(%error, "an admin connection could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(controller: SharedController, desk: Rc<Desk>, socket: crate::socket::Socket) {
    let service = service_fn(|request: Request<Incoming>| {
        let controller = controller.clone();
        let (page, call) = match &*desk {
            Desk::ReadOnly if health::is_call(&request) => (None, Some(request)),
            Desk::ReadOnly => (Some(read(&controller, &request)), None),
            Desk::Privileged(privileged) => (Some(privileged.answer(&controller, &request)), None),
        };
        async move {
            Ok::<_, Infallible>(match (page, call) {
                (_, Some(call)) if csds::is_call(call.uri().path()) => csds::answer(controller, call),
                (_, Some(call)) => health::answer(controller, call).await,
                (Some(page), None) => page.map(|body| Box::pin(body) as Stream),
                (None, None) => Response::new(Box::pin(Full::default()) as Stream),
            })
        }
    });
    let mut builder = auto::Builder::new(OnThisThread);
    builder.http1().timer(TokioTimer::new());
    let served = builder.serve_connection(TokioIo::new(socket), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "an admin connection broke");
    }
}

/// What can be read.
const PATHS: [&str; 11] = [
    "/certs",
    "/clusters",
    "/config_dump",
    "/explain?method=&host=&path=&header=",
    "/listeners",
    "/metrics",
    "/ready",
    "/routes",
    "/server_info",
    "/stats",
    "/stats/prometheus",
];

fn read(controller: &SharedController, request: &Request<Incoming>) -> Page {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return not_allowed(
            "this port only answers GET; what changes something is for the privileged port\n",
            "GET, HEAD",
        );
    }
    let query = request.uri().query().unwrap_or_default();
    let controller = controller.borrow();
    match request.uri().path() {
        "/ready" => pages::ready(&controller),
        "/metrics" => reply(StatusCode::OK, OPENMETRICS, controller.registry.render(&controller.snapshot())),
        "/config_dump" => reply(StatusCode::OK, JSON, format!("{:#}\n", pages::config_dump(&controller))),
        "/server_info" => reply(StatusCode::OK, JSON, format!("{:#}\n", pages::server_info(&controller))),
        "/certs" => pages::certs(&controller),
        "/clusters" => pages::clusters(&controller, query),
        "/explain" => explain(&controller, query),
        "/listeners" => pages::listeners(&controller, query),
        "/routes" => pages::routes(&controller, query),
        "/stats" => pages::stats(&controller, query),
        "/stats/prometheus" => pages::stats_prometheus(&controller, query),
        "/" => reply(StatusCode::OK, TEXT, PATHS.map(|path| format!("{path}\n")).concat()),
        other => {
            reply(StatusCode::NOT_FOUND, TEXT, format!("there is no {other} here; / lists what there is\n"))
        }
    }
}

/// Where a request would go, and why.
fn explain(controller: &Controller, query: &str) -> Page {
    let answer =
        Ask::from_query(query).and_then(|ask| Ok((ask.answer(&controller.snapshot())?, ask.is_json())));
    match answer {
        Ok((answer, is_json)) => reply(StatusCode::OK, if is_json { JSON } else { TEXT }, answer),
        Err(reason) => reply(StatusCode::BAD_REQUEST, TEXT, format!("{reason}\n")),
    }
}

fn not_allowed(words: &str, allowed: &'static str) -> Page {
    let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, words.to_owned());
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Page {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
