"""An echo on the library `websockets`. It knows nothing of releases, and leaves SIGTERM to Python."""

import asyncio
import http
import json
import os

from websockets.asyncio.server import serve

WHERE = {"version": os.environ.get("VERSION", ""), "pod": os.environ.get("HOSTNAME", "")}


def health(connection, request):
    if request.path == "/healthz":
        return connection.respond(http.HTTPStatus.OK, "OK\n")
    return None


async def echo(socket):
    await socket.send(json.dumps({"hello": WHERE}))
    async for message in socket:
        await socket.send(json.dumps({"text": message, **WHERE}))


async def main():
    port = int(os.environ.get("PORT", "8080"))
    async with serve(echo, "0.0.0.0", port, process_request=health) as server:
        await server.serve_forever()


asyncio.run(main())
