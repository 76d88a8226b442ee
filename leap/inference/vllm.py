"""Inference by a vLLM server that LEAP starts, asked as any other server is."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from leap import provenance
from leap.errors import LeapError
from leap.inference.openai import Endpoint, OpenAiEngine
from leap.inference.protocol import Answer, Decoding, Request
from leap.inference.vllm_server import MODEL_NAME, VllmServer, VllmSettings

_AHEAD = 1.25  # requests under way for each that is decoded: pictures of the next are prepared meanwhile
_TO_END = 15.0  # seconds in which a server that lost its connections has ended, if it is to end


class VllmEngine:
    """A server of its own for one model; its log is `log`. Raises LeapError where it does not start."""

    def __init__(self, settings: VllmSettings, log: Path, python: str | None = None) -> None:
        self._settings = settings
        self._server = VllmServer(settings, log, python)
        concurrency = int(settings.max_num_seqs * _AHEAD)
        endpoint = Endpoint(
            self._server.url,
            MODEL_NAME,
            self._server.api_key,
            concurrency,
            timeout=3600.0,
            readable=settings.readable,
        )
        self._client = OpenAiEngine(endpoint, settings.pictures)

    def describe(self) -> dict[str, Any]:
        return {
            "engine": "vllm",
            "dtype": self._settings.dtype,
            "device": provenance.device_name(self._settings.device),
            **self._server.describe(),
        }

    def close(self) -> None:
        self._server.close()

    def answers(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[Answer]:
        """Answers as they come. A server that has ended is told as such, with the reason from its log."""
        try:
            for answer in self._client.answers(requests, decoding):
                if answer.error is not None:
                    self._server.check()
                yield answer
        except LeapError:
            self._server.check(wait=_TO_END)
            raise
