// Tables as the data gives them: rows of text, some cells with a bar.

const bar = (share, index) => svg("svg", { viewBox: "0 0 100 12", preserveAspectRatio: "none", class: series(index), "aria-hidden": "true" },
  svg("rect", { width: 100, height: 12, fill: "var(--grid)" }),
  svg("rect", { width: 100 * share, height: 12, class: "fill" }));

// A figure with its range has the range below it: "1.62 (1.55 to 1.74) ~".
const ranged = (text) => {
  const found = text.length > 14 && text.match(/^([^ ]+) \((.*)\)( ~)?$/);
  return found ? el("td", {}, found[1] + (found[3] || ""), el("small", {}, found[2])) : null;
};

const cell = (content) => content.bar === undefined
  ? ranged(content) || el("td", { class: content.length > 18 ? "words" : null }, content)
  : el("td", {}, el("div", { class: "meter" }, el("span", {}, content.text), bar(content.bar, content.of)));

const table = ({ title, head, rows, notes = [] }) => {
  const body = rows.map(([first, ...rest]) => el("tr", {}, el("th", { scope: "row" }, first), ...rest.map(cell)));
  const inner = el("table", {}, title ? el("caption", {}, el("span", {}, title)) : null,
    el("thead", {}, el("tr", {}, ...head.map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, ...body));
  return el("div", {}, scrolling(inner, title || head.join(", ")),
    ...notes.map((note) => el("p", { class: "note" }, note)));
};

// A box that scrolls sideways, can be scrolled by the keyboard, and has a shadow where it goes on.
const scrolling = (inner, label) => {
  const shade = () => {
    frame.classList.toggle("before", box.scrollLeft > 1);
    frame.classList.toggle("after", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  };
  const box = el("div", { class: "scroll", scroll: shade }, inner), frame = el("div", { class: "sides" }, box);
  new ResizeObserver(() => {
    shade();
    const needed = box.scrollWidth > box.clientWidth + 1;
    if (needed) fill(box, { tabindex: 0, role: "region", "aria-label": label }, []);
    else for (const key of ["tabindex", "role", "aria-label"]) box.removeAttribute(key);
  }).observe(box);
  return frame;
};

const facts = (rows) => el("table", { class: "facts" }, el("tbody", {}, ...rows.map(([key, value]) =>
  el("tr", {}, el("th", { scope: "row" }, key), el("td", {}, value)))));

// What can be unfolded; `print` says that paper shows it unfolded.
const folded = (title, print, ...inside) => el("details", { "data-print": print }, el("summary", {}, title), ...inside);
