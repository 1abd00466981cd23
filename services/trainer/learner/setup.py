"""From a request to an attempt that can train: files, model or checkpoint, ledger, replicas; checked
before any step.
"""

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import redis
import structlog
import torch

from services.common.checkpoint.archive import Archive, archive_of
from services.common.checkpoint.store import remove_leftovers
from services.common.data.rows import Needs
from services.common.data.turns import PLACEHOLDER
from services.common.diffusion.config import DecodingConfig
from services.common.errors import PlatformError
from services.common.events import EventType
from services.common.job_decoding import resolve_decoding
from services.common.job_spec import JobSpec
from services.common.model.loading import LoadedModel
from services.common.model_card import read_model_card
from services.trainer.learner.archiving import Archiver, restore_newest
from services.trainer.learner.attempt_context import AttemptContext
from services.trainer.learner.certificate import certify_start, find_undone_steps
from services.trainer.learner.checkpointing import (
    Checkpointer,
    ResumePoint,
    best_name,
    find_resume_point,
)
from services.trainer.learner.datasets import (
    DataFile,
    Dataset,
    EncodedPrompt,
    Item,
    load_examples,
    load_held_out,
    load_prompts,
    mix_datasets,
    to_token_budget,
)
from services.trainer.learner.journal import Reporter, has_event
from services.trainer.learner.lifecycle import StopSignal
from services.trainer.learner.parity import PROMPTS, TOLERANCES, ParityGate, make_parity_gate
from services.trainer.learner.replicas import Replicas
from services.trainer.learner.request import LearnerRequest
from services.trainer.learner.rollouts import Rollouts
from services.trainer.learner.setting_warnings import warn_about_experts
from services.trainer.learner.sft_stage import count_sft_steps
from services.trainer.learner.stage import report_checkpoint
from services.trainer.learner.state import RunState, StoredRows
from services.trainer.learner.step_log import StepLog
from services.trainer.training.policy_model import PolicyModel
from services.trainer.training.ranks import Ranks
from services.trainer.training.sft import SftExample

log = structlog.get_logger()


@dataclass(frozen=True)
class Data:
    """Encoded rows of the job's files; None where the spec names no such file or has no such stage."""

    sft: Dataset[SftExample] | None
    rl: Dataset[EncodedPrompt] | None
    evaluation: tuple[EncodedPrompt, ...] | None
    held_out: tuple[SftExample, ...]
    """Rows of the validation file with a completion, for the loss that a supervised stage reports."""


@dataclass(frozen=True)
class Prepared:
    """An attempt with its data and decoding."""

    context: AttemptContext
    data: Data
    train_decoding: DecodingConfig
    eval_decoding: DecodingConfig
    resume: ResumePoint | None


def prepare(
    request: LearnerRequest,
    client: redis.Redis,
    report: Reporter,
    stop: StopSignal,
    resources: ExitStack,
    ranks: Ranks,
) -> Prepared:
    """Load everything; raises PlatformError for anything that makes the job impossible, before any
    step.

    What must be closed is entered into `resources`. Ranks that follow wait for the checkpoint that
    is chosen here.
    """
    spec = request.spec
    report.phase("loading")
    # Cheapest checks first: a job that cannot run must not load a model.
    _require_feasible(request)
    if request.torch_threads is not None:
        torch.set_num_threads(request.torch_threads)
    archive = archive_of(request.object_store_url, request.job_id, request.job_dir)
    remove_leftovers(request.checkpoints)
    resume, skipped = _find_or_restore(request, archive, report)
    undone = find_undone_steps(request, resume, skipped)
    resumed_path = None if resume is None else resume.path
    resumed_from = 0 if resume is None else resume.manifest.global_step
    # The other ranks wait here: only rank 0 looks at checkpoints, so that all load the same one.
    ranks.broadcast(resumed_path)
    policy_model = PolicyModel.load(request.model_path, spec, resumed_path, ranks)
    loaded = policy_model.loaded
    if spec.lora is not None:
        warn_about_experts(report.journal, loaded.model)
    train_decoding, eval_decoding = (
        resolve_decoding(
            spec,
            block_size=loaded.block_size,
            mask_token_id=loaded.mask_token_id,
            stop_token_ids=loaded.stop_token_ids,
            evaluation=evaluation,
        )
        for evaluation in (False, True)
    )
    # After the model: rows are encoded with its tokenizer and must fit its positions.
    data = _load_data(request, loaded, report, eval_decoding.max_new_tokens)
    shorter = min(train_decoding.max_new_tokens, eval_decoding.max_new_tokens)
    context = AttemptContext(
        request=request,
        spec=spec,
        policy_model=policy_model,
        state=RunState() if resume is None else resume.state,
        report=report,
        stop=stop,
        checkpointer=Checkpointer(
            request, read_model_card(resumed_path or request.model_path), resumed_path
        ),
        step_log=resources.enter_context(
            closing(StepLog(request.job_dir, request.attempt, resumed_from=resumed_from))
        ),
        rollouts=_make_rollouts(request, client, report, stop, resources)
        if spec.needs_rollout()
        else None,
        resumed_from=resumed_from,
        gate=_make_parity_gate(spec, loaded, data, shorter),
        stage_steps=_count_stage_steps(spec, data),
        archiver=None
        if archive is None
        else resources.enter_context(closing(Archiver(archive, spec.checkpoint, report.journal))),
    )
    _enter_ledgers(context, data)
    certify_start(context, resume, undone, skipped)
    if resume is not None and _is_unreported(request, resume):
        report_checkpoint(context, resume)
    if context.archiver is not None:
        context.archiver.catch_up(
            request.checkpoints, context.resumed_from, best_name(context.state)
        )
    _warn_approximate(context)
    return Prepared(context, data, train_decoding, eval_decoding, resume)


def _find_or_restore(
    request: LearnerRequest, archive: Archive | None, report: Reporter
) -> tuple[ResumePoint | None, list[str]]:
    """Return the checkpoint to resume from, fetched from the object store where the volume of a
    later attempt has none, and why newer ones were passed over.
    """
    resume, skipped = find_resume_point(request)
    if (
        resume is None
        and archive is not None
        and request.attempt > 1
        and restore_newest(archive, report.journal)
    ):
        resume, _ = find_resume_point(request)
    return resume, skipped


def _is_unreported(request: LearnerRequest, resume: ResumePoint) -> bool:
    """Whether the learner that wrote the checkpoint was killed before it could say so."""
    is_own = resume.path.parent == request.checkpoints
    writer, step = resume.manifest.attempt, resume.manifest.global_step
    return is_own and not has_event(
        request.job_dir, range(writer, request.attempt), EventType.CHECKPOINT, step
    )


def _require_feasible(request: LearnerRequest) -> None:
    spec = request.spec
    if PLACEHOLDER not in spec.prompt.template:
        raise PlatformError(
            "spec_invalid",
            f"Cannot build prompts: prompt.template is {spec.prompt.template!r}, which does not contain {PLACEHOLDER}.",
            hint="Put {prompt} where the row's problem belongs.",
            param="prompt.template",
        )
    if spec.trainer.precision == "bf16" and not torch.cuda.is_available():
        raise PlatformError(
            "preflight_failed",
            f"Cannot start {request.job_id}: trainer.precision is 'bf16', and this trainer has no CUDA device. A CPU "
            "trains in fp32.",
            hint="Set trainer.precision to fp32, or run the trainer where there is a GPU.",
            param="trainer.precision",
        )
    if spec.needs_rollout() and not request.rollout_addresses:
        raise PlatformError(
            "preflight_failed",
            f"Cannot start {request.job_id}: method {spec.method.type!r} decodes, but no rollout replica was leased.",
            hint="Start a rollout service and list it in DIRL_ROLLOUT_ADDRESSES.",
        )


def _load_data(
    request: LearnerRequest, loaded: LoadedModel, report: Reporter, eval_new_tokens: int
) -> Data:
    spec = request.spec
    limits = to_token_budget(spec, loaded.model.config.max_position_embeddings)
    stages = spec.method.stages
    sft = rl = evaluation = None
    held_out: tuple[SftExample, ...] = ()
    if "sft" in stages:
        trace = spec.sft.noise == "trace"
        sft = _load_mixture(
            request,
            "sft",
            report,
            lambda file: load_examples(file, loaded, spec.prompt, limits, trace=trace),
        )
    if "rl" in stages:
        longest = spec.sampling.max_new_tokens
        rl = _load_mixture(
            request,
            "rl",
            report,
            lambda file: load_prompts(file, "rl", loaded, spec, limits, longest),
        )
    if spec.validation_file is not None:
        file = _find_file(request, spec.validation_file, validates=True)
        validation = load_prompts(file, "eval", loaded, spec, limits, eval_new_tokens)
        _report_dropped(report, file.path, validation)
        evaluation = tuple(validation.items[: spec.eval.num_samples])
    held_out_file = spec.sft_validation_file() if "sft" in stages else None
    if held_out_file is not None:
        file, trace = (
            _find_file(request, held_out_file, validates=True),
            spec.sft.noise == "trace",
        )
        needs: Needs = "eval" if held_out_file == spec.validation_file else "sft"
        held_out = tuple(
            load_held_out(file, needs, loaded, spec.prompt, limits, trace=trace)[
                : spec.eval.num_samples
            ]
        )
        if spec.sft.validation_interval_steps is not None and not held_out:
            raise PlatformError(
                "dataset_invalid",
                f"Cannot validate every {spec.sft.validation_interval_steps} steps: no row of {held_out_file!r} has a "
                "completion that fits.",
                hint="Give sft.validation_file with rows like those of the training file.",
                param="sft.validation_interval_steps",
            )
    return Data(sft, rl, evaluation, held_out)


def _load_mixture(
    request: LearnerRequest,
    stage: Literal["sft", "rl"],
    report: Reporter,
    load: Callable[[DataFile], Dataset[Item]],
) -> Dataset[Item]:
    """Load the stage's files as one data set."""
    parts = []
    for part in request.spec.training_files_of(stage):
        file = _find_file(request, part.file, validates=False)
        dataset = load(file)
        _report_dropped(report, file.path, dataset)
        parts.append((dataset, part.weight))
    return mix_datasets(parts)


def _find_file(request: LearnerRequest, name: str, *, validates: bool) -> DataFile:
    if name not in request.files:
        raise PlatformError(
            "dataset_invalid",
            f"Cannot read the file {name!r} of {request.job_id}: the request gives paths for {sorted(request.files)}.",
            hint="Submit the job again; its files are resolved at submission.",
        )
    return DataFile(request.files[name], request.spec.reading_of(name, validates=validates))


def _report_dropped(report: Reporter, path: Path, dataset: Dataset[Item]) -> None:
    if dataset.too_long:
        kept = len(dataset.items)
        report.journal.say(
            "warning",
            "rows_too_long",
            f"{dataset.too_long} of {kept + dataset.too_long} rows of {path.name} exceed the token budgets "
            "(prompt.max_prompt_tokens, trainer.seq_len) and were dropped.",
            dropped=dataset.too_long,
            kept=kept,
        )


def _make_rollouts(
    request: LearnerRequest,
    client: redis.Redis,
    report: Reporter,
    stop: StopSignal,
    resources: ExitStack,
) -> Rollouts:
    replicas = Replicas(request.rollout_addresses, request.job_id, request.attempt, report)
    resources.callback(replicas.close)
    return Rollouts(request, client, report, stop, replicas)


def _make_parity_gate(
    spec: JobSpec, loaded: LoadedModel, data: Data, max_new_tokens: int
) -> ParityGate | None:
    items = data.evaluation if data.rl is None else data.rl.items
    if items is None:
        return None
    prompts = [item.prompt_ids for item in items[:PROMPTS]]
    tolerance = spec.rl.parity_tolerance or TOLERANCES[spec.trainer.precision]
    return make_parity_gate(
        prompts, loaded, seed=spec.seed, max_new_tokens=max_new_tokens, tolerance=tolerance
    )


def _count_stage_steps(spec: JobSpec, data: Data) -> dict[str, int]:
    steps: dict[str, int] = {}
    if data.sft is not None:
        steps["sft"] = count_sft_steps(
            len(data.sft.items), spec.sft.epochs, spec.sft.batch_size, spec.sft.max_steps
        )
    if data.rl is not None:
        steps["rl"] = spec.rl.steps
    return {stage: steps.get(stage, 0) for stage in spec.method.stages}


def _enter_ledgers(context: AttemptContext, data: Data) -> None:
    for name, dataset in (("sft", data.sft), ("rl", data.rl)):
        if dataset is not None:
            rows = StoredRows(
                file_sha256=dataset.file_sha256,
                num_rows=len(dataset.items),
                mixture=dataset.mixture,
            )
            context.state.enter_stage(name, context.spec, rows)


def _warn_approximate(context: AttemptContext) -> None:
    sampling = context.spec.sampling
    if context.spec.method.type in ("rl", "pipeline") and (
        sampling.temperature,
        sampling.top_p,
        sampling.top_k,
    ) != (
        1,
        1,
        0,
    ):
        context.report.journal.say(
            "warning",
            "approximate_ratios",
            f"sampling is temperature {sampling.temperature}, top_p {sampling.top_p}, top_k {sampling.top_k}; only "
            "temperature 1 without cuts samples from the policy, so importance ratios are approximate.",
        )
