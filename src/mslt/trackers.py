"""Where a run's figures go beside metrics.jsonl: TensorBoard, Weights & Biases, MLflow, trackio.

Each is an extra that is imported only where it is asked for. All write into the run's folder and
use no network unless their own environment variables say otherwise.
"""

import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

PROJECT = "mslt"


class Tracker(Protocol):
    """Takes the figures of a run."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take numbers by name, as in train/mlm_loss, after so many steps."""

    def close(self) -> None:
        """Write what is left to write."""


class TensorBoard:
    """Events in RUN/tensorboard."""

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(run / "tensorboard"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take numbers by name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left to write."""
        self._writer.close()


class WeightsAndBiases:
    """Files in RUN/wandb; WANDB_MODE=online sends them where `wandb login` said."""

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.absolute().name,
            dir=str(run),
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=dict(config),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take numbers by name. Their own step may not go back, so ours is one of the numbers."""
        self._run.log({**values, "step": step})

    def close(self) -> None:
        """Write what is left to write."""
        self._run.finish()


class MLflow:
    """Files in RUN/mlflow; MLFLOW_TRACKING_URI names another place."""

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        # Its files are what it has without a database, and it wants to be told that they will do.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.tracking import MlflowClient

        where = os.environ.get("MLFLOW_TRACKING_URI", (run / "mlflow").absolute().as_uri())
        self._client: Any = MlflowClient(tracking_uri=where)
        found = self._client.get_experiment_by_name(PROJECT)
        number = found.experiment_id if found else self._client.create_experiment(PROJECT)
        self._id = self._client.create_run(number, run_name=run.absolute().name).info.run_id
        for key, value in config.items():
            self._client.log_param(self._id, key, value)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take numbers by name."""
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def close(self) -> None:
        """Write what is left to write."""
        self._client.set_terminated(self._id)


class Trackio:
    """A database in RUN/trackio, or in TRACKIO_DIR; `trackio show` reads it."""

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        os.environ.setdefault("TRACKIO_DIR", str((run / "trackio").absolute()))
        import trackio

        self._trackio: Any = trackio
        self._run = trackio.init(
            project=PROJECT, name=run.absolute().name, resume="allow", config=dict(config)
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take numbers by name."""
        self._trackio.log(dict(values), step=step)

    def close(self) -> None:
        """Write what is left to write."""
        self._trackio.finish()


# By name, which is that of the module too, with what pip installs.
TRACKERS: dict[str, tuple[str, Callable[[Path, Mapping[str, Any]], Tracker]]] = {
    "tensorboard": ("'mslt[tensorboard]'", TensorBoard),
    "wandb": ("'mslt[wandb]'", WeightsAndBiases),
    "mlflow": ("'mslt[mlflow]'", MLflow),
    # No extra: what it needs (0.43) does not go with the versions in constraints.txt.
    "trackio": ("trackio", Trackio),
}


# What they would otherwise send home, beside a run's figures.
_QUIET = {
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def require(names: Iterable[str]) -> None:
    """See that what is asked for is installed, without importing it.

    Raises:
        ValueError: naming what is not.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"{name} is not installed: pip install {TRACKERS[name][0]}")


class Trackers:
    """All that a run is tracked by, each opened by the first value.

    Args:
        run: its folder.
        names: of the trackers.
        config: the run's options by dotted key.
    """

    def __init__(self, run: Path, names: Iterable[str], config: Mapping[str, Any]) -> None:
        self._run = run
        self._names = tuple(names)
        self._config = config
        self._open: list[Tracker] = []

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Let all take the numbers of a line of metrics.jsonl; other values are passed over."""
        numbers = {
            f"{kind}/{name}": float(value)
            for name, value in values.items()
            if isinstance(value, int | float)
        }
        if self._names and not self._open:
            for name, value in _QUIET.items():
                os.environ.setdefault(name, value)
            self._open = [TRACKERS[name][1](self._run, self._config) for name in self._names]
        for tracker in self._open:
            tracker.log(step, numbers)

    def close(self) -> None:
        """Let all write what is left to write."""
        for tracker in self._open:
            tracker.close()
        self._open = []
