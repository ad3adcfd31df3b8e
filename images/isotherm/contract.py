"""Every name that two parts of Isotherm share, spelled once.

Inputs and outputs: none; this module holds constants and imports nothing but the standard library.
"""

from __future__ import annotations

# --- The registry -----------------------------------------------------------------------------------------------------
EXPERIMENT = "inverse-heat-pinn"
DEFAULT_MODEL_NAME = "inverse-heat-pinn"
SERVED_MODEL_NAME = "inverse-heat-pinn"  # V1 and V2 URLs carry it on both colours, whatever the registered name is
RUN_NAME = "pinn-gpu"
ALIAS_CHALLENGER = "challenger"
ALIAS_CHAMPION = "champion"

TAG_PROBLEM = "problem"
TAG_DATASET_HASH = "dataset_hash"
TAG_DATA_VERSION = "data_version"
TAG_DATA_GIT_SHA = "data_git_sha"
TAG_SEMVER = "semver"
TAG_STAGE = "stage"  # the older stage name: Staging beside `challenger`, Production beside `champion`
TAG_ARCHITECTURE = "architecture"
TAG_OPTIMIZER = "optimizer"
TAG_GIT_SHA = "git_sha"
TAG_IMAGE_DIGEST = "image_digest"
TAG_RUN_MANIFEST = "run_manifest"
TAG_MODEL_DIGEST = "model_digest"
TAG_PIPELINE_RUN = "pipeline_run"
# Of a registry version whose traffic was moved: canary, at-once or rollback; shifted, unchanged, failed or taken-back.
TAG_ROLLOUT_STRATEGY = "rollout_strategy"
TAG_ROLLOUT_OUTCOME = "rollout_outcome"
TAG_ROLLOUT_STEPS = "rollout_steps"  # `10=PROMOTE 25=ROLLBACK`
TAG_ROLLOUT_RUN = "rollout_run"  # name of the PipelineRun
TAG_ROLLOUT_AT = "rollout_at"  # RFC 3339

# A model without one of these cannot be evaluated, registered or deployed.
LINEAGE_TAGS = (
    TAG_PROBLEM,
    TAG_DATASET_HASH,
    TAG_DATA_VERSION,
    TAG_DATA_GIT_SHA,
    TAG_ARCHITECTURE,
    TAG_OPTIMIZER,
    TAG_GIT_SHA,
    TAG_IMAGE_DIGEST,
    TAG_RUN_MANIFEST,
    TAG_MODEL_DIGEST,
)

DOMAIN = "heat-inverse"
EQUATION = "u_t - div(a grad u) = f"

# --- Metrics of a training run ----------------------------------------------------------------------------------------
PDE_LOSS = "pde_loss"
BC_LOSS = "bc_loss"
IC_LOSS = "ic_loss"
TRAIN_RESIDUAL = "train_residual"
VAL_RESIDUAL = "val_residual"
VAL_MISFIT = "val_misfit"
A_SPREAD = "a_spread"
A_REL_L2 = "a_rel_l2"
U_REL_L2 = "u_rel_l2"

GATE_PDE_LOSS_MAX = 1e-3
GATE_VAL_RESIDUAL_MAX = 1e-2
GATE_VAL_MISFIT_MIN = 0.7
GATE_VAL_MISFIT_MAX = 1.3
GATE_A_SPREAD_MAX = 0.05
GATE_MIN_IMPROVEMENT = -0.02

VERDICT_PASS = "pass"  # noqa: S105 (a verdict, no password)
VERDICT_FAIL = "fail"

# --- Files ------------------------------------------------------------------------------------------------------------
PROBLEM_FILE = "problem.yaml"
# A dataset folder: problem.yaml, measurements.{h5,parquet} and, where the batch ships one, validation.{h5,parquet}.
MEASUREMENTS_STEM = "measurements"
VALIDATION_STEM = "validation"
DATASET_FILE = (
    "dataset.json"  # written last by dvc-fetch into data/<dataset_hash>/: what was fetched, from where, file by file
)

# A model bundle, as the trainer leaves it in its workspace, as MLflow keeps it (extra files of the pt2 model) and
# as the predictor loads it.
MODEL_ONNX = "model.onnx"
MODEL_METADATA = "model.json"
MANIFEST_FILE = "manifest.sha256"  # `sha256  name` per file of the bundle, written last
RUN_MANIFEST_FILE = "run-manifest.json"

# Reports on the workspace, one small JSON file per Task of the Pipeline, read by report-run.
REPORT_FETCH = "fetch-data.json"
REPORT_TRAIN = "train.json"
REPORT_EVALUATION = "evaluation.json"
REPORT_REGISTRATION = "registration.json"
REPORT_DEPLOYMENT = "deployment.json"
REPORT_SHIFT = "shift.json"
REPORT_SHADOW = "shadow.json"
REPORT_DECISIONS = "decisions"  # folder with a log of every look at each step of a shift
REPORT_PROMOTION = "promotion.json"
REPORT_SUMMARY = "summary.json"
REPORT_PAGE = "report.html"

# --- ONNX graph -------------------------------------------------------------------------------------------------------
ONNX_POINTS = "points"  # float64 [n, 3]: x, y, t in the problem's physical units
ONNX_SOURCE = "f"  # float64 [n], only where the source is neither closed-form nor a table
ONNX_U = "u"  # float64 [n], physical units
ONNX_A = "a"  # float64 [n], physical units
ONNX_RESIDUAL = "residual"  # float64 [n], r = u_t - div(a grad u) - f of the nondimensional equation
ONNX_RESIDUAL_POWER = (
    "residual_power"  # float64 [n], u_t^2 + (div a grad u)^2 + f^2, nondimensional: what val_residual divides by
)
ONNX_BOUNDARY_RESIDUAL = (
    "boundary_residual"  # float64 [n], nondimensional; only where the problem declares a boundary condition
)

# --- Serving ----------------------------------------------------------------------------------------------------------
COLOURS = ("blue", "green")
# Who splits the traffic: a Route of our own, or whatever follows an InferenceService's spec.canary.
DRIVER_ROUTE, DRIVER_ISVC = "route", "isvc"
DRIVERS = (DRIVER_ROUTE, DRIVER_ISVC)
KSERVE_CONTAINER = "kserve-container"
CANARY_NAME = "canary"  # spec.canary[].predictor.name: <isvc>-canary-predictor is green, <isvc>-predictor blue
HEADER_MODEL_VERSION = "X-Model-Version"  # semver, 1.<registry version>.0
HEADER_MODEL_DIGEST = "X-Model-Digest"
HEADER_PROBE = "X-Isotherm-Probe"  # on requests that judge a colour, not a client's
PATH_DOMAIN = "/domain"  # where a predictor says what it may be asked
PREDICTOR_PORT = 8080
PREDICTOR_ACCOUNT = "isotherm-predictor"  # ServiceAccount of the predictors; KServe reads its Secrets for s3:// models
ENV_MODEL_VERSION = "MODEL_VERSION"
ENV_MODEL_DIGEST = "MODEL_DIGEST"
ENV_TRACK = "TRACK"  # the colour this pod serves
ENV_PREDICTION_LOG_DIR = "PREDICTION_LOG_DIR"  # folder of the prediction log; empty switches it off
PREDICTION_LOG_MOUNT = "/predictions"  # where a predictor has its model's folder of the volume for all their logs
PREDICTION_LOG_SUB_PATH = "predictions"  # on that volume; a folder per model
MODEL_MOUNT = "/mnt/models"  # where KServe mounts a model (DefaultModelLocalMountPath)
KSERVE_CLAIM_VOLUME = "kserve-pvc-source"  # KServe's name for the volume of a model's claim (PvcSourceMountName)
ENV_HTTP_HOST = "HTTP_HOST"  # address the predictor listens on; every interface unless set

METRIC_REQUESTS = "pinn_requests_total"
METRIC_ERRORS = "pinn_errors_total"  # the server's own failures (5xx)
METRIC_REFUSED = "pinn_refused_total"  # requests refused because of what was sent (4xx)
METRIC_LATENCY = "pinn_latency_seconds"
METRIC_INPUTS = "pinn_inputs_total"
METRIC_INPUTS_OOB = "pinn_inputs_oob_total"
METRIC_OOB_RATIO = "pinn_inputs_oob_ratio"
METRIC_RESIDUAL_MEAN = "pinn_pde_residual_mean"
METRIC_RESIDUAL = "pinn_pde_residual"  # a summary: _sum and _count
METRIC_BC_INPUTS = "pinn_bc_inputs_total"  # points near an edge: what pinn_bc_violations_total is a share of
METRIC_BC_VIOLATIONS = "pinn_bc_violations_total"
METRIC_BC_RATIO = "pinn_bcViolation_ratio"
METRIC_LOG_DROPPED = "pinn_prediction_log_dropped_total"
# Requests with at least one such answer: points of one request are no independent evidence, requests are.
METRIC_REQUESTS_OOB = "pinn_requests_oob_total"
METRIC_REQUESTS_RESIDUAL = "pinn_requests_residual_total"
METRIC_REQUESTS_BC = "pinn_requests_bc_violation_total"
METRIC_PROBES = "pinn_probe_requests_total"  # requests with HEADER_PROBE: in no other metric, and not logged

# --- Kubernetes -------------------------------------------------------------------------------------------------------
PREFIX = "isotherm.dev"
ANNOTATION_MODEL_DIGEST = f"{PREFIX}/model-digest"
ANNOTATION_MODEL_VERSION = f"{PREFIX}/model-version"
ANNOTATION_DATA_VERSION = f"{PREFIX}/data-version"
ANNOTATION_CLAIMED_BY = f"{PREFIX}/claimed-by"  # uid of the PipelineRun that prepared this InferenceService
# On the Route, changed by the same resourceVersion write as the weights.
ANNOTATION_SHIFT_HOLDER = f"{PREFIX}/shift-holder"
ANNOTATION_SHIFT_TOKEN = f"{PREFIX}/shift-token"
ANNOTATION_LIVE_DIGEST = f"{PREFIX}/live-digest"
ANNOTATION_LIVE_SINCE = f"{PREFIX}/live-since"
ANNOTATION_PREVIOUS = f"{PREFIX}/previous-colour"
ANNOTATION_PREVIOUS_DIGEST = (
    f"{PREFIX}/previous-digest"  # a rollback refuses when that colour holds another model by now
)
# A shift is pending from its first write until it is confirmed or taken back. Its driver moves the expiry on; once that
# has passed, the guard takes the shift back.
ANNOTATION_SHIFT_EXPIRES = f"{PREFIX}/shift-expires-at"  # RFC 3339
ANNOTATION_SHIFT_WEIGHTS = (
    f"{PREFIX}/shift-weights"  # as Isotherm wrote them last: others mean that somebody else set them
)
ANNOTATION_CANDIDATE_DIGEST = f"{PREFIX}/candidate-digest"  # the model that a pending shift brings
ANNOTATION_REJECTED_DIGEST = (
    f"{PREFIX}/rejected-digest"  # the model of a shift that was taken back: no rollback leads to it
)
ANNOTATION_SHIFT_ENDED = f"{PREFIX}/shift-ended"  # why the guard took a shift back
# With driver isvc all of these are one JSON object on the InferenceService; KServe must not hand it down to the pods.
ANNOTATION_SHIFT = f"{PREFIX}/shift"
ANNOTATION_DISABLE_COOKIES = "haproxy.router.openshift.io/disable_cookies"
ANNOTATION_BALANCE = "haproxy.router.openshift.io/balance"
ANNOTATION_DEPLOYMENT_MODE, MODE_STANDARD = "serving.kserve.io/deploymentMode", "Standard"
# Open Data Hub gives an InferenceService with this label a Route, which follows spec.canary.
LABEL_VISIBILITY, VISIBILITY_EXPOSED = "networking.kserve.io/visibility", "exposed"
LABEL_PART_OF = "app.kubernetes.io/part-of"
LABEL_MODEL = f"{PREFIX}/model"
LABEL_COLOUR = f"{PREFIX}/colour"
PART_OF = "isotherm"
FIELD_MANAGER = "isotherm"

# --- Events -----------------------------------------------------------------------------------------------------------
# On every PipelineRun that an event makes. The key names the event; the run's name is the key, or `<key>-N` where the
# N-th run for one event is made because the runs before it were not admitted.
LABEL_EVENT = f"{PREFIX}/event"
LABEL_WATCH = f"{PREFIX}/watch"  # of git events: name of the watched branch
ANNOTATION_EVENT_KEY = f"{PREFIX}/event-key"
ANNOTATION_BEFORE = f"{PREFIX}/before"  # full SHAs: the run stands for the commits in (before, revision]
ANNOTATION_REVISION = f"{PREFIX}/revision"
ANNOTATION_RECOVERED = f"{PREFIX}/recovered"  # "true" on what the reconciler created, as the event itself was lost
EVENT_GIT, EVENT_ALERT, EVENT_REGISTRY, EVENT_SCHEDULE, EVENT_LAKEFS = "git", "alert", "registry", "schedule", "lakefs"
# Lease `isotherm-MODEL`: cool-down in its spec, done keys in an annotation, changed by one write.
ANNOTATION_EVENT_KEYS = f"{PREFIX}/event-keys"
LEASE_RECONCILE = "isotherm-reconcile"  # remembers per watch the commit up to which everything is covered
ANNOTATION_START_PREFIX = f"{PREFIX}/start."
LABEL_RETRAIN = "retrain"  # of an alert: "true" asks for a training of the model in label `model`
REPORT_ADMIT = "admit.json"


def model_lease(model_name: str) -> str:
    """Name the Lease that holds a model's cool-down and done keys."""
    return f"{PART_OF}-{model_name}"


def registry_lease(model_name: str) -> str:
    """Name the Lease that a writer of a model's registry entries holds.

    MLflow's names allow what Kubernetes' do not; two that become one share the Lease, which only makes them wait.
    """
    return f"{PART_OF}-registry-{model_name.lower().replace('_', '-').strip('.-')}"


def data_version(dataset_hash: str) -> str:
    """Shorten a dataset's full DVC md5 to the form that headers, tags and answers show."""
    return f"dvc-{dataset_hash[:6]}"


def semver(registry_version: int | str) -> str:
    """Turn a registry version (1, 2, ...) into the semantic version that the model answers with."""
    return f"1.{registry_version}.0"
