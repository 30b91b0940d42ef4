/* The live page: <div class="vit-live" data-mode="full"></div>, or data-mode="small".
   It loads the engine and the weights, which lie beside this file, when it nears the screen. */
(function () {
  "use strict";
  const HERE = new URL(".", document.currentScript.src).href;
  const STEP = 1 / 255, INK = 228;  // 999 of 1,000 training images of MNIST have less ink
  const SAMPLES = [
    "K6c3rj6zRrdQu1q9Zr1zvX-7jLeZs6WssKW5ncKUyIrNgNB20WzPYsxax1LBTLlHsESmQpxBkUKFRHlHbUthUVZYTGBDaTxyNnwyhS-PL5gwoDOoOK8-",
    "E3BHeD-BNokujiyONIxAikyIWYZlhHKDf4GMgJp-p320e8J6z3nc",
    "JV07ZTJuK3cmgCOKI5MmmyuiMqc8qUipVadhoWybd5WBjoyHloGgealwsWe4Xr9VxUzMSNFN0lfRYdBrz3XOf9CI0pLUm9ak2Kza",
    "I1k7YTJqK3QmfiWIJZEpmi-hOKZDqE-nXKJnnHKTeop_hIGIgZGFmYufk6OdpKmhtJy_lcmM0YPWedpw3GbcXdlU1U3ORsU",
    "EmYqYzdgRF1RWl9XbFR5U4RYimGMa4x1jH-MiYuTi52Lp4qxiQ6jMqI_oEyeWZxmmnOYgJaMlJmRpY-yjb6Ky4jX",
    "JbcsriykLJoskCyFLHsrcStpLmU4YkVgUl5fXGtec2V1b3R5coNzjHWUeZp_n4iikqKeoKqbtpXAjMiDznnSb9Rm1F3RVc1Pxkm-",
    "JqQpnDKUOoxChEt7U3RcbWZocWJ8XYdYklSdUqlStFW-WsZizWrRdNJ-0YjOkciZv560oaiinJ-Rm4eUgIx7g3l6enF9aINfiliUU58",
    "Glc2YTVrNHUzfzGIMJIvnC2lLK8rsy6wNqpBo0ydV5ZhkGyKd4WDgY9-nHuoeLV1wnHObts",
    "LalCpDeeL5YqjSeEKHorcTFpOWNDX05fWmFkZm1udHd4gXuLfpSDm4qhlKSgpKyhuJzDlMyM04LXeNhu12XTXcxXw1K4UaxTn1eUXopngnB8eXaDcIxqlmSfXw",
    "Iq1QqkSlOZ8wliqNJ4MneSpwMGg4YUNdTlxbXWdhcmd7b4J4h4KIjYaWgZ95pW-paaptqHmnhqSSoZ6dqpq2lsKSzo7a",
  ];
  const TOUR = [
    ["see", "Your drawing becomes 28 × 28 numbers. It is scaled to 20 pixels and its center of mass moves to the middle, as MNIST was made: so it does not matter where or how large you draw."],
    ["tokens", "The 49 patches, cut row by row, are the model’s words. Token 0, the class token, holds no pixels: it is there to read the others, and the answer is taken from it alone."],
    ["maps", "Attention: each token shares out 100 % of its reading among all 50. The map shows what the chosen token reads. An even share would be 2 %. Point at a patch to ask another token."],
    ["maps", "Six blocks have four heads each: 24 habits of reading, all on one scale. Some stay near the even share, some follow the stroke, some look at a neighbor. Choose a few."],
    ["lens", "The answer grows. Here the head reads the class token after each block, not only after the last. Early blocks guess; watch which digits drop out, and when."],
    ["what", "Now break it. Zero the positions, then shuffle the patches: the shuffle no longer changes anything. Without positions the model cannot tell a digit from its shuffled pieces."],
  ];

  // ---- small tools
  const el = (tag, set = {}, ...kids) => {
    const e = document.createElement(tag);
    for (const [k, v] of Object.entries(set)) {
      if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
      else if (v === true) e.setAttribute(k, "");
      else if (v !== false && v != null) e.setAttribute(k, v);
    }
    e.append(...kids);
    return e;
  };
  const button = (text, onclick, set = {}) => el("button", { type: "button", onclick, ...set }, text);
  const canvas = (w, h, set) => el("canvas", { width: w, height: h, ...set });
  const script = (name) => new Promise((done, failed) => document.head.append(
    el("script", { src: HERE + name, onload: done, onerror: () => failed(new Error(name)) })));
  const percent = (x, digits = x < 0.1 ? 1 : 0) => `${(100 * x).toFixed(digits)} %`;
  const best = (a) => a.indexOf(Math.max(...a));

  // ---- a drawing as text, for links: for each stroke how many points, then x and y of each
  function encode(strokes) {
    const bytes = [];
    for (const stroke of strokes) {
      let kept = stroke.filter((p, i) => i % Math.ceil(stroke.length / 120) === 0 || i === stroke.length - 1);
      kept = kept.slice(0, 255).map((p) => p.map((v) => Math.round(Math.min(1, Math.max(0, v)) / STEP)));
      bytes.push(kept.length, ...kept.flat());
    }
    return btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  }
  function decode(text) {  // null for whatever `encode` did not write
    if (!/^[\w-]{4,12000}$/.test(text)) return null;
    let raw;
    try { raw = atob(text.replace(/-/g, "+").replace(/_/g, "/")); } catch { return null; }
    const bytes = Array.from(raw, (c) => c.charCodeAt(0)), strokes = [];
    for (let at = 0; at < bytes.length;) {
      const n = bytes[at++], end = at + 2 * n, stroke = [];
      if (n === 0 || end > bytes.length) return null;
      for (; at < end; at += 2) stroke.push([bytes[at] * STEP, bytes[at + 1] * STEP]);
      strokes.push(stroke);
    }
    return strokes;
  }
  const fromAddress = () => decode((location.hash.match(/^#d=(.*)$/) || ["", ""])[1]);

  // ---- colors: the page's, as CSS variables
  function palette(root) {
    const style = getComputedStyle(root), read = (name) => style.getPropertyValue("--vit-" + name).trim();
    const stops = read("amounts").split(/\s+/).map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
    const amount = (x) => {
      const at = Math.min(0.99999, Math.max(0, x)) * (stops.length - 1), i = Math.floor(at);
      return stops[i].map((a, k) => a + (at - i) * (stops[i + 1][k] - a));
    };
    return {
      ink: read("ink"), quiet: read("quiet"), paper: read("paper"), query: read("query"), cls: read("class"),
      fill: (x) => `rgb(${amount(x).map(Math.round)})`,
      on: (x) => {  // black or white, whichever reads better on the fill
        const [r, g, b] = amount(x).map((v) => (v / 255) ** 2.2);
        return 0.213 * r + 0.715 * g + 0.072 * b > 0.179 ? "#000" : "#fff";
      },
    };
  }

  function outline(image) {  // the border of the ink, as line segments: marching squares at half ink
    const at = (x, y) => (x < 0 || y < 0 || x > 27 || y > 27 ? 0 : image[y * 28 + x]), lines = [];
    for (let y = -1; y < 28; y++) for (let x = -1; x < 28; x++) {
      const corners = [[x, y], [x + 1, y], [x + 1, y + 1], [x, y + 1]], cut = [];
      for (let k = 0; k < 4; k++) {
        const [a, b] = [corners[k], corners[(k + 1) % 4]], u = at(...a), v = at(...b);
        if (u < 0.5 !== v < 0.5) cut.push(a.map((c, i) => c + 0.5 + ((0.5 - u) / (v - u)) * (b[i] - c)));
      }
      for (let k = 0; k + 1 < cut.length; k += 2) lines.push([cut[k], cut[k + 1]]);
    }
    return lines;
  }

  function mount(root) {
    const full = root.dataset.mode === "full", shared = full && fromAddress();
    let model = null, engine = null, colors = palette(root);
    const st = {
      strokes: shared || decode(SAMPLES[4]), borrowed: true, past: [], current: null, pen: null,
      image: new Float32Array(784), out: null, plain: null, token: 0, hover: null, block: 3, head: 2,
      rollout: false, tour: -1,
    };
    let what = {};
    const token = () => st.hover ?? st.token;
    const G = 7, T = 50, H = 4, L = 6;
    const place = (t) => `row ${Math.floor((t - 1) / G) + 1}, column ${((t - 1) % G) + 1}`;
    const name = (t) => (t ? `patch ${t}` : "the class token");

    // ---- the parts
    const draw = canvas(480, 480, {
      class: "vit-draw", tabindex: 0, role: "application", "aria-label":
        "Drawing area. Draw with mouse, pen or finger. By keyboard: arrow keys move the pen, Space puts it down and lifts it, Backspace takes the last stroke back.",
    });
    const see = canvas(392, 392, { class: "vit-see", role: "img", "aria-label": "The drawing as 28 by 28 pixels, cut into 49 patches" });
    const big = canvas(392, 464, { class: "vit-big", role: "img", "aria-label": "What the chosen token reads, patch by patch" });
    const bars = el("ol", { class: "vit-bars" }), status = el("p", { class: "vit-note vit-say" }, "Loading the model …");
    const reads = el("p", { class: "vit-note" }), spoken = el("p", { class: "vit-hidden", role: "status" });
    const note = el("p", { class: "vit-note vit-warn" });
    for (let k = 0; k < 10; k++) bars.append(el("li", {}, el("span", {}, String(k)), el("i", {}, el("b"), el("u")), el("span", {}, "–")));
    const samples = el("div", { class: "vit-row vit-samples", role: "group", "aria-label": "Sample digits" });
    SAMPLES.forEach((text, k) => samples.append(button(String(k), () => set(decode(text), true), { "aria-label": `Sample digit ${k}` })));
    const undo = button("Undo", () => { if (st.past.length) { st.strokes = st.past.pop(); st.borrowed = false; soon(); } });
    const clear = button("Clear", () => set([], false));
    const share = button("Copy link", copy);
    const title = (text) => el(full ? "h2" : "p", { class: "vit-h" }, text);
    const section = (id, heading, ...kids) => el("section", { class: `vit-part vit-at-${id}`, "data-part": id, "aria-label": heading }, title(heading), ...kids);

    // tokens, and heads: buttons of which one at a time is in the order of the Tab key
    const tokens = [], heads = [];
    const strip = el("div", { class: "vit-strip", role: "toolbar", "aria-label": "Tokens: choose one with the arrow keys" });
    const grid = el("div", { class: "vit-heads", role: "toolbar", "aria-label": "Blocks and heads: choose one with the arrow keys" });
    function roving(box, all, columns, choose) {
      box.addEventListener("keydown", (e) => {
        const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns() }[e.key];
        const to = all.indexOf(document.activeElement) + step;
        if (!step || !all[to]) return;
        e.preventDefault(); choose(to); all[to].focus();
      });
    }

    // ---- drawing
    const g = draw.getContext("2d");
    function paint() {
      const S = draw.width;
      g.clearRect(0, 0, S, S);
      g.lineCap = g.lineJoin = "round"; g.strokeStyle = g.fillStyle = colors.ink; g.lineWidth = S / 16;
      for (const s of st.strokes) {
        g.beginPath(); g.moveTo(s[0][0] * S, s[0][1] * S);
        for (const p of s.length > 1 ? s.slice(1) : s) g.lineTo(p[0] * S, p[1] * S);
        g.stroke();
      }
      if (!st.strokes.length) {
        g.fillStyle = colors.quiet; g.textAlign = "center"; g.font = `${S / 15}px system-ui, sans-serif`;
        g.fillText("Draw a digit here", S / 2, S / 2);
      }
      if (st.pen) {
        g.strokeStyle = colors.query; g.lineWidth = 4; g.beginPath();
        g.arc(st.pen[0] * S, st.pen[1] * S, st.current ? 9 : 16, 0, 7); g.stroke();
      }
      root.classList.toggle("vit-empty", !st.strokes.length);
    }
    let painting = false, thinking = false;
    function soon() {  // at most one repaint a frame, and the model after it, so that the line keeps up
      if (painting) return;
      painting = true;
      requestAnimationFrame(() => {
        painting = false; paint();
        if (thinking) return;
        thinking = true;
        setTimeout(() => { thinking = false; infer(); }, 0);
      });
    }
    function keep() { st.past.push(st.strokes.map((s) => s.slice())); if (st.past.length > 50) st.past.shift(); }
    function set(strokes, borrowed) { keep(); Object.assign(st, { strokes, borrowed, current: null }); soon(); }
    function begin(p) {
      keep();
      if (st.borrowed) st.strokes = [];  // a first stroke replaces a sample
      st.borrowed = false; st.current = [p]; st.strokes = [...st.strokes, st.current]; soon();
    }
    const at = (e) => {
      const r = draw.getBoundingClientRect();
      return [(e.clientX - r.left) / r.width, (e.clientY - r.top) / r.height].map((v) => Math.min(1, Math.max(0, v)));
    };
    draw.addEventListener("pointerdown", (e) => {
      if (!e.isPrimary || e.button) return;
      e.preventDefault(); draw.focus({ preventScroll: true }); st.pen = null;
      draw.setPointerCapture(e.pointerId); begin(at(e));
    });
    draw.addEventListener("pointermove", (e) => {
      if (!st.current || st.pen || !e.isPrimary) return;
      const all = e.getCoalescedEvents ? e.getCoalescedEvents() : [];
      for (const c of all.length ? all : [e]) st.current.push(at(c));
      soon();
    });
    for (const t of ["pointerup", "pointercancel", "lostpointercapture"]) {
      draw.addEventListener(t, () => { if (!st.pen) st.current = null; });
    }
    draw.addEventListener("keydown", (e) => {
      const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
      if (move) {
        const pen = st.pen || [0.5, 0.3], k = e.shiftKey ? 0.01 : 0.04;
        st.pen = pen.map((v, i) => Math.min(1, Math.max(0, v + k * move[i])));
        if (st.current) st.current.push(st.pen);
      } else if (e.key === " ") {
        st.pen = st.pen || [0.5, 0.3];
        if (st.current) st.current = null; else begin(st.pen);
        spoken.textContent = st.current ? "Pen down" : "Pen up";
      } else if (e.key === "Backspace" || (e.key === "z" && (e.ctrlKey || e.metaKey))) undo.click();
      else return;
      e.preventDefault(); soon();
    });
    draw.addEventListener("blur", () => { if (st.pen) { st.pen = st.current = null; paint(); } });

    // ---- the model
    function infer() {
      if (!model) return;
      st.image = engine.strokesToImage(st.strokes);
      const start = performance.now(), some = st.strokes.length > 0;
      st.out = some ? model.forward(st.image, what) : null;
      st.ms = performance.now() - start;
      st.plain = some && Object.keys(what).length ? model.forward(st.image) : null;
      st.rolled = null;
      show();
    }
    const seen = (i) => {  // the pixel that the model gets: shuffled patches stand elsewhere
      if (!what.order) return st.image[i];
      const y = Math.floor(i / 28), x = i % 28, from = what.order[Math.floor(y / 4) * G + Math.floor(x / 4)];
      return st.image[(Math.floor(from / G) * 4 + (y % 4)) * 28 + (from % G) * 4 + (x % 4)];
    };
    function row(t, block, head) {  // what token t reads: one head, the mean of a block (head 4), or rollout
      const a = new Float64Array(T), { maps } = st.out;
      if (st.rollout && head === H) {
        st.rolled = st.rolled || Array.from({ length: L }, (_, l) => engine.rollout(maps, l + 1, H, T));
        return st.rolled[block].slice(t * T, (t + 1) * T);
      }
      for (let k = 0; k < H; k++) {
        if (head !== H && head !== k) continue;
        for (let j = 0; j < T; j++) a[j] += maps[((block * H + k) * T + t) * T + j] / (head === H ? H : 1);
      }
      return a;
    }

    // ---- what is shown
    const pixels = canvas(28, 28), pc = pixels.getContext("2d", { willReadFrequently: true });
    let lines = [];
    function ink() {  // the pixels and their outline, once for all pictures
      const shown = Float32Array.from({ length: 784 }, (_, i) => seen(i)), data = pc.createImageData(28, 28);
      pc.fillStyle = colors.ink; pc.fillRect(0, 0, 1, 1);
      const [r, gr, b] = pc.getImageData(0, 0, 1, 1).data;
      shown.forEach((v, i) => data.data.set([r, gr, b, 255 * v], 4 * i));
      pc.putImageData(data, 0, 0);
      lines = outline(shown);
    }
    function map(target, a, top, numbers) {
      const c = target.getContext("2d"), W = target.width, s = W / G, head = target.height - W;
      c.clearRect(0, 0, W, target.height);
      const cell = (t, x, y, side) => {
        const v = a[t] / top;
        c.fillStyle = colors.fill(v); c.fillRect(x, y, side, side);
        if (what.dropped && what.dropped[t]) {
          c.strokeStyle = colors.quiet; c.lineWidth = 2; c.beginPath();
          c.moveTo(x + 3, y + 3); c.lineTo(x + side - 3, y + side - 3); c.stroke();
        }
      };
      const number = (t, x, y, side) => {  // with a border of the cell's color, to stand before the outline
        const text = (100 * a[t]).toFixed(a[t] < 0.0995 ? 1 : 0), at = [text, x + side / 2, y + side / 2];
        c.font = `${0.32 * s}px system-ui, sans-serif`; c.textAlign = "center"; c.textBaseline = "middle";
        c.lineWidth = 6; c.strokeStyle = colors.fill(a[t] / top); c.strokeText(...at);
        c.fillStyle = colors.on(a[t] / top); c.fillText(...at);
      };
      for (let t = 1; t < T; t++) cell(t, ((t - 1) % G) * s, head + Math.floor((t - 1) / G) * s, s);
      c.strokeStyle = colors.ink; c.lineWidth = numbers ? 2 : W / 85; c.beginPath();
      for (const [p, q] of lines) { c.moveTo((p[0] * W) / 28, head + (p[1] * W) / 28); c.lineTo((q[0] * W) / 28, head + (q[1] * W) / 28); }
      c.stroke();
      for (let t = 1; numbers && t < T; t++) if (a[t] >= 2 / T) number(t, ((t - 1) % G) * s, head + Math.floor((t - 1) / G) * s, s);
      if (!head) return;
      const side = head - (numbers ? 12 : 4);
      cell(0, 1, 1, side - 2);
      c.strokeStyle = colors.cls; c.lineWidth = numbers ? 4 : 2; c.strokeRect(1, 1, side - 2, side - 2);
      if (numbers) {
        number(0, 1, 1, side - 2);
        c.fillStyle = colors.ink; c.textAlign = "left"; c.font = `${0.32 * s}px system-ui, sans-serif`;
        c.fillText(`class token  ${percent(a[0], 1)}`, side + 12, side / 2);
      }
      c.strokeStyle = colors.quiet; c.lineWidth = 1; c.strokeRect(0.5, head + 0.5, W - 1, W - 1);
      const t = token();
      c.strokeStyle = colors.query; c.lineWidth = numbers ? 5 : 3;
      if (t) c.strokeRect(((t - 1) % G) * s + 1.5, head + Math.floor((t - 1) / G) * s + 1.5, s - 3, s - 3);
    }
    function showSee() {
      const c = see.getContext("2d"), W = see.width, s = W / G, gap = full ? 0 : 4;
      c.clearRect(0, 0, W, W); c.imageSmoothingEnabled = false;
      c.drawImage(pixels, 0, 0, W, W);
      c.strokeStyle = colors.quiet; c.lineWidth = 1;
      if (full) for (let i = 0; i <= G; i++) { c.strokeRect(i * s, 0, 0, W); c.strokeRect(0, i * s, W, 0); }
      for (let t = 1; full && what.dropped && t < T; t++) {
        if (!what.dropped[t]) continue;
        c.fillStyle = colors.paper; c.fillRect(((t - 1) % G) * s + 1, Math.floor((t - 1) / G) * s + 1, s - 2, s - 2);
      }
      const t = token();
      c.strokeStyle = colors.query; c.lineWidth = 5;
      if (full && t) c.strokeRect(((t - 1) % G) * s + 2, Math.floor((t - 1) / G) * s + 2, s - 4, s - 4);
    }
    function showPatches() {  // the small page: the patches, moved apart
      const c = apart.getContext("2d"), W = apart.width, s = W / (G + (G - 1) / 4);
      c.clearRect(0, 0, W, W); c.imageSmoothingEnabled = false; c.strokeStyle = colors.quiet;
      for (let p = 0; p < 49; p++) {
        const x = (p % G) * 1.25 * s, y = Math.floor(p / G) * 1.25 * s;
        c.drawImage(pixels, (p % G) * 4, Math.floor(p / G) * 4, 4, 4, x, y, s, s);
        c.strokeRect(x + 0.5, y + 0.5, s - 1, s - 1);
      }
    }
    function showBars() {
      const p = st.out && engine.probabilities(st.out.logits), was = st.plain && engine.probabilities(st.plain.logits);
      const top = p ? best(p) : -1;
      [...bars.children].forEach((li, k) => {
        li.classList.toggle("vit-top", k === top);
        li.children[1].children[0].style.width = p ? `${100 * p[k]}%` : "0";
        li.children[1].children[1].style.left = was ? `${100 * was[k]}%` : "0";
        li.children[1].children[1].hidden = !was;
        li.children[2].textContent = p ? percent(p[k], full ? 1 : 0) : "–";
      });
      root.dataset.answer = top;
      if (!p) {
        status.textContent = "Draw a digit, or choose a sample.";
        note.textContent = "";
        return;
      }
      status.textContent = `The model answers ${top} (${percent(p[top])})`
        + (full ? `, computed in this browser in ${st.ms.toFixed(st.ms < 10 ? 1 : 0)} ms.` : ".");
      const sum = st.image.reduce((a, b) => a + b, 0);
      note.textContent = sum > INK || p[top] < 0.75
        ? `${sum > INK ? "More ink than in 999 of 1,000 training digits." : "The model hesitates."} Softmax shares 100 % among the ten digits, whatever is drawn: it cannot say “this is no digit”.`
        : "";
    }
    const described = () => {
      const a = row(token(), st.block, st.head), t = token();
      const most = [...a.keys()].filter((j) => j !== 0).sort((i, j) => a[j] - a[i]).slice(0, 3);
      const where = st.rollout && st.head === H ? `Rollout through ${st.block + 1} block${st.block ? "s" : ""}`
        : `Block ${st.block + 1}, ${st.head === H ? "mean of heads" : `head ${st.head + 1}`}`;
      return `${where}: ${name(t)}${t ? ` (${place(t)})` : ""} reads most from `
        + most.map((j) => `patch ${j} (${place(j)}; ${percent(a[j])})`).join(", ") + `; from the class token ${percent(a[0])}.`;
    };
    function showMaps() {
      const t = token();
      let top = 0;
      for (let l = 0; l < L; l++) for (let k = 0; k <= H; k++) { const a = row(t, l, k); for (let j = 1; j < T; j++) top = Math.max(top, a[j]); }
      top = [0.05, 0.1, 0.2, 0.3, 0.5, 1].find((x) => x >= top - 1e-9) || 1;
      map(big, row(t, st.block, st.head), top, true);
      scale.querySelector("b").textContent = percent(top, 0);
      scale.querySelector("i").style.left = `${2 / top}%`;
      heads.forEach((b, n) => {
        const l = n % L, k = Math.floor(n / L), chosen = l === st.block && k === st.head;
        map(b.firstChild, row(t, l, k), top, false);
        b.setAttribute("aria-pressed", chosen); b.tabIndex = chosen ? 0 : -1;
        const off = k < H ? what.off && what.off[l * H + k] : false;
        b.classList.toggle("vit-off", !!off);
        b.setAttribute("aria-label", `Block ${l + 1}, ${k === H ? (st.rollout ? "rollout" : "mean") : `head ${k + 1}`}${off ? ", switched off" : ""}`);
      });
      meanName.textContent = st.rollout ? "rollout" : "mean";
      reads.textContent = described();
    }
    function showTokens() {
      const t = token();
      tokens.forEach((b, j) => {
        const chosen = j === st.token, dropped = !!(what.dropped && what.dropped[j]);
        b.setAttribute("aria-pressed", chosen); b.tabIndex = chosen ? 0 : -1;
        b.classList.toggle("vit-lit", j === t); b.classList.toggle("vit-dropped", dropped);
        b.setAttribute("aria-label", (j ? `${j}: patch in ${place(j)}` : "0: class token") + (dropped ? ", dropped" : ""));
        if (!j) return;
        const c = b.firstChild.getContext("2d");
        c.clearRect(0, 0, 4, 4);
        if (st.out) c.drawImage(pixels, ((j - 1) % G) * 4, Math.floor((j - 1) / G) * 4, 4, 4, 0, 0, 4, 4);
      });
    }
    function showLens() {
      [...lens.tBodies[0].rows].forEach((tr, l) => {
        const p = st.out && engine.probabilities(st.out.lens[l]), top = p ? best(p) : -1;
        [...tr.cells].slice(1).forEach((td, k) => {
          td.textContent = p && p[k] >= 0.005 ? (100 * p[k]).toFixed(0) : "";
          td.style.background = p ? colors.fill(p[k]) : "";
          td.style.color = p ? colors.on(p[k]) : "";
          td.classList.toggle("vit-top", k === top);
        });
      });
    }
    function showWhat() {
      const dropped = what.dropped ? what.dropped.filter(Boolean).length : 0, one = st.token;
      press(controls.zero, what.noPositions); press(controls.shuffle, what.order);
      controls.drop.textContent = one ? `Drop patch ${one}` : "Drop the chosen patch";
      controls.drop.disabled = !one; press(controls.drop, one && what.dropped && what.dropped[one]);
      controls.head.textContent = `Switch off ${st.head === H ? `block ${st.block + 1}’s heads` : `head ${st.head + 1} of block ${st.block + 1}`}`;
      press(controls.head, chosenHeads().every((n) => what.off && what.off[n]));
      controls.restore.disabled = !Object.keys(what).length;
      if (!st.plain) { result.textContent = st.out ? "Nothing is changed." : ""; return; }
      const [a, b] = [st.plain, st.out].map((o) => engine.probabilities(o.logits));
      const moved = Math.max(...st.out.logits.map((v, k) => Math.abs(v - st.plain.logits[k])));
      const off = what.off ? what.off.filter(Boolean).length : 0;
      const told = [what.noPositions && "no positions", what.order && "patches shuffled", dropped && `${dropped} of 49 patches dropped`, off && `${off} of 24 heads off`];
      const text = told.filter(Boolean).join(", ");
      result.textContent = `${text[0].toUpperCase()}${text.slice(1)}: from ${best(a)} (${percent(a[best(a)])}) to ${best(b)} (${percent(b[best(b)])}); the logit that moves most moves by ${moved.toFixed(2)}.`;
    }
    const press = (b, on) => b.setAttribute("aria-pressed", !!on);
    let later;
    function show() {
      ink(); showSee(); showBars();
      if (full) { showTokens(); showLens(); showWhat(); } else showPatches();
      if (st.out && full) showMaps();
      else if (st.out) {
        const a = row(0, 3, H), top = Math.max(...a.slice(1));
        map(big, a, top, false);
        under4.textContent = `read by the class token, at most ${percent(top)}`;
      }
      else for (const c of [big, ...heads.map((b) => b.firstChild)]) c.getContext("2d").clearRect(0, 0, c.width, c.height);
      if (full && !st.out) reads.textContent = "";
      if (more) more.href = `${HERE}live.html${st.strokes.length ? `#d=${encode(st.strokes)}` : ""}`;
      clearTimeout(later);  // a screen reader hears what stands after the last stroke
      later = setTimeout(() => { spoken.textContent = [status, note, reads].map((p) => p.textContent).filter(Boolean).join(" "); }, 900);
    }

    // ---- what if
    const chosenHeads = () => (st.head === H ? [0, 1, 2, 3] : [st.head]).map((k) => st.block * H + k);
    function change(next) { what = Object.fromEntries(Object.entries({ ...what, ...next }).filter(([, v]) => v && (!Array.isArray(v) || v.some(Boolean)))); infer(); }
    const random = (n) => { const a = Array.from({ length: n }, (_, i) => i); for (let i = n - 1; i > 0; i--) { const j = Math.floor(Math.random() * (i + 1)); [a[i], a[j]] = [a[j], a[i]]; } return a; };
    const controls = {
      zero: button("Zero the positions", () => change({ noPositions: !what.noPositions })),
      shuffle: button("Shuffle the patches", () => change({ order: what.order ? null : random(49) })),
      drop: button("Drop the chosen patch", () => { const d = (what.dropped || Array(T).fill(false)).slice(); d[st.token] = !d[st.token]; change({ dropped: d }); }),
      half: button("Drop 24 at random", () => { const d = Array(T).fill(false); random(49).slice(0, 24).forEach((p) => { d[p + 1] = true; }); change({ dropped: d }); }),
      head: button("Switch off", () => { const off = (what.off || Array(L * H).fill(false)).slice(), on = chosenHeads().every((n) => off[n]); chosenHeads().forEach((n) => { off[n] = !on; }); change({ off }); }),
      restore: button("Restore everything", () => change({ noPositions: false, order: null, dropped: null, off: null })),
    };
    const result = el("p", { class: "vit-note" });

    function copy() {
      const link = location.href.split("#")[0] + (st.strokes.length ? `#d=${encode(st.strokes)}` : "");
      history.replaceState(null, "", link);
      const told = (text) => { share.textContent = text; setTimeout(() => { share.textContent = "Copy link"; }, 2000); };
      const there = () => told("In the address bar");
      if (navigator.clipboard) navigator.clipboard.writeText(link).then(() => told("Link copied"), there); else there();
    }

    // ---- the page
    const apart = canvas(392, 392, { class: "vit-see", role: "img", "aria-label": "The 49 patches, moved apart" });
    const scale = el("p", { class: "vit-scale" }, "0 ", el("span", {}, el("i", { title: "the even share, 2 %" })), " ", el("b", {}, ""), el("small", {}, " of its reading; the mark is the even share, 2 %"));
    const under4 = el("span", {}, "read by the class token");
    const meanName = el("span", {}, "mean");
    const lens = el("table", {}, el("caption", {}, "Probabilities in percent, if the head read the class token after each block"),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "block"), ...Array.from({ length: 10 }, (_, k) => el("th", { scope: "col" }, String(k))))),
      el("tbody", {}, ...Array.from({ length: L }, (_, l) => el("tr", {}, el("th", { scope: "row" }, String(l + 1)), ...Array.from({ length: 10 }, () => el("td"))))));
    const more = full ? null : el("a", { class: "vit-more", href: HERE + "live.html" }, "Every head, block by block: the live page");
    const choose = (t) => { st.token = t; st.hover = null; show(); };
    const rollout = button("Rollout", () => { st.rollout = !st.rollout; st.head = H; press(rollout, st.rollout); show(); }, { "aria-pressed": false, title: "Attention followed through all blocks so far (Abnar and Zuidema, 2020)" });
    function build() {
      for (let t = 0; t < T; t++) {
        const b = button(t ? canvas(4, 4) : el("span", { class: "vit-cls" }), () => choose(t), {});
        b.append(el("small", {}, String(t)));
        tokens.push(b); strip.append(b);
      }
      roving(strip, tokens, () => Math.max(1, tokens.filter((b) => b.offsetTop === tokens[0].offsetTop).length), choose);
      grid.append(el("span"), ...Array.from({ length: L }, (_, l) => el("span", {}, `block ${l + 1}`)));
      for (let k = 0; k <= H; k++) {
        grid.append(k < H ? el("span", {}, `head ${k + 1}`) : meanName);
        for (let l = 0; l < L; l++) {
          const b = button(canvas(112, 128), () => { st.block = l; st.head = k; show(); });
          heads.push(b); grid.append(b);
        }
      }
      roving(grid, heads, () => L, (n) => { st.block = n % L; st.head = Math.floor(n / L); show(); });
      see.addEventListener("pointerdown", (e) => choose(under(e)));
      see.addEventListener("pointermove", (e) => { if (e.pointerType === "mouse") { const t = under(e); if (t !== st.hover) { st.hover = t; show(); } } });
      see.addEventListener("pointerleave", () => { if (st.hover !== null) { st.hover = null; show(); } });
    }
    const under = (e) => { const r = see.getBoundingClientRect(), k = (v, d) => Math.min(6, Math.max(0, Math.floor((v / d) * G))); return 1 + k(e.clientY - r.top, r.height) * G + k(e.clientX - r.left, r.width); };

    // ---- the tour
    const tour = el("div", { class: "vit-tour", role: "region", "aria-label": "Guided tour" });
    function showTour() {
      const here = TOUR[st.tour];
      root.querySelectorAll(".vit-part").forEach((part) => part.classList.toggle("vit-now", !!here && part.dataset.part === here[0]));
      if (!here) {
        tour.replaceChildren(button("Take the tour: six steps", () => go(0)));
        return;
      }
      tour.replaceChildren(
        el("p", { "aria-live": "polite" }, el("b", {}, `${st.tour + 1} of ${TOUR.length}  `), here[1]),
        el("div", { class: "vit-row" }, button("Back", () => go(st.tour - 1), { disabled: st.tour === 0 }),
          button(st.tour + 1 < TOUR.length ? "Next" : "Done", () => go(st.tour + 1 < TOUR.length ? st.tour + 1 : -1)),
          button("Skip the tour", () => go(-1))));
    }
    function go(n) {
      st.tour = n;
      if (n === 2) { st.token = 0; st.block = 3; st.head = 2; st.rollout = false; press(rollout, false); }
      if (n === 3) { st.block = 0; st.head = 0; }
      showTour();
      if (st.out) show();
      const part = n >= 0 && root.querySelector(`[data-part=${TOUR[n][0]}]`), still = matchMedia("(prefers-reduced-motion: reduce)").matches;
      if (part) part.scrollIntoView({ block: "start", behavior: still ? "auto" : "smooth" });
      const first = tour.querySelectorAll("button")[n < 0 ? 0 : 1];
      if (first) first.focus({ preventScroll: true });
    }

    const hands = el("div", { class: "vit-row" }, undo, clear, ...(full ? [share] : []));
    if (full) {
      build();
      root.append(tour, el("div", { class: "vit-grid" },
        section("hand", "Draw a digit", draw, hands, samples),
        section("see", "What the model sees", see, el("p", { class: "vit-note" }, "28 × 28 pixels in 49 patches. Point at one to see what it reads.")),
        section("answer", "The answer", bars, status, note),
        section("tokens", "50 tokens, in order", strip),
        section("maps", "Who reads whom", el("div", { class: "vit-two" }, el("div", {}, big, scale), el("div", {}, grid, el("div", { class: "vit-row" }, button("Class token", () => choose(0)), rollout))), reads),
        section("lens", "The answer after each block", lens),
        section("what", "What if?", el("div", { class: "vit-row" }, ...Object.values(controls)), result)), spoken);
      showTour();
    } else {
      big.width = big.height = 392;
      const figure = (c, text) => el("figure", {}, c, el("figcaption", {}, text));
      root.append(el("div", { class: "vit-grid" },
        section("hand", "Draw a digit", draw, hands),
        section("answer", "The answer", bars, status, note),
        section("three", "Inside the model", figure(see, "28 × 28 pixels"), figure(apart, "49 patches"), figure(big, under4))), more, spoken);
    }
    paint();
    const recolor = () => { colors = palette(root); paint(); if (model) show(); };
    new MutationObserver(recolor).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolor);
    addEventListener("hashchange", () => { const strokes = full && fromAddress(); if (strokes) set(strokes, true); });

    async function start() {
      try {
        await Promise.all([self.VitEngine || script("vit-engine.js"), self.VIT_WEIGHTS || script("vit-weights.js")]);
        engine = self.VitEngine; model = engine.create(self.VIT_WEIGHTS);
        infer();
        root.dataset.ready = performance.now().toFixed(0);
        for (let i = 0; i < 6; i++) {  // once its code is compiled, a pass takes a fifth of the time
          await new Promise((done) => setTimeout(done, 20));
          model.forward(st.image);
        }
        infer();
      } catch (error) {
        status.textContent = `The model could not be loaded (${error.message}). The book’s chapters show the same pictures.`;
        root.dataset.ready = "error";
      }
    }
    new IntersectionObserver((seenNow, eye) => {
      if (seenNow.some((e) => e.isIntersecting)) { eye.disconnect(); start(); }
    }, { rootMargin: "600px" }).observe(root);
    root.vit = { st, set, what: () => what, model: () => model, encode, decode };
  }
  const all = () => document.querySelectorAll(".vit-live").forEach(mount);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", all); else all();
})();
