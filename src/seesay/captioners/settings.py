"""`ModelSettings`: which models generate captions, and where they run."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from seesay.errors import ConfigError


@dataclass(frozen=True)
class ModelSettings:
    """Everything that is needed to load a captioner, here or in another process; see `seesay.captioners.spec`.

    Attributes:
        models: a run folder, an exported folder, several runs that share a vocabulary, a model of the Hugging Face hub
            (`name` or `name@revision`) or a local folder in its format; with an endpoint, the server's model name.
        device: auto, cpu, cuda or mps; an exported folder runs on the CPU.
        precision: of a pretrained model: auto, float32, bfloat16, float16, int8 or int4.
        endpoint: base URL of an OpenAI-compatible server, such as `http://localhost:8000/v1`; empty: none.
        endpoint_key_file: file with the server's key; empty: the key is in an environment variable, or there is none.
        endpoint_price: prices of a million prompt and completion tokens, such as `0.15,0.6`; empty: unknown.
        endpoint_timeout: seconds that the server may take for one image.
        endpoint_image_size: longest side of the images that are sent, in pixels.
        endpoint_concurrency: number of requests in flight; 0: as many as the server's throughput allows.
        prompt: of a pretrained model or a server; empty: the model's default.
        language: of the captions, for a model with a prompt; empty: the model's.
        columns: columns of the input table by image name, variables of the prompt.
    """

    models: tuple[str, ...]
    device: str = "auto"
    precision: str = "auto"
    endpoint: str = field(default="", repr=False)  # may contain a password
    prompt: str = ""
    language: str = ""
    endpoint_key_file: str = ""
    endpoint_price: str = ""
    endpoint_timeout: float = 300.0
    endpoint_image_size: int = 1024
    endpoint_concurrency: int = 0
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False, compare=False)


def check_keywords(given: Iterable[str], known: Collection[str]) -> None:
    """Check the names of keyword arguments.

    Raises:
        ConfigError: a name is unknown, or that of a decoding option.
    """
    from seesay.config import DecodingOptions  # loads pydantic

    for name in given:
        if name not in known:
            of_search = name in DecodingOptions.model_fields
            advice = f"pass caption(..., options=DecodingOptions({name}=...)); " if of_search else ""
            raise ConfigError(f"unknown argument {name!r}; {advice}known are {', '.join(known)}")
