/* Ratings on their way to the server. Each is its own row in localStorage until the server says it is on the disk,
   so a closed lid, a refresh or a dead network loses none; the server counts a rating id once, however often it comes. */

function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  // randomUUID exists on https and localhost only; a plain http address in a lab network has just this.
  const b = crypto.getRandomValues(new Uint8Array(16));
  b[6] = (b[6] & 0x0f) | 0x40;
  b[8] = (b[8] & 0x3f) | 0x80;
  const hex = Array.from(b, (x) => x.toString(16).padStart(2, '0')).join('');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

/** localStorage, or memory where the browser forbids it. */
function openStorage() {
  try {
    localStorage.setItem('hitl.probe', '1');
    localStorage.removeItem('hitl.probe');
    return localStorage;
  } catch (error) {
    const rows = new Map();
    return {
      get length() { return rows.size; },
      key: (i) => Array.from(rows.keys())[i],
      getItem: (k) => (rows.has(k) ? rows.get(k) : null),
      setItem: (k, v) => rows.set(k, v),
      removeItem: (k) => rows.delete(k),
    };
  }
}

class Outbox {
  /** `send(path, body)` answers { status, body } and throws when the network is gone. */
  constructor(storage, owner, send, told) {
    this.storage = storage;
    this.prefix = 'hitl.outbox.' + owner + '.';
    this.tab = newId().slice(0, 8);
    this.send = send;
    this.told = told;
    this.failures = 0;
    this.sending = false;
    this.timer = null;
    this.closed = false;
  }

  keys() {
    const found = [];
    for (let i = 0; i < this.storage.length; i += 1) {
      const key = this.storage.key(i);
      if (key.startsWith(this.prefix)) found.push(key);
    }
    return found.sort();
  }

  entries() {
    return this.keys().map((key) => this.read(key)).filter(Boolean);
  }

  read(key) {
    try { return JSON.parse(this.storage.getItem(key)); } catch (error) { return null; }
  }

  get size() { return this.keys().length; }

  /** Ratings that are still here and were not taken back by an undo that is still here too. */
  ratings() {
    const entries = this.entries();
    const voided = new Set(entries.map((entry) => entry.body.voids).filter(Boolean));
    return entries.filter((entry) => entry.path === 'api/ratings' && !voided.has(entry.body.rating_id)).map((entry) => entry.body);
  }

  put(path, body) {
    const last = this.keys().pop();
    const number = last ? parseInt(last.slice(this.prefix.length), 10) + 1 : 1;
    const key = this.prefix + String(number).padStart(9, '0') + '.' + this.tab;
    this.storage.setItem(key, JSON.stringify({ path, body }));
    this.flush();
  }

  /** Send what is here, oldest first and one at a time: an undo must not overtake its rating. */
  async flush() {
    if (this.sending || this.closed) return;
    this.sending = true;
    clearTimeout(this.timer);
    try {
      for (let key = this.keys()[0]; key && !this.closed; key = this.keys()[0]) {
        const entry = this.read(key);
        if (!entry) { this.storage.removeItem(key); continue; }
        let answer = null;
        try { answer = await this.send(entry.path, entry.body); } catch (error) { answer = { status: 0, body: {} }; }
        // Signed out, or signed in as somebody else by another tab: these are sent when their rater is back.
        if (answer.status === 401 || answer.status === 409) { this.tell('signed-out', answer, entry); this.close(); return; }
        // 403 is about the way here, never about the rating.
        if (answer.status === 0 || answer.status === 403 || answer.status === 408 || answer.status === 429 || answer.status >= 500) {
          this.failures += 1;
          this.tell('kept', answer, entry);
          this.timer = setTimeout(() => this.flush(), Math.min(8000, 400 * 2 ** Math.min(this.failures, 5)));
          return;
        }
        this.storage.removeItem(key);
        this.failures = 0;
        this.tell(answer.status < 300 ? 'sent' : 'refused', answer, entry);
      }
      if (this.failures) { this.failures = 0; this.tell('sent'); } // by another tab
    } finally {
      this.sending = false;
    }
  }

  /** Whoever closed it no longer asks: the page may be somebody else's by now. */
  tell(event, answer, entry) { if (!this.closed) this.told(event, answer, entry); }

  close() { this.closed = true; clearTimeout(this.timer); }
}
