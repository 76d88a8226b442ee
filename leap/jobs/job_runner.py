"""Many jobs over the GPUs of this machine: through Ray where it is installed, one after the other without it."""

import os
import signal
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from leap.errors import LeapError, UsageError
from leap.jobs.process import Job, JobResult, StopRequest, end_leftover, log_file, run_job
from leap.jobs.ray_cluster import INSTALL_RAY, LOCAL, ray_installed
from leap.jobs.show import show_progress

WITHOUT_RAY = f"Ray is not installed: one job after the other ({INSTALL_RAY} runs {{slots}} at once)"
_THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class _Setting:
    """What all jobs of a run share."""

    logs: Path
    stop: StopRequest
    grace: float


def slots_for(gpus: Sequence[str] | None, at_once: int | None) -> int:
    """How many jobs may run at a time: one a GPU, or `at_once`. Raises UsageError for more than there are GPUs."""
    if not gpus:
        return at_once or 1
    if at_once and at_once > len(gpus):
        raise UsageError(f"{at_once} jobs at once, but {len(gpus)} GPU(s): each job has one of its own")
    return at_once or len(gpus)


def ray_flags(address: str | None, gpus: Sequence[str], at_once: int | None) -> list[str]:
    """Flags with which run_vlm_evaluation.py shares requests out: over a cluster, or the GPUs of this machine.

    None for one place, and without Ray, after saying so.
    """
    slots = slots_for(gpus, at_once)
    if not address and slots > 1 and not ray_installed():
        print(WITHOUT_RAY.format(slots=slots))
    elif address or slots > 1:
        return ["--ray_address", address or LOCAL, *(["--jobs", str(at_once)] if at_once else [])]
    return []


def run_jobs(
    jobs: Sequence[Job], logs: Path, gpus: Sequence[str] | None = None, at_once: int | None = None, grace: float = 10.0
) -> list[JobResult]:
    """Run every job, whatever becomes of the others; the results come in the order of `jobs`.

    `gpus` are names for CUDA_VISIBLE_DEVICES, one for each job that runs. Without them `at_once` jobs share the CPU;
    an empty list hides every GPU from them. A job writes `logs`/<name>.log, and its PID to <name>.pid while it runs.
    Raises KeyboardInterrupt after an interrupt, once every job has ended: by SIGTERM, by SIGKILL `grace` seconds later
    or at a second interrupt.
    """
    _refuse_twins(jobs)
    slots = min(slots_for(gpus, at_once), max(1, len(jobs)))
    gpus = list(gpus[:slots]) if gpus else gpus
    parallel = slots > 1 and ray_installed()
    logs.mkdir(parents=True, exist_ok=True)
    if slots > 1 and not parallel:
        print(WITHOUT_RAY.format(slots=slots))
    print(f"{len(jobs)} job(s), {slots if parallel else 1} at a time; logs in {logs}", flush=True)
    results: dict[str, JobResult] = {}
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="leap-jobs-"))
        setting = _Setting(logs, StopRequest(Path(scratch) / "stop"), grace)
        if parallel:
            stack.enter_context(_ray(slots, gpus))
        stack.enter_context(setting.stop.on_signals())  # after Ray, which sets a handler of its own
        ended = _through_ray(jobs, setting, slots, gpus) if parallel else _in_turn(jobs, setting, gpus)
        for result in show_progress(stack.enter_context(closing(ended)), jobs, logs):
            results[result.name] = result
        if setting.stop.level():
            raise KeyboardInterrupt
    return [results[job.name] for job in jobs]


def _refuse_twins(jobs: Sequence[Job]) -> None:
    twins = [name for name, number in Counter(job.name for job in jobs).items() if number > 1]
    if twins:
        raise LeapError(
            f"two jobs have the name {twins[0]}: they would write the same log; give them names of their own"
        )


def _environment(job: Job, gpus: Sequence[str] | None, slots: int) -> dict[str, str]:
    """The caller's environment with the job's own, one GPU (the first), and its share of the CPU's threads."""
    whole = {"PYTHONUNBUFFERED": "1", **os.environ}
    if slots > 1:
        whole.setdefault(_THREADS, str(max(1, len(os.sched_getaffinity(0)) // slots)))
    if gpus is not None:
        whole["CUDA_VISIBLE_DEVICES"] = gpus[0] if gpus else ""
    return {**whole, **job.environment}


def _in_turn(jobs: Sequence[Job], setting: _Setting, gpus: Sequence[str] | None) -> Generator[JobResult, None, None]:
    for job in jobs:
        environment = _environment(job, gpus, slots=1)
        yield run_job(job, setting.logs, environment, setting.stop, setting.grace)


@contextmanager
def _ray(slots: int, gpus: Sequence[str] | None) -> Iterator[None]:
    """A Ray of our own on this machine; it hands out just these GPUs."""
    # Ray's memory guard would kill the small worker that watches a job, never the job itself.
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0"}
    if gpus:
        settings["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    with _environ(settings):
        import ray

        ray.init(
            address="local",
            num_cpus=slots,
            num_gpus=len(gpus or ()),
            object_store_memory=100 * 2**20,
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
        )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _environ(settings: Mapping[str, str]) -> Iterator[None]:
    kept = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


def _through_ray(
    jobs: Sequence[Job], setting: _Setting, slots: int, gpus: Sequence[str] | None
) -> Generator[JobResult, None, None]:
    import ray

    task = ray.remote(num_cpus=1, num_gpus=int(bool(gpus)), max_retries=0)(_in_worker)
    waiting = {task.remote(job, setting, _environment(job, gpus, slots)): job for job in jobs}
    try:
        while waiting:
            ended, _ = ray.wait(list(waiting), timeout=0.5)
            for reference in ended:
                job = waiting.pop(reference)
                try:
                    yield ray.get(reference)
                except ray.exceptions.RayError as error:  # the worker died, or could not keep the log
                    end_leftover(setting.logs, job.name)
                    reason = str(error).strip().splitlines()[-1]
                    yield JobResult(job.name, "failed", 0.0, log_file(setting.logs, job.name), f"lost by Ray: {reason}")
    finally:
        if waiting:  # an error here must not leave jobs behind
            setting.stop.ask()
            ray.wait(list(waiting), num_returns=len(waiting), timeout=setting.grace + 10)


def _in_worker(job: Job, setting: _Setting, environment: Mapping[str, str]) -> JobResult:
    import ray

    gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU")
    if gpus and "CUDA_VISIBLE_DEVICES" not in job.environment:
        environment = {**environment, "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it, and the job would inherit that
    return run_job(job, setting.logs, environment, setting.stop, setting.grace)
