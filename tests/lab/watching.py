"""Prometheus and Alertmanager of Debian, processes of the node, with the cluster's pods as targets.

Pods are found by the annotations `prometheus.io/scrape, path, port` of requirements A74. Rules are read from
`state/rules/*.yaml`, which a test may write before it sends SIGHUP.
"""

from __future__ import annotations

import yaml

from lab import daemons, storage
from lab.dns import external
from lab.part import NODE_IP, Lab, Object, Part

PROMETHEUS_PORT = 9090
ALERTMANAGER_PORT = 9093


def _pods(lab: Lab) -> Object:
    source = "__meta_kubernetes_pod_annotation_prometheus_io_"
    return {
        "job_name": "pods",
        "kubernetes_sd_configs": [{"role": "pod", "kubeconfig_file": str(lab.kubeconfig)}],
        "relabel_configs": [
            {"source_labels": [f"{source}scrape"], "action": "keep", "regex": "true"},
            {
                "source_labels": [f"{source}path"],
                "action": "replace",
                "target_label": "__metrics_path__",
                "regex": "(.+)",
            },
            {
                "source_labels": ["__meta_kubernetes_pod_ip", f"{source}port"],
                "separator": ":",
                "target_label": "__address__",
            },
            {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
            {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
        ],
    }


def start_prometheus(lab: Lab) -> None:
    """Prometheus with a scrape interval of 5 s."""
    config = lab.folder("etc") / "prometheus.yaml"
    alertmanagers = [{"static_configs": [{"targets": [f"{NODE_IP}:{ALERTMANAGER_PORT}"]}]}]
    settings = {
        "global": {"scrape_interval": "5s", "evaluation_interval": "5s"},
        "rule_files": [str(lab.folder("rules") / "*.yaml")],
        "alerting": {"alertmanagers": alertmanagers},
        "scrape_configs": [_pods(lab)],
    }
    config.write_text(yaml.safe_dump(settings))
    command = [
        "prometheus", f"--config.file={config}", f"--storage.tsdb.path={lab.folder('prometheus')}",
        f"--web.listen-address={NODE_IP}:{PROMETHEUS_PORT}", "--storage.tsdb.retention.time=1d",
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
    daemons.require(lab, "prometheus")
    return storage.http_answers(f"http://{NODE_IP}:{PROMETHEUS_PORT}/-/ready")


def alertmanager_ready(lab: Lab) -> str:
    """Its own readiness page."""
    daemons.require(lab, "alertmanager")
    return storage.http_answers(f"http://{NODE_IP}:{ALERTMANAGER_PORT}/-/ready")


PROMETHEUS = Part(
    "prometheus", start_prometheus, prometheus_ready, lambda lab: daemons.stop(lab, "prometheus"), needs=("dns",),
    packages={"prometheus": "prometheus"}, log="prometheus",
)  # fmt: skip
ALERTMANAGER = Part(
    "alertmanager", start_alertmanager, alertmanager_ready, lambda lab: daemons.stop(lab, "alertmanager"),
    needs=("dns",), packages={"prometheus-alertmanager": "prometheus-alertmanager"}, log="alertmanager",
)  # fmt: skip
