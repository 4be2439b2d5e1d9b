// Against real servers: drained, killed, restarted.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import WebSocket from 'ws';
import { ResumableSocket, numberedSessions } from '../resumable-socket.js';
import { Talker } from './talker.js';
import { next, serve, sessionServer, until, userToken } from './support.js';

const quick = { emergency: { delays: [20, 40, 80, 160], firstWaits: true } };

async function talkThrough(server, options, act) {
  const headers = { Authorization: `Bearer ${userToken()}` };
  const socket = new ResumableSocket(server.url, { WebSocket, headers, profiles: quick, adapter: numberedSessions(), ...options });
  await next(socket, 'open');
  const talker = new Talker(socket);
  await until(() => talker.answers.length > 3, 'the first answers');
  const event = await act(socket);
  const before = talker.said;
  await until(() => talker.said > before + 10, 'more to be said');
  talker.stop();
  await until(() => talker.isAnswered(), 'every answer').catch(() => {});
  assert.deepEqual(talker.faults(), []);
  assert.equal(socket.pending, 0);
  socket.close();
  return event;
}

test('a drain with make before break: no gap, nothing lost, nothing twice', async (t) => {
  const server = await sessionServer();
  t.after(() => server.stop());
  const event = await talkThrough(server, {}, async (socket) => {
    const [notice, resumed] = [next(socket, 'notice'), next(socket, 'resumed')];
    await server.drain({ id: 'mbb', reconnect: { minMs: 0, maxMs: 100, hint: { query: 'wsroll=x7Qp' } } });
    assert.equal((await notice).notice.makeBeforeBreak, true);
    await server.cancel('mbb'); // all means those who come as well
    return resumed;
  });
  assert.equal(event.resumed, true);
  assert.equal(event.overlap, true);
  assert.equal((await server.sessions()).drain.acked, 1);
});

test('a drain without it: closed in turn with 1012, back at once, nothing lost', async (t) => {
  const server = await sessionServer();
  t.after(() => server.stop());
  const event = await talkThrough(server, { makeBeforeBreak: false }, async (socket) => {
    const [back, resumed] = [next(socket, 'reconnecting'), next(socket, 'resumed')];
    await server.drain({ id: 'turn', closeCode: 1012 });
    const { profile, waitMs, code } = await back;
    assert.deepEqual({ profile, waitMs, code }, { profile: 'graceful', waitMs: 0, code: 1012 });
    await server.cancel('turn');
    return resumed;
  });
  assert.equal(event.resumed, true);
  assert.equal(event.overlap, false);
});

test('a server that dies: backed off, and told that the state is lost', async (t) => {
  let server = await sessionServer();
  t.after(() => server.stop());
  const headers = { Authorization: `Bearer ${userToken()}` };
  const adapter = numberedSessions();
  const socket = new ResumableSocket(server.url, { WebSocket, headers, profiles: quick, adapter });
  await next(socket, 'open');
  socket.send('{"type":"say","id":"a","text":"before"}');
  assert.equal(JSON.parse((await next(socket, 'message')).data).seq, 1);
  const lost = next(socket, 'reconnecting');
  await server.stop();
  const { profile, code, waitMs } = await lost;
  assert.equal(profile, 'emergency');
  assert.equal(code, 1006);
  assert.ok(waitMs >= 10);
  socket.send('{"type":"say","id":"b","text":"while it was away"}');
  assert.equal(socket.pending, 1);
  const resumed = next(socket, 'resumed'), answer = next(socket, 'message');
  server = await sessionServer({ port: server.port, drainPort: server.drainPort });
  assert.equal((await resumed).resumed, false);
  // Numbers begin anew, and what was queued is said.
  const { seq, id } = JSON.parse((await answer).data);
  assert.deepEqual({ seq, id }, { seq: 1, id: 'b' });
  socket.close();
});

test('a native example: another dialect of the same, drained in its turn', async (t) => {
  const program = process.env.WSROLL_NATIVE_NODE;
  if (!program) return t.skip('WSROLL_NATIVE_NODE is to name its server.js');
  const server = await serve(process.execPath, [program]);
  t.after(() => server.stop());
  const adapter = numberedSessions({ session: 'sid', declare: 'wsroll=1', overlap: '', id: 'ann' });
  const event = await talkThrough(server, { adapter }, async (socket) => {
    const [notice, resumed] = [next(socket, 'notice'), next(socket, 'resumed')];
    await server.drain({ id: 'native' });
    assert.equal((await notice).notice.id, 'native');
    const event = await resumed;
    await server.cancel('native');
    return event;
  });
  assert.equal(event.resumed, true);
});
