/* What the live page draws, without its state: painters on canvases, and drawings as text.
   A classic script: window.VitParts. */
(function () {
  "use strict";
  const G = 7, T = 50, UNIT = 1 / 255;

  // ---- elements
  const el = (tag, set = {}, ...kids) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(set)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...kids);
    return made;
  };
  const button = (text, onclick, set = {}) => el("button", { type: "button", onclick, ...set }, text);
  const canvas = (width, height, set = {}) => el("canvas", { width, height, ...set });
  const press = (which, on) => which.setAttribute("aria-pressed", !!on);
  const percent = (x, digits = x < 0.1 ? 1 : 0) => `${(100 * x).toFixed(digits)} %`;
  const best = (a) => a.indexOf(Math.max(...a));
  const within = (v, low = 0, high = 1) => Math.min(high, Math.max(low, v));

  // ---- a drawing as text, for links: for each stroke how many points, then x and y of each
  function encode(strokes) {
    const bytes = [];
    for (const stroke of strokes) {
      const every = Math.ceil(stroke.length / 120), last = stroke.length - 1;
      const kept = stroke.filter((_, i) => i % every === 0 || i === last);
      bytes.push(kept.length, ...kept.flat().map((v) => Math.round(within(v) / UNIT)));
    }
    const text = btoa(String.fromCharCode(...bytes));
    return text.replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  }
  function decode(text) {  // null for whatever `encode` did not write
    if (!/^[\w-]{4,12000}$/.test(text)) return null;
    let raw;
    try { raw = atob(text.replace(/-/g, "+").replace(/_/g, "/")); } catch { return null; }
    const bytes = Array.from(raw, (c) => c.charCodeAt(0)), strokes = [];
    for (let at = 0; at < bytes.length;) {
      const points = bytes[at++], end = at + 2 * points, stroke = [];
      if (points === 0 || end > bytes.length) return null;
      for (; at < end; at += 2) stroke.push([bytes[at] * UNIT, bytes[at + 1] * UNIT]);
      strokes.push(stroke);
    }
    return strokes;
  }

  // ---- colors: the page's, from CSS variables
  function palette(root) {
    const style = getComputedStyle(root);
    const read = (name) => style.getPropertyValue("--vit-" + name).trim();
    const rgb = (text) => [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16));
    const stops = read("amounts").split(/\s+/).map(rgb);
    const amount = (x) => {  // 0..1 on the scale
      const at = within(x, 0, 0.99999) * (stops.length - 1), i = Math.floor(at);
      return stops[i].map((a, k) => a + (at - i) * (stops[i + 1][k] - a));
    };
    return {
      ink: read("ink"), quiet: read("quiet"), paper: read("paper"), query: read("query"),
      token: read("class"), inkParts: rgb(read("ink")),
      fill: (x) => `rgb(${amount(x).map(Math.round)})`,
      on: (x) => {  // black or white, whichever reads better on the fill
        const [r, g, b] = amount(x).map((v) => (v / 255) ** 2.2);
        return 0.213 * r + 0.715 * g + 0.072 * b > 0.179 ? "#000" : "#fff";
      },
    };
  }

  // ---- the drawing as the reader drew it; `pen` is where the keyboard's pen stands
  function paintDrawing(target, strokes, pen, down, colors) {
    const c = target.getContext("2d"), S = target.width;
    c.clearRect(0, 0, S, S);
    c.lineCap = c.lineJoin = "round";
    c.strokeStyle = colors.ink;
    c.lineWidth = S / 16;
    for (const stroke of strokes) {
      c.beginPath();
      c.moveTo(stroke[0][0] * S, stroke[0][1] * S);
      for (const [x, y] of stroke.length > 1 ? stroke.slice(1) : stroke) c.lineTo(x * S, y * S);
      c.stroke();
    }
    if (!strokes.length) {
      c.fillStyle = colors.quiet;
      c.textAlign = "center";
      c.font = `${S / 15}px system-ui, sans-serif`;
      c.fillText("Draw a digit here", S / 2, S / 2);
    }
    if (!pen) return;
    c.strokeStyle = colors.query;
    c.lineWidth = 4;
    c.beginPath();
    c.arc(pen[0] * S, pen[1] * S, down ? 9 : 16, 0, 7);
    c.stroke();
  }

  // ---- the image: its pixels on a small canvas, and its outline as line segments
  function paintPixels(target, image, colors) {
    const c = target.getContext("2d"), data = c.createImageData(28, 28);
    image.forEach((v, i) => data.data.set([...colors.inkParts, 255 * v], 4 * i));
    c.putImageData(data, 0, 0);
  }
  function outline(image) {  // marching squares at half ink
    const at = (x, y) => (x < 0 || y < 0 || x > 27 || y > 27 ? 0 : image[y * 28 + x]), lines = [];
    for (let y = -1; y < 28; y++) for (let x = -1; x < 28; x++) {
      const corners = [[x, y], [x + 1, y], [x + 1, y + 1], [x, y + 1]], cut = [];
      for (let k = 0; k < 4; k++) {
        const a = corners[k], b = corners[(k + 1) % 4], u = at(...a), v = at(...b);
        const part = (0.5 - u) / (v - u);
        if (u < 0.5 !== v < 0.5) cut.push(a.map((p, i) => p + 0.5 + part * (b[i] - p)));
      }
      for (let k = 0; k + 1 < cut.length; k += 2) lines.push([cut[k], cut[k + 1]]);
    }
    return lines;
  }
  const corner = (t, side) => [((t - 1) % G) * side, Math.floor((t - 1) / G) * side];
  function paintSeen(target, pixels, chosen, dropped, colors) {  // the patches in their places
    const c = target.getContext("2d"), W = target.width, s = W / G;
    c.clearRect(0, 0, W, W);
    c.imageSmoothingEnabled = false;
    c.drawImage(pixels, 0, 0, W, W);
    c.strokeStyle = colors.quiet;
    for (let i = 0; i <= G; i++) { c.strokeRect(i * s, 0, 0, W); c.strokeRect(0, i * s, W, 0); }
    c.fillStyle = colors.paper;
    for (let t = 1; t < T; t++) {
      const [x, y] = corner(t, s);
      if (dropped && dropped[t]) c.fillRect(x + 1, y + 1, s - 2, s - 2);
    }
    if (chosen) frame(c, corner(chosen, s), s, 5, colors.query);
  }
  function paintApart(target, pixels, colors) {  // the patches, moved apart
    const c = target.getContext("2d"), W = target.width, s = W / (G + (G - 1) / 4);
    c.clearRect(0, 0, W, W);
    c.imageSmoothingEnabled = false;
    c.strokeStyle = colors.quiet;
    for (let t = 1; t < T; t++) {
      const [x, y] = corner(t, 1.25 * s), [u, v] = corner(t, 4);
      c.drawImage(pixels, u, v, 4, 4, x, y, s, s);
      c.strokeRect(x + 0.5, y + 0.5, s - 1, s - 1);
    }
  }
  function frame(c, [x, y], side, width, color) {
    c.strokeStyle = color;
    c.lineWidth = width;
    c.strokeRect(x + width / 2, y + width / 2, side - width, side - width);
  }

  /* What one token reads: `shares` of all 50, `top` is the end of the scale. The patches lie as in
     the image, below the outline; above them, where the canvas is taller, the class token. */
  function paintMap(target, { shares, top, lines, chosen, dropped, colors, numbers }) {
    const c = target.getContext("2d"), W = target.width, s = W / G, above = target.height - W;
    const cells = Array.from({ length: T }, (_, t) => [t, ...corner(t, s), s]).slice(1);
    for (const cell of cells) cell[2] += above;
    const side = above - (numbers ? 12 : 4);
    if (above) cells.push([0, 0, 0, side]);
    c.clearRect(0, 0, W, target.height);
    for (const [t, x, y, size] of cells) {
      c.fillStyle = colors.fill(shares[t] / top);
      c.fillRect(x, y, size, size);
      if (dropped && dropped[t]) strike(c, x, y, size, colors.quiet);
    }
    c.strokeStyle = colors.ink;
    c.lineWidth = numbers ? 2 : W / 85;
    c.beginPath();
    const at = ([x, y]) => [(x * W) / 28, above + (y * W) / 28];
    for (const [p, q] of lines) { c.moveTo(...at(p)); c.lineTo(...at(q)); }
    c.stroke();
    if (!above) return;
    c.font = `${0.32 * s}px system-ui, sans-serif`;
    for (const cell of numbers ? cells : []) number(c, cell, shares[cell[0]], top, colors);
    if (numbers) {
      c.fillStyle = colors.ink;
      c.textAlign = "left";
      c.fillText(`class token  ${percent(shares[0], 1)}`, side + 12, side / 2);
    }
    frame(c, [0, 0], side, numbers ? 4 : 2, colors.token);
    frame(c, [0, above], W, 1, colors.quiet);
    const [x, y] = corner(chosen, s);
    if (chosen) frame(c, [x, y + above], s, numbers ? 5 : 3, colors.query);
  }
  function strike(c, x, y, side, color) {
    c.strokeStyle = color;
    c.lineWidth = 2;
    c.beginPath();
    c.moveTo(x + 3, y + 3);
    c.lineTo(x + side - 3, y + side - 3);
    c.stroke();
  }
  function number(c, [t, x, y, side], share, top, colors) {  // on a border of the cell's color
    if (t && share < 2 / T) return;
    const at = [(100 * share).toFixed(share < 0.0995 ? 1 : 0), x + side / 2, y + side / 2];
    c.textAlign = "center";
    c.textBaseline = "middle";
    c.lineWidth = 6;
    c.strokeStyle = colors.fill(share / top);
    c.strokeText(...at);
    c.fillStyle = colors.on(share / top);
    c.fillText(...at);
  }

  self.VitParts = {
    G, T, el, button, canvas, press, percent, best, within, encode, decode, palette, outline,
    corner, paintDrawing, paintPixels, paintSeen, paintApart, paintMap,
  };
})();
