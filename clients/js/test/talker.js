// Says something every few milliseconds and keeps count of the answers; for Node and for browsers.

export class Talker {
  constructor(socket) {
    this.socket = socket;
    this.said = 0;
    this.answers = [];
    socket.addEventListener('message', ({ data }) => this.answers.push(JSON.parse(data)));
    this.timer = setInterval(() => this.say(), 5);
  }

  say() {
    this.said += 1;
    this.socket.send(JSON.stringify({ type: 'say', id: `m-${this.said}`, text: `${this.said}` }));
  }

  stop() { clearInterval(this.timer); }

  isAnswered() { return this.answers.length >= this.said; }

  /** What is wrong with the answers: each message answered once, numbers without gaps. */
  faults() {
    const faults = [];
    this.answers.forEach(({ seq, id }, at) => {
      if (seq !== at + 1) faults.push(`answer ${at + 1} has number ${seq}`);
      if (id !== `m-${at + 1}`) faults.push(`answer ${at + 1} is for ${id}`);
    });
    if (this.answers.length !== this.said) faults.push(`${this.said} said, ${this.answers.length} answered`);
    return faults.slice(0, 5);
  }
}
