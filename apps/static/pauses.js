/* When a rater stops: for a break, for today, or for good. What they may see of themselves, take along, and have erased. */

const WAIT_FOR_OUTBOX_MS = 4000;

let sinceBreak = 0; // answers of this rater in this browser since the last break

const breakKey = () => 'hitl.break.' + ownerOf(rater);

function loadSinceBreak() {
  sinceBreak = Number(storage.getItem(breakKey())) || 0;
}

function setSinceBreak(count) {
  sinceBreak = Math.max(0, count);
  try { storage.setItem(breakKey(), String(sinceBreak)); } catch (error) { /* the break then comes later */ }
}

/** Never between keys that wait: they were meant for pictures. */
const isBreakDue = () => rater.break_every > 0 && sinceBreak >= rater.break_every && !waitingKeys.length;

function showBreak() {
  const count = sinceBreak;
  setSinceBreak(0);
  pause = 'break';
  current = null;
  setView('break');
  find('[data-break-title]').textContent = t('break.title', { count });
  say(t('break.title', { count }));
  focusTitle('break');
  drawNumbers();
}

function goOn() {
  pause = null;
  refill();
}

/** The tasks go back to the others; what was rated is sent. */
function stopForNow() {
  find('[data-help]').close();
  giveBack();
  pause = 'done';
  current = null;
  queue = [];
  waitingKeys = [];
  showWaitingKeys();
  clearTimeout(pollTimer);
  clearTimeout(renewTimer);
  showThanks();
}

function showThanks() {
  setView('wait');
  document.title = 'hitl · ' + t('done.title');
  find('[data-headline]').textContent = t('done.title');
  find('[data-detail]').textContent = t('done.detail');
  for (const part of ['[data-meter]', '[data-stages]', '[data-undo-wait]']) find(part).hidden = true;
  find('.wait .tiles').classList.remove('busy');
  find('[data-figures]').textContent = '';
  find('[data-thanks]').textContent = '';
  drawAfter(true);
  say(t('done.title'));
}

/** What comes below a thanks: the rater's own numbers, their data, and erasing. */
function drawAfter(mayGoOn) {
  const after = find('[data-after]');
  const isNew = after.hidden;
  after.hidden = false;
  find('[data-rate-on]').hidden = !mayGoOn;
  if (isNew) drawNumbers();
}

function hideAfter() {
  find('[data-after]').hidden = true;
  for (const list of root.querySelectorAll('[data-numbers]')) list.replaceChildren();
}

let numbers = null; // the rater's own, as last told

async function drawNumbers() {
  const asking = rater;
  await sent();
  let answer = null;
  try { answer = await call('api/mine/summary'); } catch (error) { answer = null; }
  if (rater !== asking || !answer || answer.status !== 200) return;
  numbers = answer.body;
  writeNumbers();
}

function writeNumbers() {
  if (!numbers) return;
  const rows = [[t('mine.answers'), number(numbers.answers)]];
  if (numbers.median_s !== null) {
    const seconds = { style: 'unit', unit: 'second', unitDisplay: 'short', maximumFractionDigits: 1 };
    rows.push([t('mine.median'), number(numbers.median_s, seconds)]);
  }
  if (numbers.repeats) rows.push([t('mine.repeats'), t('mine.alike', { alike: numbers.repeats_alike, of: numbers.repeats })]);
  for (const list of root.querySelectorAll('[data-numbers]')) {
    list.replaceChildren(...rows.map(([name, value]) => {
      const cell = document.createElement('div');
      cell.append(Object.assign(document.createElement('dt'), { textContent: name }), Object.assign(document.createElement('dd'), { textContent: value }));
      return cell;
    }));
  }
}

/** Until everything rated here is with the server, or it takes too long. */
async function sent() {
  const end = performance.now() + WAIT_FOR_OUTBOX_MS;
  outbox.flush();
  while (outbox.size && performance.now() < end) await new Promise((done) => setTimeout(done, 50));
}

/* my data */

async function downloadMine() {
  await sent();
  let answer = null;
  try { answer = await call('api/mine'); } catch (error) { answer = null; }
  if (!answer || answer.status !== 200) { setBanner(answer ? heardWhy(answer.body) : t('no_connection.again'), 6000); return; }
  const file = new Blob([JSON.stringify(answer.body, null, 2)], { type: 'application/json' });
  const link = Object.assign(document.createElement('a'), { href: URL.createObjectURL(file), download: 'my-ratings.json' });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  say(t('mine.saved'));
}

/* erase me: asked twice */

function askToErase() {
  find('[data-help]').close();
  find('[data-erase-first]').hidden = false;
  find('[data-erase-second]').hidden = true;
  find('[data-erase-problem]').textContent = '';
  find('[data-erase]').showModal();
}

function askAgainToErase() {
  find('[data-erase-first]').hidden = true;
  find('[data-erase-second]').hidden = false;
  find('[data-erase-second] .ghost').focus();
}

async function eraseMe() {
  const fate = find('[name="hitl-fate"]:checked').value;
  const owner = ownerOf(rater);
  if (fate === 'keep') await sent(); // what is to stay must be there
  let answer = null;
  try { answer = await call('api/mine/erase', { rater_id: rater.rater_id, ratings: fate }); } catch (error) { answer = null; }
  if (!answer || answer.status !== 200) {
    find('[data-erase-problem]').textContent = answer ? heardWhy(answer.body) : t('no_connection.again');
    return;
  }
  find('[data-erase]').close();
  forget();
  const keys = Array.from({ length: storage.length }, (_, place) => storage.key(place));
  for (const key of keys.filter((each) => each === 'hitl.name' || (each.startsWith('hitl.') && each.includes(owner)))) storage.removeItem(key);
  find('#hitl-name').value = '';
  setView('gone');
  find('[data-gone]').textContent = t(fate === 'keep' ? 'gone.kept' : 'gone.deleted', { name: answer.body.left_as });
  say(t('gone.title'));
  focusTitle('gone');
}
