// A chat room whose members come back where they left: history is numbered, and a client says what it has.
// ws://HOST:8080/ws?sid=NAME[&last=N][&wsroll=1]
import { existsSync, readFileSync } from 'node:fs';
import { WebSocketServer } from 'ws';
import { Drain } from './drain.js';

const { PORT = '8080', WSROLL_PORT = '9911', WSROLL_REVISION = 'dev' } = process.env;
const tokenFile = process.env.WSROLL_TOKEN_FILE ?? '/var/run/wsroll/token';
const keyFile = process.env.WSROLL_IDENTITY_KEY_FILE ?? '/var/run/wsroll/identity-key';

// Without a token nobody may give orders: the port is not served.
const drain = existsSync(tokenFile)
  ? new Drain({ token: readFileSync(tokenFile, 'utf8'), revision: WSROLL_REVISION,
      identityKey: existsSync(keyFile) ? readFileSync(keyFile, 'utf8') : '' })
  : null;
drain?.listen(Number(WSROLL_PORT));

// In memory, so it dies with the pod. A real service keeps it in a store that all revisions share.
const history = new Map(); // sid -> [{ seq, text }], the last 100

const server = new WebSocketServer({ port: Number(PORT), maxPayload: 16 * 1024 });
server.on('connection', (socket, request) => {
  const query = new URL(request.url, 'http://chat').searchParams;
  const sid = query.get('sid') ?? Math.random().toString(36).slice(2);
  const last = Number(query.get('last') ?? 0);
  const known = history.get(sid);
  const log = known ?? [];
  history.set(sid, log);
  const send = (message) => socket.readyState === socket.OPEN && socket.send(message);
  const session = drain?.add({
    identity: sid, declared: query.get('wsroll') === '1', resumed: last > 0 ? known !== undefined : undefined,
    resume: { token: sid, expiresMs: 900_000 }, send,
    close: (code, reason) => socket.close(code, reason), // ws flushes what was sent before
  });
  send(JSON.stringify({ type: 'welcome', session: sid, resumed: known !== undefined, revision: WSROLL_REVISION }));
  for (const message of log.filter(({ seq }) => seq > last)) send(JSON.stringify({ type: 'message', ...message }));

  socket.on('message', (data) => {
    let message;
    try { message = JSON.parse(data); } catch { return; }
    if (message.type === 'wsroll.ack') return drain?.acked(session, message.id);
    if (message.type !== 'say' || log.some(({ id }) => id && id === message.id)) return; // a repeat is said once
    const said = { seq: (log.at(-1)?.seq ?? 0) + 1, id: message.id, text: String(message.text) };
    log.push(said);
    if (log.length > 100) log.shift();
    send(JSON.stringify({ type: 'message', ...said }));
  });
  socket.on('error', () => {});
  socket.on('close', (code) => drain?.remove(session, code));
});

// wsroll deletes a pod when it is empty, so this is for everybody else: an ordinary deploy, a node that goes.
process.on('SIGTERM', () => {
  server.close();
  for (const socket of server.clients) socket.close(1001);
  setTimeout(() => process.exit(0), 2000).unref();
});
