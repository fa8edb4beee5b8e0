'use strict';
const all = document.getElementById('all'), list = Array.from(all.children), form = document.getElementById('f');
const find = form.elements.find, sort = form.elements.sort, out = document.getElementById('n');
form.hidden = false;
const field = { process: '.who', who: '.who', cause: '.how', class: '.how' };
const texts = list.map(d => {
  const s = d.firstElementChild, part = { '': s.textContent.toLowerCase() };
  for (const k of Object.keys(field)) part[k] = s.querySelector(field[k]).textContent.toLowerCase();
  return part;
});
function show() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  let n = 0;
  list.forEach((d, i) => {
    d.hidden = !words.every(w => {
      const at = w.indexOf(':'), key = at > 0 ? w.slice(0, at) : '';
      if (key === 'port') return texts[i].who.split(/[ )]/).some(x => x.endsWith(w.slice(at)));
      return key in field ? texts[i][key].includes(w.slice(at + 1)) : texts[i][''].includes(w);
    });
    if (!d.hidden) n++;
  });
  out.textContent = n + ' of ' + list.length + ' shown';
}
const by = {
  time: () => 0, lost: (a, b) => b.dataset.l - a.dataset.l, age: (a, b) => b.dataset.a - a.dataset.a,
  cause: (a, b) => text(a, '.how').localeCompare(text(b, '.how')), who: (a, b) => text(a, '.who').localeCompare(text(b, '.who')),
};
function text(d, part) { return d.querySelector(part).textContent; }
sort.addEventListener('change', () => all.append(...list.slice().sort(by[sort.value])));
let soon;
find.addEventListener('input', () => { clearTimeout(soon); soon = setTimeout(show, 80); });
form.addEventListener('submit', e => { e.preventDefault(); show(); });
form.elements.fold.addEventListener('click', () => {
  const shown = list.filter(d => !d.hidden), open = shown.some(d => !d.open);
  shown.forEach(d => { d.open = open; });
});
document.querySelectorAll('td[data-f]').forEach(td => {
  const b = document.createElement('button');
  b.type = 'button';
  b.textContent = td.textContent;
  b.title = 'show only these';
  b.addEventListener('click', () => { find.value = td.dataset.f; show(); form.scrollIntoView(); });
  td.replaceChildren(b);
});
show();
