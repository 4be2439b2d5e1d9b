// Sessions with `socket.io-client`: socketio-client.js URL SESSIONS [TRANSPORT…]. It reconnects by itself.
'use strict';
const assert = require('node:assert');
const { Agent } = require('node:http');
const { io } = require('socket.io-client');

const [url, sessions, ...transports] = process.argv.slice(2);
const say = (event) => console.log(JSON.stringify(event));

async function check(socket) {
  // Polling sends bytes as Base64, and a server takes 1 MB by default.
  const large = Buffer.alloc(700_000, 'large message ');
  const samples = ['žluťoučký kůň', Buffer.from([0, 1, 254, 255]), large];
  for (const sample of samples) {
    assert.deepStrictEqual(await socket.timeout(10_000).emitWithAck('say', sample), sample);
  }
  say({ event: 'checked' });
}

function live(session) {
  const socket = io(url, {
    forceNew: true,
    agent: new Agent({ keepAlive: false }), // each request is routed for itself, as gateways do it
    reconnectionDelay: 100,
    reconnectionDelayMax: 500,
    ...(transports.length > 0 && { transports }),
  });
  const known = new Set();
  socket.on('connect', async () => {
    const fresh = !known.has(socket.id);
    known.add(socket.id);
    try {
      if (session === 0 && known.size === 1) await check(socket);
      await socket.timeout(10_000).emitWithAck('say', `hello from ${session}`);
      await settled(socket);
    } catch (error) {
      return say({ event: 'error', error: String(error) });
    }
    say({ event: 'open', session, fresh, transport: socket.io.engine.transport.name });
  });
  // A close code where there was a WebSocket; polling has none.
  socket.on('disconnect', (reason, details) => {
    say({ event: 'closed', session, reason, code: details?.context?.code });
  });
  setInterval(() => socket.connected && socket.volatile.emit('say', `still ${session}`, () => {}), 100);
}

// With default transports a session begins as polling and is upgraded: only then is it what it will be.
async function settled(socket) {
  const { engine } = socket.io;
  const upgrades = transports.length === 0 && engine.transport.name === 'polling';
  if (upgrades) await new Promise((resolve) => engine.once('upgrade', resolve));
}

for (let session = 0; session < Number(sessions); session += 1) live(session);
