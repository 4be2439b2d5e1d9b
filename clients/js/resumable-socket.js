// A WebSocket that comes back. It follows wsroll's drain notices, opens the new socket before it lets go of the old one
// where the service allows it, backs off with jitter, resumes, and repeats what was not answered.
// One file, no dependencies; browsers, and Node 20 or later with the package `ws`.

/** @typedef {import('./resumable-socket.d.ts').Options} Options */
/** @typedef {import('./resumable-socket.d.ts').Adapter} Adapter */
/** @typedef {import('./resumable-socket.d.ts').Notice} Notice */
/** @typedef {import('./resumable-socket.d.ts').Profile} Profile */
/** @typedef {{ws: any, notice?: Notice, retiring: boolean, opened: boolean, heard: number, asked?: number, timer?: any, ended: boolean}} Link */

/**
 * Delays in milliseconds before each attempt; the last one repeats. `firstWaits`: the first attempt waits too, so that
 * clients that were cut together do not come back together.
 * @type {Record<'graceful' | 'emergency' | 'rolling', Profile>}
 */
export const PROFILES = {
  graceful: { delays: [1000, 2000, 4000, 8000], firstWaits: false },
  emergency: { delays: [500, 1000, 2000, 4000], firstWaits: true },
  rolling: { delays: [100, 500, 1000, 2000], firstWaits: false },
};

/** A session that lived so long starts its next back-off afresh. */
const RESTORED_LIFE_MS = 5000;
/** How long an old socket may take to close after its session has moved. */
const RETIRE_MS = 10_000;
/** Closes that say "do not come back": what the client did was wrong, or it is over. */
const FINAL = new Set([1000, 1002, 1003, 1007, 1008, 1009, 1010, 4401, 4403, 4409]);

/** What happens after a close, unless the application says otherwise. */
export function closePolicy(/** @type {number} */ code, /** @type {Notice | undefined} */ notice) {
  if (notice && code === (notice.closeCode ?? 1012)) return 'graceful'; // it was announced
  if (FINAL.has(code)) return 'stop';
  return code === 1001 || code === 1012 ? 'graceful' : 'emergency';
}

/** The wait before attempt `attempt` (from 0): between half the profile's delay and all of it. */
export function delayOf(/** @type {Profile} */ profile, /** @type {number} */ attempt, random = Math.random) {
  const place = profile.firstWaits ? attempt : attempt - 1;
  if (place < 0) return 0;
  return profile.delays[Math.min(place, profile.delays.length - 1)] * (0.5 + random() / 2);
}

/** An event with the fields that its type calls for. */
class SocketEvent extends Event {
  constructor(/** @type {string} */ type, /** @type {object} */ fields) {
    super(type);
    Object.assign(this, fields);
  }
}

export class ResumableSocket extends EventTarget {
  static CONNECTING = 0; static OPEN = 1; static CLOSING = 2; static CLOSED = 3;

  /** @type {Options} */ #options;
  /** @type {Adapter} */ #adapter;
  #url;
  /** @type {Link | null} */ #current = null; // the restored one: what is sent goes here
  /** @type {Link | null} */ #next = null; // being opened
  /** @type {Set<Link>} */ #links = new Set();
  /** @type {Map<string | symbol, any>} */ #unanswered = new Map(); // sent, to be repeated after a resume
  /** @type {any[]} */ #queue = []; // not sent yet
  /** @type {Notice['reconnect'] | null} */ #hint = null;
  /** @type {Notice['resume'] | null} */ #resume = null;
  #attempts = 0; #everOpen = false; #closed = false;
  #restoredAt = 0; #lostAt = 0;
  /** The old socket said goodbye while the new one was on its way: which of the two is heard first is chance. */
  #handedOver = false;
  /** @type {any} */ #retry; /** @type {any} */ #health;
  /** @type {'graceful' | 'emergency' | 'rolling'} */ #profile = 'emergency';

  /** @param {string | URL} url  @param {Options} [options] */
  constructor(url, options = {}) {
    super();
    this.#url = new URL(url, globalThis.location?.href);
    this.#options = { maxAttempts: 20, maxQueue: 1000, connectTimeoutMs: 10_000, makeBeforeBreak: true, ...options };
    this.#adapter = options.adapter ?? {};
    this.#health = this.#watchHealth();
    globalThis.addEventListener?.('online', this.#online);
    this.#connect();
  }

  /** As of a WebSocket; 0 while it is coming back. */
  get readyState() { return this.#closed ? 3 : this.#current ? 1 : 0; }
  /** The URL it was made with. */
  get url() { return this.#url.href; }
  /** Messages that are queued, or were sent and not answered. */
  get pending() { return this.#queue.length + this.#unanswered.size; }
  get bufferedAmount() { return this.#current?.ws.bufferedAmount ?? 0; }
  get protocol() { return this.#current?.ws.protocol ?? ''; }

  /** Sends, or queues until it is back. Throws when it was closed, or too much is pending. */
  send(/** @type {any} */ data) {
    if (this.#closed) throw new DOMException('the socket is closed', 'InvalidStateError');
    const { maxQueue = 1000 } = this.#options;
    if (this.pending >= maxQueue) throw new DOMException(`${maxQueue} messages wait already`, 'QuotaExceededError');
    this.#queue.push(data);
    if (this.#current) this.#flush();
  }

  /** Closes for good. */
  close(code = 1000, reason = '') {
    if (!this.#closed) this.#finish(code, reason, true);
  }

  // === connecting ===

  #connect() {
    clearTimeout(this.#retry);
    if (this.#closed || this.#next) return;
    const overlap = this.#current !== null;
    const { WebSocket = globalThis.WebSocket, protocols = [], headers, connectTimeoutMs } = this.#options;
    const url = this.#target(overlap);
    const header = this.#hint?.header?.split(/:\s*/, 2);
    // Only Node's `ws` takes headers; a browser's constructor has two parameters.
    const extra = headers || header ? [{ headers: { ...headers, ...(header ? { [header[0]]: header[1] } : {}) } }] : [];
    /** @type {Link} */
    const link = { ws: null, retiring: false, opened: false, heard: performance.now(), ended: false };
    try {
      // @ts-ignore: the third parameter is of `ws`
      link.ws = new WebSocket(url, protocols, ...extra);
    } catch (error) {
      this.#finish(1006, String(error), false);
      return;
    }
    link.ws.binaryType = 'arraybuffer';
    this.#next = link;
    this.#links.add(link);
    link.timer = setTimeout(() => this.#abandon(link), connectTimeoutMs);
    link.ws.onopen = () => this.#opened(link);
    link.ws.onmessage = (/** @type {any} */ event) => this.#received(link, event.data);
    link.ws.onclose = (/** @type {any} */ event) => this.#ended(link, event.code, event.reason);
    link.ws.onerror = () => {}; // a close follows
  }

  #target(/** @type {boolean} */ overlap) {
    const url = new URL(this.#url);
    const { declare, makeBeforeBreak } = this.#options;
    const add = (/** @type {string} */ query) => new URLSearchParams(query).forEach((value, name) => url.searchParams.append(name, value));
    if (declare) add(declare);
    this.#adapter.dial?.(url, { resuming: this.#everOpen, overlap, makeBeforeBreak: makeBeforeBreak === true,
      resumeToken: this.#resume?.token });
    // `reconnect.url` is not followed: who holds a token does not go to another host.
    if (this.#hint?.query) add(this.#hint.query);
    if (this.#hint?.path) url.pathname = this.#hint.path.replace(/\/$/, '') + url.pathname;
    return url.href;
  }

  #opened(/** @type {Link} */ link) {
    link.opened = true;
    this.#adapter.opened?.((data) => link.ws.send(data), { resuming: this.#everOpen, resumeToken: this.#resume?.token });
    if (!this.#adapter.waitsForWelcome) this.#restored(link, undefined);
  }

  /** The session is there on this link: from now on it is the one. */
  #restored(/** @type {Link} */ link, /** @type {boolean | undefined} */ resumed) {
    if (link !== this.#next) return;
    clearTimeout(link.timer);
    const old = this.#current, now = performance.now();
    this.#current = link;
    this.#next = null;
    this.#hint = null; // good for one reconnect
    this.#resume = null;
    this.#restoredAt = now;
    if (old) {
      // It is read until the service closes it; what comes twice is dropped by its number.
      old.retiring = true;
      old.timer = setTimeout(() => old.ws.close(1000), RETIRE_MS);
    }
    const waiting = [...this.#unanswered.values()];
    for (const data of waiting) link.ws.send(data);
    const first = !this.#everOpen;
    this.#everOpen = true;
    if (first) this.#emit('open', {});
    else this.#emit('resumed', { resumed, overlap: old !== null || this.#handedOver, attempts: this.#attempts, downMs: old ? 0 : now - this.#lostAt, repeated: waiting.length });
    this.#handedOver = false;
    this.#flush();
  }

  #flush() {
    while (this.#queue.length > 0 && this.#current?.ws.readyState === 1) {
      const data = this.#queue.shift();
      const id = this.#adapter.idOf?.(data);
      if (id !== undefined) this.#unanswered.set(id, data);
      this.#current.ws.send(data);
    }
  }

  // === receiving ===

  #received(/** @type {Link} */ link, /** @type {any} */ data) {
    link.heard = performance.now();
    link.asked = undefined;
    const read = this.#adapter.read?.(data, { retiring: link.retiring }) ?? {};
    const notice = read.notice ?? noticeIn(data);
    if (notice) { this.#noticed(link, notice); return; }
    if (read.answers !== undefined) this.#unanswered.delete(read.answers);
    if (read.welcome) this.#restored(link, read.welcome.resumed);
    if (!read.drop && !this.#closed) this.#emit('message', { data });
  }

  #noticed(/** @type {Link} */ link, /** @type {Notice} */ notice) {
    if (link.notice?.id === notice.id) return;
    link.notice = notice;
    if (link.ws.readyState === 1) link.ws.send(this.#adapter.ack?.(notice) ?? JSON.stringify({ type: 'wsroll.ack', id: notice.id }));
    if (link !== this.#current) return;
    this.#hint = notice.reconnect ?? null;
    this.#resume = notice.resume ?? null;
    this.#emit('notice', { notice });
    if (!notice.makeBeforeBreak || !this.#options.makeBeforeBreak) return; // its close is its turn
    this.#profile = 'rolling';
    this.#attempts = 0;
    const wait = (notice.reconnect?.afterMs ?? 0) + (notice.reconnect?.withinMs ?? 0) * this.#random();
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => { if (this.#current === link) this.#connect(); }, wait);
  }

  // === the end of a socket ===

  #ended(/** @type {Link} */ link, /** @type {number} */ code, /** @type {string} */ reason) {
    if (link.ended) return;
    link.ended = true;
    clearTimeout(link.timer);
    this.#links.delete(link);
    if (this.#closed || link.retiring) return;
    const wasNext = link === this.#next, wasCurrent = link === this.#current;
    if (wasNext) {
      this.#next = null;
      this.#handedOver = false;
    }
    if (wasCurrent) {
      this.#current = null;
      this.#lostAt = performance.now();
      this.#handedOver = this.#next !== null && link.notice !== undefined;
      if (this.#lostAt - this.#restoredAt >= RESTORED_LIFE_MS) this.#attempts = 0;
    }
    const { onClose = closePolicy } = this.#options;
    const next = onClose(code, link.notice);
    if (next === 'stop') {
      if (!this.#current) this.#finish(code, reason, false);
      return;
    }
    if (this.#next) return; // the new one is under way already
    this.#profile = this.#current ? 'rolling' : next;
    const withinMs = wasCurrent && link.notice ? link.notice.reconnect?.withinMs ?? 0 : 0;
    this.#again(withinMs * this.#random(), code, reason);
  }

  #again(/** @type {number} */ more, /** @type {number} */ code, /** @type {string} */ reason) {
    const { maxAttempts = 20, profiles } = this.#options;
    if (this.#attempts >= maxAttempts) {
      if (!this.#current) this.#finish(code, reason || `gave up after ${maxAttempts} attempts`, false);
      return;
    }
    const wait = more + delayOf({ ...PROFILES, ...profiles }[this.#profile], this.#attempts, () => this.#random());
    this.#attempts += 1;
    this.#emit('reconnecting', { attempt: this.#attempts, waitMs: wait, profile: this.#profile, code });
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.#connect(), wait);
  }

  /** A socket that does not answer: its own closing handshake could take minutes. */
  #abandon(/** @type {Link} */ link) {
    link.ws.close();
    this.#ended(link, 1006, 'no answer');
  }

  #finish(/** @type {number} */ code, /** @type {string} */ reason, /** @type {boolean} */ wasClean) {
    this.#closed = true;
    clearTimeout(this.#retry);
    clearInterval(this.#health);
    globalThis.removeEventListener?.('online', this.#online);
    for (const link of this.#links) {
      clearTimeout(link.timer);
      link.ws.close(wasClean ? code : 1000, wasClean ? reason : '');
    }
    this.#current = this.#next = null;
    this.#emit('close', { code, reason, wasClean, pending: this.pending });
  }

  // === the rest ===

  /** Something has to come within `everyMs`, or after `message` was sent within `timeoutMs` more. */
  #watchHealth() {
    const { health } = this.#options;
    if (!health) return undefined;
    const { everyMs, timeoutMs, message } = health;
    const look = () => {
      const link = this.#current, now = performance.now();
      if (!link || link.notice) return;
      if (link.asked !== undefined) {
        if (now - link.asked >= timeoutMs) this.#abandon(link);
      } else if (now - link.heard >= everyMs) {
        link.asked = now;
        link.ws.send(message());
      }
    };
    const timer = setInterval(look, Math.max(10, Math.min(everyMs, timeoutMs) / 4));
    /** @type {any} */ (timer).unref?.();
    return timer;
  }

  /** The network is back: no reason to wait any longer. */
  #online = () => { if (!this.#current && !this.#next && !this.#closed) this.#connect(); };

  #random() { return (this.#options.random ?? Math.random)(); }

  #emit(/** @type {string} */ type, /** @type {object} */ fields) {
    const event = new SocketEvent(type, fields);
    const handler = /** @type {any} */ (this)[`on${type}`];
    if (typeof handler === 'function') handler.call(this, event);
    this.dispatchEvent(event);
  }
}

/** The notice in a message, where it is one. @returns {Notice | undefined} */
function noticeIn(/** @type {any} */ data) {
  if (typeof data !== 'string' || !data.includes('"wsroll.notice"')) return undefined;
  try {
    const message = JSON.parse(data);
    return message.type === 'wsroll.notice' ? message : undefined;
  } catch {
    return undefined;
  }
}

/**
 * The dialect of wsroll's session-server and native examples: the server counts its messages (`seq`), the client says at
 * a reconnect what it has, and everything that it sends has an `id` under which it may be repeated.
 * @param {import('./resumable-socket.d.ts').NumberedOptions} [names]
 * @returns {Adapter & {readonly session: string | null, readonly last: number}}
 */
export function numberedSessions({ session: name = 'session', declare = 'notice=wsroll.v1', overlap = 'overlap=1', id = null } = {}) {
  /** @type {string | null} */ let session = id;
  let last = 0;
  const parse = (/** @type {any} */ data) => {
    try { return typeof data === 'string' ? JSON.parse(data) : {}; } catch { return {}; }
  };
  return {
    waitsForWelcome: true,
    get session() { return session; },
    get last() { return last; },
    dial(url, { makeBeforeBreak }) {
      const add = (/** @type {string} */ query) => new URLSearchParams(query).forEach((value, key) => url.searchParams.set(key, value));
      if (session) { url.searchParams.set(name, session); url.searchParams.set('last', String(last)); }
      add(declare);
      if (makeBeforeBreak && overlap) add(overlap);
    },
    read(data) {
      const message = parse(data);
      if (message.type === 'welcome') {
        const resumed = session === null ? undefined : message.resumed;
        if (resumed === false) last = 0; // its state is gone: numbers begin anew
        session = message.session;
        return { welcome: { resumed }, drop: true };
      }
      if (typeof message.seq === 'number') {
        const seen = message.seq <= last;
        last = Math.max(last, message.seq);
        return { answers: message.id, drop: seen };
      }
      return { answers: message.id };
    },
    idOf(data) { return parse(data).id; },
  };
}
