"""An ADS server that shares no code with Weir: grpcio and Envoy's own protos. Commands come on standard input, a JSON
document a line; what clients say goes to standard output in the same form."""
import json
import queue
import sys
import threading
from concurrent import futures

import grpc
from envoy.config.cluster.v3 import cluster_pb2  # noqa: F401  (registers the messages that Any may hold)
from envoy.config.endpoint.v3 import endpoint_pb2  # noqa: F401
from envoy.config.listener.v3 import listener_pb2  # noqa: F401
from envoy.config.route.v3 import route_pb2  # noqa: F401
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2  # noqa: F401
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2  # noqa: F401
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2, duration_pb2, json_format

PREFIX = "type.googleapis.com/"
TYPES = {
    "Cluster": PREFIX + "envoy.config.cluster.v3.Cluster",
    "ClusterLoadAssignment": PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment",
    "Secret": PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret",
    "Listener": PREFIX + "envoy.config.listener.v3.Listener",
    "RouteConfiguration": PREFIX + "envoy.config.route.v3.RouteConfiguration",
}
ORDER = list(TYPES.values())
SHORT = {url: name for name, url in TYPES.items()}
lock = threading.RLock()
resources = {url: {} for url in ORDER}  # name -> (version, Any)
streams = []
counter = 0
output = threading.Lock()


def tell(**event):
    with output:
        print(json.dumps(event), flush=True)


def as_any(document):
    return json_format.ParseDict(document, any_pb2.Any())


def name_of(document):
    return document.get("cluster_name") or document.get("clusterName") or document["name"]


class Stream:
    def __init__(self, delta):
        self.delta, self.out = delta, queue.Queue()
        self.types = {}  # type url -> {"names", "wildcard", "nonce", "known", "answered"}

    def nonce(self):
        global counter
        counter += 1
        return "n%d" % counter

    def wanted(self, url):
        state = self.types[url]
        have = resources[url]
        if state["wildcard"]:
            return dict(have)
        return {name: have[name] for name in sorted(state["names"]) if name in have}

    def push(self, url, force=False, names=()):
        state = self.types.get(url)
        if state is None:
            return
        wanted = self.wanted(url)
        versions = {name: version for name, (version, _) in wanted.items()}
        if self.delta:
            changed = [n for n, v in versions.items() if state["known"].get(n) != v or n in names]
            removed = [n for n in state["known"] if n not in versions and (state["wildcard"] or n in state["names"])]
            if not changed and not removed and not force:
                return
            state["known"] = versions
            state["nonce"] = self.nonce()
            self.out.put(discovery_pb2.DeltaDiscoveryResponse(
                type_url=url, nonce=state["nonce"], system_version_info="v%d" % counter, removed_resources=removed,
                resources=[discovery_pb2.Resource(name=n, version=str(versions[n]), resource=wanted[n][1]) for n in changed]))
        else:
            if versions == state["known"] and not force:
                return
            state["known"] = versions
            state["nonce"] = self.nonce()
            self.out.put(discovery_pb2.DiscoveryResponse(
                type_url=url, nonce=state["nonce"], version_info="v%d" % counter, resources=[any for _, any in wanted.values()]))

    def request(self, request):
        url = request.type_url
        with lock:
            first = url not in self.types
            state = self.types.setdefault(
                url, {"names": set(), "wildcard": False, "nonce": "", "known": {}})
            error = request.error_detail.message if request.HasField("error_detail") else None
            event = dict(event="request", type=SHORT.get(url, url), nonce=request.response_nonce, error=error,
                         node=request.node.id, features=list(request.node.client_features), delta=self.delta)
            if self.delta:
                event.update(subscribe=sorted(request.resource_names_subscribe),
                             unsubscribe=sorted(request.resource_names_unsubscribe),
                             initial=dict(request.initial_resource_versions))
            else:
                event.update(names=sorted(request.resource_names), version=request.version_info)
            tell(**event)
            if url not in ORDER:
                return
            legacy = url in (TYPES["Cluster"], TYPES["Listener"])
            if self.delta:
                subscribe, unsubscribe = set(request.resource_names_subscribe), set(request.resource_names_unsubscribe)
                if first:
                    state["known"] = dict(request.initial_resource_versions)
                    state["wildcard"] = legacy and not subscribe
                if "*" in subscribe:
                    state["wildcard"] = True
                state["names"] = (state["names"] | subscribe) - unsubscribe - {"*"}
                if first or subscribe:
                    self.push(url, force=first and state["wildcard"], names=subscribe)
            else:
                names = set(request.resource_names)
                news = first or bool(names - state["names"])
                state["wildcard"] = legacy and not names
                state["names"] = names
                if request.response_nonce and request.response_nonce != state["nonce"] and not first:
                    return
                if news and (state["wildcard"] or names):
                    self.push(url, force=True)


class Servicer(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    def run(self, requests, context, delta):
        stream = Stream(delta)
        with lock:
            streams.append(stream)
        tell(event="connected", delta=delta, peer=context.peer(),
             identity=[name.decode() for name in context.auth_context().get("x509_subject_alternative_name", [])])

        def read():
            try:
                for request in requests:
                    stream.request(request)
            except Exception:
                pass
            stream.out.put(None)

        threading.Thread(target=read, daemon=True).start()
        while True:
            response = stream.out.get()
            if response is None:
                break
            yield response
        with lock:
            if stream in streams:
                streams.remove(stream)
        tell(event="disconnected")

    def StreamAggregatedResources(self, requests, context):
        return self.run(requests, context, False)

    def DeltaAggregatedResources(self, requests, context):
        return self.run(requests, context, True)


def serve(port, tls):
    server = grpc.server(futures.ThreadPoolExecutor(32), options=(("grpc.so_reuseport", 0),))
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(Servicer(), server)
    address = "127.0.0.1:%d" % port
    if tls:
        key, chain, ca = (open(path, "rb").read() for path in tls)
        port = server.add_secure_port(
            address, grpc.ssl_server_credentials([(key, chain)], root_certificates=ca, require_client_auth=True))
    else:
        port = server.add_insecure_port(address)
    server.start()
    return server, port


def main():
    global counter
    options = json.loads(sys.argv[1])
    tls = options.get("tls")
    server, port = serve(options.get("port", 0), tls)
    tell(event="listening", port=port)
    for line in sys.stdin:
        command = json.loads(line)
        with lock:
            if command["op"] == "set":
                counter += 1
                for document in command["resources"]:
                    any = as_any(document)
                    resources[any.type_url][name_of(document)] = (str(counter), any)
                for kind, name in command.get("remove", []):
                    resources[TYPES[kind]].pop(name, None)
                if command.get("push", True):
                    for url in ORDER:
                        for stream in streams:
                            stream.push(url)
            elif command["op"] == "send":
                # Exactly this, whatever is held.
                url = TYPES[command["type"]]
                for stream in streams:
                    wrapped = []
                    for item in command["resources"]:
                        resource = discovery_pb2.Resource(name=item["name"], version=item.get("version", "x"))
                        if "body" in item:
                            resource.resource.CopyFrom(as_any(item["body"]))
                        if "ttl" in item:
                            resource.ttl.CopyFrom(duration_pb2.Duration(nanos=int(item["ttl"] * 1e9) % 10**9,
                                                                        seconds=int(item["ttl"])))
                        wrapped.append(resource)
                    if stream.delta:
                        stream.out.put(discovery_pb2.DeltaDiscoveryResponse(
                            type_url=url, nonce=command["nonce"], system_version_info="sent", resources=wrapped,
                            removed_resources=command.get("removed", [])))
                    else:
                        out = []
                        for resource, item in zip(wrapped, command["resources"]):
                            any = any_pb2.Any()
                            if "ttl" in item or "body" not in item:
                                any.Pack(resource)
                            else:
                                any.CopyFrom(resource.resource)
                            out.append(any)
                        stream.out.put(discovery_pb2.DiscoveryResponse(
                            type_url=url, nonce=command["nonce"], version_info="sent", resources=out))
            elif command["op"] == "cut":
                for stream in list(streams):
                    stream.out.put(None)
            elif command["op"] == "stop":
                server.stop(0).wait()
                tell(event="stopped")
            elif command["op"] == "start":
                server, port = serve(port, tls)
                tell(event="listening", port=port)


main()
