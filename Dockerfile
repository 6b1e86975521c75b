# Two images: `serve` (the default, without torch) and `train`.
#
#   docker build -t checkpoint-zoo .
#   docker run -p 8000:8000 -e ZOO_TOKEN=a-long-secret-token -v "$PWD/my-zoo:/zoo" checkpoint-zoo
#
#   docker build --target train -t checkpoint-zoo-train .
#   docker run -v "$PWD/my-zoo:/zoo" checkpoint-zoo-train digits --data digits --zoo /zoo
#   docker run -v "$PWD/my-zoo:/zoo" checkpoint-zoo-train report /zoo
FROM python:3.11.13-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --create-home --uid 10001 zoo \
    && install --directory --owner=zoo --group=zoo /zoo
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY zoo ./zoo
COPY trainer ./trainer
COPY app ./app

FROM base AS train
RUN pip install --constraint constraints.txt '.[train]'
USER zoo
WORKDIR /home/zoo
VOLUME /zoo
ENTRYPOINT ["zoo-train"]
CMD ["--help"]

FROM base AS serve
RUN pip install --constraint constraints.txt '.[serve]'
USER zoo
WORKDIR /home/zoo
VOLUME /zoo
# Other machines reach 0.0.0.0: zoo-serve starts there only with ZOO_TOKEN set.
ENV ZOO_ZOO=/zoo ZOO_HOST=0.0.0.0 ZOO_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"ZOO_PORT\"]}/livez')"]
ENTRYPOINT ["zoo-serve"]
