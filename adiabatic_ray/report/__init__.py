"""Tracking and reports: the only room with MLflow and matplotlib."""

import os

# MLflow reads these when it is imported.
# A dead server is to be noticed in seconds; MLflow's own default is minutes for every request.
for _name, _value in {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}.items():
    os.environ.setdefault(_name, _value)
