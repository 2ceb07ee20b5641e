/* The words of the page: `LANGUAGES` has them all, one is chosen by the browser's language or by hand and kept in this
   browser. The server writes English; its sentences are known here by their English pattern. */

const LANGUAGE_KEY = 'hitl.language';
let language = pickLanguage();
const pluralRules = {};

function pickLanguage() {
  let kept = null;
  try { kept = localStorage.getItem(LANGUAGE_KEY); } catch (error) { /* the browser's own then */ }
  const wanted = [kept, ...(navigator.languages || [])].filter(Boolean).map((code) => code.toLowerCase().split('-')[0]);
  return wanted.find((code) => LANGUAGES[code]) || 'en';
}

/** Digits stay those of the keys that are to be pressed. */
const locale = () => language + '-u-nu-latn';
const number = (value, options) => new Intl.NumberFormat(locale(), options).format(value);

/** The text of that key, its {names} filled in. Of one with plurals `values.count` chooses. */
function t(key, values = {}) {
  const texts = key in LANGUAGES[language] ? LANGUAGES[language] : LANGUAGES.en;
  let text = texts[key];
  if (text === undefined) return key;
  if (typeof text === 'object') {
    pluralRules[language] = pluralRules[language] || new Intl.PluralRules(language);
    text = text[pluralRules[language].select(values.count)] || text.other;
  }
  return text.replace(/[{]([a-z_]+)[}]/g, (whole, name) => {
    const value = values[name];
    if (value === undefined) return whole;
    return typeof value === 'number' ? number(value) : value;
  });
}

/** The text of that key, or these words of the project's own where there is none. */
const tOr = (key, own) => (key in LANGUAGES.en ? t(key) : own);

const SENTENCES = Object.keys(LANGUAGES.en).filter((key) => key.startsWith('server.')).map((key) => {
  const names = [];
  const pattern = LANGUAGES.en[key].split(/([{][a-z_]+[}])/).map((part) => {
    if (part.startsWith('{')) { names.push(part.slice(1, -1)); return '(.+?)'; }
    return part.replace(/[.*+?^$()|[\]\\]/g, '\\$&');
  }).join('');
  return { key, names, pattern: new RegExp('^' + pattern + '$', 's') };
});

/** What the server said, in the page's language where it is known. */
function heard(text) {
  if (language === 'en' || !text) return text || '';
  for (const { key, names, pattern } of SENTENCES) {
    const found = pattern.exec(text);
    if (found) return t(key, Object.fromEntries(names.map((name, place) => [name, found[place + 1]])));
  }
  return text;
}

/** An answer that is an error, and what to do about it. */
const heardWhy = (body) => [body.error, body.hint].filter(Boolean).map(heard).join(' ');

function keepLanguage(code) {
  language = code;
  try { localStorage.setItem(LANGUAGE_KEY, code); } catch (error) { /* it then lasts for this page */ }
}

/** Write the words into everything that names a key, and say which language and direction the document has. */
function speak(under) {
  document.documentElement.lang = language;
  document.documentElement.dir = t('language.direction');
  if (under !== document) under.dir = t('language.direction'); // what is between them may say otherwise
  for (const node of under.querySelectorAll('[data-t]')) node.textContent = t(node.dataset.t);
  for (const node of under.querySelectorAll('[data-t-label]')) node.setAttribute('aria-label', t(node.dataset.tLabel));
  for (const node of under.querySelectorAll('[data-t-placeholder]')) node.placeholder = t(node.dataset.tPlaceholder);
  for (const list of under.querySelectorAll('[data-language]')) {
    if (!list.options.length) {
      for (const [code, texts] of Object.entries(LANGUAGES)) {
        const option = Object.assign(document.createElement('option'), { value: code, textContent: texts['language.name'], lang: code });
        list.append(option);
      }
    }
    list.value = language;
  }
}

/** Text as a page shows it: lines with # are headings, with - lists, **strong**. Nothing in it can be markup. */
function renderText(node, text) {
  node.replaceChildren();
  let list = null;
  let paragraph = null;
  for (const line of text.split('\n').map((each) => each.trim())) {
    if (line.startsWith('- ')) {
      if (!list) { list = document.createElement('ul'); node.append(list); }
      list.append(withStrong(document.createElement('li'), line.slice(2)));
      paragraph = null;
      continue;
    }
    list = null;
    if (!line) { paragraph = null; continue; }
    if (line.startsWith('#')) {
      node.append(withStrong(document.createElement('h2'), line.replace(/^#+ */, '')));
      paragraph = null;
    } else if (paragraph) {
      withStrong(paragraph, ' ' + line);
    } else {
      paragraph = withStrong(document.createElement('p'), line);
      node.append(paragraph);
    }
  }
  for (const part of node.children) part.dir = 'auto';
}

function withStrong(node, text) {
  text.split('**').forEach((part, place) => {
    if (part) node.append(place % 2 ? Object.assign(document.createElement('strong'), { textContent: part }) : part);
  });
  return node;
}
