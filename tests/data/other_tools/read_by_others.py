"""Are samples of each form read by the tools that have it as LEAP reads them? By their own code, where they are.

    python tests/data/other_tools/read_by_others.py write /tmp/read           # LEAP: the samples, and what it reads
    python tests/data/other_tools/read_by_others.py llamafactory /tmp/read    # in its own environment, and so on
    python tests/data/other_tools/read_by_others.py report /tmp/read          # LEAP: READ_BY_OTHERS.json beside this

The samples are those of tests/data/test_formats.py: a system message, two turns of the user with an image each, two of
the assistant. Compared are the turns, with `<image>` where an image is shown, and the images in order. Environments:
`pip install llamafactory==0.9.5 transformers==5.6.0`; `pip install ms-swift==4.6.0 transformers==5.16.0 "trl<1"`; for
the others LEAP's with `qwen-vl-utils==0.0.14 ujson`. `qwen_finetune` and `2u1` are no packages: PYTHONPATH names the
checkout (qwen-vl-finetune of QwenLM/Qwen3-VL, 2U1/Qwen-VL-Series-Finetune, at the commits below).
"""

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
Read = dict[str, Any]  # turns: [role, text], images: names in order


def write(folder: Path) -> None:
    """Each form's sample as a JSON array and as lines, and what LEAP reads of it."""
    sys.path[:0] = [str(HERE.parents[2]), str(HERE.parents[1]), str(HERE.parent), str(HERE.parents[1] / "preparation")]
    from test_formats import WRITTEN
    from test_training_data import draw

    from leap.data.formats import SampleReader, format_named

    folder.mkdir(parents=True, exist_ok=True)
    draw(folder / "a.png")
    draw(folder / "b.png", 64, 120, seed=1)
    for name, written in WRITTEN.items():
        sample = written("a.png", "b.png")
        (folder / f"{name}.json").write_text(json.dumps([sample]))
        (folder / f"{name}.jsonl").write_text(json.dumps(sample) + "\n")
        found, _ = SampleReader(format_named(name)).read(sample)
        turns = [
            [one.role, "".join(getattr(part, "text", "<image>") for part in one.parts())] for one in found.messages
        ]
        read = {"turns": [*turns, ["assistant", found.target.steps]], "images": found.images()}
        (folder / f"leap-{name}.read").write_text(json.dumps(read))


def llamafactory(folder: Path, form: str) -> Read:
    """Its loader and converter, told of the columns as its dataset_info.json is."""
    from llamafactory.data.loader import _load_single_dataset
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.hparams import DataArguments, ModelArguments
    from transformers import Seq2SeqTrainingArguments

    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
            "system_tag": "system"}  # fmt: skip
    columns = {
        "alpaca": {"prompt": "instruction", "query": "input", "response": "output", "images": "images",
                   "system": "system", "history": "history"},
        "sharegpt": {"messages": "conversations", "images": "image", "system": "system"},
        "messages": {"messages": "messages", "images": "images"},
    }  # fmt: skip
    info = {"file_name": f"{form}.json", "formatting": "sharegpt", "columns": columns[form]}
    info |= {"alpaca": {"formatting": "alpaca"}, "messages": {"tags": tags}}.get(form, {})
    (attributes,) = get_dataset_list(["mine"], {"mine": info})
    data = DataArguments(dataset="mine", dataset_dir=str(folder), media_dir=str(folder))
    model = ModelArguments(model_name_or_path="none")
    row = _load_single_dataset(attributes, model, data, Seq2SeqTrainingArguments(str(folder / "out")))[0]
    turns = [[one["role"], one["content"]] for one in [*row["_prompt"], *row["_response"]]]
    return {"turns": [["system", row["_system"]], *turns], "images": row["_images"]}


def swift(folder: Path, form: str) -> Read:
    """Its data set loader, then what its templates are given."""
    from swift.dataset import load_dataset
    from swift.template.template_inputs import StdTemplateInputs

    dataset, _ = load_dataset([str(folder / f"{form}.jsonl")], strict=True)
    row = {name: value for name, value in dataset[0].items() if value is not None}
    found = StdTemplateInputs.from_dict(row)
    turns = [[one["role"], one["content"]] for one in found.messages]
    images = [one if isinstance(one, str) else one["path"] for one in found.images]
    return {"turns": [["system", found.system], *turns], "images": images}


def qwen_finetune(folder: Path, form: str) -> Read:
    """Its code for fine-tuning; it knows no system message, and takes white space from around marks."""
    from qwenvl.data.data_processor import _build_messages

    (sample,) = json.loads((folder / f"{form}.json").read_text())
    return _of_parts(_build_messages(sample, folder))


def u1(folder: Path, form: str) -> Read:
    """Its code for fine-tuning; a mark and the line breaks around it become Qwen's own tokens."""
    from src.dataset.data_utils import llava_to_openai

    (sample,) = json.loads((folder / f"{form}.json").read_text())
    turns = [
        [one["role"], one["content"].replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>")]
        for one in llava_to_openai(sample["conversations"])
    ]
    return {"turns": turns, "images": sample["image"]}


def qwen_vl_utils(folder: Path, form: str) -> Read:
    """Its reader of images in messages; the texts are the processor's. An image is known again by its shape."""
    from PIL import Image
    from qwen_vl_utils import process_vision_info

    (sample,) = json.loads((folder / f"{form}.json").read_text())
    read = _of_parts(sample["messages"])
    for message in sample["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else []:
            if "image" in part:
                part["image"] = str(folder / part["image"])
    shapes = {name: (image := Image.open(folder / name)).width > image.height for name in ("a.png", "b.png")}
    wide = {value: name for name, value in shapes.items()}
    loaded, _ = process_vision_info(sample["messages"])
    return {**read, "images": [wide[image.width > image.height] for image in loaded]}


def openai(folder: Path, form: str) -> Read:
    """The types of its client, against which the messages are validated."""
    from openai.types.chat import ChatCompletionContentPartParam, ChatCompletionMessageParam
    from pydantic import TypeAdapter

    (sample,) = json.loads((folder / f"{form}.json").read_text())
    for message in sample["messages"]:
        TypeAdapter(ChatCompletionMessageParam).validate_python(message)
        if isinstance(message["content"], list):  # which the former validates only when it is looked at
            TypeAdapter(list[ChatCompletionContentPartParam]).validate_python(message["content"])
    return _of_parts(sample["messages"])


def _of_parts(messages: list[dict[str, Any]]) -> Read:
    turns, images = [], []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        turns.append([message["role"], "".join(part.get("text", "<image>") for part in parts)])
        given = [part.get("image") or part["image_url"]["url"] for part in parts if part["type"] != "text"]
        images += given
    return {"turns": turns, "images": images}


TOOLS: dict[str, tuple[Callable[[Path, str], Read], str, str]] = {  # its reader, packages or commit, and forms
    "llamafactory": (llamafactory, "llamafactory transformers datasets", "messages sharegpt alpaca"),
    "swift": (swift, "ms-swift transformers datasets", "messages sharegpt alpaca openai qwen"),
    "qwen_finetune": (qwen_finetune, "QwenLM/Qwen3-VL@96588727", "sharegpt"),
    "2u1": (u1, "2U1/Qwen-VL-Series-Finetune@93fef862", "sharegpt"),
    "qwen_vl_utils": (qwen_vl_utils, "qwen-vl-utils", "qwen"),
    "openai": (openai, "openai", "openai"),
}


def read(tool: str, folder: Path) -> None:
    reader, named, forms = TOOLS[tool]
    found = {}
    for form in forms.split():
        try:
            found[form] = reader(folder, form)
        except (AssertionError, LookupError, TypeError, ValueError) as error:  # a refusal is a result, too
            found[form] = {"refused": f"{type(error).__name__}: {error}"[:300]}
    code = named if "@" in named else ", ".join(f"{package} {version(package)}" for package in named.split())
    (folder / f"{tool}.tool").write_text(json.dumps({"code": code, "read": found}))


def report(folder: Path) -> None:
    """For each tool and form: the same, or where they differ."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.tool")):
        stored = json.loads(path.read_text())
        forms = {form: compared(folder, form, one) for form, one in stored["read"].items()}
        found[path.stem] = {"code": stored["code"], "forms": forms}
    samples = {path.stem: json.loads(path.read_text())[0] for path in sorted(folder.glob("*.json"))}
    text = json.dumps({"samples": samples, "tools": found}, indent=1, ensure_ascii=False)
    (HERE / "READ_BY_OTHERS.json").write_text(text + "\n")
    print(json.dumps(found, indent=1))


def compared(folder: Path, form: str, theirs: Read) -> Any:
    ours = json.loads((folder / f"leap-{form}.read").read_text())
    if "refused" in theirs:
        return theirs
    theirs["images"] = [Path(name).name for name in theirs["images"]]
    if theirs == ours:
        return "same"
    lacking = [turn for turn in ours["turns"] if turn not in theirs["turns"]]
    return {"leap": lacking, "theirs": [turn for turn in theirs["turns"] if turn not in ours["turns"]],
            "images": "same" if theirs["images"] == ours["images"] else theirs["images"]}  # fmt: skip


if __name__ == "__main__":
    what, place = sys.argv[1], Path(sys.argv[2])
    {"write": write, "report": report}.get(what, lambda folder: read(what, folder))(place)
