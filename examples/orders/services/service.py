"""Put a participant behind HTTP: keys, ledger, attempts, faults, and a clean start and stop.

| call | answer |
|---|---|
| `POST /<operation>` with `Idempotency-Key` | 200 applied, 422 refused, 409 conflict or voided, 400 or 413 malformed |
| `POST /void` with `Idempotency-Key`, body `{"key": ...}` | 200 applied, tombstone or unneeded; 422 cannot be undone |
| `GET /operations/<key>` | 200 the outcome under the key, 404 if there is none |
| `GET /log` (`?outcome=all`, `&after=N`, `&limit=N`) | the effects, or every entry; at most N, after a place |
| `GET /attempts` | every call that was received, duplicates and probes included |
| `POST /faults`, `GET /faults`, `DELETE /faults` | see `faults`; for one call: header `Fault: <kind>[=<ms>]` |

The reply to an operation is its ledger entry. State, ledger and attempts are used on the event loop's thread only, and
without an `await` between deciding and recording, so calls cannot interleave.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path

import uvicorn
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from services.faults import Fault, FaultKind, Faults
from services.ledger import VOID, Entry, KeyConflict, Ledger, Outcome, Participant, Voided
from services.line_log import LineLog, LineLogError
from services.values import Body, Key

__all__ = ["Service", "arguments", "serve"]

MAX_BODY_BYTES = 65_536
FIND = "find"
KEY: TypeAdapter[str] = TypeAdapter(Key)


class VoidRequest(Body):
    """Body of `POST /void`: the key of the operation to undo."""

    key: Key


class BadRequest(Exception):  # noqa: N818 - an answer
    """The call cannot be understood; nothing happened."""


class _Unanswered(Response):
    """Closes the connection instead of replying."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        scope["state"]["transport"].close()
        while (await receive())["type"] != "http.disconnect":
            pass


class _Protocol(H11Protocol):
    """Hands its connection to the application, which could not leave a call unanswered otherwise."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


class Service:
    """The HTTP side of one participant.

    Args:
        participant: The business, in its initial state.
        data: Folder of `books.db`, `ledger.jsonl` and `attempts.jsonl`; one process at a time.
        faults: Faults that are on from the start.

    Attributes:
        ledger: The decision under each key.
        app: The ASGI application.

    Raises:
        LineLogError: A file is in use or damaged.
    """

    def __init__(self, participant: Participant, data: Path, faults: Iterable[Fault] = ()) -> None:
        self._participant = participant
        self.ledger = Ledger(LineLog(data / "ledger.jsonl"), participant)
        self._attempts = LineLog(data / "attempts.jsonl")
        self._faults = Faults(faults)
        self._switched_off = asyncio.Event()
        self._models: dict[str, type[BaseModel]] = {**participant.operations, VOID: VoidRequest}
        self.app = Starlette(
            routes=[
                *(Route(f"/{op}", self._operation, methods=["POST"], name=op) for op in self._models),
                Route("/operations/{key:path}", self._find),
                Route("/log", self._log),
                Route("/attempts", self._attempts_so_far),
                Route("/faults", self._faults_now, methods=["GET", "POST", "DELETE"]),
                Route(f"/{participant.view}", self._state),
            ],
            exception_handlers={
                BadRequest: _answer(HTTPStatus.BAD_REQUEST, "bad request"),
                KeyConflict: _answer(HTTPStatus.CONFLICT, "conflict"),
                Voided: _answer(HTTPStatus.CONFLICT, "voided"),
                LineLogError: _answer(HTTPStatus.INTERNAL_SERVER_ERROR, "storage"),
            },
        )

    async def _operation(self, request: Request) -> Response:
        op = request.url.path[1:]
        key = request.headers.get("idempotency-key")
        body = await request.body()
        fault = self._received(op, key, request, body)
        if (early := await self._before(fault)) is not None:
            return early
        if key is None:
            raise BadRequest("the header Idempotency-Key is missing: give each operation a key of its own")
        if len(body) > MAX_BODY_BYTES:
            return _error(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too large", f"{len(body)} bytes, at most {MAX_BODY_BYTES}"
            )
        checked = _checked(self._models[op], body, key)
        if isinstance(checked, VoidRequest):
            entry = self.ledger.void(key, checked.key)
        else:
            entry = self.ledger.perform(op, key, checked)
        return await self._after(fault, _reply(entry))

    async def _find(self, request: Request) -> Response:
        key: str = request.path_params["key"]
        fault = self._received(FIND, key, request, b"")
        if (early := await self._before(fault)) is not None:
            return early
        entry, voided_by = self.ledger.find(key), self.ledger.voided_by(key)
        if entry is not None:
            found = {**entry.model_dump(mode="json", exclude_none=True), "voided_by": voided_by}
            return await self._after(fault, JSONResponse(found))
        if voided_by is not None:
            return await self._after(fault, JSONResponse({"key": key, "outcome": "voided", "voided_by": voided_by}))
        return await self._after(
            fault, _error(HTTPStatus.NOT_FOUND, "not found", f"nothing happened under key {key!r}")
        )

    async def _log(self, request: Request) -> Response:
        everything = request.query_params.get("outcome") == "all"
        later = self.ledger.entries[_count(request, "after") or 0 :]
        chosen = [entry for entry in later if everything or entry.outcome is Outcome.APPLIED]
        page = chosen[: _count(request, "limit")]
        return JSONResponse([entry.model_dump(mode="json", exclude_none=True) for entry in page])

    async def _attempts_so_far(self, _request: Request) -> Response:
        return Response(f"[{','.join(self._attempts.lines)}]", media_type="application/json")

    async def _state(self, _request: Request) -> Response:
        return JSONResponse(self._participant.snapshot())

    async def _faults_now(self, request: Request) -> Response:
        if request.method == "POST":
            try:
                self._faults.add(Fault.model_validate_json(await request.body()))
            except ValidationError as error:
                raise BadRequest(_explained(error)) from error
        elif request.method == "DELETE":
            self._faults.clear()
            self._switched_off.set()
            self._switched_off = asyncio.Event()
        return JSONResponse([fault.model_dump(mode="json", exclude_none=True) for fault in self._faults.pending()])

    async def _before(self, fault: Fault | None) -> Response | None:
        """Fail before the operation; None if it continues."""
        match fault and fault.kind:
            case FaultKind.UNAVAILABLE:
                return _error(
                    HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "switched off on purpose; nothing happened"
                )
            case FaultKind.DELAY_BEFORE if fault is not None:
                await self._delay(fault.delay_ms)
        return None

    async def _after(self, fault: Fault | None, reply: Response) -> Response:
        """Fail with a final reply, whose entry is on disk."""
        match fault and fault.kind:
            case FaultKind.LOSE_REPLY:
                return _Unanswered()
            case FaultKind.GATEWAY_TIMEOUT:
                return _error(HTTPStatus.GATEWAY_TIMEOUT, "timeout", "the reply was lost on purpose")
            case FaultKind.CRASH:
                os.kill(os.getpid(), signal.SIGKILL)
            case FaultKind.DELAY_AFTER if fault is not None:
                await self._delay(fault.delay_ms)
        return reply

    async def _delay(self, delay_ms: int) -> None:
        """Wait that long, or until the faults are switched off."""
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_ms / 1000):
                await self._switched_off.wait()

    def _received(self, op: str, key: str | None, request: Request, body: bytes) -> Fault | None:
        """Record the call before its fault, and return the fault."""
        wanted = request.headers.get("fault")
        fault = self._faults.take(op, key) if wanted is None else _fault_of(wanted)
        attempt = {
            "sequence": len(self._attempts.lines) + 1,
            "op": op,
            "key": key,
            "fault": fault and fault.kind,
            "body": body[:MAX_BODY_BYTES].decode(errors="replace"),
        }
        self._attempts.append(json.dumps(attempt))
        return fault


def _count(request: Request, name: str) -> int | None:
    """Read a number from 0 from the query; `None` if it is absent."""
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise BadRequest(f"{name}: {text!r:.20} is not a whole number from 0")
    return int(text)


def _fault_of(header: str) -> Fault:
    kind, _, delay = header.partition("=")
    try:
        return Fault.model_validate({"kind": kind, "delay_ms": int(delay or 0)})
    except ValueError as error:
        raise BadRequest(f"header Fault: {header!r} is not <kind> or <kind>=<milliseconds>") from error


def _fault_option(text: str) -> Fault:
    try:
        return Fault.model_validate_json(text)
    except ValidationError as error:
        raise argparse.ArgumentTypeError(_explained(error)) from error


def _checked(model: type[BaseModel], body: bytes, key: str) -> BaseModel:
    try:
        KEY.validate_python(key)
        return model.model_validate_json(body)
    except ValidationError as error:
        raise BadRequest(_explained(error)) from error


def _explained(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "key or body"
    return f"{where}: {first['msg']}, got {first['input']!r:.100}"


def _reply(entry: Entry) -> Response:
    status = HTTPStatus.UNPROCESSABLE_ENTITY if entry.outcome is Outcome.REFUSED else HTTPStatus.OK
    return JSONResponse(entry.model_dump(mode="json", exclude_none=True), status)


def _error(status: HTTPStatus, error: str, reason: str) -> Response:
    return JSONResponse({"error": error, "reason": reason}, status)


def _answer(status: HTTPStatus, error: str) -> Callable[[Request, Exception], Response]:
    return lambda _request, raised: _error(status, error, str(raised))


def arguments(description: str) -> argparse.ArgumentParser:
    """The command line that every service has; a service adds its own options to it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the ledger")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument(
        "--fault",
        type=_fault_option,
        action="append",
        default=[],
        metavar="JSON",
        help="a fault, as in POST /faults",
    )
    parser.add_argument("--follow-stdin", action="store_true", help="stop when standard input is closed")
    return parser


def serve(
    participant: Participant, options: argparse.Namespace, prepare: Callable[[Ledger], None] = lambda _: None
) -> None:
    """Serve until SIGTERM or SIGINT; the first line on stdout is `listening on http://127.0.0.1:PORT`.

    Args:
        participant: The business, in its initial state.
        options: As parsed by `arguments`.
        prepare: Called once with the ledger before the first call is taken.

    Raises:
        SystemExit: It could not be started; one line on stderr names the reason.
    """
    try:
        service = Service(participant, options.data, options.fault)
        prepare(service.ledger)
        listener = socket.create_server(("127.0.0.1", options.port))
    except (OSError, LineLogError, KeyConflict) as error:
        raise SystemExit(f"{participant.name}: {error}") from error
    config = uvicorn.Config(
        service.app, http=_Protocol, ws="none", lifespan="off", log_level="warning", timeout_graceful_shutdown=2
    )
    _Server(config, follow_stdin=options.follow_stdin).run([listener])


class _Server(uvicorn.Server):
    """Stops with exit code 0 when it is asked to; uvicorn's own handlers raise the signal again after the shutdown.

    Args:
        config: uvicorn's.
        follow_stdin: Whether the end of standard input is such a request.
    """

    def __init__(self, config: uvicorn.Config, *, follow_stdin: bool) -> None:
        super().__init__(config)
        self._follow_stdin = follow_stdin

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Heed requests to stop; uvicorn calls this around its work."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        if self._follow_stdin:
            loop.add_reader(sys.stdin.fileno(), self._read_stdin)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Print the address once the service accepts calls and heeds signals."""
        await super().startup(sockets)
        for listener in sockets or []:
            print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)

    def _stop(self) -> None:
        self.should_exit = True

    def _read_stdin(self) -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self._stop()
