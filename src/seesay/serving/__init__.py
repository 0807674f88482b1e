"""A captioner as an HTTP service with a page to look through its eyes; the extra `serve` installs what it needs.

By role: `limits` (every bound, by name), `requests` (a request's options, validated), `uploads` (a request's body, read
within bounds), `batching` (what waits is worked on together), `service` (from uploads to captions), `answers` (captions
as JSON), `refusals` (every answer that is not one), `observing` (metrics and log lines), `pages` (the files of the
page), `app` (the routes), `server` (from start to a clean end).

`POST /v1/caption` · `GET /v1/models` · `GET /healthz` · `GET /readyz` · `GET /metrics` · `GET /openapi.json` · `GET /`
"""
