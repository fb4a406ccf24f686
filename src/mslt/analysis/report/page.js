// The page: sections in their order, the way between them, light and dark, and print.

const data = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");
const nav = document.getElementById("nav");

const section = (id, title, ...inside) => {
  main.append(el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title), ...inside));
  nav.append(el("a", { href: `#${id}` }, title));
};

const copied = (text) => {
  const pre = el("pre", { class: "wrap" }, text);
  const button = el("button", { type: "button", click: async () => {
    getSelection().selectAllChildren(pre);
    try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; }
    catch { button.textContent = "Selected: press Ctrl+C"; }
  } }, "Copy");
  return el("div", {}, pre, button);
};

const reproduce = (run) => [el("h3", {}, "How to run it again"),
  el("p", {}, `With mslt ${run.again.version} and the token store whose SHA-256 is above, save this as ${run.again.file}:`),
  copied(run.config), el("p", {}, "Then:"), copied(run.again.command)];

const lightOrDark = () => radios("Colours", ["auto", "light", "dark"], (i) => {
  if (i) document.documentElement.setAttribute("data-theme", ["", "light", "dark"][i]);
  else document.documentElement.removeAttribute("data-theme");
});

document.title = `mslt: ${data.title}`;
document.getElementById("title").textContent = data.title;
document.getElementById("written").textContent = `Written ${data.written}`;
document.getElementById("theme").append(lightOrDark());
document.body.append(svg("svg", { width: 0, height: 0, "aria-hidden": "true" }, svg("defs", {},
  svg("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    svg("rect", { width: 6, height: 6, fill: "var(--fixed)", "fill-opacity": 0.35 }),
    svg("rect", { width: 2, height: 6, fill: "var(--fixed)" })))));

section("run", "What was run", el("div", { class: "lead" },
  el("ul", { class: "plain" }, ...data.results.map((text) => el("li", {}, text))),
  el("h3", {}, "Plans"), el("ul", { class: "plain what" }, ...data.what.map((text) => el("li", {}, text)))));
section("stages", "Stages", timeline(data), folded("Stages as a table", true, ...data.stages.map(table)));
section("curves", "Curves", curves(data));
if (data.tables.length) section("tables", "Tables", ...data.tables.map((t) => el("div", { class: "card" }, table(t))));
section("speed", "Speed and memory", el("div", { class: "card long" }, table({ ...data.speed, title: "By stage" })),
  data.forecast ? el("div", { class: "card" }, table(data.forecast))
    : el("p", { class: "note" }, "None of these runs recorded a prediction of its time."));
section("attention", "Attention", data.attention ? attention(data.attention) : el("p", { class: "note" }, data.absent));
if (data.drift) section("drift", "Drift", drift(data.drift));
section("config", "Configuration",
  data.differences ? el("div", { class: "card" }, table(data.differences)) : "",
  ...data.runs.map((run) => el("div", { class: "card long" }, folded(`${run.name}: text, machine, all options, how to run it again`, run.first,
    facts(run.facts), ...reproduce(run)))));

// Paper cannot be unfolded: what it is to show is open while it is printed.
addEventListener("beforeprint", () => {
  for (const node of document.querySelectorAll("details[data-print]:not([open])")) {
    node.open = true;
    node.dataset.opened = "";
  }
});
addEventListener("afterprint", () => {
  for (const node of document.querySelectorAll("details[data-opened]")) {
    node.open = false;
    delete node.dataset.opened;
  }
});
