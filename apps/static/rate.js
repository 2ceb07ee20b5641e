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
const MARKS = { left: ['✓', ''], right: ['', '✓'], tie: ['=', '='], both_bad: ['✕', '✕'] };
const CAPS = { ArrowLeft: '←', ArrowRight: '→', ArrowDown: '↓', ArrowUp: '↑', Enter: '⏎', Backspace: '⌫' };
const cap = (key) => (key === ' ' ? t('key.space') : CAPS[key] || (key.length === 1 ? key.toUpperCase() : key));

const root = element;
root.classList.add('hitl-screen');
const find = (selector) => root.querySelector(selector);
const views = Array.from(root.querySelectorAll('[data-view]'));
const viewOf = (name) => views.find((view) => view.dataset.view === name);
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
let machineWorks = false; // so that what is rated now is a study's
let progress = null;
let fetching = false;
let pollTimer = null;
let renewTimer = null;
let renewMs = LONGEST_RENEW_S * 1000;
let renewDue = false; // the tasks held here have not been asked for again for so long
let present = false; // somebody has touched key, mouse or screen since they were
let pointerAt = '';
let over = false; // all rounds are done and everything is sent: the server may go
let joining = false;
let pause = null; // why no task is asked for: 'consent', 'practice', 'break' or 'done'

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
  try { answer = await call('api/me'); } catch (error) { setTimeout(start, POLL_MS); setBanner(t('no_connection.trying')); return; }
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
  progress = null;
  practice = null;
  drawLesson();
  hideAfter();
  loadSinceBreak();
  outbox.flush();
  enter();
}

function onOutbox(event, answer, entry) {
  if (event === 'signed-out') { onSignedOut(answer); return; }
  if (event === 'kept') { tellTrouble(answer); return; }
  setBanner('');
  if (event === 'refused') {
    rated.delete(entry.body.task_id);
    setBanner(t('outbox.refused') + ' ' + heard(answer.body.error), 6000); // a status, so it is read out
  }
}

function onSignedOut(answer) {
  const why = answer.status === 409 ? heard(answer.body.error) : t('session.ended');
  showJoin(why + ' ' + t('session.again'));
}

/** Ask for tasks. This also renews the leases of those held here, so with nobody at the page it is not done. */
async function refill() {
  if (fetching || !rater || pause) return;
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
  if (pause) return; // the answer is for later
  if (answer && answer.status === 403) setTimeout(start, POLL_MS); // what is to be agreed to
  if (!answer || answer.status !== 200) { onNoAnswer(answer); return; }
  if (!outbox.size) setBanner('');
  renewMs = Math.min(LONGEST_RENEW_S, answer.body.lease_s / 3) * 1000;
  over = false;
  // The machine has learned from the ratings before it began to work, and would not offer their pairs again.
  machineWorks = !['rate', 'idle'].includes(answer.body.live.stage);
  history = history.filter((entry) => entry.task.round === answer.body.progress.round && (entry.machineWorks || !machineWorks));
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
  tellTrouble(answer);
  poll(POLL_MS);
}

/** Why nothing goes through, and how many ratings wait here: the same words whichever request failed last. */
function tellTrouble(answer) {
  const why = answer && answer.status ? heard(answer.body.error) || t('busy') : t('no_connection');
  setBanner(why + ' ' + (outbox.size ? t('outbox.kept', { count: outbox.size }) : t('trying')));
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

/** Put the originals in place of the copies on the screen, all at once when they are there; nobody waits for them. */
function showOriginals() {
  const copies = Array.from(root.querySelectorAll('.card img[data-original]'));
  Promise.all(copies.map((copy) => load(copy.dataset.original))).then((originals) => {
    if (!copies.every((copy) => copy.isConnected)) return; // another task is on the screen
    copies.forEach((copy, side) => { originals[side].alt = copy.alt; copy.replaceWith(originals[side]); });
    fit();
  }).catch(() => {}); // the copies stay
}

const painted = () => new Promise((done) => {
  // Two frames: the first lays out, the second shows that it was painted. A hidden tab has no frames.
  const timer = setTimeout(done, 100);
  requestAnimationFrame(() => requestAnimationFrame(() => { clearTimeout(timer); done(); }));
});

async function next() {
  ready = false;
  if (!pause && isBreakDue()) { showBreak(); return; }
  current = queue.shift() || null;
  if (queue.length < AHEAD) refill();
  if (!current) { root.dataset.ready = 'no'; return; }
  await bring(current);
}

/** Show a task, and take answers once its pictures have been seen. */
async function bring(task) {
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
  if (lens.scale > 1) setLens({ scale: 1, x: 0, y: 0 });
  drawLesson();
  cards.forEach((cell, side) => {
    const card = cell.firstElementChild;
    card.classList.remove('picked', 'passed', 'rejected', 'ranked', 'cursor');
    card.querySelector('.mark').textContent = '';
    const picture = pictures[side];
    if (picture) {
      card.querySelector('.mat').replaceChildren(picture);
    } else {
      const lost = document.createElement('p');
      lost.className = 'lost';
      lost.textContent = t('picture.lost');
      card.querySelector('.mat').replaceChildren(lost);
    }
  });
  task.broken = pictures.some((picture) => !picture);
  root.querySelectorAll('.choice').forEach((button) => button.classList.remove('pressed'));
  screen.draw();
  fit();
  if (isZoomed()) showOriginals();
  pictures.forEach((picture, side) => { if (picture) picture.alt = pictureName(side); });
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
  if (pause === 'practice' && praised && !ready && action !== 'zoom') { clearTimeout(praised); praised = null; toNextLesson(current); return; }
  if (action === 'zoom') { zoom(); return; }
  if (ready && !waitingKeys.length) { perform(action); return; }
  if (action === 'undo' && waitingKeys.length) { waitingKeys.pop(); say(t('keys.taken_back')); }
  else if (waitingKeys.length < MOST_WAITING_KEYS) waitingKeys.push(action);
  else setBanner(t('keys.too_fast'), 2000);
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
    say(t('picture.lost'));
    waitingKeys = [];
    showWaitingKeys();
    return;
  }
  if (action === 'skip' && !waitingKeys.length) {
    if (root.dataset.skipping === 'yes') skip();
    else openReasons();
    return;
  }
  if (typeof action === 'string') vote({ choice: action }, MARKS[action], tOr('said.' + action, ''));
  else screen.act(action);
  if (ready) useWaitingKey(); // the task wants more keys than this one
}

function vote(payload, marks, said) {
  const task = current;
  if (pause === 'practice') { practised(task, payload, marks); return; }
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
  history = [...history, { rating_id: rating.rating_id, isSkip, machineWorks, task: plain }].slice(-MOST_UNDO);
  saveHistory();
  outbox.put('api/ratings', rating);
  if (!isSkip) { count(+1); setSinceBreak(sinceBreak + 1); }
  say(said || t('said.stored'));
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
  if (pause === 'practice') { backInPractice(); return; }
  const last = history.pop();
  if (!last) { say(t('undo.nothing')); useNextAfterUndo(); return; }
  saveHistory();
  outbox.put('api/undo', { rating_id: newId(), voids: last.rating_id, client_time: new Date().toISOString(), rater_id: rater.rater_id });
  rated.delete(last.task.task_id);
  if (!last.isSkip) { count(-1); setSinceBreak(sinceBreak - 1); }
  if (current) queue.unshift(current);
  queue = queue.filter((task) => task.task_id !== last.task.task_id);
  queue.unshift(prepare(last.task));
  say(t('undo.done'));
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

function saveHistory() {
  try { storage.setItem('hitl.history.' + ownerOf(rater), JSON.stringify(history)); } catch (error) { /* undo then ends at a refresh */ }
}

async function join(event) {
  event.preventDefault();
  if (joining) return; // Enter twice is once
  joining = true;
  const problem = find('[data-join-problem]');
  problem.textContent = '';
  let answer = null;
  try { answer = await call('api/join', { name: find('#hitl-name').value, consent: consent.version, language: consent.language }); } catch (error) { answer = null; }
  joining = false;
  if (answer && answer.status === 200) signIn(answer.body);
  else if (answer && answer.status === 403) location.reload(); // people have accounts by now: the server shows where to sign in
  else problem.textContent = answer ? heardWhy(answer.body) : t('no_connection.again');
}

async function leave() {
  find('[data-help]').close();
  giveBack();
  try { await call('api/leave', {}); } catch (error) { /* the page asks for a name either way */ }
  showJoin();
  find('#hitl-name').value = '';
}

/* what is shown */

function setView(name) {
  root.dataset.view = name;
  for (const view of views) view.hidden = view.dataset.view !== name;
  const rating = name === 'rate';
  find('[data-progress]').hidden = !progress || name === 'join' || name === 'gone';
  find('[data-language-top]').hidden = !['join', 'consent', 'guide'].includes(name);
  find('.top [data-action="help"]').hidden = !rater;
  if (name !== 'wait') hideAfter();
  requestAnimationFrame(reachScrolled);
  if (!rating) {
    unzoom();
    root.dataset.ready = 'no';
  }
}

/** What does not fit can be scrolled to by keys: it then takes the focus. */
function reachScrolled() {
  for (const area of [find('.stage'), find('.pair')]) {
    if (area.scrollHeight > area.clientHeight) area.tabIndex = 0;
    else area.removeAttribute('tabindex');
  }
}

function showJoin(problem) {
  const name = find('#hitl-name');
  if (!name.value) name.value = (rater && rater.name) || storage.getItem('hitl.name') || '';
  forget();
  setView('join');
  loadConsent();
  find('[data-join-problem]').textContent = problem || '';
  name.focus({ preventScroll: true });
}

/** Nobody is at this page any more. */
function forget() {
  if (outbox) outbox.close();
  rater = null;
  current = null;
  queue = [];
  waitingKeys = [];
  pause = null;
  practice = null;
  progress = null;
  numbers = null;
  clearTimeout(praised);
  showWaitingKeys();
  drawLesson();
  clearTimeout(pollTimer);
  clearTimeout(renewTimer);
  setBanner('');
  document.title = 'hitl';
  find('[data-who]').textContent = '';
}

function showWaiting(body) {
  const live = body.live;
  const headline = tOr('headline.' + live.stage, live.headline);
  if (root.dataset.view !== 'wait' || find('[data-headline]').textContent !== headline) say(headline);
  setView('wait');
  const unused = waitingKeys.length;
  waitingKeys = [];
  showWaitingKeys();
  if (unused) say(t('keys.unused', { count: unused }));
  const finished = body.state === 'finished';
  document.title = 'hitl · ' + headline;
  find('[data-headline]').textContent = headline;
  find('[data-detail]').textContent = finished ? t('wait.close') : heard(live.detail) || t('wait.stay');
  find('.wait .tiles').classList.toggle('busy', !finished);
  const meter = find('[data-meter]');
  const share = live.total ? Math.min(1, live.done / live.total) : 0;
  meter.hidden = finished || !live.total;
  meter.setAttribute('aria-valuenow', String(Math.round(share * 100)));
  meter.firstElementChild.style.width = share * 100 + '%';
  const figures = [];
  if (live.rounds) figures.push(t('wait.round', { round: live.round, of: live.rounds }));
  if (live.total && !finished) figures.push(number(share, { style: 'percent' }));
  if (live.eta_s && !finished) figures.push(t('time.left', { time: duration(live.eta_s) }));
  find('[data-figures]').textContent = figures.join(' · ');
  find('[data-stages]').hidden = finished || live.stage === 'idle';
  root.querySelectorAll('[data-stage]').forEach((item) => {
    if (item.dataset.stage === live.stage) item.setAttribute('aria-current', 'step');
    else item.removeAttribute('aria-current');
  });
  const mine = body.progress.mine;
  find('[data-thanks]').textContent = mine && !finished ? t('wait.mine', { count: mine, round: body.progress.round }) : '';
  find('[data-undo-wait]').hidden = !history.length || finished || live.stage !== 'rate';
  if (finished) drawAfter(false);
  else hideAfter();
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
  const counted = document.createElement('b');
  counted.textContent = done + '/' + progress.needed;
  counted.dir = 'ltr';
  const left = progress.eta_s && done < progress.needed ? ' · ' + t('time.left', { time: duration(progress.eta_s) }) : '';
  text.replaceChildren(counted, left);
  text.hidden = !progress.needed;
  find('[data-line]').style.width = progress.needed ? (100 * done) / progress.needed + '%' : '0';
}

function duration(seconds) {
  if (seconds < 60) return t('time.under_a_minute');
  const minutes = Math.round(seconds / 60);
  const [value, unit] = minutes < 90 ? [minutes, 'minute'] : [minutes / 60, 'hour'];
  return '~' + number(value, { style: 'unit', unit, unitDisplay: 'short', maximumFractionDigits: minutes < 90 ? 0 : 1 });
}

function showWaitingKeys() {
  const chip = find('[data-waiting-keys]');
  chip.hidden = !waitingKeys.length;
  chip.textContent = t('keys.wait', { count: waitingKeys.length });
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
  if (dialog.open) { dialog.close(); return; }
  if (!guide && pause !== 'practice') loadGuide();
  for (const name of ['done', 'my-data', 'erase']) dialog.querySelector('[data-action="' + name + '"]').hidden = pause === 'consent';
  dialog.querySelector('[data-action="done"]').hidden = Boolean(pause);
  find('[data-key-tables]').hidden = !current;
  dialog.showModal();
}

/* keys, clicks, and the page coming and going */

const EVERYWHERE = [['u', 'undo'], ['z', 'undo'], [' ', 'zoom'], ['?', 'help'], ['f', 'flags'], ['n', 'note'], ['p', 'skip-practice']];
let actions = new Map(EVERYWHERE);

function keycaps(keys) {
  return keys.map((key) => Object.assign(document.createElement('kbd'), { textContent: cap(key), ariaHidden: 'true' })); // what a button does is its name
}

/** The keys, buttons and help of one kind. */
function buildControls(task) {
  actions = new Map(EVERYWHERE);
  find('[data-tools]').replaceChildren();
  find('[data-choices]').replaceChildren();
  if (task.screen !== 'choose') buildAnswering(task);
  for (const control of task.controls) {
    const keys = keysOf(control);
    for (const key of keys) actions.set(key.length === 1 ? key.toLowerCase() : key, control.choice);
    const button = document.createElement('button');
    button.type = 'button';
    button.dataset.choice = control.choice;
    const label = document.createElement('span');
    label.className = 'beside';
    label.textContent = labelOf(control);
    const caps = document.createElement('span');
    caps.className = 'caps';
    caps.setAttribute('aria-hidden', 'true');
    caps.append(...keycaps(keys));
    const stacked = Object.assign(document.createElement('span'), { className: 'stacked', textContent: tOr('choice.stacked.' + control.choice, labelOf(control)) });
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
  }
  drawKeys(find('[data-keys]'), mainKeys(task));
  drawKeys(find('[data-more-keys]'), moreKeys(task));
}

// Arrows first: the cap that is shown largest is the one the hand rests on.
const keysOf = (control) => [control.key, ...(MORE_KEYS[control.choice] || [])].sort((a, b) => b.startsWith('Arrow') - a.startsWith('Arrow'));
const labelOf = (control) => tOr('choice.' + control.choice, control.label);

/** What a rater of this kind must know: how to answer, skip and undo. */
function mainKeys(task) {
  const rows = task.screen === 'choose' ? [] : answeringKeys(task);
  for (const control of task.controls) rows.push([labelOf(control), keysOf(control)]);
  rows.push([t('help.undo'), ['u', 'z']]);
  return rows;
}

/** All the other keys. */
function moreKeys(task) {
  const flags = flagKeys(task.flags);
  return [
    [t('help.reason'), ['1 – ' + REASONS.length]],
    [t('help.flags'), ['f']],
    ...task.flags.map((flag, place) => [flagName(flag), ['f', flags[place]]]).filter(([, keys]) => keys[1]),
    [t('help.flagged'), task.images.length > 1 ? ['ArrowLeft', 'ArrowRight'] : []],
    [t('help.note'), ['n']],
    [t('help.zoom'), [' ']],
    [t('help.larger'), ['+', '-']],
    [t('help.pan'), ['⇧', 'ArrowLeft', 'ArrowRight', 'ArrowUp', 'ArrowDown']],
    [t('help.this'), ['?']],
    [t('help.shut'), ['Esc']],
  ].filter(([, keys]) => keys.length);
}

function drawKeys(table, rows) {
  table.replaceChildren();
  for (const [label, keys] of rows) {
    const row = table.insertRow();
    row.insertCell().textContent = label;
    const caps = keycaps(keys);
    caps.forEach((each) => each.removeAttribute('aria-hidden')); // here they are what is told
    row.insertCell().append(...caps);
  }
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target.closest && event.target.closest('input, textarea, select, [contenteditable="true"]')) return;
  const action = actions.get(event.key.length === 1 ? event.key.toLowerCase() : event.key);
  if (find('[data-erase]').open || (find('[data-help]').open && action !== 'help')) return;
  if (root.dataset.flagging === 'yes') { onFlagKey(event); return; }
  if (root.dataset.skipping === 'yes' && action !== 'help') { if (!event.repeat) { pressed = { at: event.timeStamp, by: 'keyboard' }; onReasonKey(event, action); } return; }
  if (isZoomed() && onLensKey(event)) { event.preventDefault(); return; }
  if (event.key === 'Escape' && isZoomed()) { zoom(); return; }
  if (event.key === 'Enter' && onDefaultKey(event)) return;
  if (!action || !rater) return;
  if (action === 'skip-practice' && !practice) return;
  if (root.dataset.view !== 'rate' && action !== 'help' && action !== 'undo' && action !== 'skip-practice') return;
  if (event.key === ' ' && document.activeElement && document.activeElement.matches('button:focus-visible')) return;
  event.preventDefault();
  if (event.repeat) return; // a key held down is one choice
  pressed = { at: event.timeStamp, by: 'keyboard' };
  if (action === 'help') help();
  else if (action === 'skip-practice') endPractice('skipped');
  else if (action === 'flags' || action === 'note') toggleExtras(action === 'note');
  else press(action);
}

/** Enter goes on where a page has one way on, wherever the focus is but on another button. */
function onDefaultKey(event) {
  if (document.activeElement && document.activeElement.closest('button, a, summary')) return false;
  const way = viewOf(root.dataset.view).querySelector('[data-default]');
  if (!way || !way.offsetParent || event.repeat) return false;
  event.preventDefault();
  way.click();
  return true;
}

/** Screen readers begin to read a new page at its title. */
function focusTitle(view) {
  const title = viewOf(view).querySelector('h1');
  title.focus({ preventScroll: true });
  find('.stage').scrollTop = 0;
}

function setLanguage(code) {
  keepLanguage(code);
  speak(root);
  loadConsent();
  drawGuide();
  drawGuideKeys();
  buildReasons();
  drawProgress();
  writeNumbers();
  root.dataset.kind = ''; // the controls are built anew
  find('[data-flag-rows]').dataset.task = '';
  if (practice) for (const task of practice.tasks) task.prompt = t('practice.prompt.' + task.contrast);
  const view = root.dataset.view;
  if (view === 'rate' && current) bring(current);
  else if (view === 'wait' && pause === 'done') showThanks();
  else if (view === 'wait') refill();
}

/** What buttons do that are no answer. */
const ACTS = {
  help,
  leave,
  agree,
  practise,
  'skip-practice': () => endPractice('skipped'),
  'go-on': goOn,
  done: stopForNow,
  'my-data': downloadMine,
  erase: askToErase,
  'no-erase': () => find('[data-erase]').close(),
  'erase-once': askAgainToErase,
  'erase-twice': eraseMe,
  again: () => showJoin(),
  flags: () => toggleExtras(false),
  'no-skip': closeReasons,
  'skip-anyway': () => skip(),
};

function onClick(event) {
  const target = event.target.closest('[data-choice], [data-action], [data-flag], [data-reason], [data-card], [data-grade], [data-done]');
  if (!target) return;
  pressed = { at: event.timeStamp, by: { mouse: 'mouse', touch: 'touch', pen: 'touch' }[event.pointerType] || 'keyboard' };
  const act = ACTS[target.dataset.action];
  if (act) act();
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
  if (!rater || !held.length || pause === 'practice') return;
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

speak(root);
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
for (const list of root.querySelectorAll('[data-language]')) list.addEventListener('change', () => setLanguage(list.value));
root.addEventListener('click', onDraggedClick, { capture: true });
root.addEventListener('wheel', onWheel, { passive: false });
root.addEventListener('pointerdown', onFingerDown);
document.addEventListener('pointermove', onFingerMove);
for (const sign of ['pointerup', 'pointercancel']) document.addEventListener(sign, onFingerUp);
window.addEventListener('pagehide', giveBack);
window.addEventListener('pageshow', (event) => { if (event.persisted) location.reload(); });
window.addEventListener('storage', onOtherTab);
window.addEventListener('online', () => { if (outbox) outbox.flush(); if (!current) refill(); });
document.addEventListener('visibilitychange', () => { if (!document.hidden && root.dataset.view === 'wait') refill(); });
new ResizeObserver(() => { fit(); reachScrolled(); }).observe(find('.pair'));
new ResizeObserver(reachScrolled).observe(find('.stage'));
start();
