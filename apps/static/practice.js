/* Before the first rating: what is kept and agreed to, the guide, and practice tasks with an answer to each answer.
   Practice is asked about by the same screen as the real thing; the server only hears that it is over. */

const PRAISE_MS = 1100; // how long it is read before the next one comes; a key is quicker

let consent = { version: '', language: 'en' }; // the text that is on the page
let practice = null; // { tasks, at } while practising
let praised = null; // the timer to the next practice task
let guide = ''; // the project's own; empty: ours

/** What stands between this rater and the first task, one after the other. */
function enter() {
  if (rater.needs.includes('consent')) { showConsent(); return; }
  if (rater.needs.includes('practice')) { showGuide(); return; }
  pause = null;
  refill();
}

/* what is kept */

async function loadConsent() {
  const asked = language;
  let texts = { consent: t('consent.text'), version: '', language: asked };
  try {
    const answer = await call('api/welcome?language=' + asked);
    if (answer.status === 200) texts = answer.body;
  } catch (error) { /* ours then; it is asked about again once there is a connection */ }
  if (asked !== language) return;
  consent = { version: texts.version, language: texts.language };
  for (const node of root.querySelectorAll('[data-consent]')) renderText(node, texts.consent);
}

function showConsent() {
  pause = 'consent';
  setView('consent');
  loadConsent();
  focusTitle('consent');
}

async function agree() {
  const problem = find('[data-consent-problem]');
  problem.textContent = '';
  let answer = null;
  try { answer = await call('api/consent', consent); } catch (error) { answer = null; }
  if (answer && answer.status === 200) { rater.needs = answer.body.needs; enter(); return; }
  problem.textContent = answer ? heardWhy(answer.body) : t('no_connection.again');
  loadConsent();
}

/* the guide */

async function loadGuide() {
  const asking = rater;
  let answer = null;
  try { answer = await call('api/practice'); } catch (error) { answer = null; }
  if (rater !== asking) return null;
  if (!answer || answer.status !== 200) { setBanner(t('no_connection.trying')); return null; }
  setBanner('');
  guide = answer.body.guide;
  drawGuide();
  return answer.body.tasks;
}

function drawGuide() {
  for (const node of root.querySelectorAll('[data-guide]')) renderText(node, guide || t('guide.text'));
}

async function showGuide() {
  pause = 'practice';
  const tasks = await loadGuide();
  if (pause !== 'practice') return;
  if (!tasks) { setTimeout(() => { if (rater && pause === 'practice') showGuide(); }, POLL_MS); return; }
  practice = { tasks, at: 0 };
  drawGuideKeys();
  setView('guide');
  focusTitle('guide');
  if (tasks.length) tasks.slice(0, AHEAD).forEach(prepare);
}

function drawGuideKeys() {
  if (!practice) return;
  const first = practice.tasks[0];
  if (first) drawKeys(find('[data-guide-keys]'), mainKeys(first));
  find('[data-skip-practice]').hidden = !first;
  find('[data-practise]').textContent = first ? t('guide.practise', { count: practice.tasks.length }) : t('guide.start');
}

/* practice */

function practise() {
  if (!practice.tasks.length) { endPractice('finished'); return; }
  queue = practice.tasks.map((task) => (task.pictures ? task : prepare(task)));
  for (const task of queue) task.prompt = t('practice.prompt.' + task.contrast);
  next();
}

function drawLesson(word, good) {
  const lesson = find('[data-lesson]');
  lesson.hidden = !practice;
  if (!practice) return;
  find('[data-lesson-count]').textContent = t('practice.count', { at: practice.at + 1, of: practice.tasks.length });
  const line = find('[data-lesson-word]');
  line.textContent = word || t('practice.free');
  line.dataset.good = word ? String(good) : '';
}

/** What the pictures of a practice task called for, as a text, and whether the answer was that. */
function judge(task, payload) {
  const fitting = task.fits.indexOf(true);
  if (payload.choice === 'skip') return { good: true, why: t('practice.skipped') };
  if (task.screen === 'choose') {
    const [left, right] = task.fits;
    const wanted = left && right ? 'tie' : left ? 'left' : right ? 'right' : 'both_bad';
    const known = task.controls.some((control) => control.choice === wanted);
    const side = left === right ? wanted : sideName(left ? 0 : 1);
    return { good: !known || payload.choice === wanted, why: t(known ? 'practice.says.' + side : 'practice.thanks') };
  }
  if (task.screen === 'grade') {
    const middle = (task.levels + 1) / 2;
    const good = payload.grades.overall.every((grade, place) => (task.fits[place] ? grade > middle : grade < middle));
    if (task.images.length === 1) return { good, why: t(task.fits[0] ? 'practice.good' : 'practice.bad') };
    return { good, why: t('practice.one_fits', { number: fitting + 1 }) };
  }
  const best = payload.ranks[fitting];
  const good = best === 1 && payload.ranks.every((rank, place) => place === fitting || rank !== 1);
  return { good, why: t('practice.one_fits', { number: fitting + 1 }) };
}

/** An answer in practice: praised and done, or told why not and asked again. */
function practised(task, payload, marks) {
  const { good, why } = judge(task, payload);
  acknowledge(payload.choice, marks || cards.map(() => ''));
  drawLesson(t(good ? 'practice.right' : 'practice.wrong', { why }), good);
  ready = false;
  root.dataset.ready = 'no';
  if (!good) {
    waitingKeys = [];
    showWaitingKeys();
    setTimeout(() => askAgain(task), PRAISE_MS);
    return;
  }
  clearTimeout(praised);
  praised = setTimeout(() => toNextLesson(task), PRAISE_MS);
}

function toNextLesson(task) {
  praised = null;
  if (!practice || current !== task) return;
  practice.at += 1;
  if (practice.at < practice.tasks.length) next();
  else endPractice('finished');
}

async function askAgain(task) {
  if (!practice || current !== task) return;
  const [word, good] = [find('[data-lesson-word]').textContent, false];
  await bring(task);
  if (practice && current === task) drawLesson(word, good);
}

/** Undo shows the practice task before this one again. */
function backInPractice() {
  if (!practice.at) { say(t('undo.nothing')); return; }
  practice.at -= 1;
  queue = practice.tasks.slice(practice.at);
  next();
}

async function endPractice(outcome) {
  clearTimeout(praised);
  practice = null;
  drawLesson();
  current = null;
  queue = [];
  waitingKeys = [];
  showWaitingKeys();
  ready = false;
  const asking = rater;
  let answer = null;
  // Without a connection it is over all the same; it then comes once more some day, which does no harm.
  try { answer = await call('api/practice', { outcome }); } catch (error) { answer = null; }
  if (rater !== asking) return;
  rater.needs = answer && answer.status === 200 ? answer.body.needs : [];
  if (outcome === 'finished') say(t('practice.over'));
  enter();
}
