// The drain protocol, version 1: one order at a time, paced, with a lease. Copy this file; server.js shows its use.
import { createHmac, createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';

const MAX_BODY = 64 * 1024, KEPT_EVENTS = 10_000, PAGE = 1_000, TICK_MS = 20;
const CODES = [1001, 1008, 1011, 1012, 1013];
const sha = (text) => createHash('sha256').update(text).digest();

export class Drain {
  #sessions = new Set(); #order = null; #closing = []; #cancelled = [];
  #events = []; #numbered = 0; #instance = randomBytes(6).toString('hex'); #started = performance.now();
  #totals = { accepted: 0, resumed: 0, resumeFailed: 0, stateLost: 0, closed: {} };

  constructor({ token, identityKey = '', revision }) {
    this.token = sha(`Bearer ${token.trim()}`); this.identityKey = identityKey.trim(); this.revision = revision;
    this.timer = setInterval(() => this.#tick(), TICK_MS).unref();
  }

  /** A socket has opened. `send` and `close(code, reason)` act on it; `resumed` is undefined where nobody asked to. */
  add({ identity, declared, resumed, resume, send, close }) {
    const session = { identity, declared, resume, send, close, since: this.#now(), order: null, forced: false };
    this.#sessions.add(session);
    this.#totals.accepted += 1;
    if (resumed === true) this.#totals.resumed += 1;
    if (resumed === false) this.#totals.stateLost += 1;
    this.#note({ kind: 'arrived', identity, resumed });
    const order = this.#order;
    if (order && !order.cancelled && order.select.all) { order.eligible += 1; order.waiting.push(session); }
    return session;
  }

  /** The client has understood its notice. */
  acked(session, id) { if (this.#order?.id === id && session.told && !session.acked) { session.acked = true; this.#order.acked += 1; } }

  /** The socket is gone; `code` is the one of the close frame, 1006 without one. */
  remove(session, code) {
    if (!this.#sessions.delete(session)) return;
    this.#totals.closed[code] = (this.#totals.closed[code] ?? 0) + 1;
    const order = this.#order;
    if (order) {
      order.waiting = order.waiting.filter((other) => other !== session);
      if (session.order === order.id) order[session.forced ? 'closedForced' : 'closedClean'] += 1;
    }
    const how = session.order ? (session.forced ? 'forced' : 'moved') : code === 1006 ? 'cut' : 'left';
    this.#note({ kind: 'released', identity: session.identity, how, order: session.order ?? undefined });
  }

  #now() { return performance.now() - this.#started; }

  #note({ identity, ...event }) {
    if (!this.identityKey) return;
    const hash = createHmac('sha256', this.identityKey).update(`session:${identity}`).digest('hex').slice(0, 16);
    this.#events.push({ n: ++this.#numbered, session: hash, at: this.#now(), ...event });
    if (this.#events.length > KEPT_EVENTS) this.#events.shift();
  }

  #put(order) {
    const now = this.#now();
    if (this.#cancelled.includes(order.id)) return false;
    const running = this.#order;
    if (running?.id === order.id) { // renews the lease, takes over rate and deadline
      this.#clock(running, now);
      Object.assign(running, { ...order, leaseUntil: now + order.leaseSeconds * 1000, next: Math.max(running.next, now) });
      return true;
    }
    const waiting = [...this.#sessions].filter((session) => !session.told && !session.order);
    for (let i = waiting.length - 1; i > 0; i--) { // in random order
      const j = Math.floor(Math.random() * (i + 1));
      [waiting[i], waiting[j]] = [waiting[j], waiting[i]];
    }
    const { count, fraction } = order.select;
    waiting.length = Math.min(waiting.length, count ?? (fraction === undefined ? Infinity : Math.ceil(waiting.length * fraction)));
    this.#order = { ...order, waiting, eligible: waiting.length, notified: 0, acked: 0, closedClean: 0, closedForced: 0,
      cancelled: false, next: now, leaseUntil: now + order.leaseSeconds * 1000, seen: now, active: 0 };
    return true;
  }

  /** The deadline's clock stands still once the lease is over. */
  #clock(order, now) { order.active += Math.max(0, Math.min(now, order.leaseUntil) - order.seen); order.seen = now; }

  #tick() {
    const now = this.#now(), order = this.#order;
    while (this.#closing[0]?.at <= now) { // whoever was told keeps its turn, whatever becomes of the order
      const { session, code, id } = this.#closing.shift();
      session.close(code, id);
    }
    if (!order || order.cancelled) return;
    this.#clock(order, now);
    const over = order.deadlineMs !== undefined && order.active >= order.deadlineMs;
    const moves = now < order.leaseUntil && (over ? order.onDeadline === 'close' : order.mode !== 'leave');
    if (!moves) { order.next = now; return; } // what was missed is not made up for
    order.next = Math.max(order.next, now - 2 * TICK_MS);
    while (order.next <= now && order.waiting.length > 0) {
      order.next += 1000 / order.ratePerSecond;
      const session = order.waiting.shift();
      const lead = Math.max(order.reconnect.minMs, Math.min(order.reconnect.maxMs, 2000));
      session.forced = over; session.order = order.id;
      if (session.declared && !over) {
        session.told = true;
        order.notified += 1;
        const { query = null, path, header } = order.reconnect.hint ?? {};
        session.send(JSON.stringify({ type: 'wsroll.notice', v: 1, id: order.id, reason: order.reason, deadlineMs: lead,
          reconnect: { afterMs: lead, withinMs: 0, url: null, query, path, header },
          resume: session.resume, closeCode: order.closeCode, makeBeforeBreak: false }));
      }
      this.#closing.push({ at: now + lead, session, code: order.closeCode, id: order.id });
    }
  }

  #progress() {
    const order = this.#order, now = this.#now();
    if (!order) return undefined;
    const over = order.deadlineMs !== undefined && order.active >= order.deadlineMs;
    const left = order.waiting.length + [...this.#sessions].filter((session) => session.order === order.id).length;
    const state = order.cancelled ? 'cancelled' : left === 0 ? 'done' : over && order.onDeadline === 'wait' ? 'deadline'
      : now >= order.leaseUntil ? 'paused' : 'active';
    const { id, eligible, notified, acked, closedClean, closedForced, ratePerSecond } = order;
    return { id, state, eligible, notified, acked, closedClean, closedForced, ratePerSecond,
      leaseExpiresMs: Math.max(0, Math.round(order.leaseUntil - now)) };
  }

  #report() {
    const now = this.#now();
    const oldest = Math.min(...[...this.#sessions].map((session) => session.since));
    return { instance: this.#instance, revision: this.revision, open: this.#sessions.size, accepting: true,
      oldestMs: Number.isFinite(oldest) ? Math.round(now - oldest) : undefined, totals: this.#totals, drain: this.#progress() };
  }

  #eventsAfter(after) {
    const first = this.#numbered - this.#events.length; // the number of the last one that was dropped
    const start = Math.max(0, after - first);
    const page = this.#events.slice(start, start + PAGE);
    return { instance: this.#instance, next: page.at(-1)?.n ?? Math.max(after, first), lost: Math.max(0, first - after),
      events: page.map(({ at, ...event }) => ({ ...event, agoMs: Math.round(this.#now() - at) })) };
  }

  /** Serves the drain port. */
  listen(port, host = '0.0.0.0') {
    const server = createServer(async (request, response) => {
      const [status, body] = await this.#serve(request).catch(() => [500, { error: 'failed' }]);
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body ?? null));
    });
    return server.listen(port, host);
  }

  async #serve(request) {
    const url = new URL(request.url, 'http://pod');
    const [, resource, id] = /^\/wsroll\/v1\/(sessions|events|drain)(?:\/([^/]+))?$/.exec(url.pathname) ?? [];
    if (!resource || (id && resource !== 'drain')) return [404, { error: 'no such resource in version 1' }];
    // Hashes have one length, so that the comparison tells nothing about the token's.
    if (!timingSafeEqual(sha(request.headers.authorization ?? ''), this.token)) return [401, { error: 'the token is missing or wrong' }];
    const what = `${request.method} ${resource}${id ? '/id' : ''}`;
    if (what === 'GET sessions') return [200, this.#report()];
    if (what === 'GET events') {
      return this.identityKey ? [200, this.#eventsAfter(Number(url.searchParams.get('after')) || 0)] : [404, { error: 'no identity key' }];
    }
    if (what === 'DELETE drain/id') {
      if (this.#order?.id !== id) return [404, { error: 'no such order' }];
      this.#order.cancelled = true; this.#order.waiting = []; this.#cancelled = [id, ...this.#cancelled].slice(0, 100);
      this.#closing = this.#closing.filter(({ session, id: of }) => of !== id || session.told || (session.order = null));
      return [200, this.#progress()];
    }
    if (what === 'PUT drain') {
      const body = await read(request);
      if (body === null) return [413, { error: 'an order has at most 64 KiB' }];
      const { order, error } = parseOrder(body);
      if (error) return [400, { error }];
      return this.#put(order) ? [200, this.#progress()] : [409, { error: 'this order was cancelled' }];
    }
    return [405, { error: 'not a method of this resource' }];
  }
}

async function read(request) {
  const chunks = []; let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size <= MAX_BODY) chunks.push(chunk); // the rest is read and dropped, so that the answer arrives
  }
  return size > MAX_BODY ? null : Buffer.concat(chunks).toString();
}

/** The whole order is checked first: there is never a partial start. */
export function parseOrder(text) {
  let given;
  try { given = JSON.parse(text); } catch { return { error: 'not JSON' }; }
  const whole = (n) => Number.isInteger(n) && n >= 0;
  const order = { reason: 'rollout', mode: 'ask', onDeadline: 'wait', closeCode: 1012, ...given,
    select: given?.select ?? { all: {} }, reconnect: { minMs: 0, maxMs: Math.max(5000, given?.reconnect?.minMs ?? 0), ...given?.reconnect } };
  const { id, ratePerSecond: rate, leaseSeconds, deadlineMs, select, reconnect, closeCode } = order;
  const [[kind, value] = [], more] = Object.entries(select);
  const checks = [
    [typeof id === 'string' && /^[A-Za-z0-9._-]{1,200}$/.test(id), 'id must be 1 to 200 of A-Z a-z 0-9 . _ -'],
    [typeof rate === 'number' && rate > 0 && rate <= 10_000, 'ratePerSecond must be above 0 and at most 10000'],
    [Number.isInteger(leaseSeconds) && leaseSeconds >= 1, 'leaseSeconds must be at least 1'],
    [deadlineMs === undefined || whole(deadlineMs), 'deadlineMs must be a whole number'],
    [!more && (kind === 'all' || (kind === 'count' && whole(value)) || (kind === 'fraction' && value >= 0 && value <= 1)),
      'select must be all, count, or fraction from 0 to 1'],
    [['ask', 'whenIdle', 'leave'].includes(order.mode), 'mode must be ask, whenIdle or leave'],
    [['wait', 'close'].includes(order.onDeadline), 'onDeadline must be wait or close'],
    [whole(reconnect.minMs) && whole(reconnect.maxMs) && reconnect.minMs <= reconnect.maxMs, 'reconnect.minMs must not be above maxMs'],
    [CODES.includes(closeCode) || (Number.isInteger(closeCode) && closeCode >= 3000 && closeCode <= 4999), 'closeCode must be one for a drain'],
  ];
  const error = checks.find(([holds]) => !holds)?.[1];
  return error ? { error } : { order };
}
