//! The steps of a request, one by one: instructions (callgrind), allocations and time for each.
//!
//! Instructions and allocations are the same at every run; time is not and decides nothing. Each case runs under
//! callgrind twice, with n and with 2n iterations; the difference over n is the case's own cost.

#![allow(
    unsafe_code,
    clippy::disallowed_methods,
    reason = "an allocator that counts, and a clock, belong to a bench"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use proxy_core::access::{Format, JsonValue, Record};
use proxy_core::config::{
    Arm, Condition, Domain, FieldName, HeaderMatch, NodeFacts, PathMatch, Predicate, Route,
    RouteConfiguration, TextMatch, VirtualHost,
};
use proxy_core::hop::{self, HopRules};
use proxy_core::http1::{
    Limits, Method, RequestEdits, RequestHead, RequestRules, ResponseEdits, ResponseHead, ServerHeader,
    Version, parse_request, parse_response, write_request, write_response,
};
use proxy_core::path::{self, PathRules};
use proxy_core::pattern::Pattern;
use proxy_core::route::{RequestView, RouteTable};
use proxy_core::split::{Phase, Rendezvous, Sequence};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// Bytes that are in use.
static LIVE: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator unchanged; counting touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        LIVE.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same for the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the pointer came from `System.alloc` above with the same layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const WRK: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";
const BROWSER: &[u8] = b"GET /shop/cart?item=7 HTTP/1.1\r\nHost: shop.example.com\r\nConnection: keep-alive\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\nAccept: text/html,application/xhtml+xml\r\n\
    Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-US,en;q=0.9\r\nCache-Control: no-cache\r\n\
    Cookie: session=0123456789abcdef; theme=dark\r\nReferer: https://shop.example.com/\r\nX-User: 12345\r\n\
    X-Request-Id: 6f1c6f0e-0a51-4a6a-9f43-8d0f5a1c2b3d\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 21 Nov 2026 00:00:00 GMT\r\n\
    Content-Type: text/plain\r\nContent-Length: 1024\r\nConnection: keep-alive\r\n\r\n";

struct View<'a>(&'a RequestHead, &'a [u8]);

impl RequestView for View<'_> {
    fn method(&self) -> &[u8] {
        self.0.method_token.slice(self.1)
    }
    fn authority(&self) -> &[u8] {
        self.0.authority.slice(self.1)
    }
    fn path(&self) -> &[u8] {
        self.0.path.slice(self.1)
    }
    fn header<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.0.headers.iter().filter(move |l| l.name.slice(self.1).eq_ignore_ascii_case(name));
        lines.map(|l| l.value.slice(self.1))
    }
    fn each_name(&self, mut take: impl FnMut(&[u8])) {
        self.0.headers.iter().for_each(|line| take(line.name.slice(self.1)));
    }
}

fn arms(weights: &[u32]) -> Vec<Arm> {
    let arm = |(i, w): (usize, &u32)| Arm::new(format!("v{i}"), format!("v{i}"), *w);
    weights.iter().enumerate().map(arm).collect()
}

/// `prefixes` routes that do not match, `headers` that match but for a header, then the one that matches.
fn table(prefixes: usize, headers: usize) -> RouteTable {
    let route = |path: String, conditions: Vec<Condition>| {
        Route::forwarding(PathMatch::Prefix(path.into()), conditions, arms(&[95, 5]))
    };
    let header = |i: usize| {
        let predicate = Predicate::Text(TextMatch::exact("yes"));
        Condition::Header(HeaderMatch::new(FieldName::Header(format!("x-header-{i}").into()), predicate))
    };
    let mut routes: Vec<_> = (0..prefixes).map(|i| route(format!("/service-{i}/"), vec![])).collect();
    routes.extend((0..headers).map(|i| route("/".to_owned(), vec![header(i)])));
    routes.push(route("/".to_owned(), vec![]));
    let host = VirtualHost::new("h", vec![Domain::Any], routes);
    let config =
        RouteConfiguration { ignore_port_in_host_matching: true, ..RouteConfiguration::new("r", vec![host]) };
    RouteTable::compile(&Arc::new(config), &"r".into(), &NodeFacts::default(), |_| 0)
}

/// So many virtual hosts, the last of which is that of the browser's request.
fn hosts(count: usize) -> RouteConfiguration {
    let host = |i: usize| {
        let domain =
            if i + 1 == count { "shop.example.com".to_owned() } else { format!("host-{i}.example.com") };
        let route = Route::forwarding(PathMatch::Prefix("/".into()), vec![], arms(&[95, 5]));
        VirtualHost::new(format!("h{i}"), vec![Domain::Exact(domain.into())], vec![route])
    };
    RouteConfiguration::new("r", (0..count).map(host).collect())
}

fn compiled(config: RouteConfiguration) -> RouteTable {
    RouteTable::compile(&Arc::new(config), &"r".into(), &NodeFacts::default(), |_| 0)
}

fn parsed(bytes: &[u8]) -> RequestHead {
    let mut head = RequestHead::default();
    assert_eq!(parse_request(bytes, &RequestRules::default(), &mut head), Ok(true));
    head
}

/// A case: its name, and its set-up, which returns what is repeated.
type Case = (&'static str, fn() -> Box<dyn FnMut()>);

const CASES: &[Case] = &[
    ("parse request, wrk", || {
        let mut head = RequestHead::default();
        Box::new(move || {
            let _ = black_box(parse_request(black_box(WRK), &RequestRules::default(), &mut head));
        })
    }),
    ("parse request, browser", || {
        let mut head = RequestHead::default();
        Box::new(move || {
            let _ = black_box(parse_request(black_box(BROWSER), &RequestRules::default(), &mut head));
        })
    }),
    ("write request, wrk", || {
        let (head, mut out) = (parsed(WRK), Vec::with_capacity(4096));
        Box::new(move || {
            out.clear();
            write_request(&mut out, black_box(WRK), &head, &RequestEdits::default());
        })
    }),
    ("write request, browser", || {
        let (head, mut out) = (parsed(BROWSER), Vec::with_capacity(4096));
        Box::new(move || {
            out.clear();
            write_request(&mut out, black_box(BROWSER), &head, &RequestEdits::default());
        })
    }),
    ("parse response", || {
        let mut head = ResponseHead::default();
        Box::new(move || {
            let _ =
                black_box(parse_response(black_box(RESPONSE), &Limits::default(), Method::Get, &mut head));
        })
    }),
    ("write response", || {
        let (mut head, mut out) = (ResponseHead::default(), Vec::with_capacity(4096));
        assert_eq!(parse_response(RESPONSE, &Limits::default(), Method::Get, &mut head), Ok(true));
        let server = ServerHeader::default();
        Box::new(move || {
            out.clear();
            let date = b"Sun, 06 Nov 1994 08:49:37 GMT";
            let edits = ResponseEdits {
                client: Version::Http11,
                keep_alive: true,
                server: &server,
                date: black_box(date),
                added: b"",
            };
            write_response(&mut out, black_box(RESPONSE), &head, &edits);
        })
    }),
    ("path, normal already", || {
        let mut path = *b"/api/v1/items?limit=20";
        Box::new(move || {
            let _ = black_box(path::normalize(black_box(&mut path), &PathRules::default()));
        })
    }),
    ("hop headers, at the edge", || {
        let (mut head, mut added) = (RequestHead::default(), Vec::with_capacity(4096));
        assert_eq!(parse_request(WRK, &RequestRules::default(), &mut head), Ok(true));
        let rules = HopRules { is_edge: true, ..HopRules::default() };
        Box::new(move || {
            let fresh = || hop::request_id(black_box(7), black_box(8));
            hop::apply(
                black_box(&rules),
                hop::Peer::plain("192.0.2.7"),
                black_box(WRK),
                &mut head,
                fresh,
                &mut added,
            );
        })
    }),
    ("access-log line, JSON of ten fields", || {
        let (mut head, mut out) = (RequestHead::default(), Vec::with_capacity(4096));
        assert_eq!(parse_request(WRK, &RequestRules::default(), &mut head), Ok(true));
        let format = log_format();
        Box::new(move || {
            out.clear();
            let record = Record {
                request: Some((&head, WRK)),
                status: 200,
                arm: "v2",
                cluster: "shop-v2",
                endpoint: "10.0.0.2:80",
                attempts: 1,
                started: black_box(1_795_250_414_007_900),
                duration: 345,
                bytes_sent: 1024,
                ..Record::default()
            };
            format.write(black_box(&record), &mut out);
        })
    }),
    ("match, 1 route", || matching(0, 0)),
    ("match, behind 1,000 prefixes", || matching(1_000, 0)),
    ("match, behind 10,000 prefixes", || matching(10_000, 0)),
    ("match, behind 20 header routes", || matching(0, 20)),
    ("match, behind 1,000 expressions", || {
        let expression = |i: usize| {
            let pattern = Pattern::new(&format!("/service-{i}/[^/]+/items/[0-9]+")).expect("valid");
            Route::forwarding(PathMatch::Regex(pattern), vec![], arms(&[95, 5]))
        };
        let mut routes: Vec<_> = (0..1_000).map(expression).collect();
        routes.push(Route::forwarding(PathMatch::Prefix("/".into()), vec![], arms(&[95, 5])));
        let host = VirtualHost::new("h", vec![Domain::Any], routes);
        in_table(compiled(RouteConfiguration::new("r", vec![host])), 1_000)
    }),
    ("match, behind 1,000 hosts", || in_table(compiled(hosts(1_000)), 999)),
    ("match, behind 10,000 hosts", || in_table(compiled(hosts(10_000)), 9_999)),
    ("split, sequence of 2", || {
        let mut sequence = Sequence::new(&arms(&[95, 5]), Phase::START);
        Box::new(move || {
            black_box(sequence.next());
        })
    }),
    ("split, sequence of 4", || {
        let mut sequence = Sequence::new(&arms(&[70, 20, 9, 1]), Phase::START);
        Box::new(move || {
            black_box(sequence.next());
        })
    }),
    ("split, rendezvous of 4", || {
        let rendezvous = Rendezvous::new(&arms(&[70, 20, 9, 1]), "salt");
        Box::new(move || {
            black_box(rendezvous.pick(black_box(b"user-12345")));
        })
    }),
];

fn matching(prefixes: usize, headers: usize) -> Box<dyn FnMut()> {
    in_table(table(prefixes, headers), prefixes + headers)
}

fn in_table(table: RouteTable, expected: usize) -> Box<dyn FnMut()> {
    let head = parsed(BROWSER);
    Box::new(move || {
        let found = table.find(&View(&head, black_box(BROWSER))).map(|(number, _)| number);
        assert_eq!(black_box(found), Ok(expected));
    })
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        // Under callgrind: one case, so often.
        ["--case", number, iterations] => {
            let number: usize = number.parse().expect("a number");
            let mut case = CASES[number].1();
            for _ in 0..iterations.parse::<u64>().expect("a number") {
                case();
            }
        }
        ["--smoke"] => {
            report(10);
            report_tables();
        }
        _ => {
            report(200_000);
            report_tables();
        }
    }
}

fn report(iterations: u64) {
    println!("{:<34}{:>14}{:>13}{:>10}", "", "instructions", "allocations", "ns");
    for (number, (name, set_up)) in CASES.iter().enumerate() {
        let mut case = set_up();
        case();
        let allocated = ALLOCATIONS.load(Ordering::Relaxed);
        let started = Instant::now();
        (0..iterations).for_each(|_| case());
        let nanos = started.elapsed().as_nanos() as f64 / iterations as f64;
        let allocations = (ALLOCATIONS.load(Ordering::Relaxed) - allocated) as f64 / iterations as f64;
        let instructions = instructions(number).map_or("-".to_owned(), |n| n.to_string());
        println!("{name:<34}{instructions:>14}{allocations:>13}{nanos:>10.1}");
        assert!(allocations == 0.0, "{name} allocates");
    }
}

/// What tables of 10,000 routes take: memory in use, and time.
fn report_tables() {
    const ROUTES: usize = 10_000;
    println!("\n{:<34}{:>14}{:>13}{:>10}", "10,000 routes", "config B", "table B", "ms");
    let prefixes = || {
        let route =
            |i| Route::forwarding(PathMatch::Prefix(format!("/service-{i}/").into()), vec![], arms(&[95, 5]));
        RouteConfiguration::new(
            "r",
            vec![VirtualHost::new("h", vec![Domain::Any], (0..ROUTES).map(route).collect())],
        )
    };
    for (name, is_by_host) in [("a host each", true), ("a prefix each", false)] {
        let live = || LIVE.load(Ordering::Relaxed);
        let before = live();
        let config = if is_by_host { hosts(ROUTES) } else { prefixes() };
        let with_config = live();
        let started = Instant::now();
        let table = compiled(config);
        let elapsed = started.elapsed();
        let each = |bytes: u64| bytes / ROUTES as u64;
        println!(
            "{name:<34}{:>14}{:>13}{:>10.1}",
            each(with_config - before),
            each(live() - with_config),
            elapsed.as_secs_f64() * 1e3
        );
        drop(table);
    }
}

/// Instructions of one iteration, or nothing where valgrind is not installed.
fn instructions(case: usize) -> Option<u64> {
    const ITERATIONS: u64 = 1_000;
    let collected = |iterations: u64| {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(std::env::current_exe().ok()?)
            .args(["--case", &case.to_string(), &iterations.to_string()])
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = text.lines().find_map(|l| l.split_once("Collected :"))?.1.trim().to_owned();
        line.parse::<u64>().ok()
    };
    Some((collected(2 * ITERATIONS)? - collected(ITERATIONS)?) / ITERATIONS)
}

fn log_format() -> Format {
    let fields = [
        ("time", "%START_TIME%"),
        ("method", "%REQ(:METHOD)%"),
        ("authority", "%REQ(:AUTHORITY)%"),
        ("path", "%REQ(:PATH)%"),
        ("status", "%RESPONSE_CODE%"),
        ("arm", "%WEIR_ARM%"),
        ("cluster", "%UPSTREAM_CLUSTER%"),
        ("endpoint", "%UPSTREAM_HOST%"),
        ("flags", "%RESPONSE_FLAGS%"),
        ("duration", "%DURATION%"),
    ];
    let members = fields.map(|(name, text)| (name.to_owned(), JsonValue::Text(text.to_owned())));
    Format::json(&JsonValue::Object(members.into()), false).expect("a valid format")
}
