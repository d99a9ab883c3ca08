"""Serve a causal language model with the API of OpenAI on this machine while a command runs.

python examples/serve_model.py MODEL PORT COMMAND …

It answers /v1/chat/completions, greedily, several requests at a time. It is for the examples and small models; use vLLM
or `transformers serve` for others.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MOST_AT_ONCE = 32
GATHERING_SECONDS = 0.01
"""How long the first request of a batch waits for others."""
MOST_TOKENS = 64


@dataclass
class Request:
    """A conversation that waits for its answer."""

    prompt: list[int]
    answer: Future[list[int]] = field(default_factory=Future)


class Model:
    """A language model that answers in batches, on a thread of its own."""

    def __init__(self, directory: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)
        self.tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
        self._model = AutoModelForCausalLM.from_pretrained(directory).eval()
        self._waiting: queue.Queue[Request] = queue.Queue()
        threading.Thread(target=self._run, daemon=True).start()

    def answer(self, messages: list[dict[str, Any]]) -> tuple[list[int], list[int]]:
        """The tokens of a prompt and of its answer."""
        prompt = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        request = Request(prompt)
        self._waiting.put(request)
        return prompt, request.answer.result()

    def _run(self) -> None:
        while True:
            batch = [self._waiting.get()]
            time.sleep(GATHERING_SECONDS)
            while len(batch) < MOST_AT_ONCE and not self._waiting.empty():
                batch.append(self._waiting.get())
            for request, tokens in zip(batch, self._generated([one.prompt for one in batch]), strict=True):
                request.answer.set_result(tokens)

    def _generated(self, prompts: list[list[int]]) -> list[list[int]]:
        import torch

        inputs = self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
        with torch.inference_mode():
            found = self._model.generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False)
        end = self.tokenizer.eos_token_id
        answers = [tokens.tolist() for tokens in found[:, inputs["input_ids"].shape[1] :]]
        return [answer[: answer.index(end) + 1] if end in answer else answer for answer in answers]


def completion(model: Model, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The body of a response."""
    prompt, tokens = model.answer(messages)
    whole = tokens[-1:] == [model.tokenizer.eos_token_id]
    content = model.tokenizer.decode(tokens, skip_special_tokens=True)
    return {
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop" if whole else "length",
                "message": {"role": "assistant", "content": content},
            }
        ],
        "usage": {
            "prompt_tokens": len(prompt),
            "completion_tokens": len(tokens),
            "total_tokens": len(prompt) + len(tokens),
        },
    }


def serve(model: Model, port: int) -> ThreadingHTTPServer:
    """Start to serve on loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = self.path == "/v1/chat/completions"
            body = completion(model, asked["messages"]) if known else {"error": {"message": "no such path"}}
            data = json.dumps(body).encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    server = Server(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main(arguments: Sequence[str]) -> int:
    """Serve a model while a command runs; returns the exit code of the command."""
    directory, port, *command = arguments
    server = serve(Model(Path(directory)), int(port))
    process = subprocess.Popen(command)
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # The command gets Ctrl-C too, and ends by itself.
    finally:
        server.shutdown()


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
