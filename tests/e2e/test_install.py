"""The catalog's files are accepted by a real API server: the root, every overlay and every component."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from lab.part import CHECKOUT

from e2e import reach
from e2e.cluster import Object

pytestmark = pytest.mark.core
NAMESPACE = "api-install"
# Kinds of OpenShift's own API servers; a cluster without them must say so, not refuse the rest.
OPENSHIFT_ONLY = {"ConsoleYAMLSample", "ImageStream", "BuildConfig"}
OVERLAYS = [
    ".",
    *sorted(str(p.parent.relative_to(CHECKOUT)) for p in CHECKOUT.glob("overlays/*/kustomization.yaml")),
]
COMPONENTS = sorted(p.parent.name for p in CHECKOUT.glob("overlays/components/*/kustomization.yaml"))
RUNS = sorted(CHECKOUT.glob("pipelines/*/runs/*.yaml"))
SETTINGS = "overlays/dev/settings.yaml"  # component `settings` copies from it


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """A namespace with the labels of every overlay's own: it enforces profile restricted."""
    with reach.namespace(NAMESPACE, reach.RESTRICTED) as name:
        yield name


@pytest.fixture(scope="module")
def served() -> set[str]:
    """The kinds that the cluster has."""
    table = reach.kubectl("api-resources", "--no-headers").stdout
    return {line.split()[-1] for line in table.splitlines()}


def rendered(folder: Path) -> list[Object]:
    """What `kubectl kustomize` makes of a folder."""
    return [item for item in yaml.safe_load_all(reach.kubectl("kustomize", str(folder)).stdout) if item]


def moved(items: list[Object], namespace: str) -> list[Object]:
    """The same objects in another namespace: a test may not write into those of the overlays."""
    for item in items:
        if item["kind"] == "Namespace":
            item["metadata"]["name"] = namespace
        elif not item["kind"].startswith("Cluster"):
            item["metadata"]["namespace"] = namespace
        for subject in item.get("subjects", []):
            subject["namespace"] = namespace
    return items


def accepted(items: list[Object], namespace: str) -> list[str]:
    """Apply with --dry-run=server; returns a line for each object."""
    text = yaml.safe_dump_all(moved(items, namespace), sort_keys=False)
    done = reach.kubectl("-n", namespace, "apply", "--dry-run=server", "-f", "-", stdin=text)
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout.splitlines()


def split(items: list[Object], served: set[str]) -> list[Object]:
    """The objects whose kinds the cluster has; those that it lacks must be OpenShift's own."""
    lacking = {item["kind"] for item in items} - served
    assert lacking <= OPENSHIFT_ONLY
    return [item for item in items if item["kind"] in served]


def own_overlay(folder: Path, *components: str) -> Path:
    """Make a kustomization of the catalog with components in a folder, as a user's own overlay would be."""
    # kustomize follows relative paths only, and each may be given once.
    root = Path(*[".."] * len(folder.resolve().parts[1:])) / CHECKOUT.relative_to("/")
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [str(root / "tasks"), str(root / "pipelines"), "settings.yaml"],
        "components": [str(root / "overlays/components" / name) for name in dict.fromkeys(("storage", *components))],
    }
    (folder / "settings.yaml").write_text((CHECKOUT / SETTINGS).read_text())
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_accepted_whole(namespace: str, served: set[str], overlay: str) -> None:
    items = rendered(CHECKOUT / overlay)
    known = split(items, served)
    if not known:
        pytest.skip(f"overlay {overlay} has only kinds of OpenShift, which this cluster lacks")
    assert len(accepted(known, namespace)) == len(known)


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_fits_the_catalog_and_is_accepted(
    namespace: str, served: set[str], component: str, tmp_path: Path
) -> None:
    items = rendered(own_overlay(tmp_path, component))
    known = split([item for item in items if item["metadata"]["name"] != "settings"], served)
    assert len(accepted(known, namespace)) == len(known) > 20


@pytest.mark.parametrize("run", RUNS, ids=lambda path: path.stem)
def test_every_example_run_is_accepted(namespace: str, run: Path) -> None:
    done = reach.kubectl("-n", namespace, "create", "--dry-run=server", "-o", "name", "-f", str(run))
    assert done.stdout.startswith("pipelinerun.tekton.dev/")
    assert "Warning" not in done.stderr, done.stderr


def test_the_root_installs_into_a_restricted_namespace_and_again_changes_nothing(namespace: str) -> None:
    first = reach.kubectl("-n", namespace, "apply", "-k", str(CHECKOUT))
    assert "Warning" not in first.stderr, first.stderr

    def versions() -> dict[str, str]:
        listed = yaml.safe_load(reach.kubectl("-n", namespace, "get", "-k", str(CHECKOUT), "-o", "yaml").stdout)
        kept = [item for item in listed["items"] if item["kind"] != "PersistentVolumeClaim"]  # it is bound meanwhile
        # A Deployment's status goes on changing: its generation counts changes of its spec.
        field = {"Deployment": "generation"}
        return {
            f"{item['kind']} {item['metadata']['name']}": str(
                item["metadata"][field.get(item["kind"], "resourceVersion")]
            )
            for item in kept
        }

    before = versions()
    assert len(before) == len(first.stdout.splitlines()) - 1
    reach.kubectl("-n", namespace, "apply", "-k", str(CHECKOUT))
    assert versions() == before
