"""Prometheus and Alertmanager of Debian, processes of the node, with the cluster's pods as targets.

Pods are found by the annotations `prometheus.io/scrape, path, port` of requirements A74. Rules are read from
`state/rules/*.yaml`, which a test may write before it sends SIGHUP.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import yaml

from isotherm import tekton
from lab import daemons, storage
from lab.dns import external
from lab.part import NODE_IP, Lab, Object, Part

PROMETHEUS_PORT = 9090
ALERTMANAGER_PORT = 9093
PROMETHEUS_URL = f"http://{NODE_IP}:{PROMETHEUS_PORT}"


def targets(pods: list[Object]) -> list[Object]:
    """Prometheus' own form of targets for the pods that ask to be scraped and have an address."""
    found = []
    for pod in pods:
        metadata, status = pod["metadata"], pod["status"]
        notes, address = metadata.get("annotations", {}), status.get("podIP")
        if notes.get("prometheus.io/scrape") != "true" or not address or status["phase"] != "Running":
            continue
        labels = {"namespace": metadata["namespace"], "pod": metadata["name"]}
        labels["__metrics_path__"] = notes.get("prometheus.io/path", "/metrics")
        for label in ("serving.kserve.io/inferenceservice", "app"):
            if label in metadata.get("labels", {}):
                labels[label.rpartition("/")[2]] = metadata["labels"][label]
        found.append({"targets": [f"{address}:{notes.get('prometheus.io/port', '8080')}"], "labels": labels})
    return found


def discover(kubeconfig: str, file: Path) -> None:
    """Keep `file` (for file_sd_configs) in step with the cluster's pods; Debian's Prometheus cannot ask a cluster."""
    from kubernetes import client, config
    from urllib3.exceptions import HTTPError

    config.load_kube_config(kubeconfig)
    core, written = client.CoreV1Api(), ""
    # From the API server's cache, without those that have ended, and not made into the client's own objects: these
    # take a tenth of a core where hundreds of Tasks have run.
    running = {"field_selector": "status.phase=Running", "resource_version": "0", "_preload_content": False}
    while True:
        try:
            pods = json.loads(core.list_pod_for_all_namespaces(**running).data)["items"]
            text = json.dumps(targets(pods), indent=2)
        except (client.ApiException, HTTPError) as error:
            print(f"targets: {' '.join(str(error).split())[:300]}", flush=True)
        else:
            if text != written:
                tekton.write_atomic(file, text)
                written = text
        time.sleep(5)  # as often as Prometheus scrapes


def start_prometheus(lab: Lab) -> None:
    """Prometheus with a scrape interval of 5 s."""
    config, found = lab.folder("etc") / "prometheus.yaml", lab.folder("targets") / "pods.json"
    daemons.start_module(lab, "targets", "lab.watching", str(lab.kubeconfig), str(found))
    alertmanagers = [{"static_configs": [{"targets": [f"{NODE_IP}:{ALERTMANAGER_PORT}"]}]}]
    settings = {
        "global": {"scrape_interval": "5s", "evaluation_interval": "5s"},
        "rule_files": [str(lab.folder("rules") / "*.yaml")],
        "alerting": {"alertmanagers": alertmanagers},
        "scrape_configs": [{"job_name": "pods", "file_sd_configs": [{"files": [str(found)]}]}],
    }
    config.write_text(yaml.safe_dump(settings))
    command = [
        "prometheus", f"--config.file={config}", f"--storage.tsdb.path={lab.folder('prometheus')}",
        f"--web.listen-address={NODE_IP}:{PROMETHEUS_PORT}", "--storage.tsdb.retention.time=1d",
        # For seconds after a reload it knows no Alertmanager and drops its alerts; it would repeat them in a minute.
        "--rules.alert.resend-delay=5s",
    ]  # fmt: skip
    daemons.start(lab, "prometheus", command)
    lab.apply(external("prometheus", PROMETHEUS_PORT))


def start_alertmanager(lab: Lab) -> None:
    """Alertmanager that sends nowhere until a test gives it a receiver."""
    config = lab.folder("etc") / "alertmanager.yaml"
    if not config.exists():
        config.write_text(yaml.safe_dump({"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]}))
    command = [
        "prometheus-alertmanager", f"--config.file={config}", f"--storage.path={lab.folder('alertmanager')}",
        f"--web.listen-address={NODE_IP}:{ALERTMANAGER_PORT}", "--cluster.listen-address=",
    ]  # fmt: skip
    daemons.start(lab, "alertmanager", command)
    lab.apply(external("alertmanager", ALERTMANAGER_PORT))


def prometheus_ready(lab: Lab) -> str:
    """Its own readiness page."""
    daemons.require(lab, "targets")
    daemons.require(lab, "prometheus")
    return storage.http_answers(f"{PROMETHEUS_URL}/-/ready")


def alertmanager_ready(lab: Lab) -> str:
    """Its own readiness page."""
    daemons.require(lab, "alertmanager")
    return storage.http_answers(f"http://{NODE_IP}:{ALERTMANAGER_PORT}/-/ready")


def _stop_prometheus(lab: Lab) -> None:
    daemons.stop(lab, "prometheus")
    daemons.stop(lab, "targets")


PROMETHEUS = Part(
    "prometheus", start_prometheus, prometheus_ready, _stop_prometheus, needs=("dns",),
    packages={"prometheus": "prometheus"}, log="prometheus",
)  # fmt: skip
ALERTMANAGER = Part(
    "alertmanager", start_alertmanager, alertmanager_ready, lambda lab: daemons.stop(lab, "alertmanager"),
    needs=("dns",), packages={"prometheus-alertmanager": "prometheus-alertmanager"}, log="alertmanager",
)  # fmt: skip

if __name__ == "__main__":
    discover(sys.argv[1], Path(sys.argv[2]))
