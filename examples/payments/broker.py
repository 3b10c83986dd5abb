"""Run a NATS server on this machine, with the stream that the payment provider publishes to.

Run: `python broker.py --data DIR`. The first line of output is `listening on nats://127.0.0.1:PORT`. The server stops
with SIGTERM or Ctrl-C, and its stream stays in the folder.
"""

import argparse
import asyncio
import json
import signal
import sys
import sysconfig
from pathlib import Path

import nats
from nats.js.api import StreamConfig
from payments import STREAM, SUBJECTS

__all__ = ["serve"]

START_S = 30
STEP_S = 0.02


async def serve(data: Path, port: int, *, follow_stdin: bool) -> None:
    """Run the server until a request to stop.

    Args:
        data: Folder of the stream and of the log.
        port: Port on 127.0.0.1; 0 takes a free one.
        follow_stdin: Whether the end of standard input is such a request.

    Raises:
        SystemExit: The server did not start, or ended; one line on stderr names the log.
    """
    settings = _write_settings(data, port)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if follow_stdin:
        loop.add_reader(sys.stdin.fileno(), stop.set)
    program = Path(sysconfig.get_path("scripts")) / "nats-server"
    with (data / "server.log").open("ab") as log:
        # A session of its own, so that Ctrl-C reaches it through this process.
        server = await asyncio.create_subprocess_exec(
            program, "-c", settings, stdout=log, stderr=log, start_new_session=True
        )
    ended = asyncio.ensure_future(server.wait())
    stopped = asyncio.ensure_future(stop.wait())
    try:
        url = await _url(data / f"nats-server_{server.pid}.ports", ended)
        await _create_stream(url)
        print(f"listening on {url}", flush=True)
        await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            raise SystemExit(f"broker: the NATS server has ended; see {data / 'server.log'}")
    finally:
        stopped.cancel()
        if not ended.done():
            server.terminate()
            await ended


def _write_settings(data: Path, port: int) -> Path:
    data.mkdir(parents=True, exist_ok=True)
    settings = data / "server.conf"
    settings.write_text(
        f"listen: 127.0.0.1:{port or -1}\n"
        f"ports_file_dir: {json.dumps(str(data))}\n"
        f"jetstream {{ store_dir: {json.dumps(str(data / 'streams'))}, max_file_store: 1GB }}\n"
    )
    return settings


async def _url(ports: Path, ended: "asyncio.Future[int]") -> str:
    """Wait until the server has written its address."""
    for _ in range(int(START_S / STEP_S)):
        if ended.done():
            break
        if (url := _read_url(ports)) is not None:
            return url
        await asyncio.sleep(STEP_S)
    raise SystemExit(f"broker: the NATS server has not started; see {ports.parent / 'server.log'}")


def _read_url(ports: Path) -> str | None:
    try:
        return str(json.loads(ports.read_text())["nats"][0])
    except (FileNotFoundError, ValueError):
        return None


async def _create_stream(url: str) -> None:
    client = await nats.connect(url)
    await client.jetstream().add_stream(StreamConfig(name=STREAM, subjects=[SUBJECTS]))
    await client.close()


def main() -> None:
    """Read the command line, and serve."""
    parser = argparse.ArgumentParser(description="Run a NATS server with the stream of the payments.")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the stream")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--follow-stdin", action="store_true", help="stop when standard input is closed")
    options = parser.parse_args()
    asyncio.run(serve(options.data, options.port, follow_stdin=options.follow_stdin))


if __name__ == "__main__":
    main()
