# Refrain in a container: docker build -t refrain . && docker run --rm refrain configs/quickstart.yaml
FROM debian:12-slim
COPY . /refrain
WORKDIR /refrain
RUN ./run_experiment --version
ENTRYPOINT ["./run_experiment"]
