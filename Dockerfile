# The HTTP service, on the CPU:
#   docker build -t seesay .
#   docker run -p 127.0.0.1:8000:8000 -v "$PWD/runs/mine:/mine:ro" -e SEESAY_API_KEY=KEY seesay /mine
# For a GPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128, and docker run --gpus all.
FROM python:3.12-slim AS wheel

RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
WORKDIR /build
COPY pyproject.toml setup.py README.md LICENSE ./
COPY src ./src
# Compiles the native CPU operations, for which the image itself needs no compiler.
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .


FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

RUN useradd --create-home --uid 10001 seesay
WORKDIR /app
# Torch first: the largest layer, which changes least.
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision
RUN --mount=from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(echo /wheels/seesay-*.whl)[serve]"

USER seesay
EXPOSE 8000
# Listen on all addresses inside the container; `docker run -p` selects those reachable from outside.
ENTRYPOINT ["seesay", "serve", "--host", "0.0.0.0"]
CMD ["/model"]
# Not /readyz, which fails while the queue is full: a busy container is healthy.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
