// A service with `socket.io` as its documentation shows it: default transports, nothing of wsroll.
'use strict';
const { createServer } = require('node:http');
const { Server } = require('socket.io');

const [port] = process.argv.slice(2);
const http = createServer();
const server = new Server(http);
const say = (event) => console.log(JSON.stringify(event));

server.on('connection', (socket) => {
  socket.on('say', (data, answer) => answer(data));
  socket.on('disconnect', (reason) => say({ event: 'ended', reason }));
});
http.listen(Number(port), '127.0.0.1', () => say({ event: 'ready' }));
