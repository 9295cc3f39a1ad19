//! What the route changes of the request and of its response: header lines, path, host.

use std::borrow::Cow;

use proxy_core::access::Record;
use proxy_core::config::{EditList, EditLists, Forward, HeaderEdits, HeaderText, HostRewrite, PathRewrite};
use proxy_core::edit::{self, Lines};
use proxy_core::http1::{self, HeaderId, HeaderSpan, Method};
use proxy_core::rewrite;
use proxy_core::route::HeadView;

use super::observe::record;
use super::{RequestContext, Routed};
use crate::exchange::Exchange;

/// The lists that hold for a request, in the order in which they are applied: the last word is the configuration's, unless
/// it leaves that to the route. The arm's comes first in any case, as in Envoy.
fn lists(routed: &Routed) -> impl Iterator<Item = &EditLists> {
    let levels: [Option<&HeaderEdits>; 4] = match &routed.route {
        Some(route) if route.has_edits => {
            let (table, compiled, config) = (&route.table, route.compiled(), route.config());
            let arm = config.arms().get(routed.arm).map(|arm| &arm.edits);
            let (host, all) = (&table.host_config(compiled).edits, &table.config.edits);
            match table.config.most_specific_wins {
                false => [arm, Some(&config.edits), Some(host), Some(all)],
                true => [arm, Some(all), Some(host), Some(&config.edits)],
            }
        }
        _ => [None; 4],
    };
    levels.into_iter().flatten().filter_map(HeaderEdits::lists)
}

const ATTEMPT_COUNT: &[u8] = b"x-envoy-attempt-count";

/// Tells the endpoint that this is the first attempt, whatever anybody said before.
pub(super) fn attempt_count(exchange: &mut Exchange) {
    let Exchange { request, from_client, added, .. } = exchange;
    drop_lines(&mut request.headers, from_client, ATTEMPT_COUNT);
    added.extend_from_slice(b"x-envoy-attempt-count: 1\r\n");
}

fn drop_lines(headers: &mut [HeaderSpan], buffer: &[u8], name: &[u8]) {
    let named = |line: &&mut HeaderSpan| line.name.slice(buffer).eq_ignore_ascii_case(name);
    headers.iter_mut().filter(named).for_each(|line| line.dropped = true);
}

fn has_edits(routed: &Routed) -> bool {
    routed.route.as_ref().is_some_and(|route| route.has_edits)
}

/// Edits the request's lines.
pub(super) fn request(cx: &RequestContext<'_>, routed: &Routed, exchange: &mut Exchange) {
    if !has_edits(routed) {
        return;
    }
    for lists in lists(routed) {
        let list = &lists.request;
        if list.is_empty() {
            continue;
        }
        let mut lines = request_lines(exchange);
        lines.take_away(list);
        let wanted: Vec<_> = lines.wanted(list).collect();
        let values = values(cx, routed, exchange, list, &wanted, 0);
        request_lines(exchange).apply(list, &values);
    }
}

fn request_lines(exchange: &mut Exchange) -> Lines<'_> {
    let Exchange { request, from_client, added, .. } = exchange;
    Lines { headers: &mut request.headers, buffer: from_client, added }
}

/// Edits the lines of the endpoint's response.
pub(super) fn response(cx: &RequestContext<'_>, routed: &Routed, exchange: &mut Exchange) {
    if has_edits(routed) {
        edit_response(cx, routed, exchange, exchange.response.status);
    }
}

/// Edits the lines of a reply of our own, which has none but those that are added.
pub(super) fn local_reply(cx: &RequestContext<'_>, routed: &Routed, exchange: &mut Exchange, status: u16) {
    exchange.response.headers.clear();
    edit_response(cx, routed, exchange, status);
}

fn edit_response(cx: &RequestContext<'_>, routed: &Routed, exchange: &mut Exchange, status: u16) {
    let Some(route) = &routed.route else { return };
    for lists in lists(routed) {
        let list = &lists.response;
        if list.is_empty() {
            continue;
        }
        let mut lines = response_lines(exchange);
        lines.take_away(list);
        let wanted: Vec<_> = lines.wanted(list).collect();
        let values = values(cx, routed, exchange, list, &wanted, status);
        response_lines(exchange).apply(list, &values);
    }
    if route.table.host_config(route.compiled()).answers_attempts && routed.cluster.is_some() {
        let line = format!("x-envoy-attempt-count: {}\r\n", exchange.progress.attempts.max(1));
        let Exchange { response, from_upstream, answered, .. } = exchange;
        drop_lines(&mut response.headers, from_upstream, ATTEMPT_COUNT);
        answered.extend_from_slice(line.as_bytes());
    }
}

fn response_lines(exchange: &mut Exchange) -> Lines<'_> {
    let Exchange { response, from_upstream, answered, .. } = exchange;
    Lines { headers: &mut response.headers, buffer: from_upstream, added: answered }
}

fn values<'l>(
    cx: &RequestContext<'_>,
    routed: &Routed,
    exchange: &Exchange,
    list: &'l EditList,
    wanted: &[bool],
    status: u16,
) -> Vec<Option<Cow<'l, [u8]>>> {
    let fixed = list.add.iter().all(|addition| matches!(addition.value, HeaderText::Fixed(_)));
    let wanted = wanted.iter().copied();
    if fixed {
        return edit::values(list, wanted, &Record::default());
    }
    edit::values(list, wanted, &record(cx, routed, exchange, status, None, 0))
}

/// Writes the target and the host that leave, where the route changes them. `hostname` is the endpoint's.
pub(super) fn target(routed: &Routed, forward: &Forward, hostname: &str, exchange: &mut Exchange) {
    let Some(route) = &routed.route else { return };
    let arm_host = forward.split.arms.get(routed.arm).and_then(|arm| arm.host.as_deref());
    if forward.path == PathRewrite::Keep && forward.host == HostRewrite::Keep && arm_host.is_none() {
        return;
    }
    if exchange.request.method == Method::Connect {
        // Its target is the authority, and both must stay the same (RFC 9112 §3.2.3).
        return;
    }
    let Exchange { request, from_client, added, target, host, .. } = exchange;
    let original = request.path.slice(from_client);
    let view = HeadView { head: request, buffer: from_client, added, default_host: "" };
    match &forward.host {
        HostRewrite::Keep => host.extend_from_slice(arm_host.unwrap_or_default().as_bytes()),
        HostRewrite::Literal(text) => host.extend_from_slice(text.as_bytes()),
        HostRewrite::Endpoint => host.extend_from_slice(hostname.as_bytes()),
        HostRewrite::Header(name) => {
            host.extend_from_slice(view.lines(name.as_bytes()).next().unwrap_or_default());
        }
        HostRewrite::PathRegex(substitution) => {
            let path = original.split(|byte| *byte == b'?').next().unwrap_or_default();
            substitution.write(path, host);
        }
    }
    if !http1::is_host(host) {
        host.clear();
        // What the route asks for is not there: the arm's own stays.
        host.extend_from_slice(arm_host.unwrap_or_default().as_bytes());
    }
    let rewrote = rewrite::path(&forward.path, &route.config().path, original, target);
    let note = |added: &mut Vec<u8>, name: &[u8], value: &[u8]| {
        for part in [name, b": ", value, b"\r\n"] {
            added.extend_from_slice(part);
        }
    };
    // Internal lines of the same name were never believed at the edge; here they are replaced.
    let mut replaced = |name: &[u8]| {
        for line in request.headers.iter_mut().filter(|line| {
            line.id == HeaderId::Internal && line.name.slice(from_client).eq_ignore_ascii_case(name)
        }) {
            line.dropped = true;
        }
    };
    if rewrote {
        replaced(b"x-envoy-original-path");
        note(added, b"x-envoy-original-path", original);
    }
    if !host.is_empty() {
        let authority = request.authority.slice(from_client);
        replaced(b"x-envoy-original-host");
        note(added, b"x-envoy-original-host", authority);
        // At the edge it is there already.
        let is_there = added.split(|byte| *byte == b'\n').any(|line| {
            line.strip_prefix(b"x-forwarded-host: ").is_some_and(|value| value.trim_ascii_end() == authority)
        });
        if forward.appends_forwarded_host && !is_there {
            note(added, b"x-forwarded-host", authority);
        }
    }
}
