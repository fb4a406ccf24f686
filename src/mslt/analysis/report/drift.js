// What the layers did: figures by layer, a line for each pair of models.

const drift = (charts) => el("div", { class: "pair" }, ...charts.map((chart) => {
  const frame = el("div", { class: "card" }), plot = el("div", { class: "plot" });
  const most = Math.max(...chart.series.map((s) => s.values.length));
  const draw = (width) => {
    const known = chart.series.flatMap((s) => [...s.values, ...(s.low || []), ...(s.high || [])]);
    const y = limits([0, ...known]);
    const area = plane(width, [0.5, most + 0.5], [0, y[1]], "layer", chart.unit, 260, true);
    fill(area.root, { role: "img", "aria-label": `${chart.title} by layer. The table below gives its values.` }, []);
    chart.series.forEach((s, index) => {
      const xs = s.values.map((_, i) => i + 1);
      s.values.forEach((value, i) => {
        if (value === null) return;
        const x = area.px(i + 1);
        if (s.low) area.root.append(svg("line", { class: `stroke ${series(index)}`, x1: x, x2: x, y1: area.py(s.low[i]), y2: area.py(s.high[i]), opacity: 0.5 }));
        area.root.append(marker(index, x, area.py(value), 3.5));
      });
      area.root.append(path(xs, s.values, area, { class: `line stroke ${series(index)}`, "stroke-dasharray": dash(index) }));
    });
    plot.replaceChildren(area.root);
  };
  const shown = (value) => value === null ? "–" : digits(value, 3);
  frame.append(el("h3", {}, chart.title), el("p", { class: "note" }, chart.says),
    el("div", { class: "controls legend" }, ...chart.series.map((s, i) => el("span", { class: "check" }, swatch(i), s.name))),
    plot, folded("As a table", true, table({
      title: chart.title, head: ["layer", ...chart.series.map((s) => s.name)],
      rows: Array.from({ length: most }, (_, i) => [String(i + 1), ...chart.series.map((s) => i < s.values.length ? shown(s.values[i]) : "–")]),
    })));
  drawn(plot, draw, PAPER / 2 - 12); // two beside each other
  return frame;
}));
