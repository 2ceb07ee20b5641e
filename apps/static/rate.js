/* The rating screen. A key paints at once; the rating travels in the background (outbox.js); the next pictures are
   already decoded. `element` and `props` come from gr.HTML; everything else is this file's own. */

const GUARD_MS = 150; // pictures must have been on the screen this long before a choice counts
const ACKNOWLEDGE_MS = 120; // how long the chosen frame is seen
const AHEAD = 3; // tasks that are fetched and decoded before they are needed
const MOST_HELD = 10; // as many as the server hands to one rater
const POLL_MS = 1000;
const LONGEST_RENEW_S = 60;
const MOST_UNDO = 10;
const MOST_WAITING_KEYS = 30;
const CRISP_BELOW = 2; // pictures shown at this scale or more keep their pixels' edges

// The rating kind says what can be chosen and by which key; these are further keys for the same choices.
const MORE_KEYS = { left: ['1', 'a'], right: ['2', 'd'], tie: ['ArrowDown', '0'], both_bad: ['ArrowUp'], skip: [] };
const STACKED_LABELS = { left: 'Upper is better', right: 'Lower is better' };
const MARKS = { left: ['✓', ''], right: ['', '✓'], tie: ['=', '='], both_bad: ['✕', '✕'] };
const SAID = { left: 'Left chosen.', right: 'Right chosen.', tie: 'Tie.', both_bad: 'Both bad.', skip: 'Skipped.' };
const CAPS = { ArrowLeft: '←', ArrowRight: '→', ArrowDown: '↓', ArrowUp: '↑', ' ': 'Space', Enter: '⏎ Enter', Backspace: '⌫' };
const cap = (key) => CAPS[key] || key.toUpperCase();

const root = element;
root.classList.add('hitl-screen');
const find = (selector) => root.querySelector(selector);
const views = Array.from(root.querySelectorAll('[data-view]'));
let cards = [];
const storage = openStorage();
const here = (path) => new URL(path, document.baseURI).href;

let rater = null;
let outbox = null;
let screen = null; // how the task on the screen is asked, with what was answered of it so far
let queue = []; // tasks after the one on the screen, in order
let current = null; // the task on the screen
let ready = false; // its pictures have been seen long enough
let shownAt = 0;
let pressed = { at: 0, by: 'keyboard' }; // when the last choice was made, and with what
let waitingKeys = []; // pressed before the pictures were ready: used one by one, never dropped
let rated = new Set(); // tasks rated here; the server may still offer them while a rating is on its way
let marks = 0; // how often `rated` has grown
let history = []; // the last ratings, for undo
let progress = null;
let fetching = false;
let pollTimer = null;
let renewTimer = null;
let renewMs = LONGEST_RENEW_S * 1000;
let renewDue = false; // the tasks held here have not been asked for again for so long
let present = false; // somebody has touched key, mouse or screen since they were
let pointerAt = '';
let over = false; // all rounds are done and everything is sent: the server may go

/* talking to the server */

/** What is kept in this browser for a rater: per workspace, for names and task ids are the same in all of them. */
const ownerOf = (who) => who.workspace_id + '.' + who.rater_id;

async function call(path, body, who = rater) {
  const options = { headers: {}, signal: AbortSignal.timeout(15000), credentials: 'same-origin' };
  if (who) options.headers['X-Hitl-Page'] = ownerOf(who);
  if (body !== undefined) {
    options.method = 'POST';
    options.headers['Content-Type'] = 'application/json';
    options.body = JSON.stringify(body);
    options.keepalive = true; // a rating under way outlives the page
  }
  const response = await fetch(here(path), options);
  const answer = await response.json().catch(() => ({}));
  return { status: response.status, body: answer };
}

async function start() {
  let answer = null;
  try { answer = await call('api/me'); } catch (error) { setTimeout(start, POLL_MS); setBanner('No connection. Trying again …'); return; }
  setBanner('');
  if (answer.status === 200) signIn(answer.body);
  else showJoin();
}

function signIn(who) {
  rater = who;
  find('[data-who]').textContent = rater.name;
  storage.setItem('hitl.name', rater.name);
  if (outbox) outbox.close();
  outbox = new Outbox(storage, ownerOf(who), (path, body) => call(path, body, who), onOutbox);
  rated = new Set(outbox.ratings().map((body) => body.task_id));
  try { history = JSON.parse(storage.getItem('hitl.history.' + ownerOf(rater))) || []; } catch (error) { history = []; }
  current = null;
  queue = [];
  waitingKeys = [];
  over = false;
  outbox.flush();
  refill();
}

function onOutbox(event, answer, entry) {
  if (event === 'signed-out') { onSignedOut(answer); return; }
  if (event === 'kept') {
    const left = outbox.size;
    const why = answer.status ? answer.body.error || 'The server is busy.' : 'No connection.';
    setBanner(why + ' ' + (left === 1 ? '1 rating is kept here and will be sent.' : left + ' ratings are kept here and will be sent.'));
    return;
  }
  setBanner('');
  if (event === 'refused') {
    rated.delete(entry.body.task_id);
    say('A rating was not taken: ' + (answer.body.error || 'the server refused it') + '.');
    setBanner('A rating was not taken. ' + (answer.body.error || ''), 6000);
  }
}

function onSignedOut(answer) {
  const why = answer.status === 409 ? answer.body.error : 'Your session has ended.';
  showJoin(why + ' Give your name again; nothing is lost.');
}

/** Ask for tasks. This also renews the leases of those held here, so with nobody at the page it is not done. */
async function refill() {
  if (fetching || !rater) return;
  fetching = true;
  clearTimeout(pollTimer);
  clearTimeout(renewTimer);
  renewDue = false;
  present = false;
  const asking = rater;
  const marksBefore = marks;
  const sentAll = !outbox.size;
  const unsent = outbox.ratings().length;
  let answer = null;
  try { answer = await call('api/tasks?limit=' + Math.min(MOST_HELD, AHEAD + 1 + unsent)); } catch (error) { answer = null; }
  fetching = false;
  if (rater !== asking) { refill(); return; } // this page was signed in anew meanwhile
  if (answer && (answer.status === 401 || answer.status === 409)) { onSignedOut(answer); return; }
  if (!answer || answer.status !== 200) { onNoAnswer(answer); return; }
  if (!outbox.size) setBanner('');
  renewMs = Math.min(LONGEST_RENEW_S, answer.body.lease_s / 3) * 1000;
  over = false;
  // The machine has learned from an earlier round's ratings already, and would not offer their pairs again.
  history = history.filter((entry) => entry.task.round === answer.body.progress.round);
  const offered = answer.body.tasks;
  // The server had every rating of this page when it answered: what it offers again was undone in another tab.
  if (sentAll && marks === marksBefore) offered.forEach((task) => rated.delete(task.task_id));
  if (offered.length < MOST_HELD) {
    // Tasks that are no longer ours (a lease ran out, the round is over) leave the queue unseen.
    const ids = new Set(offered.map((task) => task.task_id));
    queue = queue.filter((task) => ids.has(task.task_id));
    // So does one on the screen whose picture is lost: the server has withdrawn it.
    if (current && current.broken && !ids.has(current.task_id)) current = null;
  }
  for (const task of offered) {
    const known = rated.has(task.task_id) || (current && current.task_id === task.task_id) || queue.some((other) => other.task_id === task.task_id);
    if (!known) queue.push(prepare(task));
  }
  setProgress(answer.body.progress, outbox.ratings().length);
  if (!current && queue.length) next();
  if (current) {
    clearTimeout(renewTimer);
    renewTimer = setTimeout(renew, renewMs);
  } else if (answer.body.state === 'rating' || outbox.size) {
    poll(250); // what is offered is still on its way to the server
  } else {
    over = answer.body.state === 'finished';
    showWaiting(answer.body);
    if (!over) poll(POLL_MS);
  }
}

/** Keep the tasks held here, if somebody is at the page; else as soon as somebody is, or the lease runs out. */
function renew() {
  renewDue = true;
  if (present) refill();
}

function onPresence(event) {
  if (event.type === 'pointermove') {
    const at = event.screenX + ' ' + event.screenY;
    if (at === pointerAt) return; // the page moved below a mouse that lies still
    pointerAt = at;
  }
  present = true;
  if (renewDue) refill();
}

function onNoAnswer(answer) {
  if (over) return;
  setBanner(answer ? (answer.body.error || 'The server is busy.') + ' Trying again …' : 'No connection. Your ratings are kept; trying again …');
  poll(POLL_MS);
}

function poll(delay) {
  clearTimeout(pollTimer);
  pollTimer = setTimeout(refill, delay);
}

/* tasks and pictures */

function prepare(task) {
  const once = (url) => load(url).catch(() => new Promise((done) => setTimeout(done, 600)).then(() => load(url))).catch(() => null);
  const copies = task.display_copies || [];
  task.pictures = Promise.all(task.images.map((url, side) => (copies[side] ? loadCopy(copies[side], url).catch(() => once(url)) : once(url))));
  return task;
}

function load(url) {
  const picture = new Image();
  picture.draggable = false;
  picture.src = here(url);
  return picture.decode().then(() => picture);
}

/** A large picture's copy, which knows where its original is. */
function loadCopy(url, original) {
  return load(url).then((picture) => { picture.dataset.original = original; return picture; });
}

/** Put the originals in place of the copies on the screen as they come; nobody waits for them. */
function showOriginals() {
  for (const copy of root.querySelectorAll('.card img[data-original]')) {
    load(copy.dataset.original).then((original) => {
      if (!copy.isConnected) return; // another task is on the screen
      original.alt = copy.alt;
      copy.replaceWith(original);
      fit();
    }).catch(() => {}); // the copy stays
  }
}

const painted = () => new Promise((done) => {
  // Two frames: the first lays out, the second shows that it was painted. A hidden tab has no frames.
  const timer = setTimeout(done, 100);
  requestAnimationFrame(() => requestAnimationFrame(() => { clearTimeout(timer); done(); }));
});

async function next() {
  ready = false;
  current = queue.shift() || null;
  if (queue.length < AHEAD) refill();
  if (!current) { root.dataset.ready = 'no'; return; }
  const task = current;
  const pictures = await task.pictures;
  if (current !== task) return;
  show(task, pictures);
  if (task.broken) refill();
  await painted();
  if (current !== task) return;
  shownAt = performance.now();
  setTimeout(() => {
    if (current !== task) return;
    ready = true;
    root.dataset.ready = 'yes';
    useWaitingKey();
  }, GUARD_MS);
}

function show(task, pictures) {
  setView('rate');
  root.dataset.ready = 'no';
  root.dataset.task = task.task_id;
  setScreen(task);
  const prompt = find('[data-prompt]');
  prompt.textContent = task.prompt;
  prompt.classList.toggle('long', task.prompt.length > 90);
  cards.forEach((cell, side) => {
    const card = cell.firstElementChild;
    card.classList.remove('picked', 'passed', 'rejected', 'ranked', 'cursor');
    card.querySelector('.mark').textContent = '';
    const picture = pictures[side];
    if (picture) {
      picture.alt = cards.length === 2 ? ['Left picture', 'Right picture'][side] : 'Picture ' + (side + 1);
      card.querySelector('.mat').replaceChildren(picture);
    } else {
      const lost = document.createElement('p');
      lost.className = 'lost';
      lost.textContent = 'This picture could not be loaded. Please skip.';
      card.querySelector('.mat').replaceChildren(lost);
    }
  });
  task.broken = pictures.some((picture) => !picture);
  root.querySelectorAll('.choice').forEach((button) => button.classList.remove('pressed'));
  screen.draw();
  fit();
}

/** Small pictures grow by whole device pixels, so that every pixel of theirs has the same size. */
function fit() {
  layOut();
  const density = window.devicePixelRatio || 1;
  for (const card of root.querySelectorAll('.card')) {
    const picture = card.querySelector('img');
    if (!picture || !picture.naturalWidth) continue;
    const scale = Math.min(card.clientWidth / picture.naturalWidth, card.clientHeight / picture.naturalHeight);
    const crisp = scale >= CRISP_BELOW;
    picture.classList.toggle('crisp', crisp);
    const whole = Math.floor(scale * density) / density;
    picture.style.width = crisp ? picture.naturalWidth * whole + 'px' : '';
    picture.style.height = crisp ? picture.naturalHeight * whole + 'px' : '';
  }
  drawExtras(); // the points move with their pictures
}

/* what a rater does */

function press(action) {
  if (root.dataset.view === 'wait' && action === 'undo' && !find('[data-undo-wait]').hidden) { undo(); return; }
  if (root.dataset.view !== 'rate') return;
  if (action === 'zoom') { zoom(); return; }
  if (ready && !waitingKeys.length) { perform(action); return; }
  if (action === 'undo' && waitingKeys.length) { waitingKeys.pop(); say('Waiting key taken back.'); }
  else if (waitingKeys.length < MOST_WAITING_KEYS) waitingKeys.push(action);
  else { say('Too fast: this key was not used.'); setBanner('Too fast: the last key was not used.', 2000); }
  showWaitingKeys();
}

function useWaitingKey() {
  const action = waitingKeys.shift();
  showWaitingKeys();
  if (action) perform(action);
}

function perform(action) {
  if (action === 'undo') { undo(); return; }
  if (current.broken && action !== 'skip') {
    say('A picture is missing. Please skip.');
    waitingKeys = [];
    showWaitingKeys();
    return;
  }
  if (action === 'skip' && !waitingKeys.length) {
    if (root.dataset.skipping === 'yes') skip();
    else openReasons();
    return;
  }
  if (typeof action === 'string') vote({ choice: action }, MARKS[action], SAID[action]);
  else screen.act(action);
  if (ready) useWaitingKey(); // the task wants more keys than this one
}

function vote(payload, marks, said) {
  const task = current;
  const isSkip = payload.choice === 'skip';
  ready = false;
  root.dataset.ready = 'no';
  acknowledge(payload.choice, marks || cards.map(() => ''));
  const rating = {
    rating_id: newId(), task_id: task.task_id, kind: task.kind, payload: { ...payload, ...givenExtras() }, image_ids: task.image_ids,
    dwell_ms: Math.round(performance.now() - shownAt), ...presentation(), client_time: new Date().toISOString(), rater_id: rater.rater_id,
  };
  markRated(task.task_id);
  const { pictures, ...plain } = task;
  history = [...history, { rating_id: rating.rating_id, isSkip, task: plain }].slice(-MOST_UNDO);
  saveHistory();
  outbox.put('api/ratings', rating);
  if (!isSkip) count(+1);
  say(said || 'Stored.');
  setTimeout(() => { if (current === task) next(); }, ACKNOWLEDGE_MS);
}

/** How the pair was shown and answered. A key that was pressed before the pictures were there took no time to decide. */
function presentation() {
  const stacked = matchMedia('(max-width: 700px)').matches; // as in rate.css
  return {
    decide_ms: Math.max(0, Math.round(pressed.at - shownAt)), input_device: pressed.by,
    screen_size: stacked ? 'small' : 'large', shown_as: root.querySelector('.card img[data-original]') ? 'display' : 'original',
  };
}

function markRated(taskId) {
  rated.add(taskId);
  marks += 1;
}

function undo() {
  const last = history.pop();
  if (!last) { say('There is nothing to undo.'); useNextAfterUndo(); return; }
  saveHistory();
  outbox.put('api/undo', { rating_id: newId(), voids: last.rating_id, client_time: new Date().toISOString(), rater_id: rater.rater_id });
  rated.delete(last.task.task_id);
  if (!last.isSkip) count(-1);
  if (current) queue.unshift(current);
  queue = queue.filter((task) => task.task_id !== last.task.task_id);
  queue.unshift(prepare(last.task));
  say('Undone. Please choose again.');
  next();
}

function useNextAfterUndo() {
  if (waitingKeys.length) useWaitingKey();
}

function acknowledge(choice, marks) {
  cards.forEach((cell, side) => {
    const card = cell.firstElementChild;
    card.classList.remove('ranked', 'cursor');
    card.querySelector('.mark').textContent = marks[side];
    card.classList.toggle('picked', marks[side] !== '' && marks[side] !== '✕');
    card.classList.toggle('rejected', marks[side] === '✕');
    card.classList.toggle('passed', marks[side] === '');
  });
  root.querySelectorAll('.choice').forEach((button) => button.classList.toggle('pressed', button.dataset.choice === choice));
}

function zoom() {
  const on = root.classList.toggle('zoomed');
  find('[data-action="zoom"]').setAttribute('aria-pressed', String(on));
  fit();
  if (on) showOriginals();
}

function saveHistory() {
  try { storage.setItem('hitl.history.' + ownerOf(rater), JSON.stringify(history)); } catch (error) { /* undo then ends at a refresh */ }
}

async function join(event) {
  event.preventDefault();
  const problem = find('[data-join-problem]');
  problem.textContent = '';
  let answer = null;
  try { answer = await call('api/join', { name: find('#hitl-name').value }); } catch (error) { answer = null; }
  if (answer && answer.status === 200) signIn(answer.body);
  else if (answer && answer.status === 403) location.reload(); // people have accounts by now: the server shows where to sign in
  else problem.textContent = answer ? [answer.body.error, answer.body.hint].filter(Boolean).join(' ') : 'No connection. Please try again.';
}

async function leave() {
  find('[data-help]').close();
  giveBack();
  try { await call('api/leave', {}); } catch (error) { /* the page asks for a name either way */ }
  find('[data-who]').textContent = '';
  showJoin();
  find('#hitl-name').value = '';
}

/* what is shown */

function setView(name) {
  root.dataset.view = name;
  for (const view of views) view.hidden = view.dataset.view !== name;
  const rating = name === 'rate';
  find('[data-progress]').hidden = name === 'join';
  if (!rating) {
    root.classList.remove('zoomed');
    find('[data-action="zoom"]').setAttribute('aria-pressed', 'false');
    root.dataset.ready = 'no';
  }
}

function showJoin(problem) {
  const name = find('#hitl-name');
  if (!name.value) name.value = (rater && rater.name) || storage.getItem('hitl.name') || '';
  if (outbox) outbox.close();
  rater = null;
  current = null;
  queue = [];
  waitingKeys = [];
  showWaitingKeys();
  clearTimeout(pollTimer);
  clearTimeout(renewTimer);
  setView('join');
  setBanner('');
  document.title = 'hitl · rate';
  find('[data-join-problem]').textContent = problem || '';
  name.focus({ preventScroll: true });
}

function showWaiting(body) {
  const live = body.live;
  if (root.dataset.view !== 'wait' || find('[data-headline]').textContent !== live.headline) say(live.headline);
  setView('wait');
  const unused = waitingKeys.length;
  waitingKeys = [];
  showWaitingKeys();
  if (unused) say(unused + ' keys were not used: there is nothing left to rate.');
  const finished = body.state === 'finished';
  document.title = 'hitl · ' + live.headline;
  find('[data-headline]').textContent = live.headline;
  find('[data-detail]').textContent = finished ? 'You can close this page.' : live.detail || 'Leave this page open: it goes on by itself.';
  find('.tiles.busy, .tiles:not(.join .tiles)').classList.toggle('busy', !finished);
  const meter = find('[data-meter]');
  const share = live.total ? Math.min(1, live.done / live.total) : 0;
  meter.hidden = finished || !live.total;
  meter.setAttribute('aria-valuenow', String(Math.round(share * 100)));
  meter.firstElementChild.style.width = share * 100 + '%';
  const figures = [];
  if (live.rounds) figures.push('Round ' + live.round + ' of ' + live.rounds);
  if (live.total && !finished) figures.push(Math.round(share * 100) + ' %');
  if (live.eta_s && !finished) figures.push(duration(live.eta_s) + ' left');
  find('[data-figures]').textContent = figures.join(' · ');
  find('[data-stages]').hidden = finished || live.stage === 'idle';
  root.querySelectorAll('[data-stage]').forEach((item) => {
    if (item.dataset.stage === live.stage) item.setAttribute('aria-current', 'step');
    else item.removeAttribute('aria-current');
  });
  const mine = body.progress.mine;
  find('[data-thanks]').textContent = mine ? 'You rated ' + mine + (mine === 1 ? ' task' : ' tasks') + ' in round ' + body.progress.round + '. Thank you.' : '';
  find('[data-undo-wait]').hidden = !history.length || finished || live.stage !== 'rate';
}

function setProgress(given, pending) {
  progress = { ...given, done: given.done + pending };
  drawProgress();
}

function count(step) {
  if (!progress) return;
  progress.done += step;
  drawProgress();
}

function drawProgress() {
  const done = Math.max(0, Math.min(progress.done, progress.needed));
  const text = find('[data-progress]');
  const number = document.createElement('b');
  number.textContent = done + '/' + progress.needed;
  const left = progress.eta_s && done < progress.needed ? ' · ' + duration(progress.eta_s) + ' left' : '';
  text.replaceChildren(number, left);
  text.hidden = !progress.needed || root.dataset.view === 'join';
  find('[data-line]').style.width = progress.needed ? (100 * done) / progress.needed + '%' : '0';
}

function duration(seconds) {
  if (seconds < 60) return 'less than 1 min';
  const minutes = Math.round(seconds / 60);
  return '~' + (minutes < 90 ? minutes + ' min' : (minutes / 60).toFixed(1) + ' h');
}

function showWaitingKeys() {
  const chip = find('[data-waiting-keys]');
  chip.hidden = !waitingKeys.length;
  chip.textContent = waitingKeys.length === 1 ? '1 key waits' : waitingKeys.length + ' keys wait';
}

let bannerTimer = null;
function setBanner(text, forMs) {
  clearTimeout(bannerTimer);
  const banner = find('[data-banner]');
  banner.textContent = text;
  banner.hidden = !text;
  if (forMs) bannerTimer = setTimeout(() => setBanner(''), forMs);
}

function say(text) {
  find('[data-say]').textContent = text;
}

function help() {
  const dialog = find('[data-help]');
  if (dialog.open) dialog.close();
  else dialog.showModal();
}

/* keys, clicks, and the page coming and going */

const EVERYWHERE = [['u', 'undo'], ['z', 'undo'], [' ', 'zoom'], ['?', 'help'], ['f', 'flags'], ['n', 'note']];
let actions = new Map(EVERYWHERE);

function keycaps(keys) {
  return keys.map((key) => Object.assign(document.createElement('kbd'), { textContent: cap(key) }));
}

/** The keys, buttons and help of one kind. */
function buildControls(task) {
  const rows = [];
  actions = new Map(EVERYWHERE);
  find('[data-tools]').replaceChildren();
  find('[data-choices]').replaceChildren();
  find('[data-keys]').replaceChildren();
  if (task.screen !== 'choose') rows.push(...buildAnswering(task));
  for (const control of task.controls) {
    // Arrows first: the cap that is shown largest is the one the hand rests on.
    const keys = [control.key, ...(MORE_KEYS[control.choice] || [])].sort((a, b) => b.startsWith('Arrow') - a.startsWith('Arrow'));
    for (const key of keys) actions.set(key.length === 1 ? key.toLowerCase() : key, control.choice);
    const button = document.createElement('button');
    button.type = 'button';
    button.dataset.choice = control.choice;
    const label = document.createElement('span');
    label.className = 'beside';
    label.textContent = control.label;
    const caps = document.createElement('span');
    caps.className = 'caps';
    caps.setAttribute('aria-hidden', 'true');
    caps.append(...keycaps(keys));
    const stacked = Object.assign(document.createElement('span'), { className: 'stacked', textContent: STACKED_LABELS[control.choice] || control.label });
    if (control.choice === 'skip') {
      button.className = 'ghost';
      label.className = '';
      button.append(label, ...keycaps(keys));
      find('[data-tools]').append(button);
    } else {
      button.className = 'choice';
      button.append(caps, label, stacked);
      find('[data-choices]').append(button);
    }
    rows.push([control.label, keys]);
  }
  rows.push(['Flag a picture', ['f']], ['Write a note', ['n']], ['Undo the last rating', ['u', 'z']], ['Zoom', [' ']], ['This help', ['?']]);
  for (const [label, keys] of rows) {
    const row = find('[data-keys]').insertRow();
    row.insertCell().textContent = label;
    row.insertCell().append(...keycaps(keys));
  }
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target.closest && event.target.closest('input, textarea, select, [contenteditable="true"]')) return;
  const action = actions.get(event.key.length === 1 ? event.key.toLowerCase() : event.key);
  const dialog = find('[data-help]');
  if (dialog.open && action !== 'help') return;
  if (root.dataset.flagging === 'yes') { onFlagKey(event); return; }
  if (root.dataset.skipping === 'yes' && action !== 'help') { if (!event.repeat) { pressed = { at: event.timeStamp, by: 'keyboard' }; onReasonKey(event, action); } return; }
  if (event.key === 'Escape' && root.classList.contains('zoomed')) { zoom(); return; }
  if (!action || !rater) return;
  if (event.key === ' ' && document.activeElement && document.activeElement.matches('button:focus-visible')) return;
  event.preventDefault();
  if (event.repeat) return; // a key held down is one choice
  pressed = { at: event.timeStamp, by: 'keyboard' };
  if (action === 'help') help();
  else if (action === 'flags' || action === 'note') toggleExtras(action === 'note');
  else press(action);
}

function onClick(event) {
  const target = event.target.closest('[data-choice], [data-action], [data-flag], [data-reason], [data-card], [data-grade], [data-done]');
  if (!target) return;
  pressed = { at: event.timeStamp, by: { mouse: 'mouse', touch: 'touch', pen: 'touch' }[event.pointerType] || 'keyboard' };
  if (target.dataset.action === 'help') help();
  else if (target.dataset.action === 'leave') leave();
  else if (target.dataset.action === 'flags') toggleExtras(false);
  else if (target.dataset.action === 'no-skip') closeReasons();
  else if (target.dataset.action === 'skip-anyway') skip();
  else if (target.dataset.reason) skip(target.dataset.reason);
  else if (target.dataset.flag) {
    const space = target.dataset.flag.indexOf(' ');
    toggleFlag(Number(target.dataset.flag.slice(0, space)), target.dataset.flag.slice(space + 1));
  } else if (target.dataset.card && root.dataset.flagging === 'yes') point(target, event);
  else if (target.dataset.done !== undefined) press({ done: true });
  else if (target.dataset.grade) {
    const [number, axis, level] = target.dataset.grade.split(' ');
    press({ grade: [Number(number), axis, Number(level)] });
  } else if (target.dataset.card && current.screen === 'choose') press(target.dataset.card === '0' ? 'left' : 'right');
  else if (target.dataset.card) press({ card: Number(target.dataset.card) });
  else press(target.dataset.action || target.dataset.choice);
}

/** Closing the page gives its tasks back, so that nobody waits for a lease to run out. */
function giveBack() {
  const held = [current, ...queue].filter(Boolean).map((task) => task.task_id);
  if (!rater || !held.length) return;
  navigator.sendBeacon(here('api/release'), new Blob([JSON.stringify({ task_ids: held })], { type: 'application/json' }));
}

/** What another tab of the same rater rated need not be shown here. */
function onOtherTab(event) {
  if (!outbox || !event.key || !event.key.startsWith(outbox.prefix) || !event.newValue) return;
  const entry = JSON.parse(event.newValue);
  if (entry.path !== 'api/ratings') return;
  markRated(entry.body.task_id);
  queue = queue.filter((task) => task.task_id !== entry.body.task_id);
  if (current && current.task_id === entry.body.task_id) next();
}

buildReasons();
document.addEventListener('keydown', onKey);
find('[data-note]').addEventListener('keydown', (event) => {
  if (event.key === 'Escape' || (event.key === 'Enter' && !event.isComposing)) { event.preventDefault(); closeExtras(); }
});
for (const sign of ['keydown', 'pointerdown', 'pointermove']) document.addEventListener(sign, onPresence, { capture: true, passive: true });
root.addEventListener('click', onClick);
// A click must not leave the focus on a button: Space would then press it again instead of zooming.
root.addEventListener('mousedown', (event) => { if (event.target.closest('button, [data-card]')) event.preventDefault(); });
find('form').addEventListener('submit', join);
window.addEventListener('pagehide', giveBack);
window.addEventListener('pageshow', (event) => { if (event.persisted) location.reload(); });
window.addEventListener('storage', onOtherTab);
window.addEventListener('online', () => { if (outbox) outbox.flush(); if (!current) refill(); });
document.addEventListener('visibilitychange', () => { if (!document.hidden && root.dataset.view === 'wait') refill(); });
new ResizeObserver(fit).observe(find('.pair'));
start();
