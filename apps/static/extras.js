/* What a rater may add to an answer: flags and points on a picture, a note, and the reason of a skip. Nothing of it is
   asked for, and while a panel is open its keys come first. */

const REASONS = ['broken', 'undecided', 'unclear', 'unwanted'];
const flagName = (flag) => tOr('flag.' + flag, flag);
const KEPT_KEYS = 'fn'; // these open and close the panel

let extras = null; // of the task on the screen

function newExtras(task) {
  extras = { flags: task.images.map(() => []), points: task.images.map(() => []), note: '', at: 0 };
  find('[data-note]').value = '';
  if (find('[data-flag-rows]').dataset.task !== task.kind + task.images.length) buildFlags(task);
  closeExtras();
  closeReasons();
  drawExtras();
}

/** What is sent with the answer: only what was added. */
function givenExtras() {
  const given = {};
  if (extras.flags.some((flags) => flags.length)) given.flags = extras.flags;
  if (extras.points.some((points) => points.length)) given.points = extras.points;
  const note = find('[data-note]').value.trim();
  if (note) given.note = note;
  return given;
}

/* flags, points, note */

/** On a narrow screen the left picture is the upper one. */
const sideName = (number) => (root.dataset.stacked === 'yes' ? ['upper', 'lower'] : ['left', 'right'])[number];

const pictureName = (number) => (cards.length === 2 ? t('picture.' + sideName(number)) : cards.length === 1 ? t('picture.only') : t('picture.number', { number: number + 1 }));

/** The first letter of the flag's name that is free. */
function flagKeys(flags) {
  const taken = new Set(KEPT_KEYS);
  return flags.map((flag) => {
    const key = Array.from(flag.toLowerCase()).find((letter) => letter >= 'a' && letter <= 'z' && !taken.has(letter)) || '';
    taken.add(key);
    return key;
  });
}

function buildFlags(task) {
  const keys = flagKeys(task.flags);
  const rows = find('[data-flag-rows]');
  rows.dataset.task = task.kind + task.images.length;
  rows.replaceChildren(...task.images.map((_, number) => {
    const row = document.createElement('div');
    row.className = 'flag-row';
    row.setAttribute('role', 'group');
    row.setAttribute('aria-label', pictureName(number));
    row.append(Object.assign(document.createElement('span'), { className: 'axis', textContent: pictureName(number) }));
    task.flags.forEach((flag, place) => {
      const button = document.createElement('button');
      button.type = 'button';
      button.className = 'flag';
      button.dataset.flag = number + ' ' + flag;
      button.dataset.key = keys[place];
      button.append(flagName(flag), ...(keys[place] ? keycaps([keys[place]]) : []));
      row.append(button);
    });
    return row;
  }));
}

function openExtras(focusNote) {
  if (root.dataset.view !== 'rate' || !ready) return;
  closeReasons();
  root.dataset.flagging = 'yes';
  find('[data-extras]').hidden = false;
  drawExtras();
  if (focusNote) find('[data-note]').focus();
  say(t('flags.opened'));
}

function closeExtras() {
  root.dataset.flagging = 'no';
  find('[data-extras]').hidden = true;
  if (document.activeElement && find('[data-extras]').contains(document.activeElement)) document.activeElement.blur();
}

const toggleExtras = (focusNote) => (root.dataset.flagging === 'yes' ? closeExtras() : openExtras(focusNote));

function toggleFlag(number, flag) {
  const flags = extras.flags[number];
  extras.flags[number] = flags.includes(flag) ? flags.filter((other) => other !== flag) : [...flags, flag];
  extras.at = number;
  say(t(flags.includes(flag) ? 'flags.off' : 'flags.on', { flag: flagName(flag), picture: pictureName(number) }));
  drawExtras();
}

/** A click while the panel is open: a point where something is wrong, or one taken off. */
function point(card, event) {
  const picture = card.querySelector('img');
  if (!picture) return;
  const number = Number(card.dataset.card);
  const box = picture.getBoundingClientRect();
  const share = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  if (share.some((each) => each < 0 || each > 1)) return;
  const near = extras.points[number].findIndex((other) => Math.hypot((other[0] - share[0]) * box.width, (other[1] - share[1]) * box.height) < 14);
  if (near >= 0) extras.points[number].splice(near, 1);
  else extras.points[number].push(share.map((each) => Math.round(each * 10000) / 10000));
  extras.at = number;
  drawExtras();
}

function drawExtras() {
  if (!extras) return;
  let count = 0;
  root.querySelectorAll('[data-flag-rows] .flag-row').forEach((row, number) => {
    row.classList.toggle('cursor', number === extras.at && extras.flags.length > 1);
    row.querySelectorAll('.flag').forEach((button) => {
      const isOn = extras.flags[number].includes(button.dataset.flag.slice(button.dataset.flag.indexOf(' ') + 1));
      button.setAttribute('aria-pressed', String(isOn));
      count += isOn;
    });
  });
  cards.forEach((cell, number) => {
    const card = cell.firstElementChild;
    const picture = card.querySelector('img');
    card.querySelectorAll('.point').forEach((dot) => dot.remove());
    if (!picture) return;
    const [box, outer] = [picture.getBoundingClientRect(), card.getBoundingClientRect()];
    for (const [x, y] of extras.points[number]) {
      const dot = Object.assign(document.createElement('i'), { className: 'point' });
      dot.style.left = box.left - outer.left + x * box.width + 'px';
      dot.style.top = box.top - outer.top + y * box.height + 'px';
      card.append(dot);
      count += 1;
    }
  });
  find('[data-flag-count]').textContent = count ? t('tools.flags', { count }) : t('tools.flag');
}

/** A key while the panel is open. */
function onFlagKey(event) {
  const key = event.key.toLowerCase();
  if (key === 'escape' || key === 'f' || key === 'enter') closeExtras();
  else if (key === 'n') find('[data-note]').focus();
  else if (key === 'arrowleft' || key === 'arrowright') extras.at = (extras.at + (key === 'arrowright' ? 1 : extras.flags.length - 1)) % extras.flags.length;
  else if (Number(key) >= 1 && Number(key) <= extras.flags.length) extras.at = Number(key) - 1;
  else {
    const row = root.querySelectorAll('[data-flag-rows] .flag-row')[extras.at];
    const button = row && Array.from(row.querySelectorAll('.flag')).find((other) => other.dataset.key === key);
    if (!button) return;
    button.click();
  }
  event.preventDefault();
  drawExtras();
}

/* why a task is skipped */

function openReasons() {
  closeExtras();
  root.dataset.skipping = 'yes';
  find('[data-reasons]').hidden = false;
  say(t('skip.why') + ' ' + REASONS.map((reason, place) => place + 1 + ': ' + t('reason.' + reason)).join(', ') + '. ' + t('skip.without'));
}

function closeReasons() {
  root.dataset.skipping = 'no';
  find('[data-reasons]').hidden = true;
}

function skip(reason) {
  closeReasons();
  vote(reason ? { choice: 'skip', reason } : { choice: 'skip' }, null, t('said.skip'));
}

/** A key while the reasons are shown. Any other answer is for the next task: who goes on has no reason to give. */
function onReasonKey(event, action) {
  const number = Number(event.key);
  if (event.key === 'Escape' || action === 'undo') closeReasons();
  else if (number >= 1 && number <= REASONS.length) skip(REASONS[number - 1]);
  else if (event.key === 'Enter' || action === 'skip') skip();
  else if (action && action !== 'help' && action !== 'zoom') { skip(); press(action); } else return;
  event.preventDefault();
}

function buildReasons() {
  find('[data-reason-list]').replaceChildren(...REASONS.map((name, place) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.className = 'flag';
    button.dataset.reason = name;
    button.append(t('reason.' + name), ...keycaps([String(place + 1)]));
    return button;
  }));
}
