"""Other trainers beside LEAP: the versions that are compared, and the settings at which each is fastest.

An option stands under the name that the trainer itself gives it; those of `transformers.TrainingArguments`, which all
of them take, are in COMMON. A newer version, another setting or one more trainer is an entry here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PLATFORM = ("torch==2.11.0", "torchvision==0.26.0", "transformers==5.17.0")  # of every one
FLASH_ATTENTION = "flash-attn-4==4.0.0b36"
LORA = {"rank": 16, "alpha": 32, "dropout": 0.05, "layers": ["q_proj", "k_proj", "v_proj", "o_proj"]}  # lora-standard's

COMMON: Mapping[str, Any] = {
    "learning_rate": 1.5e-5,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "optim": "adamw_torch_fused",
    "bf16": True,
    "gradient_checkpointing": False,
    "dataloader_num_workers": 8,
    "dataloader_persistent_workers": True,
    "logging_steps": 10,
    "save_strategy": "no",
    "report_to": "none",
    "seed": 42,
}


@dataclass(frozen=True)
class Precision:
    """What is trained, and in which numbers: LEAP's mode of training_throughput.py, and its recipe values."""

    mode: str
    values: tuple[str, ...]


PRECISIONS: Mapping[str, Precision] = {
    "bf16": Precision("full", ("optim=adamw_bf16_stochastic",)),
    "fp32": Precision("full", ("optim=adamw_torch_fused",)),
    "lora": Precision("lora", ()),
}


@dataclass(frozen=True)
class Trainer:
    """A project and its options: `precisions` has those of each of PRECISIONS.

    `versions` are beside PLATFORM's; `refused` says which of these the project's own bounds refuse, so that they are
    installed after it.
    """

    versions: tuple[str, ...]
    options: Mapping[str, Any]
    precisions: Mapping[str, Mapping[str, Any]]
    environment: Mapping[str, str] = field(default_factory=dict)
    refused: tuple[str, ...] = ()


_UNFROZEN = {"tuner_type": "full", "freeze_vit": False, "freeze_aligner": False, "freeze_llm": False}
_WHOLE = {"finetuning_type": "full", "freeze_vision_tower": False, "freeze_multi_modal_projector": False}

TRAINERS: Mapping[str, Trainer] = {
    "ms-swift": Trainer(
        ("ms-swift==4.6.0", "qwen-vl-utils==0.0.14", "trl==0.29.1", FLASH_ATTENTION),
        {"model_type": "qwen3_vl", "template": "qwen3_vl", "max_length": 4096, "load_from_cache_file": False},
        {
            "bf16": {**_UNFROZEN, "torch_dtype": "bfloat16"},
            "fp32": {**_UNFROZEN, "torch_dtype": "float32", "fp16": False},  # which it would else take beside bf16
            "lora": {
                "tuner_type": "lora",
                "torch_dtype": "bfloat16",
                "lora_rank": LORA["rank"],
                "lora_alpha": LORA["alpha"],
                "lora_dropout": LORA["dropout"],
                "target_modules": LORA["layers"],
            },
        },
    ),
    "llamafactory": Trainer(
        ("llamafactory==0.9.5", "trl==0.24.0", "peft==0.18.1"),
        {
            "stage": "sft",
            "do_train": True,
            "template": "qwen3_vl_nothink",
            "cutoff_len": 4096,
            "disable_gradient_checkpointing": True,
            "overwrite_cache": True,
            "preprocessing_num_workers": 8,
        },
        {
            "bf16": {**_WHOLE, "bf16": False, "pure_bf16": True},  # its way to weights of bfloat16
            "fp32": _WHOLE,
            "lora": {
                "finetuning_type": "lora",
                "lora_rank": LORA["rank"],
                "lora_alpha": LORA["alpha"],
                "lora_dropout": LORA["dropout"],
                "lora_target": ",".join(LORA["layers"]),
            },
        },
        {"DISABLE_VERSION_CHECK": "1"},
        ("transformers",),
    ),
    "trl": Trainer(
        ("trl==1.16.0", "peft==0.21.0", FLASH_ATTENTION),
        {"max_length": None},
        {
            "bf16": {"dtype": "bfloat16"},
            "fp32": {"dtype": "float32"},
            "lora": {
                "dtype": "bfloat16",
                "lora": {
                    "r": LORA["rank"],
                    "lora_alpha": LORA["alpha"],
                    "lora_dropout": LORA["dropout"],
                    "target_modules": LORA["layers"],
                },
            },
        },
    ),
}


@dataclass(frozen=True)
class Peer:
    """One setting of a trainer."""

    trainer: str
    options: Mapping[str, Any]


PEERS: Mapping[str, Peer] = {
    "ms-swift-fa4": Peer("ms-swift", {"attn_impl": "flash_attention_4", "padding_free": True}),
    "ms-swift-sdpa": Peer("ms-swift", {"attn_impl": "sdpa"}),
    "llamafactory": Peer("llamafactory", {"flash_attn": "sdpa"}),  # it names FlashAttention 2 and 3 alone
    "trl-sdpa": Peer("trl", {"attn_implementation": "sdpa"}),  # it refuses padding_free where there are images
    "trl-fa4": Peer("trl", {"attn_implementation": "flash_attention_4"}),
}


def installation() -> str:
    """The commands that make each trainer's environment."""
    lines = []
    for name, trainer in TRAINERS.items():
        later = [pin for pin in PLATFORM if pin.partition("==")[0] in trainer.refused]
        pins = " ".join([*(pin for pin in PLATFORM if pin not in later), *trainer.versions])
        lines += [f"python3.12 -m venv ~/peers/{name}", f"~/peers/{name}/bin/pip install {pins}"]
        lines += [f"~/peers/{name}/bin/pip install {pin}  # which {name} refuses by itself" for pin in later]
    return "\n".join(lines)
