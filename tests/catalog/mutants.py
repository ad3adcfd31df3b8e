"""One flaw each, put into a copy of the real catalog: which rule must see it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TASK = "tasks/evaluate-metrics/evaluate-metrics.yaml"
RBAC = "tasks/evaluate-metrics/rbac.yaml"
PIPELINE = "pipelines/inverse-heat-pinn/inverse-heat-pinn.yaml"
ROLLBACK = "pipelines/rollback/rollback.yaml"
RUN = "pipelines/inverse-heat-pinn/runs/heatinv.yaml"
PROGRAM = "images/isotherm/pinn/evaluate.py"
# In the copy this stands in for the program of evaluate-metrics: its flaws must not depend on how that is written.
STAND_IN = """
from pathlib import Path
from isotherm import tekton

def run():
    with tekton.results(
        verdict="fail", reason="", champion_version="", report=""
    ) as results:
        env = tekton.environment(
            dataset_hash=str, run_id=str, model_uri=str, model_digest=str, model_name=str, mlflow_uri=str,
            pde_loss_max=float | None, val_residual_max=float | None, min_improvement=float,
            data_dir=Path, model_dir=Path, reports_dir=Path, mlflow_credentials_dir=str,
        )
        results.verdict, results.reason = env.dataset_hash, env.run_id
        results.champion_version = [env.model_uri, env.model_digest, env.model_name, env.mlflow_uri]
        results.report = [env.pde_loss_max, env.val_residual_max, env.min_improvement]
"""
TEMPLATES = "images/isotherm/deploy/templates"
CONTAINERFILE = "images/ops/Containerfile"
PROD = "overlays/prod/kustomization.yaml"
DEV = "overlays/dev/kustomization.yaml"


@dataclass(frozen=True)
class Mutant:
    """Replace `old` by `new` in a file (all of it where `old` is empty); rule `rule` must then have a finding there."""

    rule: str
    file: str
    old: str
    new: str

    def apply(self, root: Path) -> str | None:
        """Break the copy under `root`; return the text that was there, None for a new file."""
        path = root / self.file
        before = path.read_text(encoding="utf-8") if path.exists() else None
        if self.old and self.old not in (before or ""):
            raise LookupError(f"{self.file} no longer holds {self.old!r}: choose another flaw for rule {self.rule}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((before or "").replace(self.old, self.new, 1) if self.old else self.new, encoding="utf-8")
        return before


MUTANTS = [
    # files and metadata
    Mutant("name", TASK, "name: evaluate-metrics", "name: evaluate-metric"),
    Mutant("name", TASK, "apiVersion: tekton.dev/v1", "apiVersion: tekton.dev/v1beta1"),
    Mutant("name", "tasks/evaluate-metrics/0.1/evaluate-metrics.yaml", "", "kind: Task\n"),
    Mutant("labels", TASK, 'version: "0.1.0"', 'version: "latest"'),
    Mutant("labels", PIPELINE, "part-of: isotherm", "part-of: other"),
    Mutant("annotations", TASK, "tekton.dev/displayName", "tekton.dev/display"),
    Mutant("annotations", TASK, "categories: Testing", "categories: Gates"),
    Mutant("annotations", TASK, 'minVersion: "1.0.0"', 'minVersion: "0.50.0"'),
    Mutant("annotations", TASK, "platforms: linux/amd64", "platforms: amd64"),
    Mutant("annotations", TASK, "category: ai-machine-learning", "category: physics"),
    Mutant("kebab-case", TASK, "- name: champion-version", "- name: championVersion"),
    Mutant("description", TASK, "description: URL of the MLflow server.", "description: MLflow."),
    Mutant("description", TASK, "default -0.02 (2 % worse still passes), 0 is strict.", "0 is strict."),
    Mutant("changelog", "tasks/evaluate-metrics/CHANGELOG.md", "## 0.1.0", "## 0.2.0"),
    Mutant("listed", "tasks/kustomization.yaml", "  - evaluate-metrics/rbac.yaml\n", ""),
    Mutant("listed", "pipelines/kustomization.yaml", "rollback/rollback.yaml", "rollback/roll.yaml"),
    Mutant("yaml", TASK, "steps:", "steps: ["),
    Mutant("yamllint", TASK, "  params:\n", "  params:   \n"),
    Mutant("yamllint", TASK, "      timeout: 30m\n", "      timeout: 30m\n      timeout: 20m\n"),
    Mutant("readme", TASK, "Upper limit of pde_loss", "Highest pde_loss"),
    Mutant("readme", "tasks/evaluate-metrics/README.md", "| `verdict` |", "| `result` |"),
    # what a Task runs
    Mutant(
        "one-step",
        TASK,
        "    - name: evaluate\n",
        "    - {name: more, image: isotherm/ops:0.1.0}\n    - name: evaluate\n",
    ),
    Mutant("no-script", TASK, "      command: [python", "      script: echo $(params.run-id)\n      command: [python"),
    Mutant("no-script", TASK, "[python, -m, isotherm.pinn.evaluate]", '[sh, -c, "python $(params.run-id)"]'),
    Mutant("command", TASK, "isotherm.pinn.evaluate", "isotherm.pinn.evaluation"),
    Mutant("command", TASK, "[python, -m, isotherm.pinn.evaluate]", "[python, /app/evaluate.py]"),
    Mutant("command", TASK, "isotherm.pinn.evaluate", "isotherm.$(params.run-id)"),
    Mutant("param-env", TASK, "        - {name: RUN_ID, value: $(params.run-id)}\n", ""),
    Mutant("param-env", TASK, "value: $(params.run-id)", "value: $(params.run-ids)"),
    Mutant("param-env", "tasks/report-run/report-run.yaml", '      args: ["$(params.task-statuses[*])"]\n', ""),
    Mutant("env-order", TASK, "      env:\n", "      env:\n        - {name: LANG, value: C.UTF-8}\n"),
    Mutant("env-order", TASK, "      env:\n", "      env:\n        - {name: RUN_ID, value: $(params.run-id)}\n"),
    Mutant("env-names", TASK, "name: MODEL_DIR,", "name: MODEL_FOLDER,"),
    Mutant("env-names", TASK, "name: RESULT_REASON,", "name: REASON_FILE,"),
    Mutant(
        "env-names",
        TASK,
        "        - {name: DATA_DIR",
        "        - {name: URI, value: $(params.mlflow-uri)}\n        - {name: DATA_DIR",
    ),
    Mutant(
        "no-secret-env",
        TASK,
        "{name: DATA_DIR, value: $(workspaces.data.path)}",
        "{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}",
    ),
    Mutant(
        "no-secret-env",
        TASK,
        "        - {name: DATA_DIR",
        "        - {name: MLFLOW_PASSWORD, value: hunter2}\n        - {name: DATA_DIR",
    ),
    Mutant("no-secret-env", TASK, "      env:\n", "      envFrom: [{secretRef: {name: s}}]\n      env:\n"),
    Mutant("credentials", TASK, "      optional: true\n", ""),
    Mutant("credentials", TASK, "      optional: true\n      readOnly: true\n", "      optional: true\n"),
    Mutant("security-context", TASK, "runAsNonRoot: true", "runAsNonRoot: false"),
    Mutant("security-context", TASK, "      allowPrivilegeEscalation: false\n", ""),
    Mutant("security-context", TASK, "{drop: [ALL]}", "{drop: [ALL], add: [NET_ADMIN]}"),
    Mutant("security-context", TASK, "RuntimeDefault", "Unconfined"),
    Mutant("no-fixed-user", TASK, "      runAsNonRoot: true\n", "      runAsNonRoot: true\n      runAsUser: 1001\n"),
    Mutant(
        "no-fixed-user",
        RUN,
        "  pipelineRef",
        "  taskRunTemplate: {podTemplate: {securityContext: {fsGroup: 1}}}\n  pipelineRef",
    ),
    Mutant("resources", TASK, "requests: {cpu: 500m, memory: 2Gi}", "requests: {memory: 2Gi}"),
    Mutant("resources", TASK, "limits: {memory: 2Gi}", "limits: {memory: 4Gi}"),
    Mutant("resources", TASK, "limits: {memory: 2Gi}", 'limits: {cpu: "2", memory: 2Gi}'),
    Mutant("image", TASK, "isotherm/pinn-trainer:0.1.0", "isotherm/pinn-trainer:latest"),
    Mutant("image", TASK, "isotherm/pinn-trainer:0.1.0", "isotherm/pinn-trainer"),
    Mutant("image", TASK, "isotherm/pinn-trainer:0.1.0", "isotherm/trainer:0.1.0"),
    Mutant("image", TASK, "isotherm/pinn-trainer:0.1.0", "docker.io/library/python:3.11"),
    Mutant("containerfile", CONTAINERFILE, "USER 1001", "USER isotherm"),
    Mutant("containerfile", CONTAINERFILE, " HOME=/home/isotherm ", " "),
    Mutant("containerfile", CONTAINERFILE, "ubi9/python-311:9.6", "ubi9/python-311:latest"),
    Mutant("containerfile", CONTAINERFILE, " --require-hashes", ""),
    Mutant("containerfile", CONTAINERFILE, " --no-deps ", " --index-url https://index.example.com/simple --no-deps "),
    Mutant("containerfile", CONTAINERFILE, "FROM ${BASE_IMAGE}\n", "FROM python:3.11\n"),
    Mutant("containerfile", "tests/lab/images/base/Containerfile", "USER 1001", "USER root"),
    Mutant("image-copies", CONTAINERFILE, "COPY isotherm/deploy ", "COPY isotherm/deployment "),
    Mutant("image-copies", CONTAINERFILE, "ENV PATH=/opt/app/bin:${PATH} ", "ENV "),
    Mutant("image-complete", CONTAINERFILE, "COPY isotherm/registry isotherm/registry\n", ""),
    Mutant("step-timeout", TASK, "      timeout: 30m\n", ""),
    Mutant("step-timeout", TASK, "      timeout: 30m\n", "      timeout: 30 minutes\n"),
    Mutant("rbac", RBAC, "name: evaluate-metrics", "name: pipeline"),
    Mutant("rbac", RBAC, "automountServiceAccountToken: false\n", ""),
    Mutant("rbac", "tasks/route-shift/rbac.yaml", "resources: [routes]", 'resources: ["*"]'),
    Mutant("rbac", "tasks/route-shift/rbac.yaml", "kind: RoleBinding", "kind: ClusterRoleBinding"),
    # YAML against code
    Mutant("param-unread", PROGRAM, "run_id=str, ", ""),
    Mutant("param-unread", PROGRAM, "env.pde_loss_max", "None"),
    Mutant(
        "param-unread",
        TASK,
        "  workspaces:\n",
        "    - {name: unread, description: A param that nobody reads.}\n  workspaces:\n",
    ),
    Mutant("env-missing", PROGRAM, "run_id=str, ", "run_id=str, job_id=str, "),
    Mutant("env-missing", PROGRAM, "run_id=str, ", "**dict.fromkeys(sorted(names), str), run_id=str, "),
    Mutant("workspace-unread", PROGRAM, "model_dir=Path, ", ""),
    Mutant("result-unwritten", PROGRAM, 'champion_version="", ', ""),
    Mutant("result-unwritten", PROGRAM, 'champion_version="", ', 'champion_version="", extra="", '),
    Mutant("result-unwritten", PROGRAM, "results.verdict, results.reason =", "_, results.reason ="),
    Mutant(
        "results-first", PROGRAM, "    with tekton.results(\n", "    tekton.environment()\n    with tekton.results(\n"
    ),
    # a Pipeline's wiring
    Mutant("task-ref", PIPELINE, "{name: dvc-fetch}", "{name: dvc-get}"),
    Mutant("pipeline-params", PIPELINE, "        - {name: repo-url, value: $(params.repo-url)}\n", ""),
    Mutant(
        "pipeline-params",
        PIPELINE,
        "{name: repo-url, value: $(params.repo-url)}",
        "{name: repo, value: $(params.repo-url)}",
    ),
    Mutant(
        "pipeline-params", PIPELINE, "{name: repo-url, value: $(params.repo-url)}", "{name: repo-url, value: [a, b]}"
    ),
    Mutant("pipeline-params-used", PIPELINE, "        - {name: seed, value: $(params.seed)}\n", ""),
    Mutant("pipeline-params-used", PIPELINE, "value: $(params.seed)", "value: $(params.seeds)"),
    Mutant("pipeline-params-used", PIPELINE, "        - {name: git-credentials, workspace: git-credentials}\n", ""),
    Mutant("defaults", PIPELINE, 'default: "-0.02"', 'default: "-0.05"'),
    Mutant("result-ref", PIPELINE, "tasks.train.results.run-id", "tasks.train.results.id"),
    Mutant("result-ref", PIPELINE, "tasks.train.results.run-id", "tasks.training.results.run-id"),
    Mutant("workspaces", PIPELINE, "        - {name: data, workspace: workspace, subPath: data}\n", ""),
    Mutant(
        "workspaces",
        PIPELINE,
        "{name: data, workspace: workspace, subPath: data}",
        "{name: data, workspace: workspace}",
    ),
    Mutant(
        "workspaces",
        PIPELINE,
        "{name: data, workspace: workspace, subPath: data}",
        "{name: data, workspace: dvc-credentials}",
    ),
    Mutant(
        "workspaces",
        PIPELINE,
        "    - name: dvc-credentials\n",
        "    - {name: cache, description: A second volume here.}\n    - name: dvc-credentials\n",
    ),
    Mutant(
        "cycle",
        PIPELINE,
        "      taskRef: {name: dvc-fetch}\n",
        "      taskRef: {name: dvc-fetch}\n      runAfter: [shift]\n",
    ),
    Mutant(
        "cycle",
        PIPELINE,
        "      taskRef: {name: pinn-train}\n",
        "      taskRef: {name: pinn-train}\n      runAfter: [fetch]\n",
    ),
    Mutant(
        "gate",
        PIPELINE,
        "        - {input: $(tasks.evaluate.results.verdict), operator: in, values: [pass]}\n",
        "        - {input: a, operator: in, values: [a]}\n",
    ),
    Mutant(
        "gate",
        PIPELINE,
        "  finally:\n",
        "    - {name: notify, taskRef: {name: report-run}, runAfter: [shift]}\n  finally:\n",
    ),
    Mutant(
        "run-after",
        PIPELINE,
        "  finally:\n",
        "    - {name: notify, taskRef: {name: report-run}, runAfter: [shift]}\n  finally:\n",
    ),
    Mutant(
        "finally",
        PIPELINE,
        "fetch-data=$(tasks.fetch-data.status)",
        "fetch-data=$(tasks.fetch-data.results.data-version)",
    ),
    Mutant("finally", PIPELINE, "            - promote=$(tasks.promote.status)\n", ""),
    Mutant("finally", ROLLBACK, "{name: report-run}", "{name: evaluate-metrics}"),
    Mutant(
        "pipeline-results", PIPELINE, "$(tasks.train.results.model-digest)\n", "$(tasks.shift.results.live-digest)\n"
    ),
    Mutant("timeouts", PIPELINE, "      timeout: 4h30m\n", "      timeout: 10m\n"),
    Mutant("timeouts", PIPELINE, "      timeout: 4h30m\n", ""),
    Mutant("retries", TASK, '    isotherm.dev/idempotent: "true"\n', ""),
    # example runs
    Mutant("run-exists", RUN, "{name: inverse-heat-pinn}", "{name: rollback}"),
    Mutant("run-params", RUN, "    - {name: data-path, value: data/heatinv}\n", ""),
    Mutant("run-params", RUN, "    - {name: revision, value: main}\n", "    - {name: branch, value: main}\n"),
    Mutant("run-params", RUN, "{name: revision, value: main}", "{name: seed, value: 3}"),
    Mutant("run-workspaces", RUN, "{claimName: isotherm}", "{}"),
    Mutant("run-workspaces", RUN, "- name: workspace", "- name: volume"),
    *(
        Mutant(
            "run-claims",
            RUN,
            "  workspaces:\n",
            f"  workspaces:\n    - {{name: dvc-credentials, persistentVolumeClaim: {{claimName: {claim}}}}}\n",
        )
        for claim in ("isotherm", "keys")
    ),
    Mutant("run-timeouts", RUN, "    finally: 30m\n", ""),
    Mutant("run-timeouts", RUN, "    tasks: 9h\n", "    tasks: 1h\n"),
    Mutant("run-timeouts", RUN, "    pipeline: 9h30m\n", "    pipeline: 8h\n"),
    Mutant("run-accounts", RUN, "serviceAccountName: dvc-fetch", "serviceAccountName: default"),
    Mutant("run-accounts", RUN, "pipelineTaskName: train,", "pipelineTaskName: training,"),
    # kustomize
    Mutant("overlay-lists", DEV, "  - ../../pipelines\n", "  - ../..\n"),
    Mutant("overlay-lists", DEV, "namespace: isotherm-dev\n", "namespace: isotherm-dev\nnamePrefix: dev-\n"),
    Mutant("overlay-settings", "overlays/prod/settings.yaml", "  promotion: manual\n", ""),
    Mutant("overlay-settings", "overlays/prod/settings.yaml", "  promotion: manual\n", "  approval: manual\n"),
]

OPENSHIFT = "overlays/components/openshift"
MUTANTS += [
    Mutant("builds", f"{OPENSHIFT}/builds.yaml", "dockerfilePath: ops/Containerfile", "dockerfilePath: ops/Dockerfile"),
    Mutant("builds", f"{OPENSHIFT}/builds.yaml", "    contextDir: images\n", ""),
    Mutant("builds", f"{OPENSHIFT}/builds.yaml", "{name: REQUIREMENTS,", "{name: REQUIREMENT,"),
    Mutant("builds", f"{OPENSHIFT}/builds.yaml", 'name: "isotherm-ops:0.1.0"', 'name: "isotherm-ops:latest"'),
    Mutant("builds", f"{OPENSHIFT}/imagestreams.yaml", "name: isotherm-ops", "name: isotherm-op"),
    Mutant("builds", f"{OPENSHIFT}/kustomization.yaml", "newName: isotherm-ops", "newName: isotherm-op"),
    Mutant("builds", "images/ops/Containerfile", "COPY slim.py ops/requirements.txt", "COPY slim.py requirements.txt"),
    Mutant("console-samples", "overlays/console/heatinv.yaml", "value: data/heatinv", "value: data/other"),
]

# These need Go (or kubectl) and take a moment each.
GO_MUTANTS = [
    Mutant("schema", TASK, "      timeout: 30m\n", "      timeoot: 30m\n"),
    Mutant("schema", PIPELINE, "retries: 2", "retries: two"),
    Mutant("schema", PIPELINE, "operator: in,", "operator: is,"),
    Mutant("schema", RUN, "    tasks: 9h\n", "    task: 8h\n"),
    # Kubernetes' pod security, on the pod that a Task's step becomes
    Mutant("schema", TASK, "      runAsNonRoot: true\n", ""),
    Mutant("schema", TASK, "      capabilities: {drop: [ALL]}\n", "      capabilities: {drop: [ALL], add: [CHOWN]}\n"),
    Mutant("schema", TASK, "seccompProfile: {type: RuntimeDefault}", "seccompProfile: {type: Unconfined}"),
    # what kserve-deploy makes, against KServe's and OpenShift's schemas
    Mutant("rendered", f"{TEMPLATES}/predictor.yaml.j2", "minReplicas:", "minReplica:"),
    Mutant("rendered", f"{TEMPLATES}/predictor.yaml.j2", "storageUri:", "storageURI:"),
    Mutant("rendered", f"{TEMPLATES}/serving-runtime.yaml.j2", "supportedModelFormats:", "modelFormats:"),
    Mutant("rendered", f"{TEMPLATES}/serving-runtime.yaml.j2", "        runAsNonRoot: true\n", ""),
    Mutant("rendered", f"{TEMPLATES}/service.yaml.j2", "targetPort:", "targetport:"),
    Mutant("rendered", f"{TEMPLATES}/route.yaml.j2", "termination: edge,", "termination: edged,"),
    Mutant("rendered", f"{TEMPLATES}/route.yaml.j2", "weight: 100}", "weight: 300}"),
    Mutant("rendered", f"{TEMPLATES}/route.yaml.j2", "alternateBackends:", "alternateBackend:"),
    # what only OpenShift has, against its types and schemas
    Mutant("render", f"{OPENSHIFT}/builds.yaml", "dockerfilePath:", "containerfilePath:"),
    Mutant("render", f"{OPENSHIFT}/builds.yaml", "kind: BuildConfig", "kind: BuildConfiguration"),
    Mutant("render", f"{OPENSHIFT}/imagestreams.yaml", "lookupPolicy: {local: true}", "lookupPolicy: {locally: true}"),
    Mutant("render", "overlays/console/rollback.yaml", "  title:", "  name:"),
    Mutant("render", "tasks/kserve-deploy/rbac.yaml", "    resourceNames:", "    resourcenames:"),
    Mutant("render", "overlays/components/storage/kustomization.yaml", "claim.yaml", "claims.yaml"),
    Mutant("overlay-namespace", DEV, "namespace: isotherm-dev", "namespace: default"),
    Mutant("overlay-digest", PROD, "  - name: isotherm/ops\n", "  - name: isotherm/op\n"),
    Mutant("overlay-digest", PROD, "  - name: isotherm/pinn-api\n", "  - name: isotherm/api\n"),
    Mutant("overlay-digest", PROD, "  - name: isotherm/front-door\n", "  - name: isotherm/door\n"),
    Mutant("overlay-image-ref", DEV, "  - ../components/image-ref\n", ""),
    Mutant(
        "overlay-image-ref",
        "overlays/components/image-ref/kustomizeconfig.yaml",
        "  - {kind: Task, path: spec/steps/env/value}\n",
        "",
    ),
]  # fmt: skip
