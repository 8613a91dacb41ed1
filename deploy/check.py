#!/usr/bin/env python3
"""Checks deploy/ against the server and against the schemas of its readers. Run by scripts/check-deploy."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import yaml

DEPLOY = Path(__file__).resolve().parent
LARDER = os.environ["LARDER_BIN"]
INSTALLED = "/usr/local/bin/larder"

# The oldest release still in use, and the newest whose schemas are known.
KUBERNETES = ("1.29", kubernetes_validate.latest_version())

# What the upstream operator renders; the values are its defaults.
OPERATOR = """/opt/venv/bin/lmcache server --host 0.0.0.0 --port 5555 --l1-size-gb 60.0 --chunk-size 256 --max-workers 1
  --hash-algorithm blake3 --eviction-policy LRU --eviction-trigger-watermark 0.80 --eviction-ratio 0.20
  --prometheus-port 9090 --disable-prometheus --coordinator-url http://coordinator:9300"""

problems: list[str] = []


def require(holds: object, what: str) -> None:
    if not holds:
        problems.append(what)


# -- command lines ---------------------------------------------------------


def check_server(where: str, words: list[str], variables: dict[str, str] | None = None) -> None:
    """The server accepts this command line. Checks that depend on this machine are left out."""
    with tempfile.TemporaryDirectory() as folder:
        words = [word.replace("/var/lib/larder", folder) for word in words]
        done = subprocess.run(
            [LARDER, *words, "--l1-size-gb=0.03125", "--check-config"],
            capture_output=True, text=True, check=False, env=dict(os.environ, **(variables or {})),
        )  # fmt: skip
    require(done.returncode == 0, f"{where}: {done.stderr.strip()}")


def check_words(where: str, words: list[str]) -> None:
    """A command to a server that is not running: exit status 1, and not 2 for a usage error."""
    done = subprocess.run([LARDER, *words, "--url", "http://127.0.0.1:1"], capture_output=True, text=True, check=False)
    require(done.returncode == 1, f"{where}: exit status {done.returncode}: {done.stderr.strip()}")


# -- the image -------------------------------------------------------------


def instructions(path: Path) -> Iterator[tuple[str, str]]:
    """Name and argument of each instruction of a Containerfile."""
    text = re.sub(r"\\\n", " ", "".join(line for line in path.open() if not line.startswith("#")))
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, argument = line.partition(" ")
        yield name, argument.strip()


def check_containerfile(path: Path) -> None:
    found = list(instructions(path))
    last = {name: argument for name, argument in found}
    toolchain = re.search(r'channel = "([^"]+)"', (DEPLOY.parent / "rust-toolchain.toml").read_text())
    require(toolchain and ("ARG", f"RUST={toolchain[1]}") in found, f"{path.name}: RUST is not rust-toolchain.toml's")
    for name, argument in found:
        if name == "FROM":
            image = argument.split(" AS ")[0]
            require(":" in image and not image.endswith(":latest"), f"{path.name}: {image} has no tag")
    require(last.get("USER", "0").split(":")[0] not in ("0", "root", ""), f"{path.name}: runs as root")
    require(json.loads(last["ENTRYPOINT"]) == [INSTALLED], f"{path.name}: ENTRYPOINT is not {INSTALLED}")
    variables = dict(word.split("=", 1) for word in shlex.split(last["ENV"]))
    check_server(f"{path.name}: CMD", json.loads(last["CMD"]), variables)
    check_server("what the upstream operator renders", shlex.split(OPERATOR)[1:], variables)
    probe = json.loads(last["HEALTHCHECK"].split(" CMD ")[1])
    require(probe[0] == INSTALLED, f"{path.name}: HEALTHCHECK runs {probe[0]}")
    check_words(f"{path.name}: HEALTHCHECK", probe[1:])
    require({"5555", "8080"} <= set(last["EXPOSE"].split()), f"{path.name}: EXPOSE lacks a default port")


# -- systemd ---------------------------------------------------------------


def check_unit(path: Path) -> None:
    settings = dict(line.split("=", 1) for line in path.read_text().splitlines() if re.match(r"[A-Z]\w+=", line))
    program, *words = shlex.split(settings["ExecStart"])
    require(program == INSTALLED, f"{path.name}: ExecStart runs {program}")
    config = path.with_name("larder.toml")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / config.name
        copy.write_text(config.read_text().replace("/var/lib/larder", folder))
        check_server(f"{path.name}: ExecStart", [word.replace("/etc/larder/larder.toml", str(copy)) for word in words])
        if shutil.which("systemd-analyze"):
            unit = Path(folder) / path.name
            unit.write_text(path.read_text().replace(INSTALLED, LARDER))
            done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
            said = [line for line in done.stderr.splitlines() if path.name in line]
            require(done.returncode == 0 and not said, f"{path.name}: {' '.join(said) or done.stderr}")
            done = subprocess.run(["systemd-analyze", "security", "--offline=yes", "--threshold=25", str(unit)],
                                  capture_output=True, text=True)  # fmt: skip
            level = [line for line in done.stdout.splitlines() if "Overall exposure" in line]
            require(done.returncode == 0, f"{path.name}: expected at most 2.5: {level or done.stderr}")
        else:
            print("systemd-analyze is not here: the unit is read, not verified")
    require(int(settings["TimeoutStopSec"]) > 10 + 5, f"{path.name}: TimeoutStopSec cuts --shutdown-timeout short")


# -- Kubernetes ------------------------------------------------------------


def manifests() -> list[tuple[str, dict]]:
    found = []
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        found += [(path.name, document) for document in yaml.safe_load_all(path.read_text()) if document]
    return found


def check_manifests() -> set[str]:
    """Returns the paths that probes and scrapers ask a server for."""
    every = manifests()
    paths: set[str] = set()
    services = [document for _, document in every if document["kind"] == "Service"]
    for file, document in every:
        where = f"{file}: {document['kind']} {document['metadata']['name']}"
        if document["kind"] == "ServiceMonitor":  # not Kubernetes' own: no schema
            wanted = document["spec"]["selector"]["matchLabels"].items()
            matching = [service for service in services if wanted <= service["metadata"]["labels"].items()]
            require(len(matching) == 1, f"{where}: selects {len(matching)} Services")
            names = {port["name"] for service in matching for port in service["spec"]["ports"]}
            for endpoint in document["spec"]["endpoints"]:
                require(endpoint["port"] in names, f"{where}: no port {endpoint['port']}")
                paths.add(endpoint["path"])
            continue
        for version in KUBERNETES:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except Exception as error:  # the library has several; each is an error in the manifest
                problems.append(f"{where}: Kubernetes {version}: {getattr(error, 'message', error)}")
        if document["kind"] in ("DaemonSet", "Deployment"):
            paths |= check_pods(where, document["spec"], services)
    return paths


def check_pods(where: str, spec: dict, services: list[dict]) -> set[str]:
    pod, labels = spec["template"]["spec"], spec["template"]["metadata"]["labels"]
    require(spec["selector"]["matchLabels"].items() <= labels.items(), f"{where}: selects other pods")
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    [container] = pod["containers"]
    shared = [m["name"] for m in container["volumeMounts"] if m["mountPath"] == "/dev/shm"]
    paths_on_node = [volumes[name].get("hostPath", {}).get("path") for name in shared]
    require(paths_on_node == ["/dev/shm"], f"{where}: /dev/shm is not the node's")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    if container["name"] != "larder":
        connector = json.loads(container["args"][container["args"].index("--kv-transfer-config") + 1])
        require(connector["kv_connector"] == "LMCacheMPConnector", f"{where}: another connector")
        host = connector["kv_connector_extra_config"]["lmcache.mp.host"].removeprefix("tcp://").split(".")
        named = [s for s in services if [s["metadata"]["name"], s["metadata"]["namespace"]] == host[:2]]
        require(named, f"{where}: no Service {'.'.join(host)}")
        return set()
    check_server(where, container["args"])
    flags = dict(word[2:].split("=", 1) for word in container["args"] if "=" in word)
    require(ports == {"server": int(flags["port"]), "http": int(flags["http-port"])}, f"{where}: ports {ports}")
    gib = int(container["resources"]["limits"]["memory"].removesuffix("Gi"))
    require(gib >= float(flags["l1-size-gb"]) + 1, f"{where}: the memory limit leaves nothing beside L1")
    require(pod["terminationGracePeriodSeconds"] > 10 + 5, f"{where}: the grace period cuts --shutdown-timeout short")
    for service in services:
        for port in service["spec"]["ports"]:
            require(port["targetPort"] in ports, f"Service {service['metadata']['name']}: no port {port['targetPort']}")
    probes = [container[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
    require(all(probe["port"] in ports for probe in probes), f"{where}: a probe asks a port that is not there")
    return {probe["path"] for probe in probes}


# -- what a running server answers -----------------------------------------


def check_paths(paths: set[str]) -> None:
    """A server with the image's defaults answers each of these."""

    def free_port() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    http = free_port()
    command = [LARDER, "server", "--shm-name=", "--l1-size-gb=0.03125", f"--port={free_port()}", f"--http-port={http}"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in server.stderr:
            if "ready: " in line:
                break
        for path in sorted(paths):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{http}{path}", timeout=10) as answer:
                    require(answer.status == 200, f"{path}: {answer.status}")
            except OSError as error:
                problems.append(f"{path}, which a manifest asks for: {error}")
        done = subprocess.run([LARDER, "ctl", "ping", "--url", f"http://127.0.0.1:{http}"], capture_output=True)
        require(done.returncode == 0, "ctl ping, the image's health check, fails on a healthy server")
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)


def main() -> int:
    began = time.monotonic()
    check_containerfile(DEPLOY / "Containerfile")
    check_unit(DEPLOY / "systemd" / "larder.service")
    paths = check_manifests()
    require(paths, "no manifest has a probe")
    check_paths(paths)
    for problem in problems:
        print(problem)
    print(f"deploy: {len(problems)} problems ({time.monotonic() - began:.1f} s)")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
