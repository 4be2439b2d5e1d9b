"""An echo service with `websockets`, nothing of wsroll: server.py PORT"""
import asyncio
import json
import sys

from websockets.asyncio.server import serve


def say(**event):
    print(json.dumps(event), flush=True)


async def echo(socket):
    try:
        async for message in socket:
            await socket.send(message)
    finally:
        await socket.wait_closed()
        say(event="ended", code=socket.close_code)


async def main(port):
    async with serve(echo, "127.0.0.1", port, subprotocols=["chat.v2"], max_size=1 << 26) as server:
        say(event="ready")
        await server.serve_forever()


asyncio.run(main(int(sys.argv[1])))
