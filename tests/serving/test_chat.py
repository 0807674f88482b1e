"""The chat-completions protocol, with the client of OpenAI."""

import base64
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from seesay.captioners.caption import Caption, CaptionSettings
from seesay.captioners.prompts import PromptTemplate
from seesay.captioners.trained import TrainedCaptioner
from seesay.config import DecodingOptions
from seesay.images.loading import ImageInput, read_image
from seesay.serving import limits
from tests.captioners.scripted import ScriptedCaptioner, caption
from tests.serving.conftest import Start
from tests.serving.servers import PATIENCE, Running, encoded, upload


class EchoCaptioner(ScriptedCaptioner):
    """A captioner whose captions state the prompt."""

    def __init__(self) -> None:
        super().__init__({}, "own")

    @property
    def name(self) -> str:
        return "echo"

    def load_inputs(self, image: ImageInput, prompt: str = "") -> Any:
        return np.asarray(read_image(image)), PromptTemplate(prompt or "own").render(image)

    def encode(self, inputs: Sequence[Any]) -> Any:
        return [prompt for _, prompt in inputs]

    def generate(self, encoded: Any, names: Sequence[str] | None, settings: CaptionSettings) -> list[Caption]:
        return [caption(f"The prompt is {prompt!r}.") for prompt in encoded]


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def messages(url: str) -> Any:
    text = {"type": "text", "text": "Describe the image."}
    return [
        {"role": "system", "content": "You write captions."},
        {"role": "user", "content": [text, {"type": "image_url", "image_url": {"url": url}}]},
    ]


def client_of(server: Running, key: str = "unused") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, timeout=PATIENCE, max_retries=0)


@pytest.fixture
def client(shared: Running) -> Iterator[openai.OpenAI]:
    with client_of(shared) as found:
        yield found


@pytest.fixture
def model(client: openai.OpenAI) -> str:
    (found,) = client.models.list().data
    assert (found.object, found.owned_by) == ("model", "seesay")
    return found.id


def image(seed: int) -> Image.Image:
    import io

    return Image.open(io.BytesIO(encoded(seed)))


@pytest.mark.parametrize(
    ("sent", "options"),
    [
        ({}, None),
        ({"temperature": 0}, DecodingOptions()),
        ({"temperature": 0.7, "seed": 5}, {"strategy": "sample", "temperature": 0.7, "sampling_seed": 5}),
        ({"top_p": 0.5, "seed": 1}, {"strategy": "sample", "top_p": 0.5, "sampling_seed": 1}),
        ({"max_tokens": 2}, {"max_length": 2}),
        ({"max_completion_tokens": 3, "max_tokens": 2}, {"max_length": 3}),
        ({"extra_body": {"strategy": "beam", "beam_size": 4}}, {"strategy": "beam", "beam_size": 4}),
        ({"temperature": 1.0, "top_p": 1.0, "seed": 2, "user": "x"}, {"strategy": "sample", "sampling_seed": 2}),
    ],
)
def test_a_caption_is_that_of_the_captioner(
    client: openai.OpenAI, model: str, captioner: TrainedCaptioner, sent: dict[str, Any], options: Any
) -> None:
    chosen = DecodingOptions(**options) if isinstance(options, dict) else options
    answer = client.chat.completions.create(model=model, messages=messages(data_url(encoded(3))), **sent)
    (choice,) = answer.choices
    if chosen is None or chosen.strategy != "sample":  # samples are seeded by the pixels, whose name differs
        assert choice.message.content == captioner.caption(image(3), chosen).text
    again = client.chat.completions.create(model=model, messages=messages(data_url(encoded(3))), **sent)
    assert again.choices[0].message.content == choice.message.content
    assert choice.message.role == "assistant"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.completion_tokens > 0
    assert answer.model == model


def test_several_captions_with_log_probabilities(
    client: openai.OpenAI, model: str, captioner: TrainedCaptioner
) -> None:
    answer = client.chat.completions.create(
        model=model,
        messages=messages(data_url(encoded(4))),
        n=3,
        logprobs=True,
        top_logprobs=2,
        extra_body={"strategy": "beam", "beam_size": 3},
    )
    options = DecodingOptions(strategy="beam", beam_size=3, num_return_sequences=3)
    wanted = captioner.caption(image(4), options, top_tokens=2)
    assert [choice.message.content for choice in answer.choices] == [
        wanted.text,
        *(other.text for other in wanted.alternatives),
    ]
    scores = answer.choices[0].logprobs
    assert scores is not None
    assert scores.content is not None
    assert [each.token for each in scores.content] == list(wanted.words)
    assert [each.logprob for each in scores.content] == pytest.approx(wanted.log_probs, abs=1e-4)
    assert all(len(each.top_logprobs) == 2 for each in scores.content)


def test_a_cut_caption_says_so(client: openai.OpenAI, model: str, captioner: TrainedCaptioner) -> None:
    cut = captioner.caption(image(3), DecodingOptions(max_length=1))
    answer = client.chat.completions.create(model=model, messages=messages(data_url(encoded(3))), max_tokens=1)
    assert answer.choices[0].finish_reason == ("stop" if cut.finished else "length")


def test_streaming_gives_the_same_caption(client: openai.OpenAI, model: str) -> None:
    sent: dict[str, Any] = {"model": model, "messages": messages(data_url(encoded(5)))}
    whole = client.chat.completions.create(**sent)
    chunks = list(client.chat.completions.create(**sent, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"model": "gpt-5"}, 404, "the model 'gpt-5' is not served"),
        ({"messages": [{"role": "user", "content": "hello"}]}, 400, "no image; send a content part"),
        ({"messages": messages("http://127.0.0.1/a.png")}, 400, "must be a data URL"),
        ({"messages": messages("data:image/png;base64,@@@")}, 400, "not valid base64"),
        ({"messages": messages(data_url(b"nothing"))}, 422, "image"),
        ({"messages": []}, 400, "messages: "),
        ({"temperature": 9}, 400, "temperature: "),
        ({"n": limits.MAX_CAPTIONS + 1}, 400, "n: "),
        ({"extra_body": {"tools": [{"type": "function"}]}}, 422, "tools is not supported"),
        ({"extra_body": {"beam_size": 4}}, 422, "beam"),
        ({"temperature": 0.5, "extra_body": {"strategy": "beam"}}, 422, "temperature"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    client: openai.OpenAI, model: str, change: dict[str, Any], status: int, message: str
) -> None:
    sent = {"model": model, "messages": messages(data_url(encoded(1))), **change}
    with pytest.raises(openai.APIStatusError) as error:
        client.chat.completions.create(**sent)
    assert error.value.status_code == status
    assert message in error.value.message
    assert "\n" not in error.value.message


def test_the_last_of_several_images_is_captioned(
    client: openai.OpenAI, model: str, captioner: TrainedCaptioner
) -> None:
    both = [*messages(data_url(encoded(1))), *messages(data_url(encoded(2)))]
    answer = client.chat.completions.create(model=model, messages=both)
    assert answer.choices[0].message.content == captioner.caption(image(2)).text


def test_the_key_is_that_of_the_service(start: Start) -> None:
    server = start(api_key="sesame")
    with client_of(server, "wrong") as wrong, pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    with client_of(server, "sesame") as good:
        (model,) = good.models.list().data
        assert good.chat.completions.create(model=model.id, messages=messages(data_url(encoded(1)))).choices


def test_a_body_that_is_not_json_is_refused(shared: Running) -> None:
    with shared.client() as client:
        answer = client.post("/v1/chat/completions", content=b"{")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")


PROMPTS = [
    ("Describe {stem}.", "Be brief.\nDescribe {stem}."),
    ("  ", "Be brief."),
    ("refused", "own"),
]


@pytest.mark.parametrize(("sent", "used"), PROMPTS)
def test_the_text_of_messages_is_the_prompt_of_models_that_take_it(start: Start, sent: str, used: str) -> None:
    captioner = EchoCaptioner()
    server = start(served=captioner)
    system = [] if sent == "refused" else [{"role": "system", "content": "Be brief."}]
    earlier = [{"role": "user", "content": None}, {"role": "assistant", "content": "A dog."}]
    parts = [{"type": "text", "text": sent}, {"type": "image_url", "image_url": {"url": data_url(encoded(3))}}]
    conversation: Any = [*system, *earlier, {"role": "user", "content": parts}]
    with client_of(server) as client:
        answer = client.chat.completions.create(model=captioner.name, messages=conversation)
    assert answer.choices[0].message.content == f"The prompt is {used!r}."


def test_the_prompt_is_a_field_of_the_form(start: Start) -> None:
    server = start(served=EchoCaptioner())
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        reply = client.post("/v1/caption", **upload(encoded(3), prompt="Name {it}.")).json()
        refused = client.post("/v1/caption", **upload(encoded(3), prompt="refused"))
    assert reply["results"][0]["captions"][0]["text"] == "The prompt is 'Name {it}.'."
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "invalid_options")


def test_a_prompt_for_a_model_without_one_is_refused(shared: Running) -> None:
    with httpx.Client(base_url=shared.url, timeout=PATIENCE) as client:
        refused = client.post("/v1/caption", **upload(encoded(3), prompt="Describe it."))
    assert refused.status_code == 422
    assert "takes no prompt" in refused.json()["error"]["message"]
