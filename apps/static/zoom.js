/* The zoom: both pictures as large as the window, then the same piece of each, larger. Wheel, pinch, drag and keys move
   all pictures alike, so that the same place is compared. */

const MOST_ZOOM = 8;
const ZOOM_STEP = 1.25;
const PAN_STEP = 0.12; // of a card's side
const DRAG_PX = 6; // a shorter move is a click

/** Of each picture's middle, in sides of its card, and how much larger it is. The same for all. */
let lens = { scale: 1, x: 0, y: 0 };
const fingers = new Map(); // pointers that are down, by id
let dragged = false; // the last one moved: its click chooses nothing

const isZoomed = () => root.classList.contains('zoomed');

function zoom() {
  const on = root.classList.toggle('zoomed');
  find('[data-action="zoom"]').setAttribute('aria-pressed', String(on));
  setLens({ scale: 1, x: 0, y: 0 });
  fit();
  if (on) showOriginals();
  say(t(on ? 'zoom.on' : 'zoom.off'));
}

function unzoom() {
  root.classList.remove('zoomed');
  find('[data-action="zoom"]').setAttribute('aria-pressed', 'false');
  setLens({ scale: 1, x: 0, y: 0 });
}

function setLens(wanted) {
  const scale = Math.min(MOST_ZOOM, Math.max(1, wanted.scale));
  const most = (scale - 1) / 2; // no edge of a picture comes inside its card
  const within = (value) => Math.min(most, Math.max(-most, value));
  lens = { scale, x: within(wanted.x), y: within(wanted.y) };
  root.style.setProperty('--zoom', String(lens.scale));
  root.style.setProperty('--pan-x', lens.x * 100 + '%');
  root.style.setProperty('--pan-y', lens.y * 100 + '%');
}

/** Larger or smaller about a point of a card, given from its middle in sides; that point stays where it is. */
function magnify(factor, at = { x: 0, y: 0 }) {
  const scale = Math.min(MOST_ZOOM, Math.max(1, lens.scale * factor));
  const share = scale / lens.scale;
  setLens({ scale, x: at.x - (at.x - lens.x) * share, y: at.y - (at.y - lens.y) * share });
  drawExtras();
}

function pan(x, y) {
  setLens({ scale: lens.scale, x: lens.x + x, y: lens.y + y });
  drawExtras();
}

function placeIn(card, point) {
  const box = card.getBoundingClientRect();
  return { x: (point.x - box.left) / box.width - 0.5, y: (point.y - box.top) / box.height - 0.5, side: box.width };
}

/** Whether the key moved the lens. */
function onLensKey(event) {
  const step = { ArrowLeft: [PAN_STEP, 0], ArrowRight: [-PAN_STEP, 0], ArrowUp: [0, PAN_STEP], ArrowDown: [0, -PAN_STEP] }[event.key];
  if (event.key === '+' || event.key === '=') magnify(ZOOM_STEP);
  else if (event.key === '-' || event.key === '_') magnify(1 / ZOOM_STEP);
  else if (event.shiftKey && step) pan(...step);
  else return false;
  return true;
}

function onWheel(event) {
  const card = event.target.closest('.card');
  if (!isZoomed() || !card) return;
  event.preventDefault();
  magnify(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), placeIn(card, { x: event.clientX, y: event.clientY }));
}

function onFingerDown(event) {
  const card = event.target.closest('.card');
  if (!isZoomed() || !card || root.dataset.flagging === 'yes') return;
  if (!fingers.size) dragged = false;
  fingers.set(event.pointerId, { card, x: event.clientX, y: event.clientY, fromX: event.clientX, fromY: event.clientY });
}

function onFingerMove(event) {
  const finger = fingers.get(event.pointerId);
  if (!finger) return;
  const others = Array.from(fingers.values());
  const before = gapOf(others);
  const [x, y] = [event.clientX - finger.x, event.clientY - finger.y];
  finger.x = event.clientX;
  finger.y = event.clientY;
  if (Math.hypot(finger.x - finger.fromX, finger.y - finger.fromY) > DRAG_PX) dragged = true;
  if (!dragged) return;
  const { side } = placeIn(finger.card, finger);
  pan(x / side / others.length, y / side / others.length);
  if (others.length === 2) {
    const middle = { x: (others[0].x + others[1].x) / 2, y: (others[0].y + others[1].y) / 2 };
    if (before) magnify(gapOf(others) / before, placeIn(finger.card, middle));
  }
}

const gapOf = (two) => (two.length === 2 ? Math.hypot(two[0].x - two[1].x, two[0].y - two[1].y) : 0);

const onFingerUp = (event) => fingers.delete(event.pointerId);

/** The end of a drag is no click. */
function onDraggedClick(event) {
  if (!dragged || !event.target.closest('.card')) return;
  dragged = false;
  event.stopPropagation();
  event.preventDefault();
}
