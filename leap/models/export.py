"""A checkpoint as a model folder of its own: adapter merged, one dtype, a model card; on a hub if asked for."""

import glob
import hashlib
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from leap.errors import LeapError, UsageError, first_line
from leap.hub.client import use_client
from leap.models.checkpoints import small_files, weights_hash
from leap.models.image_size import record_size, recorded_size
from leap.models.loading import load_model, load_processor
from leap.records.files import check_folder, is_file, naming, share_weights, unfinished, write_atomic
from leap.records.json_files import object_if_there, write_json
from leap.records.litter import is_litter

Format = Literal["bfloat16", "float16", "float32"]
CARD, EXPORTED = "README.md", "leap_export.json"  # the latter says of what this is an export


def export_model(checkpoint: Path, output: Path, base: Path | None, dtype: Format, card: str) -> None:
    """Write the checkpoint's model, an adapter's merged into its `base`, with its processor and `card` into `output`.

    The folder is there as a whole or not at all. Where it is this very export already, only its card is renewed, unless
    somebody has changed it. Raises LeapError where `output` is anything else.
    """
    record = {"weights": weights_hash(checkpoint, base), "files": small_files(checkpoint, base), "dtype": dtype}
    if output.exists():
        _renew_card(output, record, card)
        return
    check_folder(output.parent)
    model = load_model(checkpoint, "float32", base=base, merge=True)  # merged in full precision, then rounded once
    processor = load_processor(checkpoint, base)
    if size := recorded_size(checkpoint, Path(), base):  # an older checkpoint has it outside of its processor
        record_size(processor, size)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = unfinished(output, ".partial")
    partial.mkdir()
    try:
        with naming(output):
            _cast(model, dtype).save_pretrained(partial)
            processor.save_pretrained(partial)
            _write_card(partial, record, card)
            share_weights(partial)
        os.sync()  # the files must outlast a power cut before the folder has its name
        _give_name(partial, output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _renew_card(output: Path, record: dict[str, Any], card: str) -> None:
    stored = object_if_there(output / EXPORTED)
    if {name: stored.get(name) for name in record} != record:
        raise LeapError(f"{output}: it exists already, and is not this very export; give another folder (--output)")
    before = output / CARD
    if not is_file(before) or _sha256(before.read_bytes()) != stored.get("card"):
        print(f"{before}: it was changed by hand, and stays as it is")
    else:
        _write_card(output, record, card)


def _write_card(folder: Path, record: dict[str, Any], card: str) -> None:
    """The card before the note of which one is ours: a kill between them leaves one that looks like somebody's."""
    write_atomic(folder / CARD, card)
    write_json(folder / EXPORTED, {**record, "card": _sha256((folder / CARD).read_bytes())})


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _give_name(partial: Path, output: Path) -> None:
    try:
        partial.rename(output)
    except OSError as error:
        if not os.path.lexists(output):
            raise
        raise LeapError(
            f"{output}: it was made meanwhile, by another export perhaps, and is left as it is; "
            "give another folder (--output)"
        ) from error


def _cast(model: Any, dtype: Format) -> Any:
    import torch

    model.config.name_or_path = ""  # a path of this machine
    return model.to(getattr(torch, dtype))


def check_push(name: str) -> None:
    """Raise, before there is anything to send, what `push_model` could only say then."""
    from huggingface_hub import is_offline_mode
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UsageError(f"--push_to_hub {name}: OWNER/NAME is needed, or NAME for your own ({error})") from error
    if is_offline_mode():
        raise LeapError(f"--push_to_hub {name}: HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set: unset it to upload")


def push_model(folder: Path, name: str, private: bool) -> str:
    """Upload an exported folder as the model repository `name` and return its address. Raises LeapError."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    # Its first base is HTTPError of the HTTP library, which differs from release to release; a lost connection is one.
    problems: tuple[Any, ...] = (HfHubHTTPError.__bases__[0], OSError, RuntimeError, ValueError)
    use_client(constants.ENDPOINT)
    hub = HfApi()
    try:
        repository = hub.create_repo(name, private=private or None, exist_ok=True)
        if private and not hub.model_info(repository.repo_id).private:  # one that was there keeps its own setting
            raise ValueError("this repository exists and is public; nothing was sent")
        litter = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if is_litter(path.name)]
        _upload(hub, repository.repo_id, folder, [glob.escape(one) + end for one in litter for end in ("", "/*")])
    except problems as error:
        raise LeapError(
            f"--push_to_hub {name}: {first_line(error.__cause__ or error)}. No file is committed there, though a new "
            f"repository may stand empty. The model lies in {folder}; the same command goes on (hf auth login first), "
            f"or hf upload {name} {folder}"
        ) from error
    return str(repository)


def _upload(hub: Any, repository: str, folder: Path, ignored: list[str]) -> None:
    """All files in one commit, or none. Contents that an interrupted upload has sent are not sent again."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    def send() -> None:
        message = "Exported by LEAP"
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message=message, ignore_patterns=ignored)

    try:
        send()
    except (OSError, RuntimeError, ValueError) as error:  # Xet's, which are no class of their own
        refused = isinstance(error, HfHubHTTPError)  # by the hub itself
        if refused or constants.HF_HUB_DISABLE_XET or find_spec("hf_xet") is None:
            raise
        print(f"failed ({first_line(error)}); uploading once more, without Xet's storage", file=sys.stderr)
        constants.HF_HUB_DISABLE_XET = True
        send()
