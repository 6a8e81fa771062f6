# An image of Fula with nothing in it but the program, which is linked statically, and the certificates of
# public authorities. docs/guide/install.md says how it is run.

# Any image with the Rust toolchain of rust-version in Cargo.toml, a C compiler and Debian's packages.
ARG BUILDER=docker.io/library/rust:1.95-slim-bookworm

FROM ${BUILDER} AS build
RUN apt-get update -q && apt-get install -qy --no-install-recommends ca-certificates make \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# There is no repository in the build: name the commit, so that `fula --version` does.
ARG FULA_COMMIT
RUN make static && deploy/image/layout target/release/fula /image

FROM scratch
COPY --from=build /image/root/ /
# The only places that are written to. A new volume gets this owner.
COPY --from=build --chown=10001:10001 /image/state/ /
USER 10001:10001
# Inside a container the listeners serve every address: what is published is decided outside.
ENV FULA_DATA_DIR=/data FULA_LISTEN=:9000 FULA_NODE_LISTEN=:3601 FULA_ADMIN_LISTEN=:9001
VOLUME /data
EXPOSE 9000 9001 3601
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s CMD ["/usr/bin/fula", "health"]
ENTRYPOINT ["/usr/bin/fula"]
CMD ["gateway"]
