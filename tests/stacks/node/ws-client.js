// Sessions with `ws`: ws-client.js URL SESSIONS. What happens to them is told in lines of JSON.
'use strict';
const assert = require('node:assert');
const { once } = require('node:events');
const { setTimeout: delay } = require('node:timers/promises');
const WebSocket = require('ws');

const [url, sessions] = process.argv.slice(2);
const say = (event) => console.log(JSON.stringify(event));

// Sends and waits for the echo; everything else that comes is a mistake.
async function echo(socket, data) {
  const [answer, isBinary] = (socket.send(data), await once(socket, 'message'));
  assert.strictEqual(isBinary, typeof data !== 'string');
  assert.ok(Buffer.from(data).equals(answer), 'the echo differs');
}

async function check(socket) {
  await echo(socket, 'text: žluťoučký kůň');
  await echo(socket, Buffer.from([0, 1, 2, 254, 255]));
  await echo(socket, Buffer.alloc(1 << 20, 'large message '));
  await echo(socket, '');
  assert.match(socket.extensions, /permessage-deflate/);
  assert.strictEqual(socket.protocol, 'chat.v2');
  socket.ping('are you there');
  const [payload] = await once(socket, 'pong');
  assert.strictEqual(payload.toString(), 'are you there');
  say({ event: 'checked' });
}

async function visit(session, turn) {
  const socket = new WebSocket(`${url}/chat?session=ws-${session}`, ['chat.v1', 'chat.v2']);
  const closed = new Promise((resolve) => socket.on('close', (code) => resolve(code)));
  try {
    await once(socket, 'open');
  } catch {
    return; // refused while nobody is there: tried again
  }
  if (session === 0 && turn === 0) await check(socket);
  const arrived = await Promise.race([echo(socket, `hello from ${session}`).then(() => true), closed.then(() => false)]);
  if (arrived) say({ event: 'open', session });
  const talk = setInterval(() => socket.readyState === WebSocket.OPEN && socket.send(`still ${session}`), 100);
  const code = await closed;
  clearInterval(talk);
  say({ event: 'closed', session, code });
}

async function live(session) {
  for (let turn = 0; ; turn += 1) {
    await visit(session, turn);
    await delay(50 + Math.random() * 200);
  }
}

process.on('unhandledRejection', (error) => {
  say({ event: 'error', error: String(error) });
  process.exit(1);
});
for (let session = 0; session < Number(sessions); session += 1) live(session);
