"""A vLLM server that LEAP starts for one model folder, in vLLM's own Python environment, and ends again.

Images are prepared by several API server processes ahead of the GPU, and what prompts share is computed once.
"""

import contextlib
import functools
import http.client
import json
import os
import re
import secrets
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

from leap.data.image import ImageEncoder, ImageSize
from leap.errors import LeapError
from leap.hardware import ALLOCATOR, SEGMENTS, usable_cores
from leap.inference.protocol import Request
from leap.models.checkpoints import ADAPTER, read_adapter, read_config
from leap.models.exchange import difference_beside_weights, tensor_shapes
from leap.models.families import family
from leap.records.files import write_atomic
from leap.redaction import hide, keep_hidden
from leap.supervise import exit_reason, start

MODEL_NAME = "leap"  # what requests call the served model, an adapter on its base included
MAX_MODEL_LEN, IMAGES_PER_PROMPT = 8192, 16  # enough for the evaluation's requests without few-shot examples
INTERPRETER = "LEAP_VLLM_PYTHON"
_HOW = f"make one with scripts/utils/make_vllm_environment.sh and name its python with --vllm_python or {INTERPRETER}"
_PARALLEL = r"--(tensor|data|pipeline)[-_]parallel[-_]size|-(tp|dp|pp)\b"  # vLLM's flags that share a model out
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM has kernels for
_GUARD = Path(__file__).parent / "beside_vllm"
_DECIDES_WEIGHTS = re.compile(r"-q|--(quantization|load-format|hf-|spec|.*lora|model-|config)")
_LOADING = 1200.0  # seconds that other weights may take
_PROBE = """
import importlib.metadata, json
from vllm import __version__
from vllm.platforms import current_platform
importlib.metadata.version("vllm")
print(json.dumps({"version": __version__, "device": current_platform.device_type or "none"}))
"""


@dataclass(frozen=True)
class VllmSettings:
    """What a server is started with. `device` is "cuda", "cuda:N" (among the visible ones) or "cpu"."""

    model: Path
    images: ImageSize
    device: str = "cuda"
    dtype: str = "bfloat16"
    max_model_len: int | None = None  # tokens of prompt and answer; vLLM refuses longer requests
    max_num_seqs: int = 256  # sequences decoded together; memory for them is taken as they grow
    gpu_memory_utilization: float = 0.9
    images_per_prompt: int | None = None
    readable: Path | None = None  # a folder whose images the server may read itself
    api_servers: int | None = None  # processes that prepare requests; None: from the CPU cores
    lora: Path | None = None  # an adapter on `model`
    others: tuple[Path, ...] = ()  # folders of models that the same will be asked of, adapters where this is one
    name: str = MODEL_NAME  # what requests call the model
    gpus: int = 1  # the first of the visible ones; tensor parallel, unless `extra` says otherwise
    seed: int = 0
    extra: tuple[str, ...] = ()  # vLLM's own flags; they win over those above

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"

    @property
    def exchanges(self) -> bool:
        """Whether the server will be given other weights: not where flags of vLLM's own, or a quantization that the
        model names, may mean these alone."""
        own = (word.replace("_", "-") for word in self.extra)
        if not self.others or self.lora or any(map(_DECIDES_WEIGHTS.match, own)):
            return False
        config = read_config(self.model)
        parts = [part for part in (config, config.get("text_config")) if isinstance(part, dict)]
        if any(part.get("quantization_config") for part in parts):
            return False
        # vLLM's CPU build (0.32) computes logits with a packed copy of tied embeddings, which it does not pack again.
        # A head that is stored all the same is not read where the configuration ties it.
        return not self.on_cpu or all(part.get("tie_word_embeddings") is False for part in parts)

    def adapters(self) -> dict[Path, str]:
        """What requests call each adapter that the server has: `lora`, and the others that differ in weights alone."""
        if self.lora is None:
            return {}
        beside = [other for other in self.others if other != self.lora and _fits(self.lora, other)]
        return {path: f"{self.name}-{index}" if index else self.name for index, path in enumerate([self.lora, *beside])}


@dataclass(frozen=True)
class Interpreter:
    """A Python that has vLLM, and the kind of device ("cuda", "cpu", ...) which its vLLM is built for and sees."""

    path: str
    version: str
    device: str


def _interpreter_path(wanted: str | None) -> str:
    path = wanted or os.environ.get(INTERPRETER) or (sys.executable if find_spec("vllm") else None)
    if path is None:
        raise LeapError(f"vLLM needs a Python environment of its own: {_HOW}")
    return path


def find_interpreter(wanted: str | None = None) -> Interpreter:
    """`wanted`, else $LEAP_VLLM_PYTHON, else the running Python. Raises LeapError where it cannot import vLLM."""
    return _ask(_interpreter_path(wanted))


@functools.cache  # importing vLLM takes many seconds, and one command may start several servers
def _ask(path: str) -> Interpreter:
    try:
        probe = subprocess.run([path, "-c", _PROBE], capture_output=True, text=True, check=False, env=_environment())
    except OSError as error:
        raise LeapError(f"{path}: cannot be run as vLLM's Python ({error.strerror}); {_HOW}") from error
    if probe.returncode != 0:
        reason = _last_line(probe.stderr) or exit_reason(probe.returncode)
        raise LeapError(f"{path}: vLLM cannot be imported there ({reason}); {_HOW}")
    return Interpreter(path, **json.loads(_last_line(probe.stdout)))


def api_servers(cores: int) -> int:
    """Processes that prepare requests, each one at a time: an example of two 960x960 PNG takes some 0.1 s. vLLM 0.24's
    share one socket, and get uneven parts of a burst. On H200s four made 18.7 examples/s over 320 examples, eight 19.8
    over as many and 30.1 over 1,280, where the limit is 39. The other cores are the GPU's and the caller's."""
    return max(1, min(8, cores // 2))


def build_command(
    python: str, settings: VllmSettings, port: int, image_pixels: Mapping[str, int], cores: int
) -> list[str]:
    """The command line of the server. `image_pixels` are the bounds on an image's area, as processors name them."""
    flags: dict[str, Any] = {
        "--host": "127.0.0.1",
        "--port": port,
        "--seed": settings.seed,
        **_limits(settings, image_pixels),
        "--max-num-seqs": settings.max_num_seqs,
        "--api-server-count": settings.api_servers or api_servers(cores),
        "--mm-processor-cache-gb": 0,  # images hardly repeat, and several API servers would each keep their own
    }
    if not settings.on_cpu:
        flags["--gpu-memory-utilization"] = settings.gpu_memory_utilization
    if settings.readable is not None:
        flags["--allowed-local-media-path"] = settings.readable.resolve()
    switches = ["--enable-prefix-caching", "--disable-uvicorn-access-log"]
    switches += ["--enforce-eager"] if settings.on_cpu else []
    if settings.gpus > 1 and not any(re.match(_PARALLEL, word) for word in settings.extra):
        switches += ["--tensor-parallel-size", str(settings.gpus)]
    switches += ["--middleware", "vllm_key.EveryAddressWantsTheKey"] if settings.exchanges else []
    command = [python, "-m", "vllm.entrypoints.cli.main", "serve", str(settings.model.resolve())]
    command += [word for name, value in flags.items() for word in (name, str(value))]
    return [*command, *switches, *_names(settings), *settings.extra]


def _limits(settings: VllmSettings, image_pixels: Mapping[str, int] | None) -> dict[str, Any]:
    """What decides the answers of a server: LEAP's own, and one that a user starts."""
    sizes = {"--mm-processor-kwargs": json.dumps({"size": dict(image_pixels)})} if image_pixels else {}
    return {
        "--dtype": settings.dtype,
        "--max-model-len": settings.max_model_len or MAX_MODEL_LEN,
        "--generation-config": "vllm",  # a checkpoint's own sampling settings must not reach an evaluation
        "--limit-mm-per-prompt": json.dumps({"image": settings.images_per_prompt or IMAGES_PER_PROMPT, "video": 0}),
        **sizes,
    }


def serve_command(settings: VllmSettings, model: str) -> str:
    """The `vllm serve` line that answers as LEAP's own server does, for a person to type.

    `model` is what it is called there: a path, or a name on the hub. Raises LeapError for a rank above vLLM's.
    """
    from leap.models.loading import load_processor

    processor, context = load_processor(settings.model), _context_length(settings.model) or MAX_MODEL_LEN
    pixels = ImageEncoder(processor, settings.images).size if ImageEncoder.encodes(processor) else None
    limits = _limits(replace(settings, max_model_len=min(MAX_MODEL_LEN, context)), pixels)
    words = [str(word) for flag in limits.items() for word in flag]
    return shlex.join(["vllm", "serve", model, *words, *_names(settings)])


def _names(settings: VllmSettings) -> list[str]:
    """Flags that give the model, or the adapter on it, its name in requests."""
    if settings.lora is None:
        return ["--served-model-name", settings.name]
    adapter = settings.lora.resolve()
    rank = _lora_rank(adapter)
    names = ["--served-model-name", f"{settings.name}-base", "--lora-modules"]
    names += [f"{name}={path.resolve()}" for path, name in settings.adapters().items()]
    names += ["--enable-lora", "--max-lora-rank", str(rank)]
    return [*names, "--enable-tower-connector-lora"] if _changes_images(adapter, settings.model) else names


def _fits(adapter: Path, other: Path) -> bool:
    """Whether a server of the one can have the other; a broken one is told of when its turn comes."""
    try:
        return difference_beside_weights(adapter, adapter, other, adapter) is None
    except LeapError:
        return False


def _changes_images(adapter: Path, model: Path) -> bool:
    """Whether an adapter has weights beside the LLM's. Unless vLLM is told, it answers without them."""
    components = family(read_config(model).get("model_type") or "").prefixes.items()
    others = tuple(prefix for prefix, component in components if component != "llm")
    return any(name.partition("base_model.model.")[2].startswith(others) for name in tensor_shapes(adapter) or ())


def _lora_rank(adapter: Path) -> int:
    """The smallest rank vLLM offers that holds the adapter's."""
    path, settings = adapter / ADAPTER, read_adapter(adapter)
    if settings.get("r") is None:
        raise LeapError(f"{path}: it does not say the adapter's rank (r); restore the file")
    if settings.get("use_dora"):
        raise LeapError(f"{path}: vLLM serves no DoRA adapters; merge it (export_model.py), or use --engine hf")
    ranks = [settings["r"], *(settings.get("rank_pattern") or {}).values()]
    fitting = [rank for rank in _LORA_RANKS if rank >= max(ranks)]
    if not fitting:
        raise LeapError(f"{path}: rank {max(ranks)} is above vLLM's {_LORA_RANKS[-1]}; merge the adapter or use hf")
    return fitting[0]


def _environment(settings: VllmSettings | None = None) -> dict[str, str]:
    """This process's environment with what the server needs: offline, silent, one device."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if environment.get(ALLOCATOR) == SEGMENTS:  # LEAP's setting for its own process; vLLM has an allocator of its own
        del environment[ALLOCATOR]
    if settings is None:
        return environment
    if settings.exchanges:
        paths = [str(_GUARD), *filter(None, [environment.get("PYTHONPATH")])]
        environment |= {"VLLM_SERVER_DEV_MODE": "1", "PYTHONPATH": os.pathsep.join(paths)}
    if settings.on_cpu:
        environment["TORCH_COMPILE_DISABLE"] = "1"
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        return environment
    index = int(settings.device.partition(":")[2] or 0)
    visible = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device.strip()]
    if visible and index + settings.gpus > len(visible):
        raise LeapError(f"--device {settings.device}: CUDA_VISIBLE_DEVICES shows {len(visible)} devices")
    shown = visible or list(map(str, range(index + settings.gpus)))
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(shown[index : index + settings.gpus])
    return environment


class VllmServer:
    """A running server: OpenAI's protocol at `url`, with `api_key`, for the model of the settings' name.

    Starting takes half a minute to several minutes. It ends with close(), with the `with` block, and with this process
    however that ends. Raises LeapError, with the reason and the log's path, where the server does not start.
    """

    def __init__(
        self, settings: VllmSettings, log: Path, python: str | None = None, start_timeout: float = 1200.0
    ) -> None:
        path = _interpreter_path(python)
        self.log = log
        # vLLM shares its port with whoever binds it likewise: the key keeps two servers' requests apart all the same.
        self.api_key = secrets.token_hex(16)
        keep_hidden(self.api_key)
        port = self._port = _free_port()
        self.url = f"http://127.0.0.1:{port}/v1"
        pixels = _image_pixels(settings)
        self._command = build_command(path, settings, port, pixels, usable_cores())
        self._process = _start(self._command, _environment(settings) | {"VLLM_API_KEY": self.api_key}, log)
        try:
            self._interpreter = find_interpreter(path)  # imports vLLM for many seconds: while the server does as well
            self._check_device(settings)
            print(f"a vLLM server starts, which takes a minute or more: {log}", file=sys.stderr, flush=True)
            self._wait_until_healthy(port, start_timeout)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "VllmServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def describe(self) -> dict[str, Any]:
        """For the manifest: vLLM's version and the command that runs it."""
        return {"vllm": self._interpreter.version, "command": shlex.join(self._command)}

    def load(self, folder: Path) -> None:
        """Take the weights of another model that differs in them alone, and forget what the old ones made of prompts.

        Raises LeapError where this vLLM does not; the server is of no use then.
        """
        self._post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder.resolve())}})
        for cache in ("prefix", "encoder"):
            if '"success":false' in self._post(f"/reset_{cache}_cache"):
                raise LeapError(f"its {cache} cache is still in use")

    def _post(self, path: str, body: Mapping[str, Any] | None = None) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_LOADING)
        try:
            connection.request("POST", path, json.dumps(body or {}), {"Authorization": f"Bearer {self.api_key}"})
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise LeapError(f"{path}: {error or type(error).__name__}") from error
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise LeapError(f"{path} answered {response.status}")
        return text.replace(" ", "")

    def check(self, wait: float = 0.0) -> None:
        """Raises LeapError, with the reason from its log, if the server has ended or ends within `wait` seconds.

        A request that finds no connection is refused some seconds before the last of the server's processes has ended.
        """
        try:
            code = self._process.wait(wait)
        except subprocess.TimeoutExpired:
            return
        raise LeapError(f"the vLLM server ended: {_log_reason(self.log, code)}; its log is {self.log}")

    def close(self) -> None:
        """End the server and all that it started; harmless when called again."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()  # tells the supervisor, which ends the group
        self._process.wait()
        _hide_secrets(self.log)

    def _check_device(self, settings: VllmSettings) -> None:
        kind = settings.device.partition(":")[0]
        if kind != self._interpreter.device:
            raise LeapError(
                f"--device {settings.device}: the vLLM of {self._interpreter.path} runs on {self._interpreter.device}; "
                "choose that device, or the Python of another vLLM"
            )

    def _wait_until_healthy(self, port: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not _healthy(port):
            self.check()
            if time.monotonic() > deadline:
                last = _last_line(_tail(self.log))
                raise LeapError(f"the vLLM server was not ready after {timeout:.0f} s ({last}); its log is {self.log}")
            time.sleep(0.5)


def fit_requests(settings: VllmSettings, requests: Sequence[Request], new_tokens: int) -> VllmSettings:
    """The settings with room for these requests and as many new tokens each, where the settings leave that open.

    Raises LeapError for a request that is longer than the model's context, which vLLM would only say in its log.
    """
    from leap.inference.request_size import largest_request

    largest = largest_request(requests, *_processor_and_encoder(settings))
    needed, context = largest.tokens + new_tokens, _context_length(settings.model)
    own = settings.max_model_len or any(re.match("--max[-_]model[-_]len", word) for word in settings.extra)
    if context and needed > context and not own:
        raise LeapError(
            f"{settings.model}: the longest request takes {needed} tokens with its answer, and this model's context is "
            f"{context}; ask with fewer few-shot examples (--few_shot_num) or smaller images (--image_tokens_max)"
        )
    # vLLM may cut an image into a row or a column more, and its chat template may differ by a few tokens.
    room = max(MAX_MODEL_LEN, needed + 64 * (1 + largest.images))
    return replace(
        settings,
        max_model_len=settings.max_model_len or min(room, context or room),
        images_per_prompt=settings.images_per_prompt or max(IMAGES_PER_PROMPT, largest.images),
    )


def _context_length(model: Path) -> int | None:
    """How many tokens a model reads at most, by its config; None where that does not say, or is stretched."""
    config = read_config(model)
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    stretched = any("factor" in (text.get(name) or {}) for name in ("rope_scaling", "rope_parameters"))
    length = text.get("max_position_embeddings")
    return length if isinstance(length, int) and not stretched else None


def _processor_and_encoder(settings: VllmSettings) -> tuple[Any, ImageEncoder]:
    from leap.models.loading import load_processor

    processor = load_processor(settings.model)
    if not ImageEncoder.encodes(processor):
        raise LeapError(
            f"{settings.model}: --engine vllm knows the image sizes of Qwen's families only; use --engine hf, or "
            "start a server for it yourself and use --engine openai"
        )
    return processor, ImageEncoder(processor, settings.images)


def _image_pixels(settings: VllmSettings) -> dict[str, int]:
    return _processor_and_encoder(settings)[1].size


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _start(command: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """The command under a supervisor that ends it when this process ends."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        file.write(hide(f"{shlex.join(command)}\n").encode())
        file.flush()
        return start(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment)


def _hide_secrets(log: Path) -> None:
    """vLLM writes into its log what flags it was given, a token among them."""
    text = log.read_text(errors="surrogateescape")
    if (hidden := hide(text)) != text:
        write_atomic(log, hidden.encode(errors="surrogateescape"))


def _healthy(port: int) -> bool:
    """Asked directly, since a proxy that the environment names has no place between two local processes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


_PREFIX = re.compile(r"^(\([^)]*pid=\d+\) )?((DEBUG|INFO|WARNING|ERROR) [\d-]+ [\d:]+ \[[^\]]*\] ?)?")
_REASON = re.compile(r"^([\w.]*(Error|Exception|Interrupt)\b.*|.*\berror: .+)")
_CONSEQUENCE = re.compile(r"See root cause above|initialization failed")


def _log_reason(log: Path, code: int) -> str:
    """The error in a log: its last one that is not another's consequence, else its last line."""
    lines = [_PREFIX.sub("", line).strip() for line in _tail(log).splitlines()[1:]]
    errors = [_whole(line, following) for line, following in pairwise([*lines, ""]) if _REASON.match(line)]
    causes = [line for line in errors if not _CONSEQUENCE.search(line)]
    last = [line for line in lines if line]
    return next((line[-1] for line in (causes, errors, last) if line), "it wrote nothing") + f" ({exit_reason(code)})"


def _whole(error: str, following: str) -> str:
    """pydantic says what is wrong on the line after the error's name."""
    return f"{error}: {following}"[:400] if "validation error" in error else error


def _tail(log: Path, size: int = 200_000) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - size))
        return file.read().decode(errors="replace")


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
