"""Caption an image in OpenAI's chat-completions protocol, with OpenAI's own client.

`python examples/openai_client.py photo.jpg --url http://127.0.0.1:8000/v1` works with `seesay serve` and with other
servers of the protocol (vLLM, Ollama, llama.cpp). The key is read from OPENAI_API_KEY.
"""

import argparse
import base64
import mimetypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openai import OpenAI


def data_url(image: Path) -> str:
    """Return the content of an image file as a data URL: the service fetches no other URLs."""
    kind = mimetypes.guess_type(image.name)[0] or "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(image.read_bytes()).decode()}"


def caption(client: OpenAI, model: str, image: Path, prompt: str) -> str:
    """Return the caption of an image.

    Args:
        client: the client.
        model: a name of `client.models.list()`.
        image: an image file.
        prompt: read by models that take one; others ignore it.
    """
    content: Any = [
        {"type": "text", "text": prompt},
        {"type": "image_url", "image_url": {"url": data_url(image)}},
    ]
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}])
    return answer.choices[0].message.content or ""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", default="", help="default: the first model of the server")
    parser.add_argument("--prompt", default="Describe the image in one sentence.")
    options = parser.parse_args(arguments)
    with OpenAI(base_url=options.url, api_key=os.environ.get("OPENAI_API_KEY", "none")) as client:
        model = options.model or client.models.list().data[0].id
        for image in options.images:
            print(f"{image}\t{caption(client, model, image, options.prompt)}")


if __name__ == "__main__":
    main()
