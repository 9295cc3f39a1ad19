# The data plane: one static binary and nothing else. Built from the root of the repository:
#   docker build -f docker/proxy.Dockerfile -t weir-proxy .
FROM docker.io/library/rust:1.95-bookworm AS builder
WORKDIR /src
COPY . .
# Static with glibc: names are looked up by the program itself.
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN target="$(rustc -vV | sed -n 's/^host: //p')" && \
    cargo build --locked --release --package proxy --target "$target" && \
    install -D "target/$target/release/weir-proxy" /out/weir-proxy

FROM scratch
COPY --from=builder /out/weir-proxy /weir-proxy
USER 65532:65532
EXPOSE 8080
# Healthy once it serves, and no longer once it drains: what /ready says on the bootstrap's admin port.
HEALTHCHECK --interval=5s --timeout=2s --start-period=10s \
  CMD ["/weir-proxy", "--mode", "health", "-c", "/etc/weir/proxy.yaml"]
ENTRYPOINT ["/weir-proxy"]
CMD ["-c", "/etc/weir/proxy.yaml"]
