"""A chat room whose members come back where they left: history is numbered, and a client says what it has.

ws://HOST:8080/ws?sid=NAME[&last=N][&wsroll=1]
"""

import asyncio
import json
import os
import pathlib
import secrets
import signal
from collections import deque
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from drain import Drain

REVISION = os.environ.get("WSROLL_REVISION", "dev")
history = {}  # sid -> the last 100; in memory, so it dies with the pod: a real service keeps it in a store


def secret(variable, default):
    file = pathlib.Path(os.environ.get(variable, default))
    return file.read_text() if file.exists() else ""


token = secret("WSROLL_TOKEN_FILE", "/var/run/wsroll/token")
drain = Drain(token, secret("WSROLL_IDENTITY_KEY_FILE", "/var/run/wsroll/identity-key"), REVISION)
tasks = set()


def start(coroutine):
    """A task that nobody waits for; the set keeps it alive."""
    task = asyncio.get_running_loop().create_task(coroutine)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def quietly(coroutine):
    try:
        await coroutine
    except ConnectionClosed:
        pass


async def chat(socket):
    query = {name: values[0] for name, values in parse_qs(urlsplit(socket.request.path).query).items()}
    sid, last = query.get("sid") or secrets.token_hex(8), int(query.get("last") or 0)
    known, log = sid in history, history.setdefault(sid, deque(maxlen=100))
    session = drain.add(
        sid, query.get("wsroll") == "1",
        send=lambda text: start(quietly(socket.send(text))),
        close=lambda code, reason: start(socket.close(code, reason)),
        resume={"token": sid, "expiresMs": 900_000}, resumed=known if last else None)
    try:
        await socket.send(json.dumps({"type": "welcome", "session": sid, "resumed": known, "revision": REVISION}))
        for said in [said for said in log if said["seq"] > last]:
            await socket.send(json.dumps({"type": "message", **said}))
        async for text in socket:
            message = json.loads(text)
            if message.get("type") == "wsroll.ack":
                drain.ack(session, message.get("id"))
            elif message.get("type") == "say" and not any(said["id"] == message.get("id") for said in log):
                seq = log[-1]["seq"] + 1 if log else 1
                log.append({"seq": seq, "id": message.get("id"), "text": str(message.get("text"))})
                await socket.send(json.dumps({"type": "message", **log[-1]}))
    except (ConnectionClosed, ValueError):
        pass
    finally:
        drain.remove(session, socket.close_code or 1006)


async def main():
    stop = asyncio.Event()
    # wsroll deletes a pod when it is empty, so this is for everybody else: an ordinary deploy, a node that goes.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    if token:  # without one nobody may give orders: the port is not served
        start(drain.serve(int(os.environ.get("WSROLL_PORT", "9911"))))
    async with serve(chat, "0.0.0.0", int(os.environ.get("PORT", "8080")), max_size=16 * 1024):
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main())
