//! Every example of `docs/routing.md`, against a real `weir-proxy`, and against Envoy where the example uses nothing of ours.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tests::{Backend, Client, Envoy, Proxy, Response, Setup, free_port};

/// Routes or virtual hosts, and what becomes of requests.
#[derive(Debug)]
struct Example {
    /// The heading above it.
    title: String,
    configuration: String,
    requests: Vec<Line>,
}

/// `GET http://host/path with name: value and name: value 10 times → expectation, expectation`
#[derive(Debug)]
struct Line {
    text: String,
    method: String,
    host: Option<String>,
    path: String,
    headers: Vec<String>,
    times: Option<u32>,
    outcome: String,
    details: Vec<String>,
}

fn line(text: &str) -> Line {
    let (request, expected) = text.split_once(" → ").unwrap_or_else(|| panic!("{text:?} has no arrow"));
    let (request, times) = match request.strip_suffix(" times").and_then(|rest| rest.rsplit_once(' ')) {
        Some((request, times)) => (request, Some(times.parse().expect("a number"))),
        None => (request, None),
    };
    let (request, headers) = request.split_once(" with ").unwrap_or((request, ""));
    let (method, target) = request.split_once(' ').expect("method and path");
    let (host, path) = match target.strip_prefix("http://") {
        Some(rest) => {
            let slash = rest.find('/').expect("a path");
            (Some(rest[..slash].to_owned()), rest[slash..].to_owned())
        }
        None => (None, target.to_owned()),
    };
    let mut parts = expected.split(", ").map(str::to_owned);
    let mut outcome = parts.next().expect("an outcome");
    let mut details: Vec<_> = parts.collect();
    if times.is_some() {
        outcome.extend(details.drain(..).map(|more| format!(", {more}")));
    }
    Line {
        text: text.to_owned(),
        method: method.to_owned(),
        host,
        path,
        headers: headers.split(" and ").filter(|header| !header.is_empty()).map(str::to_owned).collect(),
        times,
        outcome,
        details,
    }
}

fn examples() -> Vec<Example> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/routing.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let (mut title, mut block, mut configuration) = (String::new(), None, String::new());
    let mut examples = Vec::new();
    for text in page.lines() {
        match (&mut block, text) {
            (None, "```yaml") => {
                configuration.clear();
                block = Some(true);
            }
            (None, "```text") => {
                let configuration = std::mem::take(&mut configuration);
                assert!(!configuration.is_empty(), "{title}: requests without a configuration");
                examples.push(Example { title: title.clone(), configuration, requests: Vec::new() });
                block = Some(false);
            }
            (None, text) => {
                if let Some(heading) = text.strip_prefix('#') {
                    title = heading.trim_start_matches('#').trim().to_owned();
                }
            }
            (Some(_), "```") => block = None,
            (Some(true), text) => {
                configuration.push_str(text);
                configuration.push('\n');
            }
            (Some(false), text) => examples.last_mut().expect("one").requests.push(line(text)),
        }
    }
    examples
}

impl Example {
    /// Whether Envoy understands it.
    fn is_standard(&self) -> bool {
        !self.configuration.contains("weir.")
    }

    /// A bootstrap with this example alone.
    fn bootstrap(&self, backends: &BTreeMap<&'static str, Backend>, port: u16, admin: u16) -> String {
        let clusters = backends.iter().map(|(name, backend)| (*name, backend.address, "")).collect();
        let setup = Setup { clusters, ..Setup::default() };
        let text = setup.bootstrap(port, admin);
        let indented = |text: &str, by: usize| -> String {
            text.lines().map(|line| format!("{:by$}{line}\n", "")).collect()
        };
        let hosts = if self.configuration.contains("domains:") {
            indented(&self.configuration, 12)
        } else {
            format!(
                "            - name: all\n              domains: [ \"*\" ]\n              routes:\n{}",
                indented(&self.configuration, 14)
            )
        };
        let start = text.find("            - { name: all,").expect("the virtual host");
        let end = text.find("  clusters:\n").expect("clusters");
        let text = format!("{}{hosts}{}", &text[..start], &text[end..]);
        // The test's own address is that of an endpoint with a label.
        let labelled = "metadata: { filter_metadata: { envoy.lb: { app: test } } }";
        let text = text.replacen(
            "lb_endpoints: [ { endpoint:",
            &format!("lb_endpoints: [ {{ {labelled}, endpoint:"),
            1,
        );
        format!(
            "{text}  - {{ name: empty, connect_timeout: 1s, load_assignment: {{ cluster_name: empty }} }}\n"
        )
    }
}

/// Backends that answer with their name and the head that they got.
fn backends() -> BTreeMap<&'static str, Backend> {
    let backend = |name: &'static str| {
        Backend::start(move |_, peer| {
            while let Some(head) = peer.head() {
                let body = format!("{name}\n{head}");
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
            }
        })
    };
    ["a", "b", "c"].into_iter().map(|name| (name, backend(name))).collect()
}

impl Line {
    fn ask(&self, client: &mut Client) -> Response {
        let Self { method, host, path, headers, .. } = self;
        let host = host.as_deref().unwrap_or("test");
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n"));
        client.response()
    }

    /// The answer in the words of an example, without details.
    fn outcome(response: &Response) -> String {
        match (response.status(), response.header("location")) {
            (200, _) => response.text().lines().next().unwrap_or_default().to_owned(),
            (status, Some(location)) => format!("{status} {location}"),
            (status, None) => status.to_string(),
        }
    }

    /// What differs from what the example says.
    fn difference(&self, port: u16) -> Option<String> {
        let mut client = Client::connect(port);
        if let Some(times) = self.times {
            let mut counts = BTreeMap::<String, u32>::new();
            for _ in 0..times {
                *counts.entry(Self::outcome(&self.ask(&mut client))).or_default() += 1;
            }
            let mut counts: Vec<_> = counts.into_iter().collect();
            counts.sort_by_key(|(name, _)| (name.len(), name.clone()));
            let counted =
                counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ");
            return (counted != self.outcome).then_some(counted);
        }
        let response = self.ask(&mut client);
        let outcome = Self::outcome(&response);
        if outcome != self.outcome {
            return Some(format!("{outcome}\n{}", response.head));
        }
        let missing = self.details.iter().find(|detail| !holds(detail, &response))?;
        Some(format!("not {missing:?} in\n{}\n{}", response.head, response.text()))
    }
}

fn has_line(head: &str, wanted: &str) -> bool {
    let (name, value) = wanted.split_once(": ").expect("a header line");
    head.lines().filter_map(|line| line.split_once(": ")).any(|(n, v)| {
        // `…` stands for anything.
        let fits = match value.split_once('…') {
            Some((start, end)) => v.starts_with(start) && v.ends_with(end),
            None => v == value,
        };
        n.eq_ignore_ascii_case(name) && fits
    })
}

fn holds(detail: &str, response: &Response) -> bool {
    let seen = response.text().split_once('\n').map_or("", |(_, head)| head);
    if let Some(path) = detail.strip_prefix("asked for ") {
        return seen.split(' ').nth(1) == Some(path);
    }
    if let Some(line) = detail.strip_prefix("which gets ") {
        return has_line(seen, line);
    }
    if let Some(name) = detail.strip_prefix("answered without ") {
        return response.header(name).is_none();
    }
    if let Some(line) = detail.strip_prefix("answered with ") {
        return has_line(&response.head, line);
    }
    match detail.strip_prefix("without ") {
        Some(line) => !has_line(seen, line),
        None => panic!("{detail:?} says nothing"),
    }
}

#[test]
fn every_example_does_what_the_page_says() {
    let backends = backends();
    let examples = examples();
    assert!(examples.len() >= 15, "{} examples", examples.len());
    let mut wrong = String::new();
    for example in &examples {
        let (port, admin) = (free_port(), free_port());
        let text = example.bootstrap(&backends, port, admin);
        let proxy = Proxy::start(&text, port, admin, &["--concurrency".to_owned(), "1".to_owned()]);
        for line in &example.requests {
            if let Some(difference) = line.difference(proxy.port) {
                let _ = writeln!(wrong, "{}: {}: {difference}", example.title, line.text);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn envoy_agrees_where_the_example_is_standard() {
    let backends = backends();
    let mut wrong = String::new();
    let mut compared = 0;
    for example in examples().iter().filter(|example| example.is_standard()) {
        let (port, admin) = (free_port(), free_port());
        let Some(envoy) = Envoy::start(&example.bootstrap(&backends, port, admin), port, admin) else {
            return;
        };
        // Its splits are random: their shares have a test of their own.
        for line in example.requests.iter().filter(|line| line.times.is_none()) {
            compared += 1;
            if let Some(difference) = line.difference(envoy.port) {
                let _ = writeln!(wrong, "{}: {}: {difference}", example.title, line.text);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(compared >= 80, "{compared} requests were compared");
}

/// What of Envoy's route messages is refused is listed in the page, with the reason.
#[test]
fn every_refused_field_is_on_the_page() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../xds-proto/proto/envoy/config/route/v3");
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/routing.md"))
        .expect("the page");
    let mut count = 0;
    for file in std::fs::read_dir(folder).expect("the folder") {
        let text = std::fs::read_to_string(file.expect("a file").path()).expect("a text");
        for reserved in text.split("reserved ").skip(1).filter_map(|rest| rest.split(';').next()) {
            for name in reserved.split('"').skip(1).step_by(2) {
                count += 1;
                assert!(page.contains(&format!("`{name}`")), "{name} is refused, and not on the page");
            }
        }
    }
    assert!(count >= 45, "{count} fields");
}
