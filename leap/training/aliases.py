"""Names that other trainers have for a recipe's keys: the Trainer's own, LLaMA-Factory's, ms-swift's, Qwen's and 2U1's.

Those with the same meaning are taken for ours, in a recipe and on a command line; docs/training.md shows this table.
What has no equal here is answered with what there is instead.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

_PIXELS = 32 * 32  # of a token of an image
_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]  # of a decoder's layer
_ATTENTION = {"fa2": "flash_attention_2", "flash_attn": "flash_attention_2", "auto": "sdpa", "disabled": "eager"}


class Alias(NamedTuple):
    """A key of ours for another's name."""

    key: str
    tools: str  # that have the name
    meaning: str = ""  # of the value, where it is not ours
    convert: Callable[[Any], Any] = lambda value: value  # to ours; raises ValueError


def _tokens(pixels: Any) -> int:
    if not isinstance(pixels, int) or isinstance(pixels, bool) or pixels < 1:
        raise ValueError(f"a number of pixels is expected, found {pixels!r}")
    return max(1, pixels // _PIXELS)


def _switch(on: Any, off: Any) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if not isinstance(value, bool):
            raise ValueError(f"true or false is expected, found {value!r}")
        return on if value else off

    return convert


def _one_of(values: Mapping[Any, Any]) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if value not in values:
            raise ValueError(f"one of {', '.join(map(str, values))} is expected, found {value!r}")
        return values[value]

    return convert


_INVERTED = _switch(False, True)
_BITS = _one_of({4: "4bit", 8: "8bit", 16: None, None: None})
_HF, _LF, _SWIFT, _2U1, _QWEN = "Trainer", "LLaMA-Factory", "ms-swift", "2U1", "Qwen"

ALIASES: dict[str, Alias] = {
    "torch_compile": Alias("compile", _HF),
    "evaluation_strategy": Alias("eval_strategy", f"{_HF} (older)"),
    "model": Alias("model_name_or_path", _SWIFT),
    "model_id": Alias("model_name_or_path", _2U1),
    "dataset": Alias("train_file", f"{_LF}, {_SWIFT}"),
    "data_path": Alias("train_file", _2U1),
    "eval_dataset": Alias("val_file", _LF),
    "val_dataset": Alias("val_file", _SWIFT),
    "eval_path": Alias("val_file", _2U1),
    "media_dir": Alias("image_root", _LF),
    "image_folder": Alias("image_root", _2U1),
    "max_samples": Alias("max_train_samples", _LF),
    "cutoff_len": Alias("model_max_length", _LF),
    "max_length": Alias("model_max_length", _SWIFT),
    "max_seq_length": Alias("model_max_length", _2U1),
    "image_max_pixels": Alias("image_tokens_max", f"{_LF}, {_2U1}", "/ 32²", _tokens),
    "image_min_pixels": Alias("image_tokens_min", f"{_LF}, {_2U1}", "/ 32²", _tokens),
    "max_pixels": Alias("image_tokens_max", f"{_QWEN}, {_SWIFT}", "/ 32²", _tokens),
    "min_pixels": Alias("image_tokens_min", _QWEN, "/ 32²", _tokens),
    "mask_history": Alias("train_on", _LF, "true = last, false = all", _switch("last", "all")),
    "finetuning_type": Alias("finetuning", _LF),
    "tuner_type": Alias("finetuning", _SWIFT),
    "train_type": Alias("finetuning", f"{_SWIFT} (older)"),
    "lora_enable": Alias("finetuning", f"{_2U1}, {_QWEN}", "true = lora, false = full", _switch("lora", "full")),
    "lora_rank": Alias("lora_r", f"{_LF}, {_SWIFT}, {_2U1}"),
    "lora_target": Alias("lora_target_modules", _LF, "all = q,k,v,o,gate,up,down_proj",
                         lambda value: _LINEAR if value == "all" else value),
    "target_modules": Alias("lora_target_modules", _SWIFT, "all-linear = q,k,v,o,gate,up,down_proj",
                            lambda value: _LINEAR if value == "all-linear" else value),
    "adapter_name_or_path": Alias("resume_from_lora", _LF),
    "adapters": Alias("resume_from_lora", _SWIFT),
    "lora_weight_path": Alias("resume_from_lora", _2U1),
    "quantization_bit": Alias("quantization", _LF, "4 = 4bit, 8 = 8bit", _BITS),
    "quant_bits": Alias("quantization", _SWIFT, "4 = 4bit, 8 = 8bit", _BITS),
    "bits": Alias("quantization", _2U1, "4 = 4bit, 8 = 8bit, 16 = null", _BITS),
    "freeze_vision_tower": Alias("freeze_vision", f"{_LF}, {_2U1}"),
    "freeze_vit": Alias("freeze_vision", _SWIFT),
    "tune_mm_vision": Alias("freeze_vision", _QWEN, "true = false", _INVERTED),
    "freeze_multi_modal_projector": Alias("freeze_projector", _LF),
    "freeze_aligner": Alias("freeze_projector", _SWIFT),
    "freeze_merger": Alias("freeze_projector", _2U1),
    "tune_mm_mlp": Alias("freeze_projector", _QWEN, "true = false", _INVERTED),
    "freeze_language_model": Alias("freeze_llm", _LF),
    "tune_mm_llm": Alias("freeze_llm", _QWEN, "true = false", _INVERTED),
    "vision_lr": Alias("vision_learning_rate", _2U1),
    "vit_lr": Alias("vision_learning_rate", _SWIFT),
    "vision_tower_lr": Alias("vision_learning_rate", _QWEN),
    "merger_lr": Alias("projector_learning_rate", _2U1),
    "aligner_lr": Alias("projector_learning_rate", _SWIFT),
    "mm_projector_lr": Alias("projector_learning_rate", _QWEN),
    "flash_attn": Alias("attn_implementation", _LF, "fa2 = flash_attention_2, auto = sdpa, disabled = eager",
                        lambda value: _ATTENTION.get(value, value)),
    "attn_impl": Alias("attn_implementation", _SWIFT, "flash_attn = flash_attention_2",
                       lambda value: _ATTENTION.get(value, value)),
}  # fmt: skip

_OUT = "leave it out"
RESUME = "resume_from_checkpoint"  # true or null of it is what LEAP does
# Keys of these tools without an equal here, and what there is.
ANSWERS: dict[str, str] = {
    RESUME: "the same command resumes from the newest checkpoint of output_dir by itself; " + _OUT,
    "overwrite_output_dir": "a run continues in its folder, and another is refused there; give a new output_dir",
    "run_name": "a run is named by its folder: --output_dir output/NAME",
    "logging_dir": "trackers write to logs/; " + _OUT,
    "hub_model_id": "after training: scripts/training/export_model.py --push_to_hub OWNER/NAME",
    "push_to_hub": "after training: scripts/training/export_model.py --push_to_hub OWNER/NAME",
    "save_strategy": "save_steps says how often",
    "save_only_model": "only the newest two checkpoints keep the optimiser's state; " + _OUT,
    "load_best_model_at_end": "the best checkpoint, by metric_for_best_model, is kept and named; " + _OUT,
    "greater_is_better": "it follows from metric_for_best_model; " + _OUT,
    "early_stopping_steps": "early_stopping_patience counts evaluations that are no better",
    "group_by_length": "samples are packed without padding; " + _OUT,
    "gradient_checkpointing_kwargs": "gradient_checkpointing alone says whether; " + _OUT,
    "disable_gradient_checkpointing": "it is gradient_checkpointing: false",
    "dataloader_pin_memory": _OUT,
    "dataloader_persistent_workers": _OUT,
    "remove_unused_columns": _OUT,
    "ddp_timeout": _OUT,
    "do_train": "LEAP's script trains; " + _OUT,
    "do_eval": "a val_file is evaluated; " + _OUT,
    "stage": "LEAP does supervised fine-tuning; " + _OUT,
    "template": "the model's own chat template is used; " + _OUT,
    "dataset_dir": "write the path in train_file",
    "overwrite_cache": "a changed file is read anew by itself; " + _OUT,
    "preprocessing_num_workers": "all cores are used; " + _OUT,
    "val_size": "build_training_file.py splits; give the validation samples as val_file",
    "streaming": "samples are mapped into memory, images read when they are needed; " + _OUT,
    "plot_loss": "training_loss.png is always drawn; " + _OUT,
    "trust_remote_code": "no code that came with a model is run; " + _OUT,
    "neat_packing": "packing never lets a sample see another; it is packing: true",
    "data_flatten": "it is packing: true",
    "data_packing": "it is packing: true",
    "enable_liger_kernel": "the packed forward keeps no logits but the labels'; " + _OUT,
    "use_liger": "the packed forward keeps no logits but the labels'; " + _OUT,
    "use_liger_kernel": "the packed forward keeps no logits but the labels'; " + _OUT,
    "disable_flash_attn2": "attn_implementation says which: sdpa, flash_attention_2, eager",
    "vision_lora": "lora_parts says where adapters go: vision,llm",
    "lora_namespan_exclude": "lora_parts and lora_target_modules say where adapters go",
    "num_lora_modules": "lora_parts and lora_target_modules say where adapters go",
    "lora_bias": "adapters have no bias; " + _OUT,
    "lazy_preprocess": "images are read when they are needed; " + _OUT,
    "video_max_pixels": "videos are lists of frames, each an image; image_tokens_max holds for it",
    "video_min_pixels": "videos are lists of frames, each an image; image_tokens_min holds for it",
}  # fmt: skip


def translated(values: Mapping[str, Any]) -> dict[str, Any]:
    """Recipe values with others' names replaced by ours. Raises ValueError for two names of one key, or a wrong value.

    A name that is nobody's stays as it is.
    """
    if values.get(RESUME, True) not in (True, None):
        raise ValueError(f"{RESUME}: {ANSWERS[RESUME]}")
    ours = {name: value for name, value in values.items() if name not in ALIASES and name != RESUME}
    origin = {name: name for name in ours}
    for name, value in values.items():
        if alias := ALIASES.get(name):
            if alias.key in origin:
                raise ValueError(f"{name} is {alias.key} by another name, and so is {origin[alias.key]}; give one")
            origin[alias.key] = name
            try:
                ours[alias.key] = alias.convert(value)
            except ValueError as error:
                raise ValueError(f"{name} ({alias.key}): {error}") from error
    return ours


def answers(names: Mapping[str, Any]) -> Iterator[str]:
    """What to say of the names that other trainers have, and LEAP has not."""
    return (f"{name}: unknown key; {ANSWERS[name]}" for name in names if name in ANSWERS and name != RESUME)
