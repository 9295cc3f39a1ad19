//! In the steady state a request allocates nothing: not on a worker, with any of the splits, with the access log off.

#![allow(unsafe_code, reason = "an allocator that counts is the measuring device")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use proxy::{Bootstrap, Options, Proxy};

struct Counting;

/// Allocations of worker threads.
static ON_WORKERS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether this thread is a worker; asked of the thread's name once, when it allocates first after it was named.
    static IS_WORKER: Cell<Option<bool>> = const { Cell::new(None) };
}

fn count() {
    let is_worker = IS_WORKER.try_with(|known| match known.get() {
        Some(is_worker) => is_worker,
        None => {
            // Set first: asking for the name may allocate.
            known.set(Some(false));
            let is_worker = std::thread::current().name().is_some_and(|name| name.starts_with("weir-worker"));
            known.set(Some(is_worker));
            is_worker
        }
    });
    if is_worker == Ok(true) {
        ON_WORKERS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`, which is the same for the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System.alloc` above with the same layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Answers every head with 1 KiB.
fn origin() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let response = format!("HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n{}", "x".repeat(1024));
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).is_ok_and(|n| n > 0)
                    && stream.write_all(response.as_bytes()).is_ok()
                {}
            });
        }
    });
    port
}

fn bootstrap(origin: u16) -> Bootstrap {
    let cluster = |name: &str, policy: &str| {
        format!(
            "{{ name: {name}, lb_policy: {policy}, load_assignment: {{ cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ \
             {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {origin} }} }} }} }}, \
             {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {origin} }} }} }} }} ] }} ] }} }}"
        )
    };
    let split = "weighted_clusters: { clusters: [ { name: a, weight: 95 }, { name: b, weight: 5 } ] }";
    let text = format!(
        "static_resources:
  clusters: [ {}, {} ]
  listeners:
  - name: in
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          http_filters: [ {{ name: router, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }} ]
          route_config:
            name: r
            virtual_hosts:
            - name: shop
              domains: [ '*.example.com' ]
              routes:
              - match: {{ prefix: /keyed }}
                route: {{ {split} }}
                typed_per_filter_config: {{ weir.split: {{ '@type': type.googleapis.com/weir.split.v1.SplitPolicy, header: x-user }} }}
              - match: {{ prefix: /, headers: [ {{ name: x-canary, string_match: {{ exact: v2 }} }} ] }}
                route: {{ cluster: b }}
              - match: {{ prefix: / }}
                route: {{ {split} }}
",
        cluster("a", "ROUND_ROBIN"),
        cluster("b", "LEAST_REQUEST"),
    );
    Bootstrap::from_yaml(&text).expect("a bootstrap")
}

fn exchange(client: &mut TcpStream, request: &str) {
    client.write_all(request.as_bytes()).expect("sent");
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    while seen.len() < 1024 || !seen.ends_with(b"xxxx") {
        let n = client.read(&mut buffer).expect("read");
        assert!(n > 0, "the proxy closed");
        seen.extend_from_slice(&buffer[..n]);
    }
    assert!(seen.starts_with(b"HTTP/1.1 200"));
}

#[test]
fn a_request_allocates_nothing_in_the_steady_state() {
    let proxy =
        Proxy::start(bootstrap(origin()), Options { workers: 1, ..Options::default() }).expect("a proxy");
    let address = proxy.listener_address("in").expect("it listens");
    let mut client = TcpStream::connect(address).expect("connected");
    client.set_nodelay(true).expect("no delay");
    client.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("a limit");
    let requests = [
        "GET / HTTP/1.1\r\nHost: Shop.example.com\r\nAccept: */*\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: shop.example.com\r\nX-Canary: v2\r\nConnection: keep-alive\r\n\r\n",
        "GET /keyed/1 HTTP/1.1\r\nHost: shop.example.com\r\nX-User: 7\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: shop.example.com\r\nContent-Length: 5\r\n\r\nhello",
    ];
    let mut run = |rounds: usize| {
        for _ in 0..rounds {
            requests.iter().for_each(|request| exchange(&mut client, request));
        }
    };
    run(200);
    let before = ON_WORKERS.load(Ordering::Relaxed);
    assert!(before > 0, "the device counts");
    run(1_000);
    let after = ON_WORKERS.load(Ordering::Relaxed);
    assert_eq!(after - before, 0, "allocations in 4,000 requests");
    proxy.stop();
}
