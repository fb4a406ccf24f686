// Elements, and numbers as people write them. Text always becomes a text node, never markup.

const SVG = "http://www.w3.org/2000/svg";
let ids = 0;

const fill = (node, attributes, children) => {
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (value !== null && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null).map((child) =>
    child instanceof Node ? child : document.createTextNode(String(child))));
  return node;
};
const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const newId = (name) => `${name}-${++ids}`;

const series = (index) => `s${index % 6}`;

// Three or so digits with SI's prefix: 950, 45.1k, 2.35M.
const metric = (value) => {
  const units = ["", "k", "M", "G", "T", "P"];
  let power = 0;
  while (Math.abs(value) >= 1000 && power < units.length - 1) { value /= 1000; power += 1; }
  return `${Number(value.toPrecision(3))}${units[power]}`;
};
const whole = (value) => Math.round(value).toLocaleString("en");
const digits = (value, most = 4) => Number(value.toPrecision(most)).toLocaleString("en", { maximumSignificantDigits: most });
const span = (seconds) => {
  if (seconds < 90) return `${digits(seconds, 3)} s`;
  if (seconds < 5370) return `${digits(seconds / 60, 3)} min`;
  if (seconds < 172800) return `${digits(seconds / 3600, 3)} h`;
  return `${digits(seconds / 86400, 3)} days`;
};

// A labelled list of choices. Calls `change` with the index chosen.
const choice = (label, options, change, chosen = 0) => {
  const select = el("select", { change: () => change(select.selectedIndex) },
    ...options.map((text, i) => el("option", { selected: i === chosen }, text)));
  return { node: el("label", { class: "field" }, label, select), select };
};

// A few choices beside each other, as radio buttons: arrow keys move between them.
const radios = (label, options, change, chosen = 0) => {
  const name = newId("choice");
  return el("fieldset", { class: "choice" }, el("legend", {}, label), ...options.map((text, i) =>
    el("label", {}, el("input", { type: "radio", name, checked: i === chosen, change: () => change(i) }), text)));
};
const check = (label, change, on = false, ...before) => {
  const box = el("input", { type: "checkbox", checked: on, change: () => change(box.checked) });
  return el("label", { class: "check" }, box, ...before, label);
};

const PAPER = 690; // pixels between the margins of a sheet

// Draws now, and again whenever the width of the frame has changed; on paper by the paper's.
const drawn = (frame, draw, paper = PAPER) => {
  let width = 0;
  const again = () => {
    const now = Math.round(frame.clientWidth);
    if (now > 100 && now !== width) { width = now; draw(now); }
  };
  new ResizeObserver(again).observe(frame);
  addEventListener("beforeprint", () => draw(paper));
  addEventListener("afterprint", () => { if (width) draw(width); });
  return () => draw(width || 700);
};
