"""A checkpoint as a model folder of its own: adapter merged, one dtype, a model card; on a hub if asked for."""

import glob
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import yaml

from leap.errors import LeapError, first_line
from leap.hub.client import use_client
from leap.models.checkpoints import read_marker, weights_hash
from leap.models.image_size import record_size, recorded_size
from leap.models.loading import load_model, load_processor
from leap.records.files import check_folder, naming, share_weights, unfinished, write_atomic
from leap.records.litter import is_litter
from leap.records.table_cells import markdown_block, markdown_text

Format = Literal["bfloat16", "float16", "float32"]


def export_model(checkpoint: Path, output: Path, base: Path | None, dtype: Format, commit: str | None) -> Path:
    """Write the checkpoint's model, an adapter's merged into its `base`, with its processor and a card into `output`.

    The folder is there as a whole or not at all. `commit` is LEAP's own. Raises LeapError where `output` exists.
    """
    if output.exists():
        raise LeapError(f"{output}: it exists already; give another folder (--output)")
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
            write_atomic(partial / "README.md", model_card(checkpoint, output.name, base, dtype, commit))
            share_weights(partial)
        os.sync()  # the files must outlast a power cut before the folder has its name
        _give_name(partial, output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return output


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


def model_card(checkpoint: Path, name: str, base: Path | None, dtype: Format, commit: str | None) -> str:
    """What a reader of the hub should know, from the checkpoint's run marker. It names no path of this machine."""
    run = read_marker(checkpoint)
    recipe = {key: _portable(value) for key, value in run.get("recipe", {}).items()}
    original = recipe.get("model_name_or_path") or (base.name if base else None)
    how = "a LoRA adapter, merged into its base" if base else "a whole model"
    on = run.get("base_model") or (weights_hash(base) if base else "unknown")
    facts = [
        f"- what: {how}; {dtype} weights for image-text-to-text generation with `transformers`",
        f"- base model: {markdown_text(Path(original).name) if original else 'not recorded'}",
        f"- sha256 over the base's weight files: {on}",
        f"- step: {run.get('step', 'unknown')}",
        f"- training data, sha256 of its file: {run.get('data', 'unknown')}",
        f"- LEAP's commit: {run.get('commit') or 'unknown'} (training), {commit or 'unknown'} (export)",
        f"- versions: {', '.join(f'{key} {value}' for key, value in run.get('versions', {}).items()) or 'unknown'}",
    ]
    head = yaml.safe_dump({"library_name": "transformers", "pipeline_tag": "image-text-to-text"})
    keys = markdown_block(yaml.safe_dump(recipe, sort_keys=False), "yaml")
    values = keys if recipe else "Not recorded: LEAP did not train it."
    lead = "Fine-tuned as a robot task planner with LEAP (Logical Embodied Action Planning)."
    return (
        f"---\n{head}---\n\n# {markdown_text(name)}\n\n{lead}\n\n" + "\n".join(facts) + f"\n\n## Recipe\n\n{values}\n"
    )


def _portable(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def push_model(folder: Path, name: str, private: bool) -> str:
    """Upload an exported folder as the model repository `name` and return its address. Raises LeapError."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    # Its first base is HTTPError of the HTTP library, which differs from release to release; a lost connection is one.
    problems: tuple[Any, ...] = (HfHubHTTPError.__bases__[0], OSError, ValueError)
    use_client(constants.ENDPOINT)
    hub = HfApi()
    try:
        repository = hub.create_repo(name, private=private or None, exist_ok=True)
        if private and not hub.model_info(repository.repo_id).private:  # one that was there keeps its own setting
            raise ValueError("this repository exists and is public; nothing was sent")
        litter = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if is_litter(path.name)]
        hub.upload_folder(
            repo_id=repository.repo_id,
            folder_path=folder,
            commit_message="Exported by LEAP",
            ignore_patterns=[glob.escape(name) + end for name in litter for end in ("", "/*")],
        )
    except problems as error:
        raise LeapError(
            f"--push_to_hub {name}: {first_line(error)}. The model lies in {folder}: "
            f"hf upload {name} {folder} sends it later (hf auth login first)"
        ) from error
    return str(repository)
