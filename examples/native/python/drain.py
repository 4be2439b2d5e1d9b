"""The drain protocol, version 1: one order at a time, paced, with a lease. Copy this file; server.py shows its use."""

import asyncio
import hashlib
import hmac
import json
import math
import random
import re
import secrets
import time
from collections import Counter, deque

MAX_BODY, MAX_HEAD, KEPT_EVENTS, PAGE, TICK = 64 * 1024, 16 * 1024, 10_000, 1_000, 0.02
PATH = re.compile(r"/wsroll/v1/(sessions|events|drain)(?:/([^/]+))?")
STATUS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed",
          409: "Conflict", 413: "Content Too Large", 500: "Internal Server Error"}


class Session:
    """One open socket. `send(text)` and `close(code, reason)` must not block."""

    def __init__(self, identity, declared, resume, send, close):
        self.identity, self.declared, self.resume, self.send, self.close = identity, declared, resume, send, close
        self.since, self.order, self.told, self.acked, self.forced = time.monotonic(), None, False, False, False


class Order:
    """A running order: what was asked for, and how far it is."""

    def __init__(self, asked, waiting, now):
        self.waiting, self.eligible = deque(waiting), len(waiting)
        self.notified = self.acked = self.clean = self.forced = 0
        self.cancelled, self.next, self.seen, self.active = False, now, now, 0.0
        self.renew(asked, now)

    def renew(self, asked, now):
        self.asked, self.lease_until, self.next = asked, now + asked["leaseSeconds"], max(self.next, now)

    def clock(self, now):
        """The deadline's clock stands still once the lease is over."""
        self.active += max(0.0, min(now, self.lease_until) - self.seen)
        self.seen = now

    def over(self):
        deadline = self.asked.get("deadlineMs")
        return deadline is not None and self.active * 1000 >= deadline


class Drain:
    def __init__(self, token, identity_key="", revision="dev"):
        self.token, self.key, self.revision = f"Bearer {token.strip()}".encode(), identity_key.strip().encode(), revision
        self.sessions, self.order, self.closing, self.cancelled = {}, None, deque(), deque(maxlen=100)
        self.instance, self.totals, self.closed = secrets.token_hex(6), Counter(), Counter()
        self.events, self.numbered = deque(maxlen=KEPT_EVENTS), 0

    def add(self, identity, declared, send, close, resume=None, resumed=None):
        """A socket has opened; `resumed` is None where nobody asked to."""
        session = Session(identity, declared, resume, send, close)
        self.sessions[session] = True
        self.totals["accepted"] += 1
        if resumed is not None:
            self.totals["resumed" if resumed else "stateLost"] += 1
        self._note("arrived", identity, resumed=resumed)
        order = self.order
        if order and not order.cancelled and "all" in order.asked["select"]:
            order.eligible += 1
            order.waiting.append(session)
        return session

    def ack(self, session, order_id):
        """The client has understood its notice."""
        if self.order and self.order.asked["id"] == order_id and session.told and not session.acked:
            session.acked = True
            self.order.acked += 1

    def remove(self, session, code):
        """The socket is gone; `code` is the one of the close frame, 1006 without one."""
        if self.sessions.pop(session, None) is None:
            return
        self.closed[str(code)] += 1
        order = self.order
        if order:
            order.waiting = deque(other for other in order.waiting if other is not session)
            if session.order == order.asked["id"]:
                order.forced += session.forced
                order.clean += not session.forced
        how = ("forced" if session.forced else "moved") if session.order else ("cut" if code == 1006 else "left")
        self._note("released", session.identity, how=how, order=session.order)

    def _note(self, kind, identity, **more):
        if self.key:
            mac = hmac.new(self.key, f"session:{identity}".encode(), hashlib.sha256).hexdigest()[:16]
            self.numbered += 1
            told = {name: value for name, value in more.items() if value is not None}
            self.events.append((time.monotonic(), {"n": self.numbered, "kind": kind, "session": mac, **told}))

    def _put(self, asked):
        now, order = time.monotonic(), self.order
        if asked["id"] in self.cancelled:
            return False
        if order and order.asked["id"] == asked["id"]:
            order.clock(now)
            order.renew(asked, now)
            return True
        waiting = [session for session in self.sessions if session.order is None]
        random.shuffle(waiting)
        select = asked["select"]
        if "count" in select:
            waiting = waiting[: select["count"]]
        elif "fraction" in select:
            waiting = waiting[: math.ceil(len(waiting) * select["fraction"])]
        self.order = Order(asked, waiting, now)
        return True

    def _tick(self):
        now, order = time.monotonic(), self.order
        while self.closing and self.closing[0][0] <= now:  # whoever was told keeps its turn
            _, session, code, order_id = self.closing.popleft()
            session.close(code, order_id)
        if order is None or order.cancelled:
            return
        order.clock(now)
        asked, over = order.asked, order.over()
        moves = now < order.lease_until and (asked["onDeadline"] == "close" if over else asked["mode"] != "leave")
        if not moves:
            order.next = now  # what was missed is not made up for
            return
        order.next = max(order.next, now - 2 * TICK)
        while order.next <= now and order.waiting:
            order.next += 1 / asked["ratePerSecond"]
            session, reconnect = order.waiting.popleft(), asked["reconnect"]
            lead = max(reconnect["minMs"], min(reconnect["maxMs"], 2000))
            session.order, session.forced = asked["id"], over
            if session.declared and not over:
                session.told = True
                order.notified += 1
                hint = reconnect.get("hint") or {}
                where = {name: hint[name] for name in ("path", "header") if name in hint}
                session.send(json.dumps({
                    "type": "wsroll.notice", "v": 1, "id": asked["id"], "reason": asked["reason"], "deadlineMs": lead,
                    "reconnect": {"afterMs": lead, "withinMs": 0, "url": None, "query": hint.get("query"), **where},
                    **({"resume": session.resume} if session.resume else {}),
                    "closeCode": asked["closeCode"], "makeBeforeBreak": False}))
            self.closing.append((now + lead / 1000, session, asked["closeCode"], asked["id"]))

    def _progress(self):
        order, now = self.order, time.monotonic()
        if order is None:
            return None
        left = len(order.waiting) + sum(session.order == order.asked["id"] for session in self.sessions)
        state = ("cancelled" if order.cancelled else "done" if not left
                 else "deadline" if order.over() and order.asked["onDeadline"] == "wait"
                 else "paused" if now >= order.lease_until else "active")
        return {"id": order.asked["id"], "state": state, "eligible": order.eligible, "notified": order.notified,
                "acked": order.acked, "closedClean": order.clean, "closedForced": order.forced,
                "ratePerSecond": order.asked["ratePerSecond"],
                "leaseExpiresMs": max(0, round((order.lease_until - now) * 1000))}

    def _report(self):
        now = time.monotonic()
        report = {"instance": self.instance, "revision": self.revision, "open": len(self.sessions), "accepting": True,
                  "totals": {**{name: self.totals[name] for name in ("accepted", "resumed", "stateLost")}, "closed": self.closed}}
        if self.sessions:
            report["oldestMs"] = round((now - min(session.since for session in self.sessions)) * 1000)
        return {**report, "drain": self._progress()} if self.order else report

    def _events_after(self, after):
        first, now = self.numbered - len(self.events), time.monotonic()  # `first`: the last one that was dropped
        page = [{**event, "agoMs": round((now - at) * 1000)} for at, event in self.events if event["n"] > after][:PAGE]
        return {"instance": self.instance, "next": page[-1]["n"] if page else max(after, first),
                "lost": max(0, first - after), "events": page}

    async def serve(self, port, host="0.0.0.0"):
        """Serves the drain port, and moves sessions, for as long as the process runs."""
        async with await asyncio.start_server(self._connection, host, port, limit=MAX_HEAD):
            while True:
                self._tick()
                await asyncio.sleep(TICK)

    async def _connection(self, reader, writer):
        """One request per connection: enough for a caller that comes twice a second."""
        try:
            async with asyncio.timeout(10):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ", 2)
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                size = int(headers.get("content-length", 0))
                body = b""
                while (left := size - len(body)) > 0 and (chunk := await reader.read(min(left, MAX_BODY))):
                    body = (body + chunk) if size <= MAX_BODY else bytes(len(body) + len(chunk))
                status, answer = self._answer(method, target, headers, body)
                content = json.dumps(answer).encode()
                writer.write(f"HTTP/1.1 {status} {STATUS[status]}\r\nContent-Type: application/json\r\n"
                             f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content)
                await writer.drain()
        except (ValueError, OSError, EOFError, asyncio.LimitOverrunError, TimeoutError):
            pass
        finally:
            writer.close()

    def _answer(self, method, target, headers, body):
        path, _, query = target.partition("?")
        found = PATH.fullmatch(path)
        if not found or (found[2] and found[1] != "drain"):
            return 404, {"error": "no such resource in version 1"}
        if not hmac.compare_digest(headers.get("authorization", "").encode(), self.token):
            return 401, {"error": "the token is missing or wrong"}
        match method, found[1], found[2]:
            case "GET", "sessions", None:
                return 200, self._report()
            case "GET", "events", None:
                after = re.search(r"(?:^|&)after=(\d+)", query)
                return (200, self._events_after(int(after[1]) if after else 0)) if self.key else (404, {"error": "no key"})
            case "DELETE", "drain", str(order_id):
                if not self.order or self.order.asked["id"] != order_id:
                    return 404, {"error": "no such order"}
                self._cancel(order_id)
                return 200, self._progress()
            case "PUT", "drain", None if len(body) > MAX_BODY:
                return 413, {"error": "an order has at most 64 KiB"}
            case "PUT", "drain", None:
                try:
                    asked = parse_order(body)
                except ValueError as error:
                    return 400, {"error": str(error)}
                return (200, self._progress()) if self._put(asked) else (409, {"error": "this order was cancelled"})
        return 405, {"error": "not a method of this resource"}

    def _cancel(self, order_id):
        self.order.cancelled = True
        self.order.waiting.clear()
        self.cancelled.append(order_id)
        for turn in [turn for turn in self.closing if turn[3] == order_id and not turn[1].told]:
            self.closing.remove(turn)
            turn[1].order = None


def parse_order(body):
    """The whole order is checked first: there is never a partial start."""
    given = json.loads(body)
    if not isinstance(given, dict):
        raise ValueError("not an order")
    order = {"reason": "rollout", "mode": "ask", "onDeadline": "wait", "closeCode": 1012, "select": {"all": {}}, **given}
    reconnect = {"minMs": 0, **(given.get("reconnect") or {})}
    order["reconnect"] = reconnect = {"maxMs": max(5000, reconnect["minMs"]), **reconnect}

    def number(value, low, high=math.inf, kinds=(int, float)):
        return type(value) in kinds and low <= value <= high

    def select(kind, value):
        return kind == "all" or (kind == "count" and number(value, 0, kinds=(int,))) or (kind == "fraction" and number(value, 0, 1))

    rate, code = order.get("ratePerSecond"), order["closeCode"]
    for holds, otherwise in [
        (isinstance(order.get("id"), str) and re.fullmatch(r"[A-Za-z0-9._-]{1,200}", order["id"]), "id must be 1 to 200 of A-Z a-z 0-9 . _ -"),
        (number(rate, 0, 10_000) and rate > 0, "ratePerSecond must be above 0 and at most 10000"),
        (number(order.get("leaseSeconds"), 1, kinds=(int,)), "leaseSeconds must be at least 1"),
        (order.get("deadlineMs") is None or number(order["deadlineMs"], 0), "deadlineMs must be a number"),
        (isinstance(order["select"], dict) and len(order["select"]) == 1 and select(*next(iter(order["select"].items()))),
         "select must be all, count, or fraction from 0 to 1"),
        (order["mode"] in ("ask", "whenIdle", "leave"), "mode must be ask, whenIdle or leave"),
        (order["onDeadline"] in ("wait", "close"), "onDeadline must be wait or close"),
        (number(reconnect["minMs"], 0) and number(reconnect["maxMs"], reconnect["minMs"]), "reconnect.minMs must not be above maxMs"),
        (code in (1001, 1008, 1011, 1012, 1013) or number(code, 3000, 4999, (int,)), "closeCode must be one for a drain"),
    ]:
        if not holds:
            raise ValueError(otherwise)
    return order
