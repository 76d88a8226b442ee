"""One loader for every model: base or checkpoint, for training or evaluation."""

from pathlib import Path
from typing import Any

from leap.errors import LeapError, UsageError
from leap.models.checkpoints import weight_files
from leap.progress import quiet_libraries


def load_processor(folder: Path) -> Any:
    """The folder's processor: tokenizer, chat template and picture settings."""
    from transformers import AutoProcessor

    weight_files(folder)  # a clear error where this is no model folder
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise LeapError(f"{folder}: its processor cannot be loaded ({_first_line(error)})") from error
    if getattr(processor, "image_processor", None) is None or not getattr(processor, "chat_template", None):
        raise LeapError(
            f"{folder}: its processor lacks a picture processor or a chat template; copy them from the base"
        )
    return processor


def load_model(folder: Path, dtype: str, device: str = "cpu", attention: str = "sdpa") -> Any:
    """The folder's model in `dtype` ("float32", "bfloat16", "float16") on `device`."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    weight_files(folder)
    quiet_libraries()
    try:
        model, loaded = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise LeapError(f"{folder}: the model cannot be loaded ({_first_line(error)})") from error
    if missing := sorted(loaded["missing_keys"]):  # the library would go on with random numbers in their place
        raise LeapError(f"{folder}: {len(missing)} weights are missing ({missing[0]}, …); download the model again")
    return model.to(device)


def stop_tokens(processor: Any, model: Any) -> set[int]:
    """The token ids that end an answer: the template's end of turn, and the model's and the tokenizer's end tokens."""
    from leap.data.chat import ChatFormat

    own = model.generation_config.eos_token_id
    ends = [*(own if isinstance(own, list) else [own]), processor.tokenizer.eos_token_id]
    return {token for token in [*ends, ChatFormat(processor).end_of_turn[-1]] if token is not None}


def pick_device(wanted: str | None = None) -> str:
    """`wanted`, or the first GPU, or the CPU."""
    import torch

    if wanted is None or wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise UsageError(f"--device {wanted}: there is no such device; use cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise LeapError(f"--device {wanted}: {torch.cuda.device_count()} CUDA devices are there; use another or cpu")
    return wanted


def default_dtype(device: str) -> str:
    """The number format of an evaluation where none is asked for."""
    return "bfloat16" if device.startswith("cuda") else "float32"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
