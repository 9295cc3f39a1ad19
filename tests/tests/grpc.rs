//! gRPC through the proxy, with the stock client and server of `grpcio`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tests::mesh::{Mesh, shown, upstream};
use tests::{Pki, Proxy, Setup, python};

/// Methods that echo, fail, dawdle and stream. Messages are bytes.
const SERVER: &str = r#"
import grpc, sys, time
from concurrent import futures
name = sys.argv[1]
def echo(request, context):
    context.set_trailing_metadata((("served-by", name),))
    return request
def fail(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not so fast: 100 %")
def slow(request, context):
    time.sleep(float(request))
    return request
def many(request, context):
    for i in range(int(request)):
        yield b"%d" % i
def collect(requests, context):
    return b",".join(requests)
def talk(requests, context):
    for request in requests:
        yield request + b"!"
unary = lambda f: grpc.unary_unary_rpc_method_handler(f)
handlers = {
    "Echo": unary(echo), "Fail": unary(fail), "Slow": unary(slow),
    "Many": grpc.unary_stream_rpc_method_handler(many),
    "Collect": grpc.stream_unary_rpc_method_handler(collect),
    "Talk": grpc.stream_stream_rpc_method_handler(talk),
}
server = grpc.server(futures.ThreadPoolExecutor(16))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
"#;

/// Runs with `call` and friends defined; a failed assertion is the test's.
const CLIENT: &str = r#"
import grpc, queue, sys, time
channel = grpc.insecure_channel("127.0.0.1:" + sys.argv[1])
path = lambda method: "/test.Echo/" + method
def call(method, request, **more):
    return channel.unary_unary(path(method)).with_call(request, timeout=more.pop("timeout", 10), **more)
def code(method, request, **more):
    try:
        call(method, request, **more)
        return "OK", ""
    except grpc.RpcError as error:
        return error.code().name, error.details()
"#;

struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn server(python: &PathBuf, name: &str) -> Server {
    let mut child = Command::new(python)
        .args(["-c", SERVER, name])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a port");
    Server { port: line.trim().parse().expect("a port"), child }
}

fn client(python: &PathBuf, port: u16, script: &str) {
    let mut child = Command::new("timeout")
        .arg("60")
        .arg(python)
        .args(["-", &port.to_string()])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the client starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(CLIENT.as_bytes()).and_then(|()| stdin.write_all(script.as_bytes())).expect("written");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn proxy(servers: &[(&str, &Server)], routes: &str) -> Proxy {
    let clusters = servers
        .iter()
        .map(|(name, server)| (*name, ([127, 0, 0, 1], server.port).into(), "http2_protocol_options: {}"));
    let setup = Setup { clusters: clusters.collect(), ..Setup::default() };
    setup.routes(routes).start()
}

#[test]
fn every_kind_of_call_goes_through() {
    let Some(python) = python() else { return };
    let server = server(&python, "a");
    let proxy = proxy(&[("c", &server)], "{ match: { prefix: /, grpc: {} }, route: { cluster: c } }");
    client(
        &python,
        proxy.port,
        r#"
answer, it = call("Echo", b"hello")
assert answer == b"hello"
assert ("served-by", "a") in [tuple(x) for x in it.trailing_metadata()], it.trailing_metadata()
large = b"x" * 3_000_000
assert call("Echo", large)[0] == large
assert code("Fail", b"") == ("FAILED_PRECONDITION", "not so fast: 100 %")
assert code("Nothing", b"")[0] == "UNIMPLEMENTED"
assert list(channel.unary_stream(path("Many"))(b"1000")) == [b"%d" % i for i in range(1000)]
assert channel.stream_unary(path("Collect"))(iter([b"a", b"b", b"c"])) == b"a,b,c"
# One message at a time, each answered before the next is sent.
sent = queue.Queue()
answers = channel.stream_stream(path("Talk"))(iter(sent.get, None))
for i in range(20):
    sent.put(b"%d" % i)
    assert next(answers) == b"%d!" % i
sent.put(None)
assert list(answers) == []
"#,
    );
    let calls = |status: u8| {
        proxy.metric(&format!(
            "weir_grpc_calls_total{{route=\"r/all/#0\",arm=\"c\",cluster=\"c\",grpc_status=\"{status}\"}}"
        ))
    };
    tests::eventually("all are counted", || (calls(0) == 5).then_some(()));
    assert_eq!((calls(9), calls(12)), (1, 1), "{}", proxy.page("/metrics"));
}

#[test]
fn calls_go_through_tls_from_end_to_end() {
    let Some(python) = python() else { return };
    let server = server(&python, "a");
    let folder = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(folder.path(), "ca");
    let leaf = pki.leaf("leaf", &["shop.test"]);
    let ca = pki.authority();
    let http2 = "http2_protocol_options: {},";
    let inner = Mesh::default()
        .chain("in", "", &shown(&leaf), "")
        .cluster("c", ([127, 0, 0, 1], server.port).into(), http2)
        .start();
    let trust = format!(
        "sni: shop.test, common_tls_context: {{ validation_context: {{ trusted_ca: {{ filename: {} }} }} }}",
        ca.display()
    );
    let outer = Mesh::default()
        .chain("out", "", &shown(&leaf), "")
        .cluster("c", ([127, 0, 0, 1], inner.port).into(), &format!("{http2} {}", upstream(&trust)))
        .start();
    let secure = format!(
        "trusted = grpc.ssl_channel_credentials(open({:?}, 'rb').read())\n\
         options = (('grpc.ssl_target_name_override', 'shop.test'),)\n\
         channel = grpc.secure_channel('127.0.0.1:' + sys.argv[1], trusted, options)\n",
        ca.display().to_string()
    );
    let calls = r#"
large = b"x" * 2_000_000
assert call("Echo", large)[0] == large
assert code("Fail", b"") == ("FAILED_PRECONDITION", "not so fast: 100 %")
assert list(channel.unary_stream(path("Many"))(b"1000")) == [b"%d" % i for i in range(1000)]
assert list(channel.stream_stream(path("Talk"))(iter([b"a", b"b"]))) == [b"a!", b"b!"]
"#;
    client(&python, outer.port, &format!("{secure}{calls}"));
}

#[test]
fn deadlines_are_kept_and_the_proxys_own_words_are_a_status() {
    let Some(python) = python() else { return };
    let server = server(&python, "a");
    let routes = "{ match: { path: /test.Echo/Echo }, route: { cluster: gone } },
        { match: { path: /test.Echo/Slow, headers: [ { name: short, present_match: true } ] }, route: { cluster: c,
          max_stream_duration: { grpc_timeout_header_max: 0.2s } } },
        { match: { path: /test.Echo/Slow }, route: { cluster: c } }";
    let nobody = ([127, 0, 0, 1], 1).into();
    let setup = Setup {
        clusters: vec![
            ("c", ([127, 0, 0, 1], server.port).into(), "http2_protocol_options: {}"),
            ("gone", nobody, "http2_protocol_options: {}"),
        ],
        ..Setup::default()
    };
    let proxy = setup.routes(routes).start();
    client(
        &python,
        proxy.port,
        r#"
assert code("Slow", b"0.1") == ("OK", "")
began = time.time()
status, words = code("Slow", b"5", timeout=20, metadata=(("short", "1"),))
assert status == "DEADLINE_EXCEEDED" and "max_stream_duration" in words, (status, words)
assert time.time() - began < 4
assert code("Slow", b"5", timeout=0.3)[0] == "DEADLINE_EXCEEDED"
assert code("Echo", b"") == ("UNAVAILABLE", "no connection to the endpoint")
assert code("Many", b"") == ("UNIMPLEMENTED", "no route matches this request")
"#,
    );
    proxy.settles("weir_failures_total{reason=\"connect_failed\",flag=\"UF\"}", 1);
}

#[test]
fn calls_are_split_by_weight_and_method_over_one_connection() {
    let Some(python) = python() else { return };
    let (a, b) = (server(&python, "a"), server(&python, "b"));
    let routes = "{ match: { path: /test.Echo/Echo, headers: [ { name: canary, string_match: { exact: 'yes' } } ] }, route: { cluster: b } },
        { match: { prefix: /test.Echo/ }, route: { weighted_clusters: { clusters: [ { name: a, weight: 3 }, { name: b, weight: 1 } ] } } }";
    let proxy = proxy(&[("a", &a), ("b", &b)], routes);
    client(
        &python,
        proxy.port,
        r#"
served = lambda **more: dict(call("Echo", b"x", **more)[1].trailing_metadata())["served-by"]
names = [served() for _ in range(40)]
assert names.count("b") == 10, names
assert all(served(metadata=(("canary", "yes"),)) == "b" for _ in range(5))
"#,
    );
}

#[test]
fn a_server_that_dies_is_unavailable() {
    let Some(python) = python() else { return };
    let first = server(&python, "a");
    let proxy = proxy(&[("c", &first)], "{ match: { prefix: / }, route: { cluster: c } }");
    client(&python, proxy.port, "assert code(\"Echo\", b\"\")[0] == \"OK\"\n");
    drop(first);
    client(
        &python,
        proxy.port,
        "assert code(\"Echo\", b\"\")[0] == \"UNAVAILABLE\", code(\"Echo\", b\"\")\n",
    );
}

#[test]
fn browsers_speak_grpc_web_in_bytes_and_in_text() {
    let Some(python) = python() else { return };
    let server = server(&python, "a");
    let setup = Setup {
        clusters: vec![("c", ([127, 0, 0, 1], server.port).into(), "http2_protocol_options: {}")],
        filters: "- { name: web, typed_config: { '@type': type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb } }",
        ..Setup::default()
    };
    let proxy = setup.routes("{ match: { prefix: / }, route: { cluster: c } }").start();
    client(
        &python,
        proxy.port,
        r#"
import base64, http.client, struct
def web(method, *messages, text=False):
    body = b"".join(struct.pack(">BI", 0, len(m)) + m for m in messages)
    kind = "application/grpc-web-text" if text else "application/grpc-web+proto"
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=10)
    connection.request("POST", path(method), base64.b64encode(body) if text else body, {"Content-Type": kind, "X-Grpc-Web": "1"})
    response = connection.getresponse()
    assert response.status == 200, response.status
    got, kind = response.read(), response.getheader("Content-Type")
    assert kind.startswith("application/grpc-web-text" if text else "application/grpc-web+"), kind
    if text:
        # Each piece may be padded.
        pieces, at = b"", 0
        while at < len(got):
            pieces += base64.b64decode(got[at:at + 4]); at += 4
        got = pieces
    frames = []
    while got:
        flag, length = struct.unpack(">BI", got[:5])
        frames.append((flag, got[5:5 + length]))
        got = got[5 + length:]
    trailers = dict(line.split(":", 1) for line in frames[-1][1].decode().split("\r\n") if line) if frames and frames[-1][0] == 128 else {}
    trailers = {k.strip().lower(): v.strip() for k, v in trailers.items()}
    status = trailers.get("grpc-status", response.getheader("grpc-status"))
    return [data for flag, data in frames if flag == 0], status, trailers
for text in (False, True):
    answer, status, trailers = web("Echo", b"hello", text=text)
    assert (answer, status) == ([b"hello"], "0"), (answer, status)
    assert trailers["served-by"] == "a", trailers
    large = bytes(range(256)) * 2000
    assert web("Echo", large, text=text)[0] == [large]
    assert web("Many", b"100", text=text)[0] == [b"%d" % i for i in range(100)]
    assert web("Fail", b"", text=text)[1] == "9"
    assert web("Nothing", b"", text=text)[1] == "12"
# Without the bridge's word for it, gRPC itself goes through as ever.
assert call("Echo", b"hello")[0] == b"hello"
"#,
    );
}

#[test]
fn the_proxy_tells_its_own_health() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let privileged = folder.path().join("admin.sock").display().to_string();
    let setup = Setup {
        arguments: vec!["--privileged-admin-path".into(), privileged.clone()],
        ..Setup::to(([127, 0, 0, 1], 9).into())
    };
    let proxy = setup.start();
    let script = r#"
import socket
health = "/grpc.health.v1.Health/"
check = channel.unary_unary(health + "Check")
watched = channel.unary_stream(health + "Watch")(b"", timeout=20)
def turn(word):
    admin = socket.socket(socket.AF_UNIX)
    admin.connect(PRIVILEGED)
    admin.sendall(b"POST /healthcheck/%s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % word)
    while admin.recv(1000): pass
assert check(b"", timeout=5) == bytes([8, 1])
assert channel.unary_unary(health + "List")(b"", timeout=5) == bytes([10, 6, 10, 0, 18, 2, 8, 1])
assert next(watched) == bytes([8, 1])
turn(b"fail")
assert next(watched) == bytes([8, 2])
assert check(b"", timeout=5) == bytes([8, 2])
turn(b"ok")
assert next(watched) == bytes([8, 1])
watched.cancel()
# Nobody else is known here.
try:
    assert not check(bytes([10, 1, 97]), timeout=5)
except grpc.RpcError as error:
    assert error.code().name == "NOT_FOUND", error
assert next(channel.unary_stream(health + "Watch")(bytes([10, 1, 97]), timeout=5)) == bytes([8, 3])
assert code("Echo", b"")[0] == "UNIMPLEMENTED"
"#;
    client(&python, proxy.admin, &format!("PRIVILEGED = {privileged:?}\n{script}"));
}
