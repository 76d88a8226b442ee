"""Names that other trainers have for a recipe's keys: the Trainer's own, LLaMA-Factory's, ms-swift's, Qwen's and 2U1's.

Those with the same meaning are taken for ours, in a recipe and on a command line; docs/training.md shows this table.
What has no equal here is answered with what there is instead.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from leap.training.optimizers import OPTIMIZERS

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
        if value not in list(values):  # a list is no key of anything
            raise ValueError(f"one of {', '.join(map(str, values))} is expected, found {value!r}")
        return values[value]

    return convert


_INVERTED = _switch(False, True)
_BITS = _one_of({4: "4bit", 8: "8bit", 16: None, None: None})
_HF, _LF, _SWIFT, _2U1, _QWEN = "Trainer", "LLaMA-Factory", "ms-swift", "2U1", "Qwen"

ALIASES: dict[str, Alias] = {
    "torch_compile": Alias("compile", _HF),
    "activation_checkpointing": Alias("gradient_checkpointing", f"{_HF} (newer)"),
    "evaluation_strategy": Alias("eval_strategy", f"{_HF} (older)"),
    "early_stopping_steps": Alias("early_stopping_patience", _LF),
    "early_stop_interval": Alias("early_stopping_patience", _SWIFT),
    "torch_dtype": Alias("bf16", _SWIFT, "bfloat16 = true, float32 = false",
                         _one_of({"bfloat16": True, "float32": False})),
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
                            lambda value: _LINEAR if value in ("all-linear", ["all-linear"]) else value),
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
# What there is here instead of keys of these tools that have no equal.
_INSTEAD: dict[str, str] = {
    "the same command resumes from the newest checkpoint of output_dir by itself; " + _OUT: RESUME,
    "a run continues in its folder, and another is refused there; give a new output_dir": "overwrite_output_dir",
    "a run is named by its folder: --output_dir output/NAME": "run_name project",
    "trackers write to logs/; " + _OUT: "logging_dir",
    "after training: scripts/training/export_model.py --push_to_hub OWNER/NAME":
        "hub_model_id push_to_hub hub_strategy hub_private_repo hub_token",
    "save_steps says how often": "save_strategy",
    "logging_steps says how often": "logging_strategy logging_first_step",
    "only the newest two checkpoints keep the optimiser's state; " + _OUT: "save_only_model",
    "the best checkpoint, by metric_for_best_model, is kept and named; " + _OUT: "load_best_model_at_end",
    "it follows from metric_for_best_model; " + _OUT: "greater_is_better",
    "early_stopping_patience alone says when; " + _OUT: "early_stopping_threshold",
    "num_train_epochs says how long": "max_epochs",
    "optim says which: " + ", ".join(("auto", *OPTIMIZERS)): "optimizer optim_args pure_bf16 use_galore use_badam",
    "samples are packed without padding; " + _OUT: "group_by_length train_sampling_strategy length_column_name",
    "gradient_checkpointing alone says whether; " + _OUT:
        "gradient_checkpointing_kwargs activation_checkpointing_kwargs use_reentrant_gc vit_gradient_checkpointing",
    "it is gradient_checkpointing: false": "disable_gradient_checkpointing",
    "compile alone says whether; " + _OUT: "torch_compile_backend torch_compile_mode",
    "fsdp: true divides weights, gradients and optimiser state; " + _OUT: "fsdp_config",
    "how a step is divided so that it fits the GPU is found by trying it; " + _OUT: "auto_find_batch_size",
    "seed is for all; " + _OUT: "data_seed full_determinism",
    "torchrun or accelerate launch starts the ranks; " + _OUT: "local_rank master_addr master_port ray_num_workers",
    "a folder that nodes do not share is found, and written on each of them; " + _OUT: "save_on_each_node",
    "LEAP's script trains; " + _OUT: "do_train",
    "a val_file is evaluated; " + _OUT: "do_eval",
    "eval_benchmark answers examples of the benchmark while training; " + _OUT:
        "do_predict predict_with_generate compute_accuracy max_new_tokens temperature",
    "run-finetuning.py does supervised fine-tuning; " + _OUT: "stage task_type num_labels head_lr pref_beta pref_loss",
    "run-grpo.py learns from rewards": "method loss_type num_generations reward_weights reward_funcs rlhf_type",
    "the model's own chat template is used; " + _OUT:
        "template agent_template use_chat_template enable_thinking new_special_tokens resize_vocab",
    "write a system message into the samples": "system default_system",
    "write the path in train_file; of several files it is a list of {file, weight}":
        "dataset_dir dataset_use mix_strategy interleave_probs interleave_prob",
    "samples are checked once for a file's content, and found again; " + _OUT:
        "overwrite_cache load_from_cache_file tokenized_path cached_dataset cached_val_dataset",
    "all cores are used; " + _OUT: "preprocessing_num_workers preprocessing_batch_size dataset_num_proc",
    "build_training_file.py splits; give the validation samples as val_file": "val_size split_dataset_ratio",
    "samples are mapped into memory, images read when they are needed; " + _OUT:
        "streaming lazy_preprocess lazy_tokenize buffer_size shuffle_buffer_size",
    "every epoch has an order of its own, by seed; " + _OUT: "disable_shuffling dataset_shuffle",
    "training_loss.png is always drawn; " + _OUT: "plot_loss",
    "no code that came with a model is run; " + _OUT: "trust_remote_code",
    "it stands in the model's config.json; " + _OUT: "model_type rope_scaling",
    "write it behind the model's name: OWNER/NAME@REVISION": "model_revision",
    "packing never lets a sample see another; it is packing: true":
        "neat_packing padding_free data_flatten data_packing",
    "the packed forward keeps no logits but the labels'; " + _OUT:
        "enable_liger_kernel use_liger use_liger_kernel liger_kernel_config use_logits_to_keep use_unsloth",
    "attn_implementation says which: sdpa, flash_attention_2, flash_attention_4, eager": "disable_flash_attn2",
    "lora_parts (vision,llm) and lora_target_modules say where adapters go":
        "vision_lora lora_namespan_exclude num_lora_modules target_regex",
    "adapters are A and B of linear layers alone; " + _OUT:
        "lora_bias lora_dtype additional_target modules_to_save init_weights loraplus_lr_ratio lorap_lr_ratio",
    "an adapter that is resumed goes on learning; " + _OUT: "create_new_adapter",
    "PEFT makes the adapters; " + _OUT: "tuner_backend",
    "freeze_llm and freeze_vision are for the whole component": "unfreeze_topk_llm unfreeze_topk_vision",
    "quantization says which: 4bit (NF4), 8bit":
        "quantization_method quant_method quantization_type quant_type double_quantization double_quant "
        "bnb_4bit_compute_dtype bnb_4bit_quant_type bnb_4bit_use_double_quant",
    "the assistant's turns are learned; train_on says which of them": "train_on_prompt loss_scale",
    "a sample over model_max_length is left out and counted, never cut": "truncation_strategy",
    "image_tokens_min and image_tokens_max bound every image": "image_resized_width image_resized_height",
    "image_root is for both files; beside a file its images are found too": "eval_image_folder",
    "videos are lists of frames, each an image, for which image_tokens_min and _max hold; " + _OUT:
        "video_max_pixels video_min_pixels video_fps video_maxlen video_max_frames video_min_frames base_interval fps "
        "nframes video_resized_width video_resized_height",
    "report_to: swanlab": "use_swanlab",
    "LEAP does not have it; " + _OUT:
        "neftune_noise_alpha label_smoothing_factor sequence_parallel_size enable_dft_loss router_aux_loss_coef",
    # It changes nothing that is learned, or LEAP sees to it.
    _OUT:
        "dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor dataloader_drop_last "
        "remove_unused_columns label_names ddp_backend ddp_find_unused_parameters ddp_bucket_cap_mb tf32 "
        "average_tokens_across_devices eval_accumulation_steps eval_delay eval_on_start prediction_loss_only "
        "save_safetensors log_level disable_tqdm logging_nan_inf_filter torch_empty_cache_steps "
        "include_num_input_tokens_seen skip_memory_metrics use_cpu use_cache cache_dir low_cpu_mem_usage "
        "use_fast_tokenizer print_param_status add_version check_model use_hf model_name model_author",
}  # fmt: skip
ANSWERS = {name: answer for answer, names in _INSTEAD.items() for name in names.split()}


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
