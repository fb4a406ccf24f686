// Attention: any head of any layer of any model on any sentence, two models side by side.

const BLUE = [64, 140, 200]; // which is seen on white and on black

// Of the root of a share: weak attention is seen, too.
const ink = (share) => `color-mix(in oklab, var(--accent) ${Math.round(100 * Math.sqrt(share))}%, var(--card))`;

// What the colours of the large maps say.
const shades = () => {
  const wide = 260, steps = 52, left = 14;
  const root = svg("svg", { class: "shades", viewBox: `0 0 ${wide + 2 * left + 12} 32`, role: "img",
    "aria-label": "Colours: from none of the row's attention, as the background, to all of it, the strongest" });
  for (let i = 0; i < steps; i += 1) {
    root.append(svg("rect", { class: "cell", x: left + i * wide / steps, y: 1, width: wide / steps, height: 12, fill: ink(((i + 0.5) / steps) ** 2) }));
  }
  root.append(svg("rect", { x: left, y: 1, width: wide, height: 12, fill: "none", stroke: "var(--line)" }));
  for (const share of [0, 0.05, 0.25, 0.5, 1]) {
    root.append(svg("text", { class: "soft", x: left + wide * Math.sqrt(share), y: 28, "text-anchor": "middle" }, `${100 * share} %`));
  }
  return root;
};

const attention = (data) => {
  const { sentences, models } = data;
  const bytes = models.map((m) => m.maps.map((text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0))));
  const names = models.map((m) => m.name);
  const state = { sentence: 0 };
  const sides = [0, models.length - 1].slice(0, models.length > 1 ? 2 : 1).map((model) => side(model));
  const sentence = choice("Sentence", sentences.map((s) => s.join(" ").slice(0, 90)), (i) => { state.sentence = i; sides.forEach((s) => s.draw()); });
  return el("div", {}, el("div", { class: "controls" }, sentence.node),
    el("p", { class: "note" }, "Part of a row's attention:", shades()), el("div", { class: "pair" }, ...sides.map((s) => s.node)),
    el("p", { class: "note" }, "Each row is a token that looks, each column a token that is looked at; the stronger the colour, the more of the row's attention. " +
      "The small maps are all layers (top to bottom) and heads (left to right). Arrow keys move in the large one."));

  function side(first) {
    const own = { model: first, layer: models[first].layers - 1, head: 0, cell: null };
    const layers = () => Array.from({ length: models[own.model].layers }, (_, i) => `${i + 1}`);
    const heads = () => Array.from({ length: models[own.model].heads }, (_, i) => `${i + 1}`);
    const model = choice("Model", names, (i) => {
      own.model = i;
      own.layer = Math.min(own.layer, models[i].layers - 1);
      own.head = Math.min(own.head, models[i].heads - 1);
      draw();
    }, first);
    const layer = choice("Layer", layers(), (i) => { own.layer = i; draw(); }, own.layer);
    const head = choice("Head", heads(), (i) => { own.head = i; draw(); });
    const caption = el("figcaption", {});
    const thumbs = el("div", { class: "thumbs", role: "group", "aria-label": "All layers and heads" });
    const large = el("div", {}), out = el("div", { class: "readout", "aria-live": "polite" });
    const node = el("div", { class: "card" }, el("div", { class: "controls" }, model.node, layer.node, head.node),
      el("figure", {}, caption, large), out,
      folded("All layers and heads", false, thumbs));

    const relist = (select, texts, chosen) => select.replaceChildren(...texts.map((t, i) => el("option", { selected: i === chosen }, t)));
    const weight = (l, h, q, k) => {
      const n = sentences[state.sentence].length;
      return bytes[own.model][state.sentence][((l * models[own.model].heads + h) * n + q) * n + k] / 255;
    };

    function draw() {
      relist(layer.select, layers(), own.layer);
      relist(head.select, heads(), own.head);
      const tokens = sentences[state.sentence], n = tokens.length, left = 84, top = 78, size = 18;
      if (own.cell && Math.max(...own.cell) >= n) own.cell = null;
      const shown = `${names[own.model]}, layer ${own.layer + 1}, head ${own.head + 1}`;
      caption.replaceChildren(shown);
      const root = svg("svg", { class: "chart heat", viewBox: `0 0 ${left + n * size + 4} ${top + n * size + 4}`, tabindex: 0, role: "application",
        "aria-roledescription": "attention map", "aria-label": `Attention of ${shown}. Arrow keys read it.`,
        keydown: key, pointermove: (e) => point(e), pointerdown: (e) => point(e) });
      const cut = (text) => text.length > 11 ? `${text.slice(0, 10)}…` : text;
      tokens.forEach((text, i) => {
        root.append(svg("text", { class: "tok", x: left - 5, y: top + i * size + 13, "text-anchor": "end" }, cut(text)),
          svg("text", { class: "tok", transform: `translate(${left + i * size + 13},${top - 5}) rotate(-60)` }, cut(text)));
        for (let k = 0; k < n; k += 1) {
          root.append(svg("rect", { class: "cell", x: left + k * size, y: top + i * size, width: size, height: size, fill: ink(weight(own.layer, own.head, i, k)) }));
        }
      });
      root.append(svg("rect", { x: left, y: top, width: n * size, height: n * size, fill: "none", stroke: "var(--line)" }), mark);
      const held = large.contains(document.activeElement);
      large.replaceChildren(root);
      if (held) root.focus();
      small();
      read();
    }
    const mark = svg("rect", { width: 18, height: 18, fill: "none", stroke: "var(--ink)", "stroke-width": 2 });

    function point(event) {
      const root = large.firstChild, box = root.getBoundingClientRect(), by = root.viewBox.baseVal.width / box.width;
      const n = sentences[state.sentence].length;
      const k = Math.floor(((event.clientX - box.left) * by - 84) / 18), q = Math.floor(((event.clientY - box.top) * by - 78) / 18);
      if (q >= 0 && k >= 0 && q < n && k < n) { own.cell = [q, k]; read(); }
    }
    function key(event) {
      const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
      if (!moves[event.key]) return;
      event.preventDefault();
      const n = sentences[state.sentence].length, from = own.cell || [0, 0];
      own.cell = from.map((v, i) => Math.min(n - 1, Math.max(0, v + (own.cell ? moves[event.key][i] : 0))));
      read();
    }
    function read() {
      const tokens = sentences[state.sentence];
      mark.setAttribute("visibility", own.cell ? "visible" : "hidden");
      if (!own.cell) { out.replaceChildren(el("span", { class: "muted" }, "Point at the map, or focus it and use the arrow keys.")); return; }
      const [q, k] = own.cell, at = tokens.map((text, i) => [weight(own.layer, own.head, q, i), text, i]).sort((a, b) => b[0] - a[0]).slice(0, 4);
      mark.setAttribute("x", 84 + k * 18);
      mark.setAttribute("y", 78 + q * 18);
      const share = (value) => `${(100 * value).toFixed(1)} %`;
      out.replaceChildren(`“${tokens[q]}” (${q + 1}) looks at “${tokens[k]}” (${k + 1}) with ${share(weight(own.layer, own.head, q, k))}; most at `,
        at.map(([value, text, i]) => `“${text}” (${i + 1}) ${share(value)}`).join(", "), ".");
    }
    function small() {
      const m = models[own.model], n = sentences[state.sentence].length;
      thumbs.style.gridTemplateColumns = `repeat(${m.heads}, minmax(0, 1fr))`;
      thumbs.replaceChildren(...Array.from({ length: m.layers * m.heads }, (_, i) => {
        const l = Math.floor(i / m.heads), h = i % m.heads, canvas = el("canvas", { width: n, height: n });
        const context = canvas.getContext("2d"), image = context.createImageData(n, n);
        for (let q = 0; q < n; q += 1) for (let k = 0; k < n; k += 1) {
          image.data.set([...BLUE, 255 * Math.sqrt(weight(l, h, q, k))], 4 * (q * n + k));
        }
        context.putImageData(image, 0, 0);
        return el("button", { type: "button", "aria-label": `Layer ${l + 1}, head ${h + 1}`, "aria-pressed": String(l === own.layer && h === own.head),
          click: () => { own.layer = l; own.head = h; draw(); thumbs.children[i].focus(); } }, canvas);
      }));
    }
    draw();
    return { node, draw };
  }
};
