"""Small models of the real architecture: the demo's base before its training, and the tiny one that tests use.

Same architecture, chat format and processor as Qwen3-VL-2B-Instruct; random weights from a seed, and a byte-level BPE
tokenizer trained on the texts that are given. Nothing downstream knows that they are small.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leap.data.image import ImageSize
from leap.models.image_size import record_size
from leap.progress import quiet_libraries
from leap.records.files import share_weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Qwen's special tokens, by name: ids follow from the vocabulary.
PAD, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
SPECIAL_TOKENS = (PAD, TURN_START, TURN_END, VISION_START, VISION_END, IMAGE, VIDEO)

# How Qwen2 and Qwen3 split text before BPE (a fact of their tokenizer.json): digits stand alone.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# ChatML, written for LEAP: a list's images and texts in their order, no default system message.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' -%}
<|vision_start|><|video_pad|><|vision_end|>
{%- else -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""

PATCH, MERGE = 16, 2
IMAGE_SIZE = ImageSize(64, 64)  # that the demo's recipes train at: 256x256 pixels
# At this width the usual 0.02 takes twice as many samples until the model reads the instruction at all.
INITIAL_STD = 0.05


def train_tokenizer(texts: Iterable[str], vocabulary: int = 2048) -> "PreTrainedTokenizerFast":
    """A byte-level BPE with Qwen's splitting rule and special tokens, trained on `texts`."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=TURN_END,
        additional_special_tokens=list(SPECIAL_TOKENS),
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )


def make_processor(tokenizer: "PreTrainedTokenizerFast") -> Any:
    """A Qwen3-VL processor: patches of 16 merged 2x2, images scaled to mean and std 0.5."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    images = {
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    image_processor = Qwen2VLImageProcessor(size={"shortest_edge": 65_536, "longest_edge": 16_777_216}, **images)
    video_processor = Qwen3VLVideoProcessor(size={"shortest_edge": 4_096, "longest_edge": 25_165_824}, **images)
    return Qwen3VLProcessor(image_processor, tokenizer, video_processor, chat_template=CHAT_TEMPLATE)


@dataclass(frozen=True)
class ModelShape:
    """What sets the size of a Qwen3-VL; heads are 32 wide, and two of the decoder's share keys and values."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vision_hidden: int
    vision_intermediate: int
    vision_blocks: int
    vision_heads: int
    places: int  # along a side of the vision tower's table of positions
    deepstack: tuple[int, ...]  # the vision blocks whose output goes to the decoder's first layers


TINY = ModelShape(192, 512, 2, 6, 96, 256, 3, 4, 24, (1,))
BASE = ModelShape(256, 608, 4, 8, 192, 768, 5, 6, 16, (1, 3))


def make_config(tokenizer: "PreTrainedTokenizerFast", shape: ModelShape = TINY) -> Any:
    """Qwen3-VL's architecture in that shape."""
    from transformers import Qwen3VLConfig

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 8192,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 100_000,
            "mrope_section": [6, 5, 5],
            "mrope_interleaved": True,
        },
        "eos_token_id": ids[TURN_END],
        "pad_token_id": ids[PAD],
        "tie_word_embeddings": True,
        "initializer_range": INITIAL_STD,
    }
    vision = {
        "depth": shape.vision_blocks,
        "hidden_size": shape.vision_hidden,
        "intermediate_size": shape.vision_intermediate,
        "num_heads": shape.vision_heads,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "out_hidden_size": shape.hidden,
        "deepstack_visual_indexes": list(shape.deepstack),
        "num_position_embeddings": shape.places**2,
        "initializer_range": INITIAL_STD,
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=True,
        initializer_range=INITIAL_STD,
    )


def save_new_model(folder: Path, texts: Iterable[str], seed: int, shape: ModelShape = TINY) -> int:
    """Write a model of random weights with its processor under `folder`; returns the number of parameters."""
    import torch
    from transformers import GenerationConfig, Qwen3VLForConditionalGeneration

    quiet_libraries()
    tokenizer = train_tokenizer(texts)
    config = make_config(tokenizer, shape)
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    end, pad = tokenizer.convert_tokens_to_ids([TURN_END, PAD])
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=[end, pad], pad_token_id=pad)
    model.save_pretrained(folder)
    processor = make_processor(tokenizer)
    record_size(processor, IMAGE_SIZE)
    processor.save_pretrained(folder)
    share_weights(folder)
    return sum(parameter.numel() for parameter in model.parameters())
