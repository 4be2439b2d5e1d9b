// A chat-like echo service with `ws`, as one finds it: compression, subprotocols, nothing of wsroll.
'use strict';
const { WebSocketServer } = require('ws');

const [port] = process.argv.slice(2);
const server = new WebSocketServer({
  host: '127.0.0.1',
  port: Number(port),
  perMessageDeflate: { threshold: 0 },
  handleProtocols: (offered) => (offered.has('chat.v2') ? 'chat.v2' : false),
  maxPayload: 64 * 1024 * 1024,
});
const say = (event) => console.log(JSON.stringify(event));

server.on('listening', () => say({ event: 'ready' }));
server.on('connection', (socket) => {
  socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
  socket.on('close', (code) => say({ event: 'ended', code }));
  socket.on('error', () => {}); // a broken frame closes the socket, which is told above
});
