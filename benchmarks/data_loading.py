"""How long a training run waits for its samples: at the first start, which checks them, and at every later one.

    python benchmarks/data_loading.py --samples 150000

Samples of about 110 prompt and 100 label tokens under Qwen's vocabulary, each with an image file of its own (names for
3,000 contents, 320x240 JPEG). The seed's setting is what LEAP did at every start before: in one process, read every
sample, read its image's header and tokenize it. Ours, `check_training_file`, decodes every image and keeps what it
finds. Each side runs in a process of its own. Peak memory is that process's; "imports" is its memory before it reads a
sample, PyTorch and the tokenizer included. The figure is the median of the later starts. Writes
data_loading-<device>.json.
"""

import json
import os
import random
import resource
import shutil
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, set_start_method
from pathlib import Path
from typing import Any

import installed  # noqa: F401

from leap.cli import Parser, count, run
from leap.hardware import usable_cores
from leap.records.files import write_atomic
from leap.records.json_files import write_json

REPOSITORY = Path(__file__).resolve().parent.parent
CONTENTS, WIDTH, HEIGHT = 3_000, 320, 240
MAX_LENGTH, IMAGE_TOKENS = 4096, (256, 768)
OBJECTS = "cup bowl plate towel drawer apple bottle spoon basket book lamp sponge tray knife kettle pan".split()


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--samples", type=count, default=150_000, help="of the training file")
    parser.add_argument("--starts", type=count, default=5, help="later starts that are timed (default %(default)s)")
    parser.add_argument("--skip_seed", action="store_true", help="without the seed's setting, which takes minutes")
    parser.add_argument("--workdir", type=Path, default=Path("/tmp/leap-data"), help="what is made lies here")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder to write to")
    arguments = parser.parse_args()
    from leap.provenance import device_name

    where = origin()  # before a result is written, which would make the checkout differ from its commit
    folder = make_data(arguments.workdir, arguments.samples)
    first = alone(start, folder)
    later = [alone(start, folder) for _ in range(arguments.starts)]
    seed = None if arguments.skip_seed else alone(seed_start, folder)
    found = [each["found"] for each in (first, *later, *([seed] if seed else []))]
    assert found == found[:1] * len(found), "all sides must count the same tokens"
    result = {"benchmark": "data_loading", **where, **figures(arguments.samples, first, later, seed)}
    print(json.dumps({name: result.get(name) for name in ("seed_setting", "ours", "ratio", "parts")}))
    write_json(arguments.output / f"data_loading-{device_name('cpu').replace(' ', '-').replace(',', '')}.json", result)


def figures(
    samples: int, first: dict[str, Any], later: list[dict[str, Any]], seed: dict[str, Any] | None
) -> dict[str, Any]:
    seconds = [each["seconds"] for each in later]
    ours = statistics.median(seconds)
    compared = (
        {} if seed is None else {"seed_setting": round(seed["seconds"], 2), "ratio": round(seed["seconds"] / ours, 1)}
    )
    return {
        "settings": {
            "rows": samples,
            "image_files": samples,
            "image_contents": CONTENTS,
            "image": f"{WIDTH}x{HEIGHT} JPEG",
            "image_tokens": IMAGE_TOKENS,
            "cores": usable_cores(),
        },
        **compared,
        "ours": round(ours, 2),
        "unit": "seconds to start",
        "parts": {
            "first start": round(first["seconds"], 1),
            "peak MB of a later start": max(each["peak_mb"] for each in later),
            "of the first": first["peak_mb"],
            "of each of its workers": first["worker_peak_mb"],
            **({} if seed is None else {"of the seed's": seed["peak_mb"]}),
            "of imports alone": first["imports_mb"],
        },
        "windows": [round(second, 2) for second in seconds],
        "parity": {"rows": first["found"][0], "tokens": first["found"][1], "identical_token_counts": seed is not None},
    }


def alone(work: Any, folder: Path) -> dict[str, Any]:
    """What `work` took in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measured, work, folder).result()


def measured(work: Any, folder: Path) -> dict[str, Any]:
    from leap.data.chat_encoding import ChatFormat
    from leap.data.image import ImageEncoder, ImageSize
    from leap.preparation.check.checked_dataset import check_training_file  # noqa: F401  imported before the clock starts

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    set_start_method("fork", force=True)  # Linux's default, which spawning this process has replaced
    processor = saved_processor(folder)
    chat, encoder = ChatFormat(processor), ImageEncoder(processor, ImageSize(*IMAGE_TOKENS))
    before = peak_mb()
    started = time.perf_counter()
    found = work(folder, chat, encoder)
    return {
        "seconds": time.perf_counter() - started,
        "found": found,
        "peak_mb": peak_mb(),
        "worker_peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        "imports_mb": before,
    }


def peak_mb() -> int:
    """The most memory that this process has had (VmHWM), in MiB."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def start(folder: Path, chat: Any, encoder: Any) -> tuple[int, int]:
    """(samples, tokens) as a run of today learns them."""
    from leap.preparation.check.checked_dataset import check_training_file

    checked = check_training_file(folder / "samples.jsonl", [folder], chat, encoder, MAX_LENGTH, folder / "cache")
    return len(checked), int(checked.tokens.sum())


def seed_start(folder: Path, chat: Any, encoder: Any) -> tuple[int, int]:
    """(samples, tokens) sample by sample; every sample stays in memory, as it did."""
    from PIL import Image

    from leap.data.image import resolve_image
    from leap.records.json_files import read_jsonl
    from leap.records.training import TrainingSample

    samples = []
    for _, sample in read_jsonl(folder / "samples.jsonl", TrainingSample):
        images = [resolve_image(image, [folder]) for image in sample.images()]
        tokens = [encoder.tokens(*reversed(Image.open(path).size)) for path in images]
        samples.append((sample, images, len(chat.encode(sample.messages, sample.target.steps, tokens).input_ids)))
    return len(samples), sum(tokens for *_, tokens in samples)


def make_data(workdir: Path, samples: int) -> Path:
    """A folder with samples.jsonl, its images and the processor, and without a cache. Data that is there is kept."""
    folder = workdir / f"samples-{samples}"
    if not (folder / "samples.jsonl").is_file():
        save_processor(folder)
        make_samples(folder, samples, os.link)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    return folder


def make_samples(folder: Path, samples: int, again: Callable[[Path, Path], Any]) -> None:
    """Write samples.jsonl and images/; `again` makes a file of the same content as one that is there."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        contents = list(pool.map(path, range(CONTENTS), chunksize=50))
    lines = []
    for index in range(samples):
        file = folder / "images" / f"{index}.jpg"
        file.unlink(missing_ok=True)
        if index < CONTENTS:
            file.write_bytes(contents[index])
        else:
            again(folder / "images" / f"{index % CONTENTS}.jpg", file)
        lines.append(json.dumps(sample(index)))
    write_atomic(folder / "samples.jsonl", "\n".join(lines) + "\n")


def path(seed: int) -> bytes:
    import io

    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (12, 16, 3)).astype(np.uint8))
    content = io.BytesIO()
    small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(content, "JPEG", quality=90)
    return content.getvalue()


def sample(index: int) -> dict[str, Any]:
    rng = random.Random(index)
    things = ", ".join(f"a {rng.choice(OBJECTS)} at place {rng.randrange(90)}" for _ in range(12))
    steps = " ".join(f"{n}) Put the {rng.choice(OBJECTS)} into the {rng.choice(OBJECTS)}." for n in range(1, 11))
    question = f"Scene {index}: {things}. Which steps clear the table? Answer in numbered steps."
    content = [{"type": "image", "image": f"images/{index}.jpg"}, {"type": "text", "text": question}]
    return {"messages": [{"role": "user", "content": content}], "target": {"steps": steps}}


def save_processor(folder: Path) -> None:
    from full_size import qwen_tokenizer

    from leap.tabletop.tiny_model import make_processor

    make_processor(qwen_tokenizer()).save_pretrained(folder / "processor")


def saved_processor(folder: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder / "processor")


def origin() -> dict[str, Any]:
    from leap.provenance import command, device_name, git_state, versions

    return {"device": device_name("cpu"), "versions": versions(), **git_state(REPOSITORY), "command": command()}


if __name__ == "__main__":
    run(main)
