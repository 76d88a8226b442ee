"""One loader for every model: base or checkpoint, for training or evaluation."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from leap.errors import LeapError, UsageError, first_line
from leap.libraries import refuse_old_libraries
from leap.models.checkpoints import check_settings, how_to_get, read_adapter, refuse_another_base, weight_files
from leap.progress import quiet_libraries

Quantization = Literal["4bit", "8bit"]
_FIRST_BFLOAT16 = (8, 0)  # compute capability
_OF_A_LAYER = re.compile(r"\.(layers|blocks)\.\d+\..*(?<!inv_freq)$")
_LARGEST_PATCH = 256  # pixels a side; patches larger than that would take memory without end


def load_processor(folder: Path, base: Path | None = None, trust_remote_code: bool = False) -> Any:
    """The folder's processor: tokenizer, chat template and image settings. An adapter without one has its base's."""
    from transformers import AutoProcessor

    from leap.data.chat_encoding import ChatFormat
    from leap.data.chat_template import try_template

    refuse_old_libraries()
    weight_files(folder)  # a clear error where this is no model folder
    source = base if base and not (folder / "tokenizer_config.json").is_file() else folder
    check_settings(source)
    with refusing(source, "its processor cannot be loaded"):
        processor = AutoProcessor.from_pretrained(source, local_files_only=True, trust_remote_code=trust_remote_code)
    if getattr(processor, "image_processor", None) is None or not getattr(processor, "chat_template", None):
        raise LeapError(f"{source}: its processor lacks an image processor or a chat template; copy them from the base")
    try_template(processor)
    with refusing(source, "its processor cannot be used"):
        ChatFormat(processor)
        _try_images(processor)
    return processor


def _try_images(processor: Any) -> None:
    """One small image as it will be used: settings of another type fail here, and not in the middle of the work."""
    from PIL import Image

    from leap.data.image import ImageEncoder, ImageSize

    image, settings = Image.new("RGB", (64, 64)), processor.image_processor
    if not ImageEncoder.encodes(processor):
        settings(images=[image], return_tensors="pt")
        return
    for name in ("patch_size", "merge_size", "temporal_patch_size"):
        value = getattr(settings, name)
        if type(value) is not int or not 1 <= value <= _LARGEST_PATCH:  # True is an int too
            raise ValueError(f"{name}={value!r}: a whole number from 1 to {_LARGEST_PATCH} is needed")
    encoder = ImageEncoder(processor, ImageSize(1, 1))
    settings(images=[image], size=encoder.size, return_tensors="pt")
    if not encoder.scale(encoder.encode_bytes([image])[0]).isfinite().all():
        raise ValueError("image_mean, image_std and rescale_factor make no finite numbers of an image")


def load_model(
    folder: Path,
    dtype: str,
    device: str = "cpu",
    attention: str | None = "sdpa",
    base: Path | None = None,
    quantization: Quantization | None = None,
    trust_remote_code: bool = False,
    merge: bool = False,
) -> Any:
    """The folder's model in `dtype` ("float32", "bfloat16", "float16") on `device`; an adapter's on its `base`.

    With `attention` None the library chooses: a few families have no "sdpa". `merge` adds an adapter to its base's
    weights. Raises LeapError where files are missing or broken, or weights do not fit the model.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    weight_files(folder)
    if base:
        refuse_another_base(folder, base)
    check_settings(base or folder)
    quiet_libraries()
    placed = _quantized(quantization, dtype, device) if quantization else {}
    with refusing(base or folder, "the model cannot be loaded"):
        model, loaded = AutoModelForImageTextToText.from_pretrained(
            base or folder,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
            **placed,
        )
    if missing := sorted(loaded["missing_keys"]):  # the library would go on with random numbers in their place
        raise LeapError(
            f"{base or folder}: {len(missing)} weights are missing ({missing[0]}, …); {how_to_get(base or folder)}"
        )
    if unused := sorted(filter(_OF_A_LAYER.search, loaded["unexpected_keys"])):
        raise LeapError(
            f"{base or folder}: {len(unused)} weights are of layers that its config.json does not have "
            f"({unused[0]}, …); restore that file"
        )
    if placed:
        _spare_uneven(model)
    else:
        model = model.to(device)
    return _with_adapter(model, folder, merge) if base else model


@contextmanager
def refusing(folder: Path, what: str) -> Iterator[None]:
    """What a library raises, as an error that names the folder.

    Files of a model are read by four libraries, which check little: a wrong one raises whatever the code stumbles over
    (KeyError, AttributeError, pickle's and Rust's own errors). None of them goes on here.
    """
    try:
        yield
    except LeapError as error:
        raise error if str(folder) in str(error) else LeapError(f"{folder}: {error}") from error
    except Exception as error:
        if "trust_remote_code" in str(error):  # the library's refusal to run a model's own code
            raise LeapError(
                f"{folder}: this model runs code of its own, which lies with it; read that code, and if you trust it, "
                "add --trust_remote_code"
            ) from error
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        raise LeapError(f"{folder}: {what} ({kind}{first_line(error)})") from error


def _quantized(quantization: Quantization, dtype: str, device: str) -> dict[str, Any]:
    import torch
    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise LeapError(
            f'--quantization {quantization} needs bitsandbytes: pip install -c constraints.txt -e ".[quantization]"'
        )
    # Else 8 bit writes a line for every product of matrices.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    config = (
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, dtype))
        if quantization == "4bit"
        else BitsAndBytesConfig(load_in_8bit=True)
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _spare_uneven(model: Any) -> None:
    """Layers whose rows are no whole blocks keep the general 4-bit form.

    bitsandbytes packs weights anew for CPUs with AVX512-BF16, and fails at such rows.
    """
    for component in model.modules():
        if getattr(component, "support_avx512bf16_for_cpu", False):
            component.support_avx512bf16_for_cpu = component.in_features % component.weight.quant_state.blocksize == 0


def _with_adapter(model: Any, folder: Path, merge: bool) -> Any:
    """The model with the adapter's layers in it, or merged. Its own class stays, so that it generates as before."""
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights

    check_settings(folder)
    kind = read_adapter(folder).get("peft_type")
    if kind != "LORA":
        raise LeapError(f"{folder}: an adapter of type {kind}; only LoRA is supported, or merge it into its base")
    with refusing(folder, "the adapter does not fit its base model"):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found missing adapter keys")  # refused below
            warnings.filterwarnings("ignore", category=FutureWarning)  # PEFT's use of transformers, not ours
            adapted = PeftModel.from_pretrained(model, str(folder), local_files_only=True)
        saved = load_peft_weights(str(folder), device="cpu")
    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    # The library goes on without weights that are missing, or that have no place in the base.
    if odd := sorted({*(wanted - saved.keys()), *(name for name in saved.keys() - wanted if "lora_" in name)}):
        raise LeapError(f"{folder}: the adapter does not fit its base model ({len(odd)} weights, {odd[0]}, …)")
    return adapted.merge_and_unload() if merge else adapted.base_model.model


def stop_tokens(processor: Any, model: Any) -> set[int]:
    """The token ids that end an answer: the template's end of turn, and the model's and the tokenizer's end tokens."""
    from leap.data.chat_encoding import ChatFormat

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


def pick_dtype(wanted: str | None, device: str) -> str:
    """`wanted`, or what the device is fast in. Raises LeapError where that would be an emulated bfloat16."""
    if not device.startswith("cuda"):
        return wanted or "float32"
    if has_bfloat16(device):
        return wanted or "bfloat16"
    if wanted == "bfloat16":
        raise LeapError(f"--dtype bfloat16: {emulated(device)}; use --dtype float16")
    return wanted or "float16"


def has_bfloat16(device: str) -> bool:
    """Whether a GPU computes in bfloat16. PyTorch itself says so of older ones too, which emulate it."""
    import torch

    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= _FIRST_BFLOAT16


def emulated(device: str) -> str:
    """Why bfloat16 is not for this GPU."""
    import torch

    return f"{torch.cuda.get_device_name(device)} is older than Ampere and would emulate it, many times slower"
