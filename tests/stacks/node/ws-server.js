// A chat-like echo service with `ws`, as one finds it: compression, subprotocols, nothing of wsroll.
'use strict';
const { readFileSync } = require('node:fs');
const { createServer } = require('node:http');
const { createServer: createSecureServer } = require('node:https');
const { WebSocketServer } = require('ws');

// With a certificate and its key it is encrypted.
const [port, cert, key] = process.argv.slice(2);
const http = cert
  ? createSecureServer({ cert: readFileSync(cert), key: readFileSync(key) })
  : createServer();
const server = new WebSocketServer({
  server: http,
  perMessageDeflate: { threshold: 0 },
  handleProtocols: (offered) => (offered.has('chat.v2') ? 'chat.v2' : false),
  maxPayload: 64 * 1024 * 1024,
});
const say = (event) => console.log(JSON.stringify(event));

server.on('connection', (socket) => {
  socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
  socket.on('close', (code) => say({ event: 'ended', code }));
  socket.on('error', () => {}); // a broken frame closes the socket, which is told above
});
http.listen(Number(port), '127.0.0.1', () => say({ event: 'ready' }));
