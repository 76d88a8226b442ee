"""Many jobs over the GPUs of this machine, or through Ray over those of a cluster."""

import os
import signal
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from leap.errors import LeapError, UsageError
from leap.hardware import usable_cores
from leap.jobs.process import Job, JobResult, StopRequest, log_file, run_job
from leap.jobs.ray_cluster import INSTALL_RAY, LOCAL, LOSSES, connected, ray_installed, room_for
from leap.jobs.show import show_progress

WITHOUT_RAY = f"Ray is not installed: one model after the other ({INSTALL_RAY} has {{slots}} at once)"


def slots_for(gpus: Sequence[str] | None, at_once: int | None) -> int:
    """How many jobs run at a time: one a GPU, or `at_once`, of which several share a GPU where there are fewer."""
    return at_once or len(gpus or ()) or 1


def ray_flags(address: str | None, gpus: Sequence[str], at_once: int | None) -> list[str]:
    """Flags with which run_vlm_evaluation.py shares requests out over a cluster, or the GPUs of this machine. Raises
    UsageError for more workers than there are GPUs."""
    if not address:
        slots = slots_for(gpus, at_once)
        if gpus and slots > len(gpus):
            raise UsageError(f"{slots} models at once, but {len(gpus)} GPU(s): each worker has one of its own")
        if slots == 1:
            return []
        if not ray_installed():
            print(WITHOUT_RAY.format(slots=slots))
            return []
    return ["--ray_address", address or LOCAL, *(["--jobs", str(at_once)] if at_once else [])]


def run_jobs(
    jobs: Sequence[Job],
    logs: Path,
    gpus: Sequence[str] | None = None,
    at_once: int | None = None,
    grace: float = 10.0,
    address: str | None = None,
) -> list[JobResult]:
    """Run every job, whatever becomes of the others; the results come in the order of `jobs`.

    `gpus` are names for CUDA_VISIBLE_DEVICES, one for each job that runs; where `at_once` are more, they share them.
    Without GPUs they share the CPU; an empty list hides every GPU from them. With the `address` of a Ray cluster its
    GPUs count. A job writes `logs`/<name>.log. Raises KeyboardInterrupt after an interrupt, once every job has ended:
    by SIGTERM, by SIGKILL `grace` seconds later or at a second interrupt.
    """
    _refuse_twins(jobs)
    slots = min(slots_for(gpus, at_once), max(1, len(jobs)))
    logs.mkdir(parents=True, exist_ok=True)
    stop, results = StopRequest(), dict[str, JobResult]()
    with ExitStack() as stack:
        if address:
            stack.enter_context(connected(address, slots))
        stack.enter_context(stop.on_signals())  # after Ray, which sets a handler of its own
        print(f"{len(jobs)} job(s), {'over Ray' if address else f'{slots} at once'}; logs in {logs}", flush=True)
        if address:
            ended = _through_ray(jobs, logs, grace, stop, at_once)
        else:
            ended = _here(jobs, logs, grace, stop, gpus, slots)
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


def _here(
    jobs: Sequence[Job], logs: Path, grace: float, stop: StopRequest, gpus: Sequence[str] | None, slots: int
) -> Generator[JobResult, None, None]:
    threads = str(max(1, usable_cores() // slots))
    shared = {} if slots == 1 or "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": threads}
    places: SimpleQueue[dict[str, str]] = SimpleQueue()
    for slot in range(slots):
        shown = {} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)] if gpus else ""}
        places.put({**shared, **shown})

    def at_a_place(job: Job) -> JobResult:
        place = places.get()
        try:
            return run_job(job, logs, place, stop, grace)
        finally:
            places.put(place)

    with ThreadPoolExecutor(slots) as pool:
        try:
            for done in as_completed([pool.submit(at_a_place, job) for job in jobs]):
                yield done.result()
        except BaseException:  # an error here must not leave jobs behind
            stop.ask()
            raise


def _through_ray(
    jobs: Sequence[Job], logs: Path, grace: float, stop: StopRequest, at_once: int | None
) -> Generator[JobResult, None, None]:
    """Ray finds each its place, and runs it again where its worker or node is lost: training resumes."""
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0) > 0)
    cpus, _ = room_for(gpus, at_once)
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=LOSSES - 1)(_in_worker)
    waiting = {task.remote(job, logs, grace): job for job in jobs}
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


def _in_worker(job: Job, logs: Path, grace: float) -> JobResult:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it, and the job would inherit that
    return run_job(job, logs, {}, StopRequest(), grace)
