"""What training and evaluation take on 1 GPU to 64 nodes: computed from measured figures, and from what is assumed.

    python benchmarks/scaling.py            # prints the tables of docs/scaling.md
    python benchmarks/scaling.py --write    # puts them into docs/scaling.md and docs/scaling_zh.md

Measured, from results/: an optimiser step on one H200 and what its optimiser takes, the communication of two, what a
checkpoint costs, starts with 150,000 samples, examples a second of each engine, and a vLLM server's start. Assumed:
`Assumed`. Nothing of the all-reduce is taken to be hidden behind the backward pass, ranks to be equally long, and a
step's time to grow evenly with its samples; docs/scaling.md says what that leaves out.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import installed  # noqa: F401

from leap.cli import Parser, run
from leap.records.files import write_atomic
from leap.records.json_files import read_json

HERE = Path(__file__).resolve().parent
PAGES = HERE.parent / "docs"
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # GPUs
EPOCHS, SAVE_STEPS, STEP_SAMPLES = 2, 200, 36  # of configs/recipes/full.yaml
DATA_SETS = (151_230, 10_000_000)  # samples
CHECKPOINTS, EXAMPLES = 35, 4_500  # the benchmark's six dimensions have 4,500 examples together
Rows = Iterator[Sequence[str]]


@dataclass(frozen=True)
class Assumed:
    """What was not measured."""

    gpus_a_node: int = 8  # each with as much NVLink as the two that were measured
    network: float = 50e9  # bytes a second and GPU between nodes: one adapter of 400 Gbit/s each
    start: float = 120.0  # seconds of a run until its first step: loading, compiling
    hf_start: float = 50.0  # seconds of a worker with a model; see docs/evaluation.md
    shard: int = 64  # the last requests that a worker takes


@dataclass(frozen=True)
class Measured:
    """Of one H200 and of two; seconds, bytes."""

    step: float  # of 36 samples, on one
    optimiser: float  # of it
    two_gpus: float  # samples a second
    all_reduce: float  # of both, in a step of 2 x 36
    checkpoint: float  # bytes: weights and two moments in float32
    begin: float  # what training stands still for a checkpoint
    first: float  # and for the first one more
    slower: float  # steps while one is written, together
    write: float
    answers: dict[str, float]  # a second: by hf on an H100, by vllm of a worker on an H200
    vllm_start: float  # seconds until a worker's server answers
    two_workers: float  # answers a second of both, to the last one
    two_answered: int  # how many
    check: float  # of CPU time to decode an image of 320x240 in the first check, and take down what it is
    later_start: float  # of a start with known samples, a sample
    rank_bytes: float  # of each rank's memory, a sample

    @property
    def gradients(self) -> float:
        """Bytes: float32, as one of the checkpoint's three."""
        return self.checkpoint / 3

    @property
    def bus(self) -> float:
        """Bytes a second and GPU that two GPUs' all-reduce reached: each sends and receives the gradients once."""
        return self.gradients / self.all_reduce


def read_results() -> Measured:
    def result(name: str) -> dict:
        return read_json(HERE / "results" / f"{name}.json")

    one, two = result("training_throughput_full-NVIDIA-H200"), result("training_throughput_full-2-x-NVIDIA-H200")
    saved, loading = result("checkpointing-NVIDIA-H200")["beside"], result("data_loading-x86_64-CPU-16-threads")
    parts, images = loading["parts"], result("image_check-x86_64-CPU-2-threads")
    workers = result("evaluation_scaling_vllm-2-x-NVIDIA-H200")
    worker, warm_up = workers["one_gpu"], workers["settings"]["warm_up"]
    return Measured(
        step=STEP_SAMPLES / two["one_gpu"]["ours"],
        optimiser=one["profile"]["kinds_ms"]["optimiser"] / one["profile"]["steps"] / 1000,
        two_gpus=two["ours"],
        all_reduce=two["profile"]["kinds_ms"]["communication"] / two["profile"]["steps"] / 1000,
        checkpoint=saved["checkpoint_gb"] * 1e9,
        begin=min(saved["seconds_to_begin"]),
        first=max(saved["seconds_to_begin"]) - min(saved["seconds_to_begin"]),
        slower=saved["seconds_slower"],
        write=saved["seconds_for_the_last"],
        answers={
            "hf": result("evaluation_throughput_hf-NVIDIA-H100-80GB-HBM3")["ours"],
            "vllm": worker["ours"],
        },
        vllm_start=worker["warm_after_seconds"] - warm_up / worker["ours"],
        two_workers=workers["to_the_last_answer"],
        two_answered=workers["settings"]["examples"] - 2 * warm_up,
        check=images["parts"]["CPU seconds of the first"] / images["settings"]["rows"],
        later_start=loading["ours"] / loading["settings"]["rows"],
        rank_bytes=(parts["peak MB of a later start"] - parts["of imports alone"]) * 1e6 / loading["settings"]["rows"],
    )


@dataclass(frozen=True)
class Model:
    """Seconds of everything, from both."""

    measured: Measured
    assumed: Assumed = Assumed()

    def all_reduce(self, gpus: int) -> float:
        """In a ring within a node, then of each GPU's share between nodes."""
        inside = min(gpus, self.assumed.gpus_a_node)
        nodes, gradients = gpus / inside, self.measured.gradients
        efficiency = (
            self.measured.bus / 450e9
        )  # of NVLink's 450 GB/s in each direction; the network's share is taken alike
        within = 2 * (inside - 1) / inside * gradients / self.measured.bus
        between = 2 * (nodes - 1) / nodes * gradients / inside / (self.assumed.network * efficiency)
        return within + between

    def step(self, gpus: int, samples: int) -> float:
        """Of so many samples on each GPU."""
        a_sample = (self.measured.step - self.measured.optimiser) / STEP_SAMPLES
        return self.measured.optimiser + samples * a_sample + self.all_reduce(gpus)

    def training(self, data: int, gpus: int, samples: int, together: int) -> float:
        """Of a whole run, its checkpoints included: steps of `together` samples, so many at the most on each GPU."""
        steps, step = ceil(data * EPOCHS / together), self.step(gpus, samples)
        saved = ceil(steps / SAVE_STEPS)
        waits = max(0.0, self.measured.write - SAVE_STEPS * step) * (saved - 1)
        standing = self.measured.first + saved * (self.measured.begin + self.measured.slower) + self.measured.write
        return self.assumed.start + steps * step + standing + waits

    def evaluation(self, engine: str, gpus: int, models: int = CHECKPOINTS) -> float:
        """Of all models, a worker on each GPU."""
        start = self.measured.vllm_start if engine == "vllm" else self.assumed.hf_start
        return ceil(models / gpus) * start + self.answering(engine, gpus, models * EXAMPLES)

    def answering(self, engine: str, gpus: int, examples: int) -> float:
        rate = self.measured.answers[engine]
        return examples / gpus / rate + self.assumed.shard / rate


def size(gpus: int) -> str:
    return str(gpus) if gpus <= 8 else f"{gpus} ({gpus // 8} x 8)"


def hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2f}" if seconds < 36_000 else f"{seconds / 3600:,.0f}"


def checked(model: Model) -> Rows:
    """What is known of several GPUs, beside what the model says."""
    answered = model.measured.two_answered
    for name, found, said in (
        ("`run-finetuning.py`", model.measured.two_gpus, 2 * STEP_SAMPLES / model.step(2, STEP_SAMPLES)),
        ("`--engine vllm`", model.measured.two_workers, answered / model.answering("vllm", 2, answered)),
    ):
        yield name, "2", f"{found:.1f}", f"{said:.1f}", f"{said / found - 1:+.1%}"


def same_batch(model: Model) -> Rows:
    """36 samples a step on all GPUs together: the curve of one."""
    for gpus in (gpus for gpus in SIZES if gpus <= STEP_SAMPLES):
        samples = ceil(STEP_SAMPLES / gpus)
        step = model.step(gpus, samples)
        first, second = (model.training(data, gpus, samples, STEP_SAMPLES) for data in DATA_SETS)
        share = f"{model.all_reduce(gpus) / step:.0%}"
        yield (size(gpus), str(samples), f"{step * 1000:,.0f}", share, f"{STEP_SAMPLES / step:,.0f}",
               f"{model.measured.step / step:.1f}", hours(first), hours(second))  # fmt: skip


def growing_batch(model: Model) -> Rows:
    """36 samples a step on each GPU: another curve with every size."""
    for gpus in SIZES:
        step = model.step(gpus, STEP_SAMPLES)
        together = STEP_SAMPLES * gpus
        small, large = (model.training(data, gpus, STEP_SAMPLES, together) for data in DATA_SETS)
        yield (size(gpus), f"{together:,}", f"{step * 1000:,.0f}", f"{together / step:,.0f}",
               f"{model.measured.step / step:.0%}", f"{ceil(DATA_SETS[0] * EPOCHS / together):,}", hours(small),
               hours(large), f"{gpus * large / 3600:,.0f}")  # fmt: skip


def networks(model: Model) -> Rows:
    """What lies between nodes: 8 nodes of 8 GPUs, 36 samples a GPU."""
    for name, gigabits in (("8 x 400 Gbit/s", 3200), ("8 x 100 Gbit/s", 800), ("400 Gbit/s", 400), ("100 Gbit/s", 100)):
        one = Model(model.measured, Assumed(network=gigabits / 8 / 8 * 1e9))
        step = one.step(64, STEP_SAMPLES)
        yield name, f"{one.all_reduce(64) * 1000:,.0f}", f"{step * 1000:,.0f}", f"{one.measured.step / step:.0%}"


def samples(model: Model) -> Rows:
    """What more samples take before the first step."""
    for data in DATA_SETS:
        check, start, memory = (
            data * one for one in (model.measured.check, model.measured.later_start, model.measured.rank_bytes)
        )
        yield f"{data:,}", f"{check / 3600:.1f}", f"{start:,.0f}", f"{memory / 1e9:.1f}"


def evaluations(model: Model) -> Rows:
    """35 checkpoints on all dimensions."""
    for gpus in SIZES:
        seconds = [model.evaluation(engine, gpus) for engine in ("hf", "vllm")]
        alone = model.evaluation("hf", 1)
        yield (size(gpus), *(f"{one / 60:,.1f}" for one in seconds), f"{gpus * seconds[0] / 3600:,.1f}",
               f"{alone / gpus / seconds[0]:.0%}")  # fmt: skip


Table = tuple[Callable[[Model], Rows], str, str]
TABLES: dict[str, Table] = {
    "checked": (checked, " | GPUs | measured, a second | computed | off by", " | GPU | 实测，每秒 | 计算 | 偏差"),
    "same batch": (
        same_batch,
        "GPUs | samples a GPU | ms a step | all-reduce | samples/s | times one GPU | hours, 151,230 x 2 | "
        "hours, 10 million x 2",
        "GPU | 每 GPU 样本 | 每步毫秒 | all-reduce | 样本/秒 | 相对单 GPU | 小时，151,230 x 2 | 小时，1000 万 x 2",
    ),
    "growing batch": (
        growing_batch,
        "GPUs | samples a step | ms a step | samples/s | of perfect | steps, 151,230 x 2 | hours | "
        "hours, 10 million x 2 | GPU-hours",
        "GPU | 每步样本 | 每步毫秒 | 样本/秒 | 与理想之比 | 步数，151,230 x 2 | 小时 | 小时，1000 万 x 2 | GPU 小时",
    ),
    "networks": (
        networks,
        "between nodes, each | all-reduce, ms | ms a step | of perfect",
        "每个节点的网络 | all-reduce，毫秒 | 每步毫秒 | 与理想之比",
    ),
    "samples": (
        samples,
        "samples | CPU-hours of decoding, once | seconds of a later start | GB of memory a rank",
        "样本 | 解码一次的 CPU 小时 | 以后启动的秒数 | 每个进程的内存 GB",
    ),
    "evaluation": (
        evaluations,
        "GPUs | minutes, `hf` | minutes, `vllm` | GPU-hours, `hf` | of perfect",
        "GPU | 分钟，`hf` | 分钟，`vllm` | GPU 小时，`hf` | 与理想之比",
    ),
}


def tables(model: Model, chinese: bool = False) -> dict[str, str]:
    """Each table as Markdown, by its name."""
    found = {}
    for name, (rows, english_heads, chinese_heads) in TABLES.items():
        heads = (chinese_heads if chinese else english_heads).split(" | ")
        lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows(model)]
        found[name] = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return found


def filled(page: str, found: dict[str, str]) -> str:
    """A page with each table between its marks."""
    for name, table in found.items():
        start, end = f"<!-- {name} -->\n", "<!-- end -->"
        page = re.sub(f"{start}.*?{end}", lambda _, text=f"{start}\n{table}\n{end}": text, page, flags=re.DOTALL)
    return page


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--write", action="store_true", help="into the pages of docs/")
    arguments = parser.parse_args()
    model = Model(read_results())
    for name, chinese in (("scaling.md", False), ("scaling_zh.md", True)) if arguments.write else ():
        path = PAGES / name
        write_atomic(path, filled(path.read_text(), tables(model, chinese)), if_changed=True)
    for name, table in tables(model).items():
        print(f"{name}\n{table}")


if __name__ == "__main__":
    run(main)
