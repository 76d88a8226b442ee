"""Tiny models of each family that is tested: real architecture, real processor, random weights, few tokens an image.

Their initial weights are large: at 0.02 an untrained model repeats one token, whatever it is shown.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from leap.tabletop.tiny_model import (
    CHAT_TEMPLATE,
    IMAGE,
    PAD,
    TURN_END,
    VIDEO,
    VISION_END,
    VISION_START,
    make_config,
    make_processor,
    train_tokenizer,
)

STD = 0.15
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "initializer_range": STD,
}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
IMAGE_PLACE = f"{VISION_START}{IMAGE}{VISION_END}"

# SmolVLM2's way of writing a conversation: roles by name, one end mark for every turn.
SMOLVLM_TEMPLATE = """\
<|im_start|>
{%- for message in messages -%}
{{ message.role | capitalize }}:{{ ' ' if message.content[0].type == 'text' }}
{%- for part in message.content -%}
{{ '<image>' if part.type == 'image' else part.text }}
{%- endfor -%}
<end_of_utterance>{{ '\\n' }}
{%- endfor -%}
{{ 'Assistant:' if add_generation_prompt }}"""

Made = tuple[Any, Any, Any]  # processor, configuration, model class


def _ids(tokenizer: Any) -> dict[str, Any]:
    end, pad = tokenizer.convert_tokens_to_ids([TURN_END, PAD])
    return {"vocab_size": len(tokenizer), "eos_token_id": end, "pad_token_id": pad, "bos_token_id": None}


def _qwen_tokens(tokenizer: Any) -> dict[str, int]:
    names = {"image": IMAGE, "video": VIDEO, "vision_start": VISION_START, "vision_end": VISION_END}
    return {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}


def _old_qwen_images() -> dict[str, Any]:
    """Qwen2-VL's and Qwen2.5-VL's: patches of 14 merged 2x2, so 28x28 pixels a token, and CLIP's statistics."""
    return {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2, "min_pixels": 3136, "max_pixels": 12_845_056}


_MROPE = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [2, 3, 3]}


def qwen2_vl(tokenizer: Any) -> Made:
    from transformers import (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "initializer_range": STD}
    config = Qwen2VLConfig(
        text_config={**TEXT, **_ids(tokenizer), "rope_parameters": _MROPE},
        vision_config=vision,
        tie_word_embeddings=True,
        **_qwen_tokens(tokenizer),
    )
    images = _old_qwen_images()
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(**images), tokenizer, Qwen2VLVideoProcessor(**images), chat_template=CHAT_TEMPLATE
    )
    return processor, config, Qwen2VLForConditionalGeneration


def qwen2_5_vl(tokenizer: Any) -> Made:
    """With windowed attention in its first vision block."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 64,
        "window_size": 56,
        "fullatt_block_indexes": [1],
        "initializer_range": STD,
    }
    config = Qwen2_5_VLConfig(
        text_config={**TEXT, **_ids(tokenizer), "rope_parameters": _MROPE},
        vision_config=vision,
        tie_word_embeddings=True,
        **_qwen_tokens(tokenizer),
    )
    images = _old_qwen_images()
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**images), tokenizer, Qwen2VLVideoProcessor(**images), chat_template=CHAT_TEMPLATE
    )
    return processor, config, Qwen2_5_VLForConditionalGeneration


def qwen3_vl(tokenizer: Any) -> Made:
    from transformers import Qwen3VLForConditionalGeneration

    config = make_config(tokenizer)
    for part in (config, config.text_config, config.vision_config):
        part.initializer_range = STD
    return make_processor(tokenizer), config, Qwen3VLForConditionalGeneration


def internvl(tokenizer: Any) -> Made:
    """Images in tiles of 56 pixels, at most 6 and a thumbnail; 4 tokens a tile."""
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = _with_tokens(tokenizer, named)
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": (56, 56),
        "initializer_range": STD,
    }
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **TEXT, **_ids(tokenizer)},
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=True,
    )
    size = {"height": 56, "width": 56}
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=size, max_patches=6, **HALF),
        tokenizer,
        InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=CHAT_TEMPLATE.replace(IMAGE_PLACE, "<IMG_CONTEXT>\n"),
    )
    return processor, config, InternVLForConditionalGeneration


def smolvlm(tokenizer: Any) -> Made:
    """Images in tiles of 32 pixels and the whole once more; 4 tokens a tile."""
    from transformers import (
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    named = {
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
        "video_token": "<video>",
    }
    places = [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]
    tokenizer = _with_tokens(tokenizer, named, places)
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 32,
        "patch_size": 8,
        "initializer_range": STD,
    }
    config = SmolVLMConfig(
        text_config={"model_type": "llama", "rms_norm_eps": 1e-5, **TEXT, **_ids(tokenizer)},
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        tie_word_embeddings=True,
    )
    sizes = {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 32}}
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(**sizes, **HALF),
        tokenizer,
        SmolVLMVideoProcessor(**sizes),
        image_seq_len=4,
        chat_template=SMOLVLM_TEMPLATE,
    )
    return processor, config, SmolVLMForConditionalGeneration


FAMILIES: dict[str, Callable[[Any], Made]] = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "internvl": internvl,
    "smolvlm": smolvlm,
}


def _with_tokens(tokenizer: Any, named: dict[str, str], others: Iterable[str] = ()) -> Any:
    """The tokenizer with special tokens more; `named` ones are attributes of it, as the family's processor expects."""
    from transformers import PreTrainedTokenizerFast

    tokenizer.add_special_tokens({"additional_special_tokens": [*named.values(), *others]})
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        pad_token=PAD,
        eos_token=TURN_END,
        extra_special_tokens=named,
        clean_up_tokenization_spaces=False,
    )


def save_tiny_model(family: str, folder: Path, texts: Iterable[str], seed: int = 0) -> Path:
    """Write a model of that family with its processor into `folder`."""
    import torch

    processor, config, kind = FAMILIES[family](train_tokenizer(texts, vocabulary=384))
    torch.manual_seed(seed)
    kind(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
