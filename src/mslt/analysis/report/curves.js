// Curves of all runs: any measure against steps, tokens or training time, read at any place.

const MEASURES = [
  { key: "mlm_loss", name: "Masked-token loss", unit: "nats", baseline: true },
  { key: "mlm_accuracy", name: "Masked-token accuracy", unit: "share" },
  { key: "pair_loss", name: "Sentence-pair loss", unit: "nats" },
  { key: "pair_accuracy", name: "Sentence-pair accuracy", unit: "share" },
  { key: "tokens_per_second", name: "Speed", unit: "tokens/s" },
  { key: "lr", name: "Learning rate", unit: "" },
  { key: "grad_norm", name: "Gradient norm", unit: "" },
  { key: "memory", name: "Peak memory", unit: "bytes" },
];
const AXES = [["step", "steps"], ["tokens", "tokens"], ["seconds", "training time"]];

const curves = (data) => {
  const has = (measure, kind) => data.runs.some((run) => run[kind][measure.key]);
  const measures = MEASURES.filter((m) => has(m, "train") || has(m, "heldout"));
  const state = { axis: 0, measure: measures[0], train: data.runs.length <= 4, heldout: true, late: false, at: null,
    shown: data.groups.map(() => true) };
  const runs = () => data.runs.filter((run) => state.shown[run.group]);
  const key = () => AXES[state.axis][0];
  const kinds = () => ["train", "heldout"].filter((kind) => state[kind]);
  let area = null, far = 1, unit = [1, ""];

  const draw = (width) => {
    const k = key(), m = state.measure.key, all = runs();
    far = Math.max(1e-9, ...data.runs.flatMap((run) => ["train", "heldout"].flatMap((kind) => run[kind][k].slice(-1))));
    unit = k === "seconds" ? timeUnit(far) : [1, AXES[state.axis][1]];
    const from = state.late ? far / 2 : 0, values = [];
    for (const run of all) for (const kind of kinds()) {
      (run[kind][m] || []).forEach((v, i) => { if (run[kind][k][i] >= from) values.push(v); });
    }
    const bases = state.measure.baseline ? [...new Set(all.map((run) => run.baseline))] : [];
    const y = limits(state.late ? values : [...values, ...bases]);
    const title = `${state.measure.name}${state.measure.unit ? ` (${state.measure.unit})` : ""}`;
    const axis = k === "seconds" ? `training time (${unit[1]})` : unit[1];
    area = plane(width - 34, [from / unit[0], far / unit[0]], y, axis, title);
    fill(area.root, { role: "img", "aria-label": `${title} against ${axis}. The slider and the table below give its values.`,
      pointermove: move, pointerdown: move }, []);
    const clip = newId("clip");
    area.root.append(svg("clipPath", { id: clip }, svg("rect", { x: area.left, y: area.top - 4, width: area.right - area.left, height: area.bottom - area.top + 6 })));
    const inside = svg("g", { "clip-path": `url(#${clip})` });
    for (const kind of kinds()) for (const run of all) lines(run, kind, inside);
    for (const base of bases) {
      inside.append(svg("line", { class: "baseline", x1: area.left, x2: area.right, y1: area.py(base), y2: area.py(base) }));
    }
    area.root.append(inside, cross);
    chart.replaceChildren(area.root);
    read();
  };
  const lines = (run, kind, into) => {
    const k = key(), values = run[kind][state.measure.key];
    if (!values) return;
    const xs = run[kind][k].map((x) => x / unit[0]);
    const faint = kind === "train" && state.heldout && has(state.measure, "heldout");
    into.append(path(xs, values, area, { class: `line stroke ${series(run.group)}${faint ? " faint" : ""}`,
      "stroke-dasharray": faint ? null : dash(run.group) }));
    if (faint) return;
    for (const end of run.ends) {
      const i = kind === "heldout" ? run.heldout.step.indexOf(end) : run.train.step.findIndex((step) => step >= end);
      if (i < 0 || values[i] === null) continue;
      const x = area.px(xs[i]);
      into.append(svg("line", { class: `stroke ${series(run.group)}`, x1: x, x2: x, y1: area.top, y2: area.bottom, opacity: 0.22 }),
        marker(run.group, x, area.py(values[i])));
    }
  };

  // Reading: a line across, and a table of what stands there.
  const cross = svg("g", {});
  const place = el("input", { type: "range", min: 0, max: 1000, value: 1000, "aria-label": "Read the curves at",
    input: () => { state.at = at(); read(); } });
  const at = () => {
    const from = state.late ? far / 2 : 0;
    return from + place.value / 1000 * (far - from);
  };
  const move = (event) => {
    const box = area.root.getBoundingClientRect();
    const x = area.back((event.clientX - box.left) * area.root.viewBox.baseVal.width / box.width) * unit[0];
    const from = state.late ? far / 2 : 0;
    place.value = Math.round(1000 * Math.min(1, Math.max(0, (x - from) / (far - from))));
    state.at = at();
    read();
  };
  const where = (x) => key() === "seconds" ? span(x) : `${key() === "step" ? "step " : ""}${key() === "step" ? whole(x) : metric(x)}${key() === "tokens" ? " tokens" : ""}`;
  const value = (x) => x === null || x === undefined ? "–" : Math.abs(x) >= 1000 ? whole(x) : digits(x, 5);
  const read = () => {
    const x = state.at === null ? at() : state.at;
    cross.replaceChildren();
    if (state.at !== null) {
      const p = area.px(x / unit[0]);
      cross.append(svg("line", { class: "cross", x1: p, x2: p, y1: area.top, y2: area.bottom }));
    }
    place.setAttribute("aria-valuetext", where(x));
    const rows = runs().map((run) => [run.name, ...kinds().map((kind) => {
      const xs = run[kind][key()], i = nearest(xs, x), values = run[kind][state.measure.key];
      if (!values || i < 0 || x > xs[xs.length - 1] * 1.02) return "–";
      if (state.at !== null && values[i] !== null) cross.append(marker(run.group, area.px(xs[i] / unit[0]), area.py(values[i]), 3));
      return where(xs[i]) === where(x) ? value(values[i]) : `${value(values[i])} (${where(xs[i])})`;
    })]);
    const head = ["run", ...kinds().map((kind) => kind === "train" ? "training" : "held-out")];
    out.replaceChildren(table({ title: `At ${where(x)}`, head, rows }));
  };

  const chart = el("div", { class: "plot" }), out = el("div", { class: "readout", "aria-live": "polite" });
  const again = (change) => (next) => { change(next); draw(chart.clientWidth + 34); };
  const each = Math.max(...data.runs.map((run) => run.each));
  const frame = el("div", { class: "card" },
    el("div", { class: "controls" },
      choice("Measure", measures.map((m) => m.name), again((i) => { state.measure = measures[i]; })).node,
      radios("Against", AXES.map(([, name]) => name), again((i) => { state.axis = i; state.at = null; place.value = 1000; })),
      check("held-out", again((on) => { state.heldout = on; }), true),
      check("training", again((on) => { state.train = on; }), state.train),
      check("last half only", again((on) => { state.late = on; state.at = null; place.value = 1000; }))),
    el("fieldset", { class: "controls legend" }, el("legend", { class: "hidden" }, "Plans shown"),
      ...data.groups.map((group, i) => check(`${group.name}${group.seeds > 1 ? ` (${group.seeds} seeds)` : ""}`,
        again((on) => { state.shown[i] = on; }), true, swatch(i))),
      el("span", { class: "check" }, svg("svg", { class: "swatch", viewBox: "0 0 34 14", "aria-hidden": "true" },
        svg("line", { class: "baseline", x1: 0, x2: 34, y1: 7, y2: 7 })), "token frequencies alone")),
    chart, el("div", { class: "noprint" }, place), out,
    el("p", { class: "note" }, `Strong lines are held-out text, faint ones training batches${each > 1 ? ` (means of up to ${each} logged steps)` : ""}. ` +
      "Marks and upright lines are the ends of stages. Slide, point, or use the arrow keys on the slider to read values."));
  drawn(chart, (width) => draw(width + 34));
  return el("div", {}, frame, folded("Held-out losses as a table", true, heldoutTable(data)));
};

const heldoutTable = (data) => {
  const steps = [...new Set(data.runs.flatMap((run) => run.heldout.step))].sort((a, b) => a - b);
  const every = Math.ceil(steps.length / 25), ends = new Set(data.runs.flatMap((run) => run.ends));
  const kept = steps.filter((step, i) => i % every === 0 || ends.has(step) || i === steps.length - 1);
  return table({
    title: "Held-out masked-token loss (nats)",
    head: ["step", ...data.runs.map((run) => run.name)],
    rows: kept.map((step) => [whole(step), ...data.runs.map((run) => {
      const i = run.heldout.step.indexOf(step);
      return i < 0 ? "–" : run.heldout.mlm_loss[i].toFixed(4);
    })]),
  });
};
