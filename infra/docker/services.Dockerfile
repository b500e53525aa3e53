# What the pipeline talks to, for machines that reach no image registry: the MLflow server, PostgreSQL and SeaweedFS.
# Elsewhere postgres and seaweedfs are the public images (infra/compose.yaml, infra/kustomize); MLflow's public image has
# no client of PostgreSQL and of S3, so `mlflow` is built from here for everybody.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${BASE_IMAGE} AS runtime
RUN echo 'stlm:x:10001:10001:STLM:/tmp:/usr/sbin/nologin' >> /etc/passwd && echo 'stlm:x:10001:' >> /etc/group \
    && mkdir -p /data /var/lib/postgresql/data && chown 10001:10001 /data /var/lib/postgresql/data
ENV PATH=/opt/stlm/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONNOUSERSITE=1 MLFLOW_DISABLE_TELEMETRY=true
WORKDIR /tmp
USER 10001:10001

FROM ${BASE_IMAGE} AS builder
RUN python3.11 -m venv /opt/stlm
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY infra/docker/install.sh infra/docker/trim.sh /build/
COPY infra/docker/requirements /build/requirements

FROM builder AS mlflow-packages
RUN --mount=type=secret,id=ca /build/install.sh mlflow && /opt/stlm/bin/python -m compileall -q -j 0 /opt/stlm/lib && /build/trim.sh

FROM builder AS postgres-packages
RUN --mount=type=secret,id=ca /build/install.sh postgres \
    && ln -s /opt/stlm/lib/python3.11/site-packages/pgserver/pginstall/bin/* /opt/stlm/bin/
COPY infra/docker/postgres.sh /opt/stlm/bin/postgres.sh

FROM builder AS seaweedfs-packages
RUN --mount=type=secret,id=ca /build/install.sh seaweedfs

FROM runtime AS mlflow
COPY --from=mlflow-packages /opt/stlm /opt/stlm
EXPOSE 5000
CMD ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000"]

FROM runtime AS postgres
COPY --from=postgres-packages /opt/stlm /opt/stlm
ENV PGDATA=/var/lib/postgresql/data/pgdata
EXPOSE 5432
# The default, SIGTERM, waits for sessions that MLflow keeps open, and turns away new ones meanwhile.
STOPSIGNAL SIGINT
CMD ["postgres.sh"]

FROM runtime AS seaweedfs
COPY --from=seaweedfs-packages /opt/stlm /opt/stlm
EXPOSE 8333
ENTRYPOINT ["weed"]
