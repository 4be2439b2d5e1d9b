// In a real browser: a page whose session is drained while it talks.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { sessionServer, userToken } from '../test/support.js';

const here = new URL('.', import.meta.url);
const FILES = { '/page.html': ['page.html', 'text/html'], '/resumable-socket.js': ['../resumable-socket.js', 'text/javascript'],
  '/talker.js': ['../test/talker.js', 'text/javascript'] };

/** Serves the page, and gives what it tells. */
async function site() {
  const told = { ready: Promise.withResolvers?.() ?? resolvers(), result: Promise.withResolvers?.() ?? resolvers() };
  const server = createServer(async (request, response) => {
    const path = new URL(request.url, 'http://site').pathname;
    if (request.method === 'POST') {
      let body = '';
      for await (const chunk of request) body += chunk;
      told[path.slice(1)]?.resolve(JSON.parse(body));
      return response.writeHead(204).end();
    }
    const [file, type] = FILES[path] ?? [];
    if (!file) return response.writeHead(404).end();
    response.writeHead(200, { 'content-type': type }).end(readFileSync(new URL(file, here)));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { url: `http://127.0.0.1:${server.address().port}/page.html`, ready: told.ready.promise, result: told.result.promise,
    stop: () => { server.closeAllConnections(); server.close(); } };
}

function resolvers() {
  const made = {};
  made.promise = new Promise((resolve) => { made.resolve = resolve; });
  return made;
}

function browse(url) {
  const home = mkdtempSync(join(tmpdir(), 'wsroll-chromium-'));
  const child = spawn(process.env.WSROLL_CHROMIUM ?? 'chromium', ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic',
    '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
    `--user-data-dir=${home}`, '--remote-debugging-port=0', url], { stdio: 'ignore', detached: true });
  const ended = once(child, 'exit');
  return {
    failed: once(child, 'error').then(([error]) => { throw error; }),
    stop: async () => {
      try { process.kill(-child.pid, 'SIGKILL'); } catch { /* it has ended */ }
      await ended;
      rmSync(home, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

test('a page is drained in mid-sentence and loses nothing', { timeout: 60_000 }, async (t) => {
  const [server, pages] = await Promise.all([sessionServer(), site()]);
  const socket = `${server.url}?token=${userToken()}`;
  const browser = browse(`${pages.url}?url=${encodeURIComponent(socket)}`);
  t.after(async () => { await browser.stop(); pages.stop(); await server.stop(); });
  await Promise.race([pages.ready, pages.result.then((result) => assert.fail(JSON.stringify(result))), browser.failed]);
  await server.drain({ id: 'page', reconnect: { minMs: 0, maxMs: 200, hint: { query: 'wsroll=x7Qp' } } });
  const result = await pages.result;
  assert.deepEqual(result.faults, [], JSON.stringify(result));
  assert.equal(result.notices >= 1, true);
  const { found, overlap } = result.resumed[0];
  assert.deepEqual({ found, overlap }, { found: true, overlap: true });
  assert.equal(result.reconnecting, 0, 'it never was without a socket');
  assert.equal(result.pending, 0);
  const { totals } = await server.sessions();
  assert.equal(totals.closed['1006'], undefined, JSON.stringify(totals));
});
