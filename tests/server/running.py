"""A real server in a thread of the test, on a tiny model, and clients of it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import torch
import uvicorn

from dpg_fast import PersonalityModel
from dpg_fast.server.app import HTTPSettings
from dpg_fast.server.engine import EngineLimits
from dpg_fast.server.run import RunningServer, ServeOptions
from dpg_fast.serving.admission import read_request
from dpg_fast.text.prompting import chat_prompt

KEY = "not-needed-but-sent"


@dataclass
class Running:
    """A server that answers at an address."""

    served: RunningServer
    model: PersonalityModel
    tokenizer: Any
    url: str

    def client(self, **more: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, **more)

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0)

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60, **more)

    def idle(self) -> bool:
        """Whether nothing runs any more, within some seconds."""
        end = time.monotonic() + 10
        while len(self.served.engine) and time.monotonic() < end:
            time.sleep(0.01)
        return not len(self.served.engine)


@contextmanager
def running(model: PersonalityModel, tokenizer: Any, **more: Any) -> Iterator[Running]:
    """A server with small limits."""
    more.setdefault("limits", EngineLimits(running=32, waiting=32, step_tokens=128, cache_tokens=8192))
    more.setdefault("settings", HTTPSettings(body=20_000))
    served = RunningServer(model, tokenizer, ServeOptions("tiny", **more), lambda: None)  # type: ignore[arg-type,return-value]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(served.app, log_level="error", access_log=False, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.005)
            yield Running(served, model, tokenizer, f"http://127.0.0.1:{listening.getsockname()[1]}")
        finally:
            server.should_exit = True
            thread.join(20)
            served.stop()
            assert not thread.is_alive()


def alone(held: Running, text: str, personality: Any, new: int) -> str:
    """What the model itself answers to a user's text; while no request runs."""
    prompt = chat_prompt(held.tokenizer, [{"role": "user", "content": text}])
    ids = torch.tensor([held.tokenizer(prompt, add_special_tokens=False)["input_ids"]])
    output = held.model.generate(ids, personality=read_request(personality), max_new_tokens=new, do_sample=False)
    new_ids = output[0, ids.shape[1] :]
    answer: str = held.tokenizer.decode(new_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return answer
