"""What evaluation_throughput.py runs in vLLM's environment: its offline class, as its documentation uses it.

    VLLM_PYTHON benchmarks/vllm_chat.py JOB.json FOUND.json

All conversations are given to `LLM.chat` at once, after some to warm up. LEAP is neither imported nor needed.
"""

import json
import sys
import time
from pathlib import Path

STARTED = time.perf_counter()


def main() -> None:
    from vllm import LLM, SamplingParams, __version__

    job = json.loads(Path(sys.argv[1]).read_text())
    model = LLM(**job["options"])
    sampling = SamplingParams(temperature=0.0, max_tokens=job["max_tokens"], min_tokens=job["min_tokens"])
    if job["warm_up"]:
        model.chat(job["conversations"][: job["warm_up"]], sampling)
    begin = time.perf_counter()
    outputs = model.chat(job["conversations"][job["warm_up"] :], sampling)
    end = time.perf_counter()
    found = {
        "version": __version__,
        "start_up_seconds": begin - STARTED,
        "seconds": end - begin,
        "texts": [output.outputs[0].text for output in outputs],
        "prompt_tokens": [len(output.prompt_token_ids) for output in outputs],
        "new_tokens": [len(output.outputs[0].token_ids) for output in outputs],
    }
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
