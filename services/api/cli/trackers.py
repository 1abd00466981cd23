"""Experiment trackers; each needs its own package, which is imported when it is selected."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final, Protocol

from services.api.cli.failure import CommandError
from services.api.schemas.jobs import JobView

Values = Mapping[str, float]


class Tracker(Protocol):
    """A run of an experiment tracker."""

    def log(self, step: int, values: Values, time: float) -> None:
        """Log the values of a step, measured at `time` in Unix seconds."""
        ...

    def close(self) -> None:
        """Flush and close the run."""
        ...


class _TensorBoard:
    """Event files in a directory; `tensorboard --logdir` shows them."""

    def __init__(self, directory: str, job: JobView) -> None:
        self._writer = _import_module(
            "tensorboard.summary.writer.event_file_writer"
        ).EventFileWriter(f"{directory}/{job.id}")
        self._event = _import_module("tensorboard.compat.proto.event_pb2").Event
        self._summary = _import_module("tensorboard.compat.proto.summary_pb2").Summary

    def log(self, step: int, values: Values, time: float) -> None:
        summary = self._summary(
            value=[self._summary.Value(tag=name, simple_value=v) for name, v in values.items()]
        )
        self._writer.add_event(self._event(wall_time=time, step=step, summary=summary))

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run of Weights & Biases in a project; WANDB_MODE=offline keeps it on this machine."""

    def __init__(self, project: str, job: JobView) -> None:
        self._run = _import_module("wandb").init(
            project=project, id=job.id, name=job.id, config=job.spec, resume="allow"
        )

    def log(self, step: int, values: Values, time: float) -> None:
        self._run.log({**values, "_timestamp": time}, step=step)

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    """A run of MLflow on a tracking server or in a directory."""

    def __init__(self, uri: str, job: JobView) -> None:
        client = _import_module("mlflow").MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(_EXPERIMENT)
        identity = (
            client.create_experiment(_EXPERIMENT)
            if experiment is None
            else experiment.experiment_id
        )
        self._client, self._entity = client, _import_module("mlflow.entities").Metric
        self._run_id = client.create_run(identity, run_name=job.id).info.run_id

    def log(self, step: int, values: Values, time: float) -> None:
        # MLflow allows no "@" in names: avg@8 is avg_at_8 there.
        metrics = [
            self._entity(name.replace("@", "_at_"), value, int(time * 1000), step)
            for name, value in values.items()
        ]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run_id)


class _Trackio:
    """A run of trackio in a project on this machine."""

    def __init__(self, project: str, job: JobView) -> None:
        self._trackio = _import_module("trackio")
        # The job does not run on this machine, so its load is not a metric of the job.
        self._trackio.init(
            project=project,
            name=job.id,
            config=job.spec,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def log(self, step: int, values: Values, time: float) -> None:
        self._trackio.log(dict(values), step=step)

    def close(self) -> None:
        self._trackio.finish()


_EXPERIMENT: Final = "dirl"
TRACKERS: Final[dict[str, Callable[[str, JobView], Tracker]]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "mlflow": _Mlflow,
    "trackio": _Trackio,
}


def open_tracker(target: str, job: JobView) -> Tracker:
    """Open the tracker of `NAME:WHERE`, e.g. tensorboard:runs; raises CommandError if it is not
    available.
    """
    name, _, where = target.partition(":")
    if name not in TRACKERS or not where:
        raise CommandError(
            f"--to is {target!r}; it must be one of {', '.join(f'{each}:…' for each in TRACKERS)}"
        )
    return TRACKERS[name](where, job)


def _import_module(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        raise CommandError(
            f"Cannot use {package}: {error}. Install it with: pip install {package}"
        ) from error
