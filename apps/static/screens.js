/* How each kind of screen asks: its cards, its keys, and what was answered of the task on the screen so far. A screen has
   `draw()`, and `act(action)` for a key or a click that is no choice of the whole task. rate.js has the rest. */

const NARROW = 280; // pixels for one picture
const LEAST = 110, LEAST_GRADED = 160; // five buttons under each
const levelNames = (levels) => (levels === 2 ? [t('level.bad'), t('level.good')] : null); // of other scales the numbers are the names

/** Cards for so many pictures, the controls of this kind, and nothing answered yet. */
function setScreen(task) {
  if (cards.length !== task.images.length || root.dataset.kind !== task.kind) {
    root.dataset.kind = task.kind;
    root.dataset.screen = task.screen;
    find('[data-question]').textContent = tOr('question.' + task.kind, '');
    cards = task.images.map((_, number) => makeCard(task, number));
    find('.cards').replaceChildren(...cards);
    buildControls(task);
  }
  screen = screens[task.screen](task);
  newExtras(task);
}

function makeCard(task, number) {
  const cell = document.createElement('div');
  cell.className = 'cell';
  const card = document.createElement('div');
  card.className = 'card';
  card.dataset.card = String(number);
  card.append(Object.assign(document.createElement('div'), { className: 'mat' }));
  const mark = Object.assign(document.createElement('span'), { className: 'mark' });
  mark.setAttribute('aria-hidden', 'true');
  card.append(mark);
  if (task.screen === 'best') card.append(Object.assign(document.createElement('kbd'), { className: 'number', textContent: String(number + 1) }));
  cell.append(card);
  if (task.screen === 'grade') cell.append(...task.axes.map((axis) => makeScale(task, number, axis)));
  return cell;
}

/** The grades of one picture on one axis, as buttons. */
function makeScale(task, number, axis) {
  const row = document.createElement('div');
  row.className = 'scale';
  row.dataset.scale = number + ' ' + axis;
  row.setAttribute('role', 'group');
  const name = tOr('axis.' + axis, axis.charAt(0).toUpperCase() + axis.slice(1).replaceAll('_', ' '));
  row.setAttribute('aria-label', t('axis.of_picture', { axis: name, number: number + 1 }));
  if (task.axes.length > 1) row.append(Object.assign(document.createElement('span'), { className: 'axis', textContent: name }));
  for (let level = 1; level <= task.levels; level += 1) {
    const button = document.createElement('button');
    button.type = 'button';
    button.className = 'level';
    button.dataset.grade = number + ' ' + axis + ' ' + level;
    button.setAttribute('aria-pressed', 'false');
    const names = levelNames(task.levels);
    button.append(Object.assign(document.createElement('kbd'), { textContent: String(level) })); // the number is its name
    if (names) button.append(' ' + names[level - 1]);
    row.append(button);
  }
  return row;
}

const screens = {
  choose: () => ({ draw() {}, act() {} }),

  /** One digit or click names the best picture. */
  best: (task) => ({
    draw() {},
    act(action) {
      const number = Number(action.digit || action.card + 1) - 1;
      if (!(number >= 0 && number < task.images.length)) return;
      const marks = cards.map((_, other) => (other === number ? '✓' : ''));
      vote({ ranks: cards.map((_, other) => (other === number ? 1 : null)) }, marks, t('said.picture', { number: number + 1 }));
    },
  }),

  /** A place for each picture: by clicks in order, or by a digit for the picture that the frame is on. */
  rank: (task) => {
    const ranks = task.images.map(() => null);
    let at = 0;
    const given = () => ranks.filter((rank) => rank !== null);
    return {
      draw() {
        cards.forEach((cell, number) => {
          const rank = ranks[number];
          cell.querySelector('.mark').textContent = rank === null ? '' : String(rank);
          cell.firstElementChild.classList.toggle('ranked', rank !== null);
          cell.firstElementChild.classList.toggle('cursor', number === at && given().length < ranks.length);
        });
        setDone(given().length === ranks.length);
      },
      act(action) {
        if (action.step) at = (at + action.step + ranks.length) % ranks.length;
        else if (action.card !== undefined) {
          ranks[action.card] = ranks[action.card] === null ? given().reduce((a, b) => Math.max(a, b), 0) + 1 : null;
          at = Math.max(0, ranks.indexOf(null));
        } else if (action.digit >= 1 && action.digit <= ranks.length) {
          ranks[at] = action.digit;
          say(t('said.place', { number: at + 1, place: action.digit }));
          const next = ranks.findIndex((rank, number) => rank === null && number > at);
          at = next >= 0 ? next : Math.max(0, ranks.indexOf(null));
        } else if (action.done && given().length === ranks.length) {
          vote({ ranks }, ranks.map(String), t('said.order'));
          return;
        } else if (action.back) {
          const last = at > 0 && ranks[at] === null ? at - 1 : at;
          ranks[last] = null;
          at = last;
        }
        this.draw();
      },
    };
  },

  /** A grade for each picture on each axis; with one of each, the first key is the answer. */
  grade: (task) => {
    const grades = Object.fromEntries(task.axes.map((axis) => [axis, task.images.map(() => null)]));
    const places = task.images.flatMap((_, number) => task.axes.map((axis) => [number, axis]));
    const missing = () => places.findIndex(([number, axis]) => grades[axis][number] === null);
    const names = levelNames(task.levels);
    let at = 0;
    const send = () => {
      const marks = task.images.map((_, number) => (names ? ['✕', '✓'][grades.overall[number] - 1] : String(grades.overall[number])));
      vote({ grades }, marks, t('said.stored'));
    };
    return {
      draw() {
        places.forEach(([number, axis], place) => {
          const row = cards[number].querySelector('[data-scale="' + number + ' ' + axis + '"]');
          row.classList.toggle('cursor', place === at && missing() >= 0 && places.length > 1);
          row.querySelectorAll('.level').forEach((button, level) => button.setAttribute('aria-pressed', String(grades[axis][number] === level + 1)));
        });
        if (places.length > 1) setDone(missing() < 0);
      },
      act(action) {
        if (action.step) at = (at + action.step + places.length) % places.length;
        else if (action.digit || action.grade) {
          const [number, axis, level] = action.grade || [...places[at], action.digit];
          if (!(level >= 1 && level <= task.levels)) return;
          grades[axis][number] = level;
          at = places.findIndex(([other, name]) => other === number && name === axis);
          if (places.length === 1) { this.draw(); send(); return; }
          const next = places.findIndex(([other, name], place) => place > at && grades[name][other] === null);
          at = next >= 0 ? next : Math.max(0, missing());
        } else if (action.done && missing() < 0) {
          send();
          return;
        } else if (action.back) {
          const [number, axis] = places[at];
          if (grades[axis][number] === null && at > 0) at -= 1;
          const [before, name] = places[at];
          grades[name][before] = null;
        }
        this.draw();
      },
    };
  },
};

function setDone(isComplete) {
  const button = find('[data-done]');
  if (button) button.disabled = !isComplete;
}

/* where the pictures stand */

/** As many columns as make the pictures largest. */
function layOut() {
  const area = find('.pair');
  const count = cards.length;
  const scales = cards.length ? cards[0].querySelectorAll('.scale').length : 0;
  const [width, height] = [area.clientWidth - 14, area.clientHeight - 14]; // its padding
  const gap = width <= 700 ? 12 : 20;
  let best = { side: 0, columns: 1 };
  for (let columns = 1; columns <= count; columns += 1) {
    const rows = Math.ceil(count / columns);
    const wide = (width - gap * (columns - 1)) / columns;
    const isNarrow = wide < NARROW; // the name of an axis then stands above its grades
    const below = scales * (isNarrow && scales > 1 ? 64 : 44);
    const high = (height - gap * (rows - 1)) / rows - below;
    const side = Math.floor(Math.min(wide, high));
    if (side > best.side) best = { side, columns, isNarrow };
  }
  const least = scales ? LEAST_GRADED : LEAST;
  if (count > 1 && best.side < least) { // too many for one view: it scrolls
    const columns = Math.max(1, Math.min(count, Math.floor((width + gap) / (least + gap))));
    best = { side: Math.floor((width - gap * (columns - 1)) / columns) - 4, columns, isNarrow: true };
  }
  const grid = find('.cards');
  grid.dataset.narrow = best.isNarrow ? 'yes' : 'no';
  root.dataset.stacked = count === 2 && best.columns === 1 ? 'yes' : 'no';
  grid.style.setProperty('--gap', gap + 'px');
  grid.style.setProperty('--columns', String(best.columns));
  grid.style.setProperty('--side', best.side + 'px');
}

/** Keys that answer bit by bit, and the button that ends the answer. */
function buildAnswering(task) {
  const most = { best: task.images.length, rank: task.images.length, grade: task.levels }[task.screen];
  for (let digit = 1; digit <= most; digit += 1) actions.set(String(digit), { digit });
  if (task.levels === 2) { actions.set('b', { digit: 1 }); actions.set('g', { digit: 2 }); }
  if (!hasDone(task)) return;
  for (const [key, step] of [['ArrowLeft', -1], ['ArrowRight', 1]]) actions.set(key, { step });
  actions.set('Enter', { done: true });
  actions.set('Backspace', { back: true });
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'choice';
  button.dataset.done = '';
  button.disabled = true;
  button.append(Object.assign(document.createElement('span'), { textContent: t('choice.done') }), ...keycaps(['Enter']));
  find('[data-choices]').append(button);
}

/** Whether the answer is given bit by bit. */
const hasDone = (task) => task.screen === 'rank' || (task.screen === 'grade' && task.images.length * task.axes.length > 1);

/** What those keys do, for the help. */
function answeringKeys(task) {
  const range = ['1 – ' + (task.screen === 'grade' ? task.levels : task.images.length)];
  if (task.screen === 'best') return [[t('help.best'), range]];
  const letters = task.levels === 2 ? [[t('level.bad'), ['1', 'b']], [t('level.good'), ['2', 'g']]] : null;
  if (!hasDone(task)) return letters || [[t('help.grade'), range]];
  const first = letters || [[t(task.screen === 'rank' ? 'help.place' : 'help.row'), range]];
  return [...first, [t('help.another'), ['ArrowLeft', 'ArrowRight']], [t('help.back'), ['Backspace']], [t('choice.done'), ['Enter']]];
}
