"""An HTTP service with a web UI that shows attention maps; install the extra `serve`.

Modules: `limits` (all limits), `requests` (validation of a request's options), `uploads` (bounded reading of a body),
`batching` (dynamic batching), `service` (uploads to captions), `schemas` (captions as JSON), `errors` (error
responses), `telemetry` (metrics and logs), `static` (files of the web UI), `openapi` (API description), `app`
(routes), `server` (start and graceful shutdown).

`POST /v1/caption` · `GET /v1/models` · `GET /healthz` · `GET /readyz` · `GET /metrics` · `GET /openapi.json` · `GET /`
"""
