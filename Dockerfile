# Images for users. Tests and demo make theirs with `cargo xtask image`, without Docker.
#   docker build --target wsroll -t wsroll .
#   docker build --target session-server -t session-server .
FROM rust:1.95-bookworm AS build
WORKDIR /source
# aws-lc-rs compiles C.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake=3.* \
    && rm -rf /var/lib/apt/lists/*
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo build --release --locked --package wsroll --package session-server --bins \
    && cp target/release/wsroll target/release/session-server /usr/local/bin/

FROM gcr.io/distroless/cc-debian12:nonroot AS session-server
COPY --from=build /usr/local/bin/session-server /usr/local/bin/session-server
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/session-server"]

# The last stage is what a build without a target makes.
FROM gcr.io/distroless/cc-debian12:nonroot AS wsroll
COPY --from=build /usr/local/bin/wsroll /usr/local/bin/wsroll
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/wsroll"]
