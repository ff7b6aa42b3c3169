"""Ask a Prefect server what its pages ask, again and again, and write down how long it takes.

    python benchmarks/page_latency.py http://127.0.0.1:4200/api latency.csv

One line a request: seconds since the epoch, the request, milliseconds, the HTTP status. A process
of its own, so that no work of the benchmark's own is measured with it. What the server asks for
stands in PREFECT_API_AUTH_STRING, as for Prefect's clients.
"""

import os
import sys
import time
from pathlib import Path

import httpx

SECONDS_BETWEEN = 1.0
PAGE = 200
"""Rows that the server gives at most for one request."""


def requests(client: httpx.Client) -> dict[str, tuple[str, dict]]:
    """Return what the pages of runs and of the newest run ask: path and body by name."""
    newest = {"limit": 1, "sort": "START_TIME_DESC"}
    runs = client.post("/flow_runs/filter", json=newest).json()
    asked = {"runs": ("/flow_runs/filter", {"limit": PAGE, "sort": "START_TIME_DESC"})}
    if runs:
        run = {"flow_runs": {"id": {"any_": [runs[0]["id"]]}}}
        asked["task runs"] = ("/task_runs/filter", {**run, "limit": PAGE})
        asked["graph"] = (f"/flow_runs/{runs[0]['id']}/graph-v2", {})
        asked["artifacts"] = ("/artifacts/filter", {**run, "limit": PAGE})
    return asked


def main() -> None:
    """Ask until killed."""
    api, file = sys.argv[1], Path(sys.argv[2])
    name, _, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    auth = (name, password) if name else None
    asking = httpx.Client(base_url=api, auth=auth, trust_env=False, timeout=60)
    with asking as client, file.open("a") as out:
        while True:
            try:
                asked = requests(client)
            except (httpx.HTTPError, ValueError):
                time.sleep(SECONDS_BETWEEN)
                continue
            for name, (path, body) in asked.items():
                began = time.monotonic()
                try:
                    get = name == "graph"
                    status = (client.get(path) if get else client.post(path, json=body)).status_code
                except httpx.HTTPError as error:
                    status = type(error).__name__
                taken = 1000 * (time.monotonic() - began)
                out.write(f"{time.time():.1f},{name},{taken:.0f},{status}\n")
            out.flush()
            time.sleep(SECONDS_BETWEEN)


if __name__ == "__main__":
    main()
