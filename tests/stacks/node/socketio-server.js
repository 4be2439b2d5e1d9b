// A service with `socket.io` as its documentation shows it: default transports, nothing of wsroll.
'use strict';
const { createServer } = require('node:http');
const { Server } = require('socket.io');

// With `recovery` it keeps sessions for those who come back, and greets each socket, so that there is an event to go on from.
const [port, recovery] = process.argv.slice(2);
const http = createServer();
const server = new Server(http, recovery ? { connectionStateRecovery: {} } : {});
const say = (event) => console.log(JSON.stringify(event));

server.on('connection', (socket) => {
  if (recovery && !socket.recovered) socket.emit('hello', 'there');
  socket.on('say', (data, answer) => answer(data));
  socket.on('disconnect', (reason) => say({ event: 'ended', reason }));
});
http.listen(Number(port), '127.0.0.1', () => say({ event: 'ready' }));
