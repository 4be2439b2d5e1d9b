// Real servers for the tests, on ports of their own, and helpers to wait for what they do.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createHmac } from 'node:crypto';

export const TOKEN = 't0ken', KEY = 'session-key';
export const tokenFile = join(mkdtempSync(join(tmpdir(), 'wsroll-js-')), 'token');
writeFileSync(tokenFile, TOKEN);

/** Somebody else could take it before it is used, which nobody does here. */
export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/** A token as the session-server checks it. */
export function userToken(user = 'ann', tier = 'gold') {
  return `${user}.${tier}.${createHmac('sha256', KEY).update(`${user}.${tier}`).digest('hex')}`;
}

/** Runs a program that serves the drain port, until `stop`. */
export async function serve(command, args, { env = {}, port, drainPort } = {}) {
  port ??= await freePort();
  drainPort ??= await freePort();
  const child = spawn(command, args, { stdio: ['ignore', 'inherit', 'inherit'], env: { ...process.env, RUST_LOG: 'warn', ...env,
    PORT: port, LISTEN: `127.0.0.1:${port}`, SESSION_KEY: KEY, WSROLL_PORT: drainPort, WSROLL_TOKEN_FILE: tokenFile } });
  const ended = once(child, 'exit');
  const call = (method, path, body) => fetch(`http://127.0.0.1:${drainPort}/wsroll/v1/${path}`, {
    method, headers: { authorization: `Bearer ${TOKEN}` }, body: body && JSON.stringify(body) });
  await until(() => call('GET', 'sessions').then((answer) => answer.ok, () => false), 'the server to serve');
  return {
    port, drainPort, url: `ws://127.0.0.1:${port}/ws`,
    sessions: async () => (await call('GET', 'sessions')).json(),
    drain: async (order) => {
      const answer = await call('PUT', 'drain', { ratePerSecond: 50, leaseSeconds: 30, reconnect: { minMs: 0, maxMs: 100 }, ...order });
      if (!answer.ok) throw new Error(`the order was answered with ${answer.status}: ${await answer.text()}`);
    },
    cancel: (id) => call('DELETE', `drain/${id}`),
    stop: async (signal = 'SIGKILL') => { child.kill(signal); await ended; },
  };
}

/** The session-server; the test's runner says where it is. */
export function sessionServer(options = {}) {
  const program = process.env.WSROLL_SESSION_SERVER_BIN;
  if (!program) throw new Error('WSROLL_SESSION_SERVER_BIN is to name the session-server');
  return serve(program, [], options);
}

/** Asks every 20 ms, for ten seconds at most. */
export async function until(holds, what) {
  const end = performance.now() + 10_000;
  while (!(await holds())) {
    if (performance.now() > end) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** The next event of a type, within ten seconds. */
export function next(socket, type) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`waited in vain for ${type}`)), 10_000);
    socket.addEventListener(type, (event) => { clearTimeout(timer); resolve(event); }, { once: true });
  });
}
