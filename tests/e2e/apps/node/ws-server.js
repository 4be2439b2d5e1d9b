// An echo on the library `ws`, with its compression on. It knows nothing of releases, and leaves SIGTERM to Node.
const http = require('node:http');
const { WebSocketServer } = require('ws');

const where = { version: process.env.VERSION ?? '', pod: process.env.HOSTNAME ?? '' };

const web = http.createServer((request, response) => {
  response.writeHead(request.url === '/healthz' ? 200 : 404).end();
});
const sockets = new WebSocketServer({ server: web, path: '/ws', perMessageDeflate: true });

sockets.on('connection', (socket) => {
  socket.send(JSON.stringify({ hello: where }));
  socket.on('error', () => {});
  socket.on('message', (data) => socket.send(JSON.stringify({ text: String(data), ...where })));
});

web.listen(Number(process.env.PORT ?? 8080));
