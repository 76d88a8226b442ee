"""Many models' requests over a Ray cluster: each worker holds one model, and is given a shard whenever it is free.

Ray places the workers, starts lost ones anew wherever there is room, and ends all of them with the driver. What is kept
here is which requests have no response yet: those of a worker that died are asked again, by whichever is free first.
"""

import os
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import nlargest
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, Protocol, TypeVar

from leap import provenance
from leap.errors import LeapError, first_line, is_out_of_memory
from leap.inference.engines import EngineOfSweep, EngineOptions, ModelToOpen
from leap.inference.protocol import Decoding, Engine, Request, Response
from leap.inference.vllm_server import INTERPRETER
from leap.jobs.ray_cluster import LOSSES, WAIT, WaitForRoom, room_for
from leap.models.checkpoints import small_files, weights_hash
from leap.progress import display
from leap.records.remote import cache_folder, is_cached
from leap.terminal import in_one_line

_AT_ONCE = 2  # shards that a worker has
_BATCH_ON_CPU, _BATCH_ON_GPU = 32, 64  # requests that hf answers at once: a compiled batch of fewer takes as long
_MOST = 512  # requests of a shard: the last ones are small, so that workers end together
_REFUSALS = 3  # workers that cannot load a model, or requests given up with no response between, until it has failed
_DIVIDED = 3  # bits: a lost shard's requests are asked again in shards of at most 64, 8, 1, 1 ...
_REFUSED_FOR = 120.0  # seconds until a model has failed that all workers which are up have refused
_END = 20.0  # seconds for engines to end
_LONGEST = 64  # requests that a server's room is measured on
_LOOK_EVERY = 5.0  # seconds: at the cluster for room


class Work(Protocol):
    """All that is asked of one model, and where its responses go."""

    failure: LeapError | None

    @property
    def requests(self) -> list[Request]: ...

    @property
    def model(self) -> Any: ...

    def open(self) -> None: ...

    def note_engine(self, described: dict[str, Any], again: bool = False) -> None: ...

    def record(self, response: Response, seconds: float, sync: bool = True) -> None: ...

    def sync(self) -> None: ...

    def close(self) -> None: ...


SomeWork = TypeVar("SomeWork", bound=Work)


class ModelHolder:
    """A worker, in a process of its own somewhere in the cluster: the engine of one model at a time."""

    def __init__(self, options: EngineOptions, number: int, cache: str) -> None:
        self._number = number
        os.environ["LEAP_CACHE"] = cache  # paths of files at an address are those in the driver's
        self._engines = EngineOfSweep(options)
        self._engine: Engine | None = None
        self._failed = False

    def ready(self) -> None:
        """Returns when the process is there."""

    def load(self, model: ModelToOpen, longest: Sequence[Request], decoding: Decoding) -> dict[str, Any]:
        """Hold this model from now on; what describes the engine, the machine and its libraries."""
        self._engine = None  # a model that is refused here must not be answered for by the one before it
        if self._failed:  # whatever the engine may say of itself
            self._engines.close()
        for folder in (model.folder, model.base, model.data):
            if folder and not is_cached(folder) and not folder.is_dir():
                raise LeapError(f"{folder} is not there; every node needs it under this path, as on a shared disk")
        log = model.log.with_stem(f"{model.log.stem}-{self._number}")
        with self._engines.holding(replace(model, log=log)) as self._engine:
            self._engine.responses(longest, decoding)  # a server starts here; nothing is asked yet
        self._failed = False
        same = _same_everywhere(
            model.folder, weights_hash(model.folder, model.base), small_files(model.folder, model.base)
        )
        return {"engine": self._engine.describe(), "node": socket.gethostname(), "same": same}

    def answer(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[Response]:
        assert self._engine
        try:
            yield from self._engine.responses(requests, decoding)
        except LeapError:
            self._failed = True
            raise

    def close(self) -> None:
        """End the engine: Ray ends this process without a word."""
        self._engines.close()


@dataclass(eq=False)
class _Task:
    """A `Work` while it is asked."""

    work: Any
    left: deque[Request]  # that no worker has now
    expected: int = 0  # requests in all: by these an engine chooses, and all workers as one process does
    running: int = 0  # shards
    holders: int = 0  # workers that held its model at once, at most
    refused_by: set[int] = field(default_factory=set)
    refusal: str = ""  # the last one
    waits_since: float | None = None  # for a worker that has not refused it
    losses: Counter[tuple[str, ...]] = field(default_factory=Counter)  # of workers that had a request
    given_up: int = 0  # requests since the last response

    def fail(self, reason: str) -> None:
        self.work.failure = LeapError(reason)
        self.left.clear()


@dataclass(eq=False)
class _Worker:
    number: int
    actor: Any
    task: _Task | None = None  # whose model it holds, or loads
    up: bool = False
    loading: bool = False
    losses: int = 0  # of it, or its engine, since it last gave a response
    shards: list["_Shard"] = field(default_factory=list)  # that it has


@dataclass(eq=False)
class _Shard:
    task: _Task
    requests: dict[tuple[str, ...], Request]  # that have no response yet
    losses: int  # of workers that had them before: of all alike


class RayPool:
    """The workers of one command.

    `models_at_once` bounds them; without it there are as many as the cluster has room for, more when nodes join: one
    for `gpus_per_model` GPUs, or with 0 one a node, on its cores. `model_to_open` says where a work's model lies.
    Raises LeapError where none finds room for `wait` seconds.
    """

    def __init__(
        self, options: EngineOptions, gpus_per_model: int, models_at_once: int | None, wait: float = WAIT
    ) -> None:
        python = os.environ.get(INTERPRETER)
        if options.engine == "vllm" and python:  # the nodes' own environment may name another, or none
            options = replace(options, given={"vllm_python": python, **options.given})
        self._options, self._gpus, self._most = options, gpus_per_model, models_at_once
        self._workers: list[_Worker] = []
        self._calls: dict[Any, Callable[[Any], None]] = {}  # what is to be done when there is something to hear
        self._looked = -_LOOK_EVERY
        needs = ("GPU", f"{gpus_per_model} GPU(s) of one node") if gpus_per_model else ("CPU", "a node's CPUs")
        self._room = WaitForRoom(f"room for a worker ({needs[1]})", needs[0], wait)

    def answer(
        self, works: Iterable[SomeWork], decoding: Decoding, model_to_open: Any
    ) -> Generator[SomeWork, None, None]:
        """Each work when it has been asked all, or has failed; those that wait are begun as workers become free."""
        waiting, tasks, more = iter(works), list[_Task](), True
        self._model_to_open, self._decoding, self._before, self._done = model_to_open, decoding, time.monotonic(), 0
        try:
            with display("evaluation", None, in_bytes=False) as self._show:
                while more or tasks:
                    self._grow()
                    if more and any(_is_free(worker) for worker in self._workers):
                        work = next(waiting, None)
                        more = work is not None
                        tasks += [self._begin(work)] if work else []
                    self._give(tasks)
                    self._fail_refused(tasks)
                    for task in [task for task in tasks if not task.left and not task.running]:
                        yield task.work
                        task.work.close()
                        tasks.remove(task)
                    if more or tasks:
                        self._listen(block=not (more and any(map(_is_free, self._workers))))
        finally:
            for task in tasks:
                task.work.close()
            self._close()

    def _close(self) -> None:
        """A server that has nothing to do holds no GPU any more when the command ends; what is busy ends with Ray."""
        import ray

        idle = [worker for worker in self._workers if worker.up and not worker.loading and not worker.shards]
        closing = [worker.actor.close.remote() for worker in idle]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=_END)

    def _begin(self, work: SomeWork) -> _Task:
        # Longest first, as the engines have it: what does not fit in memory shows at once, and shards are alike.
        requests = sorted(work.requests, key=lambda request: -request.text_length)
        task = _Task(work, deque(requests), expected=len(requests))
        try:
            if requests:
                work.open()
        except LeapError as error:  # this model's, as in one process
            task.fail(str(error))
        return task

    def _grow(self) -> None:
        """Start workers where there is room for more. Ray itself starts those anew that die."""
        import ray

        if time.monotonic() - self._looked < _LOOK_EVERY:
            return
        self._looked = time.monotonic()
        cpus, room = room_for(self._gpus, self._most)
        for number in range(len(self._workers), room):
            actor = ray.remote(ModelHolder).options(
                num_gpus=self._gpus,
                num_cpus=cpus,
                max_restarts=-1,
                max_concurrency=1 if self._options.engine == "hf" else _AT_ONCE,  # a server takes all at once
                scheduling_strategy="DEFAULT" if self._gpus else "SPREAD",
            )
            worker = _Worker(number, actor.remote(self._options, number, str(cache_folder().parent)))
            self._workers.append(worker)
            self._await(worker)

    def _await(self, worker: _Worker) -> None:
        """Nothing is given to a worker until it is there: after its start, and again after it was lost."""
        worker.up, worker.task = False, None
        self._room.begin()
        ready = worker.actor.ready.options(max_task_retries=-1).remote()  # Ray repeats it for ever
        self._calls[ready] = partial(self._hear_ready, worker)

    def _give(self, tasks: Sequence[_Task]) -> None:
        """Shards to the workers that hold their models, and models to those that have nothing to do."""
        for worker in self._workers:
            if _is_free(worker):
                able = [task for task in tasks if task.left and worker.number not in task.refused_by]
                if able:
                    self._load(worker, max(able, key=lambda task: len(task.left) / (self._takers(task) + 1e-9)))
            while worker.task and not worker.loading and worker.task.left and _takes_more(worker, worker.task):
                self._ask(worker, worker.task)

    def _fail_refused(self, tasks: Sequence[_Task]) -> None:
        """A model that all workers have refused which are up waits for another, but not for one that finds no room."""
        up = {worker.number for worker in self._workers if worker.up}
        for task in tasks:
            if not task.left or not task.refused_by or not up <= task.refused_by:
                task.waits_since = None
            elif task.waits_since is None:
                task.waits_since = time.monotonic()
                text = f"refused by every worker that is up; waiting {_REFUSED_FOR:g} s for another"
                print(f"{task.work.model.name}: {text}", file=sys.stderr, flush=True)
            elif time.monotonic() - task.waits_since > _REFUSED_FOR:
                task.fail(task.refusal)

    def _takers(self, task: _Task) -> int:
        return sum(worker.task is task for worker in self._workers)

    def _load(self, worker: _Worker, task: _Task) -> None:
        longest = nlargest(_LONGEST, task.left, key=lambda request: (len(request.images), request.text_length))
        model = replace(self._model_to_open(task.work.model), gpus=max(1, self._gpus), expected=task.expected)
        if self._options.engine == "hf":  # each of a node's workers would keep images in a share of its memory
            model = replace(model, others=())
        worker.task, worker.loading = task, True
        self._calls[worker.actor.load.remote(model, longest, self._decoding)] = partial(self._hear_load, worker)

    def _ask(self, worker: _Worker, task: _Task) -> None:
        losses = task.losses[task.left[0].key]
        batch = _BATCH_ON_GPU if self._gpus else _BATCH_ON_CPU
        size = min(_shard_size(len(task.left), self._takers(task), batch), max(1, _MOST >> _DIVIDED * losses))
        alike = takewhile(lambda request: task.losses[request.key] == losses, task.left)
        requests = list(islice(alike, size))
        for _ in requests:
            task.left.popleft()
        # Never repeated by Ray: responses that have come are on disk, and the others may come in another order.
        call = worker.actor.answer.options(num_returns="streaming").remote(requests, self._decoding)
        shard = _Shard(task, {request.key: request for request in requests}, losses)
        self._calls[call] = partial(self._hear_shard, worker, shard)
        worker.shards.append(shard)
        task.running += 1

    def _listen(self, block: bool) -> None:
        import ray

        ready, _ = ray.wait(list(self._calls), timeout=_LOOK_EVERY if block else 0)
        for call in ready:
            self._calls[call](call)
        if any(worker.up for worker in self._workers):
            self._room.begin()
        else:
            self._room.look()

    def _hear_ready(self, worker: _Worker, call: Any) -> None:
        import ray

        del self._calls[call]
        try:
            ray.get(call)
        except ray.exceptions.RayError as error:
            raise LeapError(f"{_reason(error)}: every node needs this LEAP and what it imports") from error
        worker.up = True

    def _hear_load(self, worker: _Worker, call: Any) -> None:
        import ray

        del self._calls[call]
        task, worker.loading = worker.task, False
        assert task
        try:
            loaded = ray.get(call)
        except ray.exceptions.RayError as error:
            self._refuse(worker, task, error)
            return
        if difference := _difference(loaded, task.work.model):
            self._note_refusal(worker, task, difference)
            return
        if not self._done:
            self._before = time.monotonic()  # an answer's time begins with a model, as in one process
        if task.left or task.running:  # else others have answered all of it meanwhile, and its folders are let go
            holders = sum(one.task is task and not one.loading for one in self._workers)
            task.work.note_engine({**loaded["engine"], "ray_workers": max(holders, task.holders)}, task.holders > 0)
            task.holders = max(holders, task.holders)

    def _refuse(self, worker: _Worker, task: _Task, error: Any) -> None:
        """A model that one worker cannot load may be another's: a node may lack its files, or have no memory for it."""
        reason = _reason(error)
        if _is_lost(error):
            worker.losses += 1
            self._await(worker)
            if worker.losses < LOSSES:
                return
        self._renew_if_broken(worker, error)
        self._note_refusal(worker, task, reason)

    def _note_refusal(self, worker: _Worker, task: _Task, reason: str) -> None:
        task.refusal, worker.task, worker.losses = reason, None, 0
        task.refused_by.add(worker.number)
        if len(task.refused_by) >= min(_REFUSALS, len(self._workers)):
            task.fail(reason)
        else:
            print(f"worker {worker.number}: {reason}", file=sys.stderr, flush=True)

    def _renew_if_broken(self, worker: _Worker, error: Any) -> None:
        """After a failure of its machine a worker begins anew: what CUDA says once it says from then on."""
        import ray

        if worker.up and not _is_lost(error) and not isinstance(error.cause, LeapError):
            ray.kill(worker.actor, no_restart=False)
            self._await(worker)

    def _hear_shard(self, worker: _Worker, shard: _Shard, call: Any) -> None:
        """Take all that has come of it."""
        import ray

        try:
            while True:
                self._record(shard, ray.get(next(call)))
                worker.losses = shard.task.given_up = 0
                if not call.next_ready():
                    return
        except StopIteration:
            self._end(worker, shard, call)
        except ray.exceptions.RayError as error:
            self._end(worker, shard, call)
            self._lose(worker, shard, error)
        finally:  # once for all that had come: of many workers' responses each would wait for the disk
            shard.task.work.sync()

    def _record(self, shard: _Shard, response: Response) -> None:
        if shard.requests.pop(response.key, None):  # else it had a response: nothing is counted twice
            now = time.monotonic()
            shard.task.work.record(response, now - self._before, sync=False)
            self._before = now
            self._done += 1
            self._show(self._done)

    def _end(self, worker: _Worker, shard: _Shard, call: Any) -> None:
        del self._calls[call]
        worker.shards.remove(shard)
        shard.task.running -= 1

    def _lose(self, worker: _Worker, shard: _Shard, error: Any) -> None:
        """A worker that died, or whose engine failed, loads its model anew. What it owes is asked again, divided, until
        a request that no worker survives is alone and is given up."""
        task, reason = shard.task, _reason(error)
        worker.losses += worker.task is not None  # once, however many shards it had
        if _is_lost(error) and worker.up:
            self._await(worker)
        self._renew_if_broken(worker, error)
        worker.task = None
        if task.work.failure:
            return
        task.losses.update(shard.requests.keys())
        if shard.losses + 1 >= LOSSES:
            worker.losses = 0  # that was not its fault
            self._give_up(shard, reason)
        elif worker.losses >= LOSSES:
            self._note_refusal(worker, task, reason)
        if task.work.failure is None:
            task.left.extendleft(reversed(shard.requests.values()))

    def _give_up(self, shard: _Shard, reason: str) -> None:
        """As an engine answers for a request that fails: it has no score, and the next run asks it again."""
        task, name = shard.task, shard.task.work.model.name
        for key in list(shard.requests):
            text = f"given up, since {LOSSES} workers were lost with it: {reason}"
            print(in_one_line(f"{name}: {'/'.join(key)}: {text}"), file=sys.stderr, flush=True)
            self._record(shard, Response(key, error=text))
            task.given_up += 1
        if task.given_up >= _REFUSALS:
            task.fail(f"{name}: no request is answered: {reason}")


def _takes_more(worker: _Worker, task: _Task) -> bool:
    """Another shard, so that the next one is there when it is done with one; alone where requests were lost before."""
    lost_before = task.losses[task.left[0].key] or any(shard.losses for shard in worker.shards)
    return len(worker.shards) < (1 if lost_before else _AT_ONCE)


def _shard_size(left: int, takers: int, batch: int) -> int:
    """Whole batches, of half a worker's share of what is left."""
    share = left // (2 * takers)
    return min(max(share - share % batch, batch), _MOST, left)


def _is_free(worker: _Worker) -> bool:
    return worker.up and not worker.loading and not worker.shards and not (worker.task and worker.task.left)


def _difference(loaded: Mapping[str, Any], model: Any) -> str | None:
    """In the model, by which a worker is no worker for it. Raises LeapError for one in code: it is none for any."""
    here, there = _same_everywhere(model.folder, model.weights, model.files), loaded["same"]
    name = next((name for name in here if there.get(name) != here[name]), None)
    if name is None:
        return None
    text = f"node {loaded['node']} has {name} {there.get(name)}, and this one {here[name]}: every node needs the same"
    if not name.startswith(f"{model.folder}: "):
        raise LeapError(text)
    return text


def _is_lost(error: Any) -> bool:
    """Whether the worker died, and not only failed in what it did."""
    import ray

    return not isinstance(error, ray.exceptions.RayTaskError)


def _reason(error: Any) -> str:
    """Raises what is no failure of a machine or an engine, but a mistake in a program."""
    if _is_lost(error):
        return f"a worker died ({str(error).strip().splitlines()[-1].strip()})"
    cause = error.cause
    if isinstance(cause, LeapError):
        return str(cause)
    if not (isinstance(cause, OSError) or is_out_of_memory(cause) or "CUDA error" in str(cause)):
        raise error
    return f"{type(cause).__name__}: {first_line(cause)}"


def _same_everywhere(model: Path, weights: str, files: Mapping[str, str]) -> dict[str, str]:
    """What decides the responses and must be alike in all workers, by its name."""
    code = {"LEAP's code": provenance.code_hash()}
    return {**provenance.versions(), **code, f"{model}: weights": weights, **{f"{model}: {k}": files[k] for k in files}}
