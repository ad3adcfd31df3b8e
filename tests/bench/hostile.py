"""Values that break what does not expect them, and the fields of events that something reads."""

from __future__ import annotations

VALUES = (
    '"', "'", '\\"', "\\", "`id`", "$(id)", "${IFS}", "$(params.repo-url)", "$(tt.params.name)",
    "$(context.pipelineRun.name)",
    "\n", "a\nb: c", "a\r\nX-Injected: 1", "\t", "\u0000", "\u202e", "\ufeff", "é" * 100, "\U0001f525",
    "\ud83d\ude00" * 50,
    "../../etc/passwd", "/etc/shadow", "; rm -rf /", "| cat /etc/passwd", "&& reboot", "-o ProxyCommand=id",
    "--upload-pack=id",
    "{{7*7}}", '{"a": 1}', '", "x": "', "]}", "[1,2]", "!!python/object/apply:os.system [id]", "*anchor", "&a [*a]",
    "# comment",
    "- item", "%00", "<script>", "' OR 1=1 --", "null", "0", "x" * 65536,
)  # fmt: skip
PUSH = ("after", "before", "ref")
ALERT = ("alerts.0.fingerprint", "alerts.0.startsAt", "commonLabels.model", "commonLabels.retrain", "status")
LAKEFS = ("commit_id", "repository_id", "branch_id", "event_type")
FIELDS = {
    "github": PUSH,
    "gitlab": PUSH,
    "gitea": PUSH,
    "alertmanager": ALERT,
    "grafana": ALERT,
    "mlflow": ("data.version", "data.name", "data.alias"),
    "lakefs-merge": LAKEFS,
    "lakefs-commit": LAKEFS,
    "schedule": ("model", "scheduled"),
}
