"""Sessions with `websockets`: client.py URL SESSIONS. What happens to them is told in lines of JSON."""
import asyncio
import json
import os
import random
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake


def say(**event):
    print(json.dumps(event), flush=True)


async def echo(socket, data):
    await socket.send(data)
    answer = await socket.recv()
    assert answer == data, "the echo differs"


async def check(socket):
    await echo(socket, "text: žluťoučký kůň")
    await echo(socket, bytes([0, 1, 2, 254, 255]))
    await echo(socket, b"large message " * (1 << 16))
    await echo(socket, "")
    assert "permessage-deflate" in socket.response.headers["Sec-WebSocket-Extensions"]
    assert socket.subprotocol == "chat.v2"
    await asyncio.wait_for(await socket.ping(b"are you there"), 10)
    say(event="checked")


async def visit(url, session, turn):
    url = f"{url}/chat?session=python-{session}"
    try:
        socket = await connect(url, subprotocols=["chat.v1", "chat.v2"], max_size=1 << 26, proxy=None)
    except (InvalidHandshake, OSError, EOFError):
        return  # refused while nobody is there: tried again
    if session == 0 and turn == 0:
        await check(socket)
    try:
        await echo(socket, f"hello from {session}")
        say(event="open", session=session)
        while True:
            await echo(socket, f"still {session}")
            await asyncio.sleep(0.1)
    except ConnectionClosed:
        # 1006 stands for a socket that was cut.
        say(event="closed", session=session, code=socket.close_code)


async def live(url, session):
    turn = 0
    while True:
        await visit(url, session, turn)
        turn += 1
        await asyncio.sleep(0.05 + random.random() * 0.2)


async def main(url, sessions):
    async with asyncio.TaskGroup() as group:
        for session in range(sessions):
            group.create_task(live(url, session))


try:
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
except BaseException as error:
    say(event="error", error=repr(error))
    os._exit(1)
