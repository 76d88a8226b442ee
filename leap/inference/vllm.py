"""Inference by a vLLM server that LEAP starts, asked as any other server is."""

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from leap import provenance
from leap.errors import LeapError
from leap.inference.openai import Endpoint, OpenAiEngine
from leap.inference.protocol import Decoding, Request, Response
from leap.inference.vllm_server import VllmServer, VllmSettings, fit_requests
from leap.models.exchange import difference_beside_weights

_AHEAD = 1.25  # requests under way for each that is decoded: images of the next are prepared meanwhile
_TO_END = 15.0  # seconds in which a server that lost its connections has ended, if it is to end


class VllmEngine:
    """A server of its own for one model; its log is `log`.

    It is started with the first requests, and with room for them; others that need more start it anew.
    """

    def __init__(self, settings: VllmSettings, log: Path, python: str | None = None) -> None:
        self._settings, self._log, self._python = settings, log, python
        self._server: VllmServer | None = None
        self._running = settings  # what the server was started with
        self._names: dict[Path, str] = {}  # of the adapters that it has

    def describe(self) -> dict[str, Any]:
        return {
            "engine": "vllm",
            "dtype": self._settings.dtype,
            "device": provenance.device_name(self._settings.device),
            **self._describe_server(),
        }

    def _describe_server(self) -> dict[str, Any]:
        """Of several models, the command names the first: each model's manifest says its own path beside it."""
        described = self._server.describe() if self._server else {}
        if not self._settings.others:
            return described
        if self._server:
            described["server_started_with"] = described.pop("command")
        return {**described, "weights": str(self._settings.lora or self._settings.model)}

    def load(self, folder: Path, base: Path | None, expected: int = 0) -> str | None:
        """Onto the running server: an adapter that it has beside the first, or weights in the place of the others."""
        settings = self._settings
        if self._server is None:
            return "no vLLM server runs"
        own, own_base = settings.lora or settings.model, settings.lora and settings.model
        if reason := difference_beside_weights(own, own_base, folder, base):
            return reason
        if base:
            if folder not in self._names:
                return "the vLLM server was started without this adapter"
            self._settings = replace(settings, lora=folder)
            return None
        if not settings.exchanges:
            return "the vLLM server keeps its weights: its flags, quantization, or tied embeddings on a CPU"
        try:
            self._server.load(folder)
        except LeapError as error:
            return f"the vLLM server does not take its weights: {error}"
        self._settings = replace(settings, model=folder)
        return None

    def close(self) -> None:
        if self._server:
            self._server.close()

    def responses(self, requests: Sequence[Request], decoding: Decoding) -> Generator[Response, None, None]:
        """Answers as they come. Raises LeapError where the server does not start; it is ready when this returns."""
        return self._responses(self._ready(requests, decoding), requests, decoding) if requests else (_ for _ in ())

    def _ready(self, requests: Sequence[Request], decoding: Decoding) -> VllmServer:
        needed = fit_requests(self._settings, requests, decoding.max_new_tokens)
        if self._server and _holds(self._running, needed):
            return self._server
        self.close()
        self._names = needed.adapters()
        self._running, self._server = needed, VllmServer(needed, self._log, self._python)
        return self._server

    def endpoint(self, decoding: Decoding) -> Endpoint:
        """Where its server can be asked by others too, with room for requests that nobody knows yet."""
        return self._endpoint(self._ready([], decoding))

    def check(self) -> None:
        """Raises LeapError, with the reason from its log, if the server has ended."""
        if self._server:
            self._server.check()

    def _endpoint(self, server: VllmServer) -> Endpoint:
        return Endpoint(
            server.url,
            self._names[self._settings.lora] if self._settings.lora else self._settings.name,
            server.api_key,
            concurrency=int(self._settings.max_num_seqs * _AHEAD),
            timeout=3600.0,
            readable=self._settings.readable,
        )

    def _responses(
        self, server: VllmServer, requests: Sequence[Request], decoding: Decoding
    ) -> Generator[Response, None, None]:
        """A server that has ended is reported as such, with the reason from its log."""
        try:
            for response in OpenAiEngine(self._endpoint(server), self._settings.images).responses(requests, decoding):
                if response.error is not None:
                    server.check()
                yield response
        except LeapError:
            server.check(wait=_TO_END)
            raise


def _holds(running: VllmSettings, needed: VllmSettings) -> bool:
    return all(getattr(running, name) >= getattr(needed, name) for name in ("max_model_len", "images_per_prompt"))
