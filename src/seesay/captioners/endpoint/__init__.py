"""Captions by a model server that speaks the OpenAI chat-completions protocol.

`captioner` is the interface to the rest of seesay, `protocol` maps options and responses, `client` sends requests with
retries, `concurrency` chooses how many are in flight, and `address` holds the URL and the credentials.
"""

from seesay.captioners.endpoint.captioner import EndpointCaptioner

__all__ = ["EndpointCaptioner"]
