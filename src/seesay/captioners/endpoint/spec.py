"""The fields of `seesay.captioners.spec.ModelSpec` that an endpoint captioner reads."""

from typing import Protocol


class EndpointSpec(Protocol):
    """The model of a server, and how it is used."""

    @property
    def models(self) -> tuple[str, ...]:
        """The server's name of the model, or none."""
        ...

    @property
    def device(self) -> str:
        """Must be auto."""
        ...

    @property
    def precision(self) -> str:
        """Must be auto."""
        ...

    @property
    def endpoint(self) -> str:
        """Base URL of the server; may contain credentials."""
        ...

    @property
    def prompt(self) -> str:
        """The prompt; empty: the default."""
        ...

    @property
    def language(self) -> str:
        """Of the captions; empty: the model's."""
        ...

    @property
    def endpoint_key_file(self) -> str:
        """File with the key; empty: from the environment."""
        ...

    @property
    def endpoint_price(self) -> str:
        """Prices of a million prompt and completion tokens; empty: unknown."""
        ...

    @property
    def endpoint_timeout(self) -> float:
        """Seconds that a response may take."""
        ...

    @property
    def endpoint_image_size(self) -> int:
        """Longest side of the images that are sent, in pixels."""
        ...
