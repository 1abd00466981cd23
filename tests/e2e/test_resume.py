"""A learner that is killed in the middle of reinforcement learning: the job resumes and proves that
it lost nothing.
"""

import os
import signal

import psutil

from services.api.client import ApiClient
from services.api.schemas.jobs import JobView
from tests.support.embedded import local_platform, tiny_spec, watch

RL_STEPS = 8


def test_a_job_whose_learner_is_killed_goes_on_from_its_checkpoint_with_a_certificate_that_holds() -> (
    None
):
    with local_platform() as platform, ApiClient(platform.api_url) as api:
        job_id = api.create_job(tiny_spec(platform.data_dir / "input", rl_steps=RL_STEPS)).id
        watch(api, job_id, _is_in_the_middle_of_rl)

        os.kill(_learner(platform.pids()["trainer"]).pid, signal.SIGKILL)
        job = watch(api, job_id, lambda job: job.state == "succeeded")

        first, second = api.attempts(job_id)
        assert job.progress.step == 3 + RL_STEPS
        assert (first.state, second.state) == ("failed", "succeeded")
        assert second.resumed_from >= 3
        (certified,) = api.certificates(job_id)
        certificate = certified.certificate
        assert certificate["resumed_from"] == second.resumed_from
        assert (certificate["lost"], certificate["trained_twice"]) == (0, 0)
        dropped = sum(certificate["dropped"].values())
        assert certificate["issued"] == certificate["trained"] + dropped + certificate["open"]
        assert certificate["digest_before"] == certificate["digest_after"]
        saved = {
            event.data["step"]: event.data["weight_digest"]
            for event in api.events(job_id)
            if event.type == "checkpoint"
        }
        # Every step moved the weights: else equal digests would say nothing.
        assert len(set(saved.values())) == len(saved) == 3 + RL_STEPS


def _is_in_the_middle_of_rl(job: JobView) -> bool:
    progress = job.progress
    return progress is not None and progress.stage == "rl" and 2 <= progress.stage_step < RL_STEPS


def _learner(trainer: int) -> psutil.Process:
    (learner,) = (
        child
        for child in psutil.Process(trainer).children(recursive=True)
        if "services.trainer.learner" in child.cmdline()
    )
    return learner
