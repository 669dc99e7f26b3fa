# The environment of every measured number. `spac-repro image build` passes the arguments. By hand:
#   docker build --build-arg VARIANT=cpu --build-arg REVISION=$(git rev-parse HEAD) -t spac-repro:cpu .
# There is no `# syntax=` line, because an offline build cannot fetch it. Nothing needs BuildKit, so that Podman and old engines can build.

# Pinned by digest. Any image with Python 3.11 and its venv module works: an offline build passes its own.
ARG BASE=docker.io/library/python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${BASE} AS build
ARG VARIANT=cpu
ARG SOURCE_DATE_EPOCH=1700000000
WORKDIR /build
COPY . .
RUN sh container/install.sh "$VARIANT"

FROM ${BASE}
ARG VARIANT=cpu
ARG VERSION=0.2.0
ARG REVISION=unknown
ARG SOURCE=unknown
COPY --from=build /opt/spac-repro /opt/spac-repro
# Remove the base's own pip. The line in passwd is written by hand, because useradd adds the current date.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3.11/ensurepip /usr/local/lib/python3.11/site-packages/* \
      /usr/bin/pip* /usr/lib/python3.11/ensurepip /usr/lib/python3/dist-packages/pip* /usr/share/python-wheels \
 && echo 'spac:x:10001:10001::/work:/usr/sbin/nologin' >>/etc/passwd \
 && echo 'spac:x:10001:' >>/etc/group \
 && mkdir /work && chown 10001:10001 /work
ENV PATH=/opt/spac-repro/bin:/usr/local/bin:/usr/bin:/bin HOME=/work USER=spac LANG=C.UTF-8 \
    PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1 SPAC_REPRO_REVISION=${REVISION}
LABEL org.opencontainers.image.title="spac-repro" \
      org.opencontainers.image.description="SPAC (arXiv 2406.04274), trained, evaluated and verified; variant ${VARIANT}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.spac-repro.variant="${VARIANT}"
USER 10001:10001
WORKDIR /work
VOLUME /work
ENTRYPOINT ["spac-repro"]
CMD ["--help"]
