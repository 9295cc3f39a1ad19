# The control plane: one static binary and nothing else. Built from the root of the repository:
#   docker build -f docker/control.Dockerfile -t weir-control .
FROM docker.io/library/rust:1.95-bookworm AS builder
WORKDIR /src
COPY . .
# Static with glibc: names are looked up by the program itself.
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN target="$(rustc -vV | sed -n 's/^host: //p')" && \
    cargo build --locked --release --package control --target "$target" && \
    install -D "target/$target/release/weir-control" /out/weir-control

FROM scratch
COPY --from=builder /out/weir-control /weir-control
USER 65532:65532
EXPOSE 18000 18001
# What /healthz says.
HEALTHCHECK --interval=5s --timeout=2s --start-period=10s \
  CMD ["/weir-control", "--mode", "health", "--config", "/etc/weir/control.yaml"]
ENTRYPOINT ["/weir-control"]
CMD ["--config", "/etc/weir/control.yaml"]
