"""The SHA-256 that the Hugging Face hub names for a file, as our downloads and `hf download --local-dir` note it."""

import re
from pathlib import Path

_METADATA = Path(".cache", "huggingface", "download")  # in the local directory, as huggingface_hub lays it out
_LEVELS = 3  # folders above the file that may be that directory


def hub_sha256(file: Path) -> str | None:
    """The hash, or None where the file did not come from the hub, or was too small for the hub to name one."""
    for folder in list(file.parents)[:_LEVELS]:
        metadata = folder / _METADATA / f"{file.relative_to(folder)}.metadata"
        if metadata.is_file():
            lines = metadata.read_text(encoding="utf-8", errors="replace").splitlines()  # commit, ETag, time
            etag = lines[1].strip() if len(lines) > 1 else ""
            return etag if re.fullmatch(r"[0-9a-f]{64}", etag) else None
    return None
