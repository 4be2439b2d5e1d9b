// What it does at each turn, against a server that plays its part by hand.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import WebSocket, { WebSocketServer } from 'ws';
import { PROFILES, ResumableSocket, closePolicy, delayOf } from '../resumable-socket.js';
import { next } from './support.js';

const quick = { graceful: { delays: [5], firstWaits: false }, emergency: { delays: [5], firstWaits: true }, rolling: { delays: [5], firstWaits: false } };

/** Every socket that comes is given to `play` with its number; the targets that were asked for are kept. */
async function scene(t, play, options = {}) {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  await once(server, 'listening');
  const targets = [], headers = [];
  server.on('connection', (socket, request) => {
    targets.push(request.url);
    headers.push(request.headers);
    play(socket, targets.length);
  });
  const socket = new ResumableSocket(`ws://127.0.0.1:${server.address().port}/ws?room=1`, { WebSocket, profiles: quick, ...options });
  t.after(() => { socket.close(); for (const client of server.clients) client.terminate(); server.close(); });
  return { socket, targets, headers };
}

const notice = (reconnect, more = {}) => JSON.stringify({ type: 'wsroll.notice', v: 1, id: 'o-1', reason: 'rollout', reconnect, closeCode: 4012, ...more });

test('delays follow the profiles, with at most half of them taken away', () => {
  const waits = (profile, random) => [0, 1, 2, 3, 4, 5].map((n) => delayOf(profile, n, () => random));
  assert.deepEqual(waits(PROFILES.graceful, 1), [0, 1000, 2000, 4000, 8000, 8000]);
  assert.deepEqual(waits(PROFILES.emergency, 1), [500, 1000, 2000, 4000, 4000, 4000]);
  assert.deepEqual(waits(PROFILES.rolling, 0), [0, 50, 250, 500, 1000, 1000]);
});

test('closes that say do not come back are heeded, unless a notice announced them', () => {
  for (const code of [1000, 1008, 4401, 4409]) assert.equal(closePolicy(code), 'stop');
  for (const code of [1001, 1012]) assert.equal(closePolicy(code), 'graceful');
  for (const code of [1006, 1011, 1013]) assert.equal(closePolicy(code), 'emergency');
  assert.equal(closePolicy(1008, { closeCode: 1008 }), 'graceful');
});

test('hints hold for one reconnect: query behind, path in front, header beside; another host is not followed', async (t) => {
  const { socket, targets, headers } = await scene(t, (peer, n) => {
    if (n > 2) return;
    if (n === 1) peer.send(notice({ afterMs: 1, url: 'ws://elsewhere.invalid/', query: 'wsroll=x7Qp', path: '/wsroll-x7Qp', header: 'wsroll-hint: x7Qp' }));
    peer.close(n === 1 ? 4012 : 1012);
  }, { declare: 'wsroll=1' });
  await next(socket, 'resumed');
  await next(socket, 'resumed');
  assert.deepEqual(targets, ['/ws?room=1&wsroll=1', '/wsroll-x7Qp/ws?room=1&wsroll=1&wsroll=x7Qp', '/ws?room=1&wsroll=1']);
  assert.deepEqual(headers.map((one) => one['wsroll-hint']), [undefined, 'x7Qp', undefined]);
});

test('make before break happens at the turn, and the old socket is read to its end', async (t) => {
  const peers = [];
  const timers = t.mock.method(globalThis, 'setTimeout');
  const { socket } = await scene(t, (peer, n) => {
    peers.push(peer);
    if (n === 1) peer.send(notice({ afterMs: 30, withinMs: 100 }, { makeBeforeBreak: true }));
    else { peers[0].send('late'); peers[0].close(4012); }
  }, { random: () => 0.5 });
  const messages = [];
  socket.onmessage = ({ data }) => messages.push(data);
  const event = await next(socket, 'resumed');
  // 30 ms and half of 100.
  assert.equal(timers.mock.calls.filter(({ arguments: [, wait] }) => wait === 80).length, 1);
  assert.equal(event.overlap, true);
  await once(peers[0], 'close');
  assert.deepEqual(messages, ['late']);
  const sent = once(peers[1], 'message');
  socket.send('hello');
  assert.equal(String((await sent)[0]), 'hello');
});

test('a notice is acknowledged once, and not told to the application as a message', async (t) => {
  const heard = [];
  const { socket } = await scene(t, (peer) => {
    peer.on('message', (data) => heard.push(JSON.parse(data)));
    peer.send(notice({}));
    peer.send(notice({}));
    peer.send('the end');
  });
  assert.equal((await next(socket, 'message')).data, 'the end');
  socket.send('{"last":true}');
  while (!heard.at(-1)?.last) await new Promise(setImmediate);
  assert.deepEqual(heard, [{ type: 'wsroll.ack', id: 'o-1' }, { last: true }]);
});

test('the queue has a bound, and is sent in order when it is back', async (t) => {
  const heard = [];
  const { socket } = await scene(t, (peer) => peer.on('message', (data) => heard.push(String(data))), { maxQueue: 3 });
  for (const text of ['a', 'b', 'c']) socket.send(text);
  assert.throws(() => socket.send('d'), { name: 'QuotaExceededError' });
  await next(socket, 'open');
  assert.equal(socket.pending, 0);
  while (heard.length < 3) await new Promise(setImmediate);
  assert.deepEqual(heard, ['a', 'b', 'c']);
});

test('a server that says nothing more is left', async (t) => {
  const asked = [];
  const { socket } = await scene(t, (peer, n) => {
    peer.on('message', (data) => { asked.push([n, String(data)]); if (n === 2) peer.send('pong'); });
  }, { health: { everyMs: 40, timeoutMs: 40, message: () => 'ping' } });
  await next(socket, 'resumed');
  await next(socket, 'message');
  assert.deepEqual(asked.slice(0, 2), [[1, 'ping'], [2, 'ping']]);
});

test('it ends for good at a final code, when told to, and when nobody answers', async (t) => {
  const final = await scene(t, (peer) => peer.close(4401, 'who are you'));
  const { code, reason, wasClean } = await next(final.socket, 'close');
  assert.deepEqual({ code, reason, wasClean }, { code: 4401, reason: 'who are you', wasClean: false });
  assert.throws(() => final.socket.send('x'), { name: 'InvalidStateError' });
  assert.equal(final.socket.readyState, ResumableSocket.CLOSED);

  const nobody = new ResumableSocket('ws://127.0.0.1:1/', { WebSocket, profiles: quick, maxAttempts: 3 });
  let attempts = 0;
  nobody.onreconnecting = () => { attempts += 1; };
  const gone = await next(nobody, 'close');
  assert.equal(attempts, 3);
  assert.equal(gone.code, 1006);
});
