// A chat of an ordinary kind: socket.io with its defaults, long polling first and then an upgrade. It knows nothing of
// releases, and leaves SIGTERM to Node.
const http = require('node:http');
const { Server } = require('socket.io');

const where = { version: process.env.VERSION ?? '', pod: process.env.HOSTNAME ?? '' };

const web = http.createServer((request, response) => {
  response.writeHead(request.url === '/healthz' ? 200 : 404).end();
});
const io = new Server(web);

io.on('connection', (socket) => {
  socket.emit('hello', where);
  socket.on('say', (text, answer) => answer({ text, ...where }));
});

web.listen(Number(process.env.PORT ?? 8080));
