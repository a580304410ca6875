"""The winner's encoder in MLflow's model registry."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
from pathlib import Path

from adiabatic_ray import config, storage
from adiabatic_ray.tracking import address
from adiabatic_ray.tracking.runs import MlflowRuns
from adiabatic_ray.trials.record import TrialRecord


class ModelRegistry:
    """Registers a sweep's winners under the sweep's name. Raises whatever MLflow raises.

    The alias `champion` names the version of a confirmed winner. A winner that was not confirmed does not get it.
    """

    def __init__(self, runs: MlflowRuns) -> None:
        self.runs = runs
        self.name = f"{runs.store.sweep.name}-query-encoder"

    def log_model(self, folder: Path, winner: TrialRecord) -> None:
        """Log the winner's exported encoder in `folder` as a model of the parent run, and register it, once."""
        candidate = winner.candidate
        assert candidate is not None
        client, parent = self.runs.client, self.runs.parent
        state = f"{winner.number} scale {candidate.scale:g} confirmed {winner.confirmed}"
        tags = client.get_run(parent).data.tags
        if tags.get("best.model.state") != state:
            version = self._register(folder, winner, candidate.scale)
            client.set_tag(parent, "best.model.version", version)
            client.set_tag(parent, "best.model", str(winner.number))
            client.set_tag(parent, "best.model.state", state)  # last: without it the next run repeats all this
        else:
            version = tags["best.model.version"]
        self._crown(version if winner.confirmed is True else None)

    def drop_champion(self) -> None:
        """Remove the alias and the tags that name a winner, because the sweep has none, or none any more."""
        self._crown(None)
        client, parent = self.runs.client, self.runs.parent
        tags = client.get_run(parent).data.tags
        for key in ("best.trial", "best.scale", "best.worst"):
            if key in tags:
                client.delete_tag(parent, key)

    def _register(self, folder: Path, winner: TrialRecord, scale: float) -> str:
        """Log and register an exported encoder. Return its version."""
        tags = {
            "sweep.id": self.runs.store.id,
            "sweep.folder": str(self.runs.store.folder.path),
            "sweep.trial": str(winner.number),
            "sweep.run": self.runs.trials.get(winner.number, ""),
            "scale": f"{scale:g}",
            "confirmed": {True: "yes", False: "refuted", None: "no"}[winner.confirmed],
        }
        version = self._log(folder, tags)
        for key, value in tags.items():
            self.runs.client.set_model_version_tag(self.name, version, key, value)
        return version

    def _log(self, folder: Path, tags: dict[str, str]) -> str:
        import mlflow.sentence_transformers
        from mlflow.models import infer_signature

        from adiabatic_ray.model import encoder  # takes seconds to import, and is needed for the best trial only

        texts = ["how small a learning rate is small enough?"]  # without a prompt, which the model adds
        chatter = io.StringIO()  # MLflow prints that it registered a model
        with (
            storage.local(folder) as here,
            address.at(self.runs.uri),
            encoder.quiet(),
            contextlib.redirect_stderr(chatter),
            mlflow.start_run(run_id=self.runs.parent),
        ):
            module = encoder.load(config.Model(name=str(here))).module
            module.default_prompt_name = "query"  # MLflow calls plain `encode`, and what it serves are queries
            logged = mlflow.sentence_transformers.log_model(
                module,
                name="query_encoder",
                signature=infer_signature(texts, module.encode(texts, show_progress_bar=False)),
                input_example=texts,
                registered_model_name=self.name,
                tags=tags,
                pip_requirements=[
                    f"{name}=={importlib.metadata.version(name)}" for name in ("sentence-transformers", "torch")
                ],
            )
        return str(logged.registered_model_version)

    def _crown(self, version: str | None) -> None:
        """Point the alias `champion` at a version. If that is `None`, remove the alias from a version of this sweep.

        A sweep of the same name in another storage folder shares the registered model, and keeps its alias.
        """
        client = self.runs.client
        models = client.search_registered_models(f"name = '{self.name}'")
        current = models[0].aliases.get("champion") if models else None
        if version is not None:
            if current is None or str(current) != version:
                client.set_registered_model_alias(self.name, "champion", version)
        elif current is not None:
            champion = client.get_model_version(self.name, str(current))
            if champion.tags.get("sweep.id") == self.runs.store.id:
                client.delete_registered_model_alias(self.name, "champion")
