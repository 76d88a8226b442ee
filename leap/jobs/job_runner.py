"""Many jobs over the GPUs of this machine or of a cluster: through Ray, or one after the other without it."""

import signal
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from leap.errors import LeapError, UsageError
from leap.jobs.process import Job, JobResult, StopRequest, log_file, run_job
from leap.jobs.ray_cluster import INSTALL_RAY, LOCAL, connected, ray_installed, room_for
from leap.jobs.show import show_progress

WITHOUT_RAY = f"Ray is not installed: one job after the other ({INSTALL_RAY} runs {{slots}} at once)"
_RETRIES = 3  # of a job whose node or worker was lost: a training run goes on from its last checkpoint


def slots_for(gpus: Sequence[str] | None, at_once: int | None) -> int:
    """How many jobs may run at a time: one a GPU, or `at_once`. Raises UsageError for more than there are GPUs."""
    if not gpus:
        return at_once or 1
    if at_once and at_once > len(gpus):
        raise UsageError(f"{at_once} jobs at once, but {len(gpus)} GPU(s): each job has one of its own")
    return at_once or len(gpus)


def ray_address(address: str | None, slots: int) -> str | None:
    """`address`, or that of a Ray of our own for several places here; None without Ray, which is said, and for one."""
    if address or slots == 1:
        return address
    if not ray_installed():
        print(WITHOUT_RAY.format(slots=slots))
        return None
    return LOCAL


def ray_flags(address: str | None, gpus: Sequence[str], at_once: int | None) -> list[str]:
    """Flags with which run_vlm_evaluation.py shares requests out over a cluster, or the GPUs of this machine."""
    chosen = ray_address(address, 1 if address else slots_for(gpus, at_once))
    return ["--ray_address", chosen, *(["--jobs", str(at_once)] if at_once else [])] if chosen else []


def run_jobs(
    jobs: Sequence[Job],
    logs: Path,
    gpus: Sequence[str] | None = None,
    at_once: int | None = None,
    grace: float = 10.0,
    address: str | None = None,
) -> list[JobResult]:
    """Run every job, whatever becomes of the others; the results come in the order of `jobs`.

    `gpus` are names for CUDA_VISIBLE_DEVICES, one for each job that runs. Without them `at_once` jobs share the CPU;
    an empty list hides every GPU from them. With the `address` of a Ray cluster its GPUs count. A job writes
    `logs`/<name>.log. Raises KeyboardInterrupt after an interrupt, once every job has ended: by SIGTERM, by SIGKILL
    `grace` seconds later or at a second interrupt.
    """
    _refuse_twins(jobs)
    slots = min(slots_for(gpus, at_once), max(1, len(jobs)))
    logs.mkdir(parents=True, exist_ok=True)
    stop, results = StopRequest(), dict[str, JobResult]()
    with ExitStack() as stack:
        if chosen := ray_address(address, slots):
            stack.enter_context(connected(chosen, slots, gpus[:slots] if gpus else gpus))
        stack.enter_context(stop.on_signals())  # after Ray, which sets a handler of its own
        print(f"{len(jobs)} job(s), {'over Ray' if chosen else 'one after the other'}; logs in {logs}", flush=True)
        if chosen:
            ended = _through_ray(jobs, logs, grace, stop, at_once, hide_gpus=gpus == [] and not address)
        else:
            ended = _in_turn(jobs, logs, grace, stop, gpus)
        for result in show_progress(stack.enter_context(closing(ended)), jobs):
            results[result.name] = result
    if stop.level:
        raise KeyboardInterrupt
    return [results[job.name] for job in jobs]


def _refuse_twins(jobs: Sequence[Job]) -> None:
    twins = [name for name, number in Counter(job.name for job in jobs).items() if number > 1]
    if twins:
        raise LeapError(
            f"two jobs have the name {twins[0]}: they would write the same log; give them names of their own"
        )


def _in_turn(
    jobs: Sequence[Job], logs: Path, grace: float, stop: StopRequest, gpus: Sequence[str] | None
) -> Generator[JobResult, None, None]:
    shown = {} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus[0] if gpus else ""}
    for job in jobs:
        yield run_job(job, logs, shown, stop, grace)


def _through_ray(
    jobs: Sequence[Job], logs: Path, grace: float, stop: StopRequest, at_once: int | None, hide_gpus: bool
) -> Generator[JobResult, None, None]:
    """Ray finds each its place, and runs it again elsewhere where a node is lost."""
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0) > 0 and not hide_gpus)
    cpus, _ = room_for(gpus, at_once)
    shown = {"CUDA_VISIBLE_DEVICES": ""} if hide_gpus else {}
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=_RETRIES)(_in_worker)
    waiting = {task.remote(job, logs, shown, grace): job for job in jobs}
    asked = 0
    try:
        while waiting:
            if stop.level > asked:
                asked = stop.level
                for reference in waiting:
                    ray.cancel(reference, force=asked > 1)
            for reference in ray.wait(list(waiting), timeout=0.5)[0]:
                yield _result(reference, waiting.pop(reference), logs)
    finally:
        for reference in waiting:  # an error here must not leave jobs behind
            ray.cancel(reference, force=True)


def _result(reference: Any, job: Job, logs: Path) -> JobResult:
    import ray

    try:
        result: JobResult = ray.get(reference)
    except ray.exceptions.TaskCancelledError:
        return JobResult(job.name, "stopped", 0.0, log_file(logs, job.name), "not started")
    except ray.exceptions.RayError as error:  # the worker died too often, or could not keep the log
        reason = str(error).strip().splitlines()[-1]
        return JobResult(job.name, "failed", 0.0, log_file(logs, job.name), f"lost by Ray: {reason}")
    return result


def _in_worker(job: Job, logs: Path, shown: Mapping[str, str], grace: float) -> JobResult:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it, and the job would inherit that
    return run_job(job, logs, shown, StopRequest(), grace)
