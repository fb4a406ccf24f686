// The paper's Figure 1 to scale: which layers learn and which only run forward, when.

const timeline = (data) => {
  const frame = el("div", { class: "card" });
  const out = el("div", { class: "readout", "aria-live": "polite" });
  const hint = "Point at a stage, or go to one with the tab key, to read its figures.";
  const timed = data.groups.some((g) => g.stages.some((s) => s.seconds));
  let byTime = false;

  const widths = (group) => group.stages.map((s) => byTime ? s.seconds || 0 : s.steps);
  const longest = () => Math.max(...data.groups.map((g) => widths(g).reduce((a, b) => a + b, 0))) || 1;

  const say = (group, s) => {
    const parts = [`${group.name}, stage ${s.number}: ${s.depth} layers`,
      s.fixed ? `the top ${s.depth - s.fixed} learn, the bottom ${s.fixed} and the embeddings only run forward` : "all learn",
      `${whole(s.steps)} steps of length ${s.length}`];
    if (s.seconds) parts.push(`${span(s.seconds)} of training`);
    if (s.step_seconds) parts.push(`${digits(1000 * s.step_seconds, 3)} ms a step`);
    if (s.memory) parts.push(`${metric(s.memory)}B of memory`);
    if (s.heldout) parts.push(`held-out loss ${s.heldout.toFixed(4)} nats at its end`);
    return parts.join("; ") + ".";
  };

  const draw = (width) => {
    charts.replaceChildren(...data.groups.map((group, index) => one(group, index, width - 34)));
  };
  const one = (group, index, width) => {
    const deepest = Math.max(...group.stages.map((s) => s.depth));
    const row = Math.max(7, Math.min(15, 190 / (deepest + 2)));
    const left = 78, right = 8, height = row * (deepest + 2) + 4;
    const scale = (width - left - right) / longest();
    const y = (layer) => 22 + row * (deepest - layer + 1); // layer 0: embeddings; deepest + 1: output
    const root = svg("svg", { class: `chart ${series(index)}`, viewBox: `0 0 ${width} ${height + 46}`, role: "group",
      "aria-label": `Stages of ${group.name}` });
    const name = (text, layer) => svg("text", { class: "soft", x: left - 8, y: y(layer) + row / 2 + 4, "text-anchor": "end" }, text);
    root.append(name("output", deepest + 1), name(`layer ${deepest}`, deepest), name("layer 1", 1), name("embeddings", 0));
    let x = left, before = 0;
    group.stages.forEach((s, i) => {
      const w = widths(group)[i] * scale;
      if (!w) return;
      const box = svg("g", { class: "stage", tabindex: 0, role: "img", "aria-label": say(group, s),
        focus: () => show(say(group, s)), mouseenter: () => show(say(group, s)), click: () => show(say(group, s)) });
      const block = (layer, learns) => svg("rect", { class: learns ? "learns" : "fixed", x: x + 0.75, y: y(layer) + 0.75,
        width: Math.max(0.5, w - 1.5), height: row - 1.5, rx: 1.5 });
      for (let layer = 1; layer <= s.depth; layer += 1) box.append(block(layer, layer > s.fixed));
      box.append(block(deepest + 1, true), block(0, !s.fixed));
      if (before && s.depth > before && w > 24) {
        box.append(svg("text", { class: "onfill", x: x + w / 2, y: y(Math.ceil((before + s.depth + 1) / 2)) + row / 2 + 4, "text-anchor": "middle" },
          w > 60 ? `+${s.depth - before} copied` : `+${s.depth - before}`));
      }
      if (w > 12) box.append(svg("text", { x: x + w / 2, y: 14, "text-anchor": "middle" }, w > 70 ? `stage ${s.number}` : s.number));
      box.append(svg("rect", { class: "frame", x, y: 20, width: w, height: row * (deepest + 2) + 4 }));
      root.append(box);
      x += w; before = s.depth;
    });
    root.append(axis(group, left, height + 22, scale, width - right));
    return el("figure", {}, el("h3", {}, group.name), root);
  };
  const axis = (group, left, y, scale, right) => {
    const unit = byTime ? timeUnit(longest()) : [1, "steps"];
    const marks = svg("g", {}, svg("line", { class: "axis", x1: left, x2: right, y1: y + 2, y2: y + 2 }));
    for (const tick of ticks(0, longest() / unit[0], (right - left) / 90)) {
      const x = left + tick * unit[0] * scale;
      marks.append(svg("line", { class: "axis", x1: x, x2: x, y1: y + 2, y2: y + 6 }),
        svg("text", { class: "soft", x: Math.min(x, right), y: y + 19, "text-anchor": x > right - 40 ? "end" : "middle" }, `${byTime ? digits(tick) : metric(tick)}${tick ? "" : ` ${unit[1]}`}`));
    }
    return marks;
  };
  const show = (text) => out.replaceChildren(text);

  const charts = el("div", {});
  const key = el("p", { class: "note keys" }, legendBox("learns"), " learns ", legendBox("fixed"),
    " only runs forward. New layers begin as copies of the topmost.");
  frame.append(timed ? el("div", { class: "controls" },
    radios("Width of a stage", ["by steps", "by training time"], (i) => { byTime = i === 1; again(); })) : "", key, charts, out);
  show(el("span", { class: "muted" }, hint));
  const again = drawn(frame, draw);
  return frame;
};

const legendBox = (kind) => svg("svg", { class: `swatch inline ${kind === "learns" ? "s0" : ""}`, viewBox: "0 0 34 14", "aria-hidden": "true" },
  svg("rect", { class: kind, width: 34, height: 14, rx: 2 }));
