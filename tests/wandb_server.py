"""A stand-in for W&B's server on the loopback, for tests of what a run says online and of a server that goes away.

It answers the handful of requests that wandb 0.31 makes of a run, keeps the rows it is sent, and knows which runs
exist.
It is not W&B's server: what that one would make of the same requests is not tested here.
"""

import gzip
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer:
    """Listens on a free port until `close`; a context manager.

    Attributes:
        url: for WANDB_BASE_URL.
        rows: run id -> step -> history row, as uploaded. configs: run id -> configuration.
        asked: names of the GraphQL requests. uploads: paths of the files that were uploaded.
    """

    def __init__(self) -> None:
        self.rows: dict[str, dict[int, dict[str, Any]]] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.uploads: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Nothing."""

            def do_POST(self) -> None:
                body = self._body()
                if self.path == "/graphql":
                    self._answer(server.graphql(json.loads(body)))
                elif self.path.endswith("/file_stream"):
                    server.stream(self.path.split("/")[-2], json.loads(body))
                    self._answer({})
                else:
                    self._answer({})

            def do_PUT(self) -> None:
                self._body()
                server.uploads.append(self.path)
                self._answer({})

            def _body(self) -> bytes:
                data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

            def _answer(self, value: Any) -> None:
                data = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """A client that hung up is no error here."""

        self._http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def __enter__(self) -> "WandbServer":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Go away: connections are refused from now on."""
        self._http.shutdown()
        self._http.server_close()

    def stream(self, run_id: str, sent: dict[str, Any]) -> None:
        """Keep the history rows among what a run streams."""
        for line in sent.get("files", {}).get("wandb-history.jsonl", {}).get("content", []):
            row = json.loads(line)
            self.rows.setdefault(run_id, {})[row["_step"]] = row

    def graphql(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one GraphQL request."""
        found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
        name, values = (found[1] if found else ""), request.get("variables") or {}
        self.asked.append(name)
        project = {"id": "p", "name": values.get("project") or "vivo", "entity": {"id": "e", "name": "someone"}}
        if name == "Viewer":
            viewer = {"id": "v", "entity": "someone", "username": "someone", "email": "", "flags": "{}"}
            return {"data": {"viewer": viewer | {"teams": {"edges": []}}}}
        if name == "RunResumeStatus":
            rows = self.rows.get(values["name"])
            if not rows:
                return {"data": {"model": None}}
            last = rows[max(rows)]
            bucket = {
                "id": "b", "name": values["name"], "summaryMetrics": json.dumps(last), "displayName": "tags run",
                "logLineCount": 0, "historyLineCount": len(rows), "eventsLineCount": 0,
                "historyTail": json.dumps([json.dumps(last)]), "eventsTail": "[]", "config": "{}", "tags": [],
                "notes": "", "wandbConfig": "{}",
            }  # fmt: skip
            return {"data": {"model": project | {"bucket": bucket}}}
        if name == "UpsertBucket":
            run_id = values.get("name") or ""
            if values.get("config"):
                self.configs.setdefault(run_id, {}).update(json.loads(values["config"]))
            bucket = {
                "id": "b", "name": run_id, "displayName": values.get("displayName") or "", "description": "",
                "config": "{}", "sweepName": None, "project": project, "historyLineCount": 0,
            }  # fmt: skip
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": run_id not in self.rows}}}
        if name == "CreateRunFiles":
            files = [{"name": n, "uploadUrl": f"{self.url}/upload/{n}"} for n in values["files"]]
            return {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}}
        return {"data": {}}
