// What becomes of held sessions: a line of JSON each second, and a summary when a line `stop` comes on standard input.
const readline = require('node:readline');

class Session {
  constructor(tally) {
    this.tally = tally;
    this.on = null; // the version it is on, while it is open
    this.opened = false; // it was open once
    this.disconnects = 0;
    this.unanswered = false; // the last that was said has no answer
  }

  opens(version) {
    if (this.opened) this.tally.connects.note();
    this.opened = true;
    this.on = version;
    this.tally.versions.add(version, this);
  }

  // `how` is a close code, or what else ended it; `announced` says whether somebody asked it to leave.
  ends(how, announced) {
    if (this.on === null) return;
    this.on = null;
    this.disconnects += 1;
    const { tally } = this;
    tally.ends[how] = (tally.ends[how] ?? 0) + 1;
    tally[announced ? 'announced' : 'unannounced'] += 1;
    tally.closes.note();
    if (this.unanswered) tally.inFlight += 1;
    this.unanswered = false;
  }
}

// How many there were in the fullest second of the clock.
class PerSecond {
  second = 0;
  count = 0;
  peak = 0;

  note() {
    const now = Math.floor(Date.now() / 1000);
    this.count = now === this.second ? this.count + 1 : 1;
    this.second = now;
    this.peak = Math.max(this.peak, this.count);
  }
}

class Versions {
  reached = new Map();

  add(version, session) {
    if (!this.reached.has(version)) this.reached.set(version, new Set());
    this.reached.get(version).add(session);
  }
}

class Tally {
  sessions = [];
  ends = {};
  announced = 0;
  unannounced = 0;
  inFlight = 0;
  wrong = 0;
  connects = new PerSecond();
  closes = new PerSecond();
  versions = new Versions();

  session() {
    const session = new Session(this);
    this.sessions.push(session);
    return session;
  }

  // Tells what is, each second, and what was, at the end; then the process ends.
  tell(count) {
    setInterval(() => this.print(this.now(count)), 1000);
    const lines = readline.createInterface({ input: process.stdin });
    lines.on('line', (line) => {
      if (line.trim() !== 'stop') return;
      this.print({ summary: this.summary() });
      process.exit(0);
    });
  }

  now(count) {
    const open = this.sessions.filter((session) => session.on !== null);
    const revisions = {};
    for (const { on } of open) revisions[on] = (revisions[on] ?? 0) + 1;
    return { open: open.length, down: count - open.length, revisions };
  }

  summary() {
    const reached = [...this.versions.reached].map(([version, sessions]) => [version, sessions.size]);
    return {
      sessions: this.sessions.length,
      unannounced_disconnects: this.unannounced,
      announced_disconnects: this.announced,
      max_disconnects_per_session: Math.max(0, ...this.sessions.map((session) => session.disconnects)),
      messages_lost: this.wrong,
      messages_in_flight_at_close: this.inFlight,
      state_lost: 0,
      peak_connects_per_s: this.connects.peak,
      peak_closes_per_s: this.closes.peak,
      sessions_unanswered_at_end: this.sessions.filter((session) => session.on === null).length,
      reached: Object.fromEntries(reached),
      close_codes: this.ends,
    };
  }

  print(line) {
    process.stdout.write(`${JSON.stringify(line)}\n`);
  }
}

module.exports = { Tally };
