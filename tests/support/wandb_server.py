"""A server of Weights & Biases on this machine, which keeps the histories of runs."""

import gzip
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, cast


class Server(ThreadingHTTPServer):
    """The server, with what it has received."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.histories: dict[str, list[dict[str, Any]]] = {}  # id of a run -> its history
        self.uploads: set[str] = set()  # names of files

    @property
    def environment(self) -> dict[str, str]:
        """Returns the environment in which Weights & Biases finds this server and is logged in."""
        address = f"http://127.0.0.1:{self.server_port}"
        return {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40}

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Returns the answer to a GraphQL operation; {} for one that a run does not need."""
        name = variables.get("name") or ""
        if operation == "UpsertBucket":
            history = self.histories.setdefault(name, [])
            entity = {"id": "1", "name": "somebody"}
            project = {"id": "2", "name": variables["project"], "entity": entity}
            bucket = {"id": "3", "name": name, "project": project, "historyLineCount": len(history)}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if operation == "Viewer":
            return {"viewer": {"id": "4", "entity": "somebody", "username": "somebody"}}
        if operation == "RunResumeStatus":
            return {"model": {"id": "2", "name": "aevb", "bucket": self._resumption(name)}}
        if operation == "CreateRunFiles":
            address = self.environment["WANDB_BASE_URL"]
            files = [
                {"name": it, "uploadUrl": f"{address}/upload/{it}"} for it in variables["files"]
            ]
            return {"createRunFiles": {"runID": "3", "uploadHeaders": [], "files": files}}
        return {}

    def _resumption(self, name: str) -> dict[str, Any] | None:
        if name not in self.histories:
            return None
        history = self.histories[name]
        return {
            "id": "3", "name": name, "summaryMetrics": "{}", "logLineCount": 0,
            "historyLineCount": len(history), "eventsLineCount": 0, "eventsTail": "[]",
            "historyTail": json.dumps([json.dumps(line) for line in history[-1:]]),
            "config": "{}", "tags": [], "wandbConfig": '{"t": 1}',
        }  # fmt: skip

    def receive(self, name: str, files: dict[str, Any]) -> None:
        """Writes lines of a run's history from the offset that the request has."""
        if chunk := files.get("wandb-history.jsonl"):
            history = self.histories[name]
            lines = [json.loads(line) for line in chunk["content"]]
            history[chunk["offset"] : chunk["offset"] + len(lines)] = lines


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server, body = cast(Server, self.server), json.loads(self._body())
        if self.path == "/graphql":
            found = re.search(r"(?:query|mutation)\s+(\w+)", body["query"])
            operation = found.group(1) if found else ""
            self._answer({"data": server.answer(operation, body.get("variables") or {})})
        else:  # /files/ENTITY/PROJECT/RUN/file_stream
            server.receive(self.path.split("/")[-2], body.get("files") or {})
            self._answer({})

    def do_PUT(self) -> None:
        self._body()
        cast(Server, self.server).uploads.add(self.path.removeprefix("/upload/"))
        self._answer({})

    def log_message(self, format: str, *args: object) -> None:
        """Prints nothing."""

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _answer(self, content: dict[str, Any]) -> None:
        answer = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@contextmanager
def serving() -> Iterator[Server]:
    """Yields a server that runs in a thread."""
    with Server() as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
