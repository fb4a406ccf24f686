// A plane with axes, in units of pixels: ticks, scales, lines. Knows nothing of runs.

const ticks = (low, high, most) => {
  const rough = (high - low) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(rough || 1));
  const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => s >= rough) || power;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(i * step);
  return found;
};

const timeUnit = (seconds) => {
  if (seconds < 180) return [1, "seconds"];
  if (seconds < 10800) return [60, "minutes"];
  return seconds < 345600 ? [3600, "hours"] : [86400, "days"];
};

// Pixels of a chart of some width, and its axes drawn.
const plane = (width, x, y, xTitle, yTitle, height = 0, whole = false) => {
  const left = 58, right = 14, top = 26, bottom = 42;
  const high = height || Math.round(Math.max(240, Math.min(400, width * 0.5)));
  const px = (value) => left + (value - x[0]) / (x[1] - x[0] || 1) * (width - left - right);
  const py = (value) => high - bottom - (value - y[0]) / (y[1] - y[0] || 1) * (high - top - bottom);
  const root = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${high}` });
  for (const value of ticks(y[0], y[1], (high - top - bottom) / 45)) {
    root.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: py(value), y2: py(value) }),
      svg("text", { class: "soft", x: left - 8, y: py(value) + 4, "text-anchor": "end" }, axisText(value)));
  }
  for (const value of ticks(x[0], x[1], (width - left - right) / (whole ? 40 : 80))) {
    if (whole && value % 1) continue;
    root.append(svg("line", { class: "axis", x1: px(value), x2: px(value), y1: high - bottom, y2: high - bottom + 4 }),
      svg("text", { class: "soft", x: px(value), y: high - bottom + 18, "text-anchor": "middle" }, axisText(value)));
  }
  root.append(svg("line", { class: "axis", x1: left, x2: width - right, y1: high - bottom, y2: high - bottom }),
    svg("text", { x: (left + width - right) / 2, y: high - 4, "text-anchor": "middle" }, xTitle),
    svg("text", { x: 4, y: 14 }, yTitle));
  const back = (pixel) => x[0] + (pixel - left) / (width - left - right) * (x[1] - x[0]);
  return { root, px, py, back, left, right: width - right, top, bottom: high - bottom };
};
const axisText = (value) => Math.abs(value) >= 10000 ? metric(value)
  : value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(0) : String(Number(value.toPrecision(6)));

// A path through what is known, broken where it is not.
const path = (xs, ys, area, attributes) => {
  let d = "", pen = "M";
  xs.forEach((x, i) => {
    if (ys[i] === null || x === null) { pen = "M"; return; }
    d += `${pen}${area.px(x).toFixed(1)},${area.py(ys[i]).toFixed(1)}`;
    pen = "L";
  });
  return svg("path", { d, ...attributes });
};

// Colour, dashes and a shape: a plan is told from others by any one of them.
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "12 4", "4 2"];
const dash = (index) => DASHES[index % 6] || null;
const marker = (index, x, y, r = 4.5) => {
  const shapes = [
    () => svg("circle", { cx: x, cy: y, r }),
    () => svg("rect", { x: x - r, y: y - r, width: 2 * r, height: 2 * r }),
    () => svg("path", { d: `M${x},${y - r * 1.3}l${r * 1.2},${r * 2.2}h${-r * 2.4}z` }),
    () => svg("path", { d: `M${x},${y - r * 1.4}l${r * 1.4},${r * 1.4}l${-r * 1.4},${r * 1.4}l${-r * 1.4},${-r * 1.4}z` }),
  ];
  const shape = shapes[index % shapes.length]();
  shape.setAttribute("class", `fill ${series(index)}`);
  shape.setAttribute("stroke", "var(--card)");
  return shape;
};
const swatch = (index) => svg("svg", { class: `swatch ${series(index)}`, viewBox: "0 0 34 14", "aria-hidden": "true" },
  svg("line", { class: "stroke line", x1: 1, x2: 33, y1: 7, y2: 7, "stroke-dasharray": dash(index) }), marker(index, 17, 7));

const limits = (values) => {
  let low = Infinity, high = -Infinity;
  for (const value of values) if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
  if (low > high) return [0, 1];
  const pad = (high - low) * 0.04 || Math.abs(high) * 0.04 || 1;
  return [low - pad, high + pad];
};
const nearest = (xs, x) => {
  let best = -1;
  xs.forEach((value, i) => { if (best < 0 || Math.abs(value - x) < Math.abs(xs[best] - x)) best = i; });
  return best;
};
