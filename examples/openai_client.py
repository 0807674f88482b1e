"""Caption images in OpenAI's chat-completions protocol, with OpenAI's own client: `pip install openai`.

`python examples/openai_client.py photo.jpg --url http://127.0.0.1:8000/v1` works with `seesay serve` and with other
servers of the protocol (vLLM, Ollama, llama.cpp). The key is read from OPENAI_API_KEY. Images that cannot be captioned,
and a server that fails, are reported on standard error with a line each, and the exit code is then 1.
"""

import argparse
import base64
import mimetypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openai import APIStatusError, AuthenticationError, NotFoundError, OpenAI, OpenAIError


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


def caption_all(client: OpenAI, model: str, images: Sequence[Path], prompt: str) -> bool:
    """Print the caption of each image, or why it has none; return whether each has one.

    Raises:
        OpenAIError: the server cannot be reached, refuses the key, or lacks the model.
    """
    complete = True
    for image in images:
        try:
            print(f"{image}\t{caption(client, model, image, prompt)}")
        except (AuthenticationError, NotFoundError):
            raise
        except APIStatusError as error:
            complete = False
            print(f"{image}: {message(error)}", file=sys.stderr)
        except OSError as error:
            complete = False
            print(f"{image}: {error.strerror}", file=sys.stderr)
    return complete


def message(error: OpenAIError) -> str:
    """Return the server's message, else that of the client."""
    body = getattr(error, "body", None)
    return str(body["message"]) if isinstance(body, dict) and "message" in body else str(error)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", default="", help="default: the first model of the server")
    parser.add_argument("--prompt", default="Describe the image in one sentence.")
    options = parser.parse_args(arguments)
    try:
        # The client itself repeats a request while the server is busy.
        with OpenAI(base_url=options.url, api_key=os.environ.get("OPENAI_API_KEY", "none")) as client:
            model = options.model or client.models.list().data[0].id
            return 0 if caption_all(client, model, options.images, options.prompt) else 1
    except OpenAIError as error:
        print(f"{options.url}: {message(error)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
