# One file, a target for each binary: `docker build --target server .`

# `docker/images.env` pins both by digest.
ARG RUST_IMAGE=rust:1-bookworm
ARG DEBIAN_IMAGE=debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
WORKDIR /src
# Builds the dependencies with empty sources first. This layer is only rebuilt when a
# manifest changes.
COPY Cargo.toml Cargo.lock ./
COPY server/Cargo.toml server/
COPY client/Cargo.toml client/
COPY client/app/Cargo.toml client/app/
COPY shared/Cargo.toml shared/
COPY shared/settings/Cargo.toml shared/settings/
COPY dev/testkit/Cargo.toml dev/testkit/
COPY dev/chaos/Cargo.toml dev/chaos/
COPY dev/bench/Cargo.toml dev/bench/
RUN for package in server client client/app shared shared/settings dev/testkit dev/chaos dev/bench; do \
      mkdir -p $package/src && echo 'fn main() {}' | tee $package/src/main.rs >$package/src/lib.rs; \
    done \
 && cargo build --release --locked -p matchbook-server -p matchbook-client-app
COPY server server
COPY client client
COPY shared shared
COPY migrations migrations
# Cargo compares modification times, and the copied files are older than the stubs.
RUN rm -f client/src/main.rs client/app/src/lib.rs shared/src/main.rs shared/settings/src/main.rs \
 && find server client shared -name '*.rs' -exec touch {} + \
 && cargo build --release --locked -p matchbook-server -p matchbook-client-app

FROM ${DEBIAN_IMAGE} AS runtime
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libssl3 \
 && rm -rf /var/lib/apt/lists/*

FROM runtime AS server
COPY --from=build /src/target/release/matchbook-server /usr/local/bin/
# A new named volume takes its owner from this directory.
RUN install -d -o 10001 -g 10001 -m 0700 /data && install -d -o 10001 -g 10001 -m 0755 /data/tls
USER 10001:10001
ENV MATCHBOOK__DATA_DIR=/data MATCHBOOK__SERVER__ADDRESS=0.0.0.0:5001
EXPOSE 5001
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s \
  CMD ["matchbook-server", "health"]
ENTRYPOINT ["matchbook-server"]

FROM runtime AS client
COPY --from=build /src/target/release/matchbook-client /usr/local/bin/
# A new named volume takes its owner from this directory.
RUN install -d -o 10002 -g 10002 -m 0700 /data
USER 10002:10002
ENV MATCHBOOK_CLIENT__CLIENT__ADDRESS=0.0.0.0:5002 MATCHBOOK_CLIENT__STORE__BROWSERS=/data/browsers
EXPOSE 5002
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s \
  CMD ["matchbook-client", "health"]
ENTRYPOINT ["matchbook-client"]
