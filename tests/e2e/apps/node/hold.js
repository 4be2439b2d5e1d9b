// Holds sessions as users would, with clients as they come from npm:
//   hold.js socketio|ws --url URL --address IP --sessions N [--polling N] [--say-ms MS]
// and with wsroll's own, which reads notices and comes back with its number:
//   hold.js resumable --library FILE --url URL …
const { parseArgs } = require('node:util');
const { io } = require('socket.io-client');
const { WebSocket } = require('ws');
const { Tally } = require('./tally.js');
const through = require('./through.js');

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    url: { type: 'string' },
    address: { type: 'string' },
    sessions: { type: 'string', default: '100' },
    polling: { type: 'string', default: '0' },
    library: { type: 'string' },
    'say-ms': { type: 'string', default: '2000' },
    'open-per-s': { type: 'string', default: '100' },
  },
});
const sessions = Number(values.sessions);
const polling = Number(values.polling);
const sayMs = Number(values['say-ms']);
const tally = new Tally();
if (values.address) through(values.address);

// The code of a drain, in turn. Nothing else is an announcement on a socket.
const ORDERED = 1012;

function holdSocketIo(place) {
  const session = tally.session();
  const socket = io(values.url, {
    withCredentials: true, // cookies are kept, as a browser keeps them
    forceNew: true,
    ...(place < polling ? { transports: ['polling'] } : {}),
  });
  const say = setInterval(() => {
    if (!socket.connected || session.unanswered) return;
    const text = `${place}-${Date.now()}`;
    session.unanswered = true;
    socket.emit('say', text, (answer) => {
      session.unanswered = false;
      if (answer.text !== text) tally.wrong += 1;
    });
  }, sayMs);
  say.unref();
  socket.on('hello', ({ version }) => session.opens(version));
  socket.on('disconnect', (reason, description) => {
    const [how, announced] = ended(socket, reason, description);
    session.ends(how, announced);
  });
}

// How a socket.io session ended. A polling session is ended in order by an answer of the server's side, be it the
// transport's own close or the refusal of a session that is over, and never by a request that was cut or failed.
function ended(socket, reason, description) {
  const context = description?.context;
  const code = context?.code; // of a WebSocket
  if (code !== undefined) return [String(code), code === ORDERED];
  const status = context?.status; // of a polling request
  if (status !== undefined) return [`polling ${status}`, status === 400];
  return [reason, reason === 'transport close'];
}

function holdWs(place) {
  const session = tally.session();
  let tries = 0;
  const connect = () => {
    const socket = new WebSocket(values.url);
    let said = '';
    const say = setInterval(() => {
      if (session.on === null || session.unanswered) return;
      said = `${place}-${Date.now()}`;
      session.unanswered = true;
      socket.send(said);
    }, sayMs);
    socket.on('message', (data) => {
      const { hello, text, version } = JSON.parse(String(data));
      if (hello || (session.on === null && version)) {
        tries = 0;
        session.opens((hello ?? { version }).version);
      } else {
        session.unanswered = false;
        if (text !== said) tally.wrong += 1;
      }
    });
    socket.on('error', () => {});
    socket.on('close', (code) => {
      clearInterval(say);
      session.ends(String(code), code === ORDERED);
      tries += 1;
      setTimeout(connect, Math.min(5000, 250 * 2 ** tries) * (0.5 + Math.random()));
    });
  };
  connect();
}

async function holdResumable(place) {
  const session = tally.session();
  const { ResumableSocket, numberedSessions } = await import(values.library);
  const adapter = numberedSessions({ session: 'sid', declare: 'wsroll=1', overlap: '', id: `s${place}` });
  let revision = '';
  let said = 0;
  const read = adapter.read.bind(adapter);
  adapter.read = (data, about) => {
    const message = JSON.parse(data);
    if (message.type === 'welcome') revision = message.revision;
    return read(data, about);
  };
  const socket = new ResumableSocket(values.url, { WebSocket, adapter });
  socket.onopen = () => session.opens(revision);
  socket.onresumed = () => session.opens(revision);
  socket.onreconnecting = ({ code }) => session.ends(String(code), code === ORDERED);
  socket.onclose = ({ code }) => session.ends(`for good ${code}`, false);
  socket.onmessage = () => {
    session.unanswered = false;
  };
  setInterval(() => {
    if (session.unanswered || session.on === null) return;
    session.unanswered = true;
    socket.send(JSON.stringify({ type: 'say', id: `s${place}-${said++}`, text: 'hello' }));
  }, sayMs);
}

const hold = { socketio: holdSocketIo, ws: holdWs, resumable: holdResumable }[positionals[0]];
let place = 0;
const opening = setInterval(() => {
  if (place < sessions) hold(place++);
  else clearInterval(opening);
}, 1000 / Number(values['open-per-s']));
tally.tell(sessions);
