/* The live page: <div class="vit-live" data-mode="full"></div>, or data-mode="small" with less.
   Needs vit-parts.js; loads the engine and the weights, which lie beside it, near the screen. The
   small one shows a stored answer, and loads the weights when the reader points at it or enters. */
(function () {
  "use strict";
  const Parts = self.VitParts;
  const { G, T, el, button, canvas, press, percent, best, within } = Parts;
  const row = (...kids) => el("div", { class: "vit-row" }, ...kids);
  const note = (text = "", more = "") => el("p", { class: `vit-note ${more}` }, text);
  const list = (n, make) => Array.from({ length: n }, (_, i) => make(i));
  const HERE = new URL(".", document.currentScript.src).href;
  const L = 6, H = 4;  // blocks, and heads in each; as a head, H stands for their mean
  const INK = 228;  // the ink that 999 of 1,000 training images of MNIST stay below
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
  const FIRST = {  // what the model says of sample 4: logits, and what the class token reads in block 4
    logits: [-3.78, -2.51, -2.91, -3.63, 11.38, -1.40, -2.47, -0.59, 0.25, 1.18],
    shares: [
      95, 5, 6, 6, 6, 8, 7, 5, 4, 6, 40, 479, 123, 148, 8, 5, 10, 38, 2362, 2013,
      1379, 74, 12, 10, 15, 25, 516, 225, 27, 10, 7, 26, 95, 330, 33, 15, 5, 4, 3, 220,
      1485, 12, 5, 5, 4, 3, 67, 8, 5, 3,
    ].map((share) => share / 10_000),
  };
  const TOUR = [  // the part that is lit, and what is said
    ["see", "Your drawing becomes 28 × 28 numbers. It is scaled to 20 pixels and its center of mass "
      + "moves to the middle, as MNIST was made: so it does not matter where or how large you draw."],
    ["tokens", "The 49 patches, cut row by row, are the model’s words. Token 0, the class token, "
      + "holds no pixels: it is there to read the others, and the answer is taken from it alone."],
    ["maps", "Attention: each token shares out 100 % of its reading among all 50. The map shows what "
      + "the chosen token reads. An even share would be 2 %. Point at a patch to ask another token."],
    ["maps", "Six blocks have four heads each: 24 habits of reading, all on one scale. Some stay near "
      + "the even share, some follow the stroke, some look at a neighbor. Choose a few."],
    ["lens", "The answer grows. Here the head reads the class token after each block, not only after "
      + "the last. Early blocks guess; watch which digits drop out, and when."],
    ["what", "Now break it. Zero the positions, then shuffle the patches: the shuffle no longer "
      + "changes anything. Without positions the model cannot tell a digit from its shuffled pieces."],
  ];
  const SOFTMAX = "Softmax shares 100 % among the ten digits, whatever is drawn: it cannot say "
    + "“this is no digit”.";

  const script = (name) => new Promise((done, failed) => document.head.append(
    el("script", { src: HERE + name, onload: done, onerror: () => failed(new Error(name)) })));
  const address = () => Parts.decode((location.hash.match(/^#d=(.*)$/) || ["", ""])[1]);
  const place = (t) => `row ${Math.floor((t - 1) / G) + 1}, column ${((t - 1) % G) + 1}`;
  const name = (t) => (t ? `patch ${t}` : "the class token");
  const count = (flags) => (flags ? flags.filter(Boolean).length : 0);
  const frames = (work) => {  // once in the next frame, however often it is asked for
    let asked = false;
    return () => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => { asked = false; work(); });
    };
  };
  const shuffled = (n) => {
    const all = list(n, (i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = Math.floor(Math.random() * (i + 1));
      [all[i], all[j]] = [all[j], all[i]];
    }
    return all;
  };
  // arrow keys move among buttons, of which one alone is in the order of the Tab key
  function roving(box, all, columns, choose) {
    box.addEventListener("keydown", (e) => {
      const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns() }[e.key];
      const to = all.indexOf(document.activeElement) + by;
      if (!by || !all[to]) return;
      e.preventDefault();
      choose(to);
      all[to].focus();
    });
  }

  class Live {
    constructor(root) {
      this.root = root;
      this.full = root.dataset.mode === "full";
      this.colors = Parts.palette(root);
      this.strokes = (this.full && address()) || Parts.decode(SAMPLES[4]);
      this.borrowed = true;  // a sample or a link: the first stroke replaces it
      this.state = "";  // said in the place of an answer
      Object.assign(this, { past: [], current: null, pen: null, what: {}, out: null, plain: null });
      Object.assign(this, { token: 0, hover: null, block: 3, head: 2, rollout: false, step: -1 });
      this.pixels = canvas(28, 28);
      this.soon = frames(() => this.repaint());
      this.buildHand();
      this.buildAnswer();
      if (this.full) this.buildFull(); else this.buildSmall();
      this.repaint();
      this.watch();
    }

    // ---- loading, and what changes from outside
    watch() {
      this.touched = new Promise((touch) => {
        for (const how of ["pointerenter", "pointerdown", "focusin"]) {
          this.root.addEventListener(how, touch, { once: true });
        }
      });
      const recolor = () => { this.colors = Parts.palette(this.root); this.repaint(); };
      const theme = { attributeFilter: ["data-theme"] };
      new MutationObserver(recolor).observe(document.documentElement, theme);
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolor);
      addEventListener("hashchange", () => {
        const strokes = this.full && address();
        if (strokes) this.set(strokes, true);
      });
      new IntersectionObserver((seen, eye) => {
        if (!seen.some((e) => e.isIntersecting)) return;
        eye.disconnect();
        this.start();
      }, { rootMargin: "600px" }).observe(this.root);
    }
    async start() {
      try {
        const engine = self.VitEngine || script("vit-engine.js");
        if (!this.full) {
          await engine;
          this.infer();
          await this.touched;
          this.say("Loading the model …");
        }
        await Promise.all([engine, self.VIT_WEIGHTS || script("vit-weights.js")]);
        this.model = self.VitEngine.create(self.VIT_WEIGHTS);
        this.state = "";
        this.infer();
        this.root.dataset.ready = performance.now().toFixed(0);
      } catch (error) {
        this.say(`The model could not be loaded (${error.message}).`);
        this.root.dataset.ready = "error";
        return;
      }
      for (let i = 0; i < 6; i++) {  // once its code is compiled, a pass takes a fifth of the time
        await new Promise((done) => setTimeout(done, 20));
        this.model.forward(this.image);
      }
      this.infer();
    }

    say(state) { this.says.textContent = this.spoken.textContent = this.state = state; }

    // ---- the hand: mouse, pen, finger and keyboard
    buildHand() {
      const draw = this.draw = canvas(480, 480, {
        class: "vit-draw", tabindex: 0, role: "application",
        "aria-label": "Drawing area. Draw with mouse, pen or finger. By keyboard: arrow keys move the "
          + "pen, Space puts it down and lifts it, Backspace takes the last stroke back.",
      });
      const at = (e) => {
        const box = draw.getBoundingClientRect();
        const x = (e.clientX - box.left) / box.width, y = (e.clientY - box.top) / box.height;
        return [within(x), within(y)];
      };
      draw.addEventListener("pointerdown", (e) => {
        if (!e.isPrimary || e.button) return;
        e.preventDefault();
        draw.focus({ preventScroll: true });
        draw.setPointerCapture(e.pointerId);
        this.pen = null;
        this.begin(at(e));
      });
      draw.addEventListener("pointermove", (e) => {
        if (!this.current || this.pen || !e.isPrimary) return;
        const all = e.getCoalescedEvents ? e.getCoalescedEvents() : [];
        this.current.push(...(all.length ? all : [e]).map(at));
        this.soon();
      });
      for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
        draw.addEventListener(end, () => { if (!this.pen) this.current = null; });
      }
      draw.addEventListener("keydown", (e) => this.key(e));
      draw.addEventListener("blur", () => {
        if (this.pen) this.pen = this.current = null;
        this.soon();
      });
      const buttons = [button("Undo", () => this.undo()), button("Clear", () => this.set([], false))];
      if (this.full) buttons.push(this.share = button("Copy link", () => this.copy()));
      this.hand = [draw, row(...buttons)];
    }
    key(e) {
      const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      const move = arrows[e.key];
      const undo = e.key === "Backspace" || (e.key === "z" && (e.ctrlKey || e.metaKey));
      if (!move && !undo && e.key !== " ") return;
      e.preventDefault();
      if (undo) { this.undo(); return; }
      const [x, y] = this.pen || [0.5, 0.3], far = e.shiftKey ? 0.01 : 0.04;
      this.pen = move ? [within(x + far * move[0]), within(y + far * move[1])] : [x, y];
      if (move && this.current) this.current.push(this.pen);
      if (!move) {
        if (this.current) this.current = null; else this.begin(this.pen);
        this.spoken.textContent = this.current ? "Pen down" : "Pen up";
      }
      this.soon();
    }
    begin(point) {
      this.keep();
      this.current = [point];
      this.strokes = this.borrowed ? [this.current] : [...this.strokes, this.current];
      this.borrowed = false;
      this.soon();
    }
    keep() { this.past = [...this.past.slice(-49), this.strokes.map((stroke) => stroke.slice())]; }
    set(strokes, borrowed) {
      this.keep();
      Object.assign(this, { strokes, borrowed, current: null });
      this.soon();
    }
    undo() {
      if (!this.past.length) return;
      Object.assign(this, { strokes: this.past.pop(), borrowed: false, current: null });
      this.soon();
    }
    copy() {
      const link = location.href.split("#")[0] + this.fragment();
      history.replaceState(null, "", link);
      const told = (text) => {
        this.share.textContent = text;
        setTimeout(() => { this.share.textContent = "Copy link"; }, 2000);
      };
      const there = () => told("In the address bar");
      if (!navigator.clipboard) there();
      else navigator.clipboard.writeText(link).then(() => told("Link copied"), there);
    }
    fragment() { return this.strokes.length ? `#d=${Parts.encode(this.strokes)}` : ""; }

    // ---- the model
    repaint() {  // the line first, then the model, so that the line keeps up with the hand
      Parts.paintDrawing(this.draw, this.strokes, this.pen, this.current, this.colors);
      if (!this.image || this.thinking) return;  // nothing is shown yet, or it comes anyway
      this.thinking = setTimeout(() => { this.thinking = null; this.infer(); }, 0);
    }
    infer() {
      this.image = self.VitEngine.strokesToImage(this.strokes);
      const some = this.strokes.length > 0, start = performance.now();
      if (this.model) this.out = some ? this.model.forward(this.image, this.what) : null;
      else this.out = this.borrowed ? FIRST : null;
      this.ms = performance.now() - start;
      this.plain = some && Object.keys(this.what).length ? this.model.forward(this.image) : null;
      this.rolled = null;
      this.show();
    }
    seen() {  // the pixels that the model gets: shuffled patches stand elsewhere
      const { order } = this.what;
      return this.image.map((v, i) => {
        if (!order) return v;
        const y = Math.floor(i / 28), x = i % 28;
        const from = order[Math.floor(y / 4) * G + Math.floor(x / 4)];
        return this.image[(Math.floor(from / G) * 4 + (y % 4)) * 28 + (from % G) * 4 + (x % 4)];
      });
    }
    shares(t, block, head) {  // what token t reads: by one head, by the mean of a block, or rollout
      if (this.out === FIRST) return FIRST.shares;
      const { maps } = this.out, sum = new Float64Array(T);
      if (this.rollout && head === H) {
        this.rolled ||= list(L, (l) => self.VitEngine.rollout(maps, l + 1, H, T));
        return this.rolled[block].slice(t * T, (t + 1) * T);
      }
      const heads = head === H ? [0, 1, 2, 3] : [head];
      for (const k of heads) {
        const from = ((block * H + k) * T + t) * T;
        for (let j = 0; j < T; j++) sum[j] += maps[from + j] / heads.length;
      }
      return sum;
    }
    change(next) {  // what if: keep what is switched on
      const on = ([, v]) => (Array.isArray(v) ? v.some(Boolean) : v);
      this.what = Object.fromEntries(Object.entries({ ...this.what, ...next }).filter(on));
      if (this.model) this.infer();
    }

    // ---- the answer
    buildAnswer() {
      this.bars = el("ol", { class: "vit-bars" });
      for (let k = 0; k < 10; k++) {
        const bar = el("i", {}, el("b"), el("u", { hidden: true }));
        this.bars.append(el("li", {}, el("span", {}, String(k)), bar, el("span", {}, "–")));
      }
      this.says = note(this.full ? "Loading the model …" : "", "vit-say");
      this.warns = note("", "vit-warn");
      this.reads = note();
      this.spoken = el("p", { class: "vit-hidden", role: "status" });
    }
    showAnswer() {
      const odds = (out) => out && self.VitEngine.probabilities(out.logits);
      const p = odds(this.out), was = odds(this.plain), top = p ? best(p) : -1;
      [...this.bars.children].forEach((li, k) => {
        const [bar, mark] = li.children[1].children;
        li.classList.toggle("vit-top", k === top);
        bar.style.width = p ? `${100 * p[k]}%` : "0";
        mark.style.left = was ? `${100 * was[k]}%` : "0";
        mark.hidden = !was;
        li.lastChild.textContent = p ? percent(p[k], this.full ? 1 : 0) : "–";
      });
      this.root.dataset.answer = top;
      const ms = this.ms.toFixed(this.ms < 10 ? 1 : 0);
      const timed = this.full ? `, computed in this browser in ${ms} ms` : "";
      this.says.textContent = this.state || (!p ? "Draw a digit, or choose a sample."
        : `The model answers ${top} (${percent(p[top])})${timed}.`);
      const much = this.image.reduce((a, b) => a + b, 0) > INK, doubt = p && p[top] < 0.75;
      const why = much ? "More ink than in 999 of 1,000 training digits." : "The model hesitates.";
      this.warns.textContent = much || doubt ? `${why} ${SOFTMAX}` : "";
    }

    // ---- all that is shown
    show() {
      const image = this.seen();
      Parts.paintPixels(this.pixels, image, this.colors);
      this.lines = Parts.outline(image);
      this.showAnswer();
      if (this.full) {
        this.showTokens();
        this.showMaps();
        this.showLens();
        this.showWhat();
      } else this.showSmall();
      clearTimeout(this.later);  // a screen reader hears what stands after the last stroke
      this.later = setTimeout(() => {
        const said = [this.says, this.warns, this.reads].map((p) => p.textContent);
        this.spoken.textContent = said.filter(Boolean).join(" ");
      }, 900);
    }
    section(id, heading, ...kids) {
      const title = el(this.full ? "h2" : "p", { class: "vit-h" }, heading);
      const set = { class: `vit-part vit-at-${id}`, "data-part": id, "aria-label": heading };
      return el("section", set, title, ...kids);
    }

    // ---- the small one, on the front page
    buildSmall() {
      const figure = (c, text) => el("figure", {}, c, el("figcaption", {}, text));
      this.three = ["The drawing as 28 by 28 pixels", "The 49 patches, moved apart",
        "What the class token reads in block 4, patch by patch"].map((said) =>
        canvas(392, 392, { class: "vit-see", role: "img", "aria-label": said }));
      this.most = el("span", {}, "read by the class token");
      this.more = el("a", { class: "vit-more", href: HERE + "live.html" },
        "Every head, block by block: the live page");
      const [see, apart, map] = this.three;
      this.root.append(el("div", { class: "vit-grid" },
        this.section("hand", "Draw a digit here", ...this.hand),
        this.section("answer", "The answer", this.bars, this.says, this.warns),
        this.section("three", "Inside the model", figure(see, "28 × 28 pixels"),
          figure(apart, "49 patches"), figure(map, this.most))), this.more, this.spoken);
    }
    showSmall() {
      const [see, apart, map] = this.three, c = see.getContext("2d"), { colors, lines } = this;
      c.clearRect(0, 0, see.width, see.width);
      c.imageSmoothingEnabled = false;
      c.drawImage(this.pixels, 0, 0, see.width, see.width);
      Parts.paintApart(apart, this.pixels, colors);
      const shares = this.out ? this.shares(0, 3, H) : new Float64Array(T);
      const top = Math.max(...shares.slice(1));
      Parts.paintMap(map, { shares, top: top || 1, lines, chosen: 0, colors });
      this.most.textContent = `read by the class token${this.out ? `, at most ${percent(top)}` : ""}`;
      this.more.href = `${HERE}live.html${this.fragment()}`;
    }

    // ---- the full one
    buildFull() {
      const samples = el("div",
        { class: "vit-row vit-samples", role: "group", "aria-label": "Sample digits" },
        ...SAMPLES.map((text, k) => button(String(k), () => this.set(Parts.decode(text), true),
          { "aria-label": `Sample digit ${k}` })));
      this.tour = el("div", { class: "vit-tour", role: "region", "aria-label": "Guided tour" });
      this.root.append(this.tour, el("div", { class: "vit-grid" },
        this.section("hand", "Draw a digit", ...this.hand, samples),
        this.buildSee(),
        this.section("answer", "The answer", this.bars, this.says, this.warns),
        this.buildTokens(), this.buildMaps(), this.buildLens(), this.buildWhat()), this.spoken);
      this.showTour();
    }
    choose(t) { this.token = t; this.hover = null; this.refresh(); }
    refresh() { if (this.model) this.show(); }
    reader() { return this.hover ?? this.token; }
    buildSee() {
      const see = this.see = canvas(392, 392, {
        class: "vit-see", role: "img",
        "aria-label": "The drawing as 28 by 28 pixels, cut into 49 patches",
      });
      const under = (e) => {
        const box = see.getBoundingClientRect();
        const cell = (v, side) => within(Math.floor((v / side) * G), 0, G - 1);
        return 1 + cell(e.clientY - box.top, box.height) * G + cell(e.clientX - box.left, box.width);
      };
      const look = frames(() => this.refresh());
      see.addEventListener("pointerdown", (e) => this.choose(under(e)));
      see.addEventListener("pointermove", (e) => {
        if (e.pointerType !== "mouse" || this.hover === under(e)) return;
        this.hover = under(e);
        look();
      });
      see.addEventListener("pointerleave", () => { this.hover = null; look(); });
      return this.section("see", "What the model sees", see,
        note("28 × 28 pixels in 49 patches. Point at one to see what it reads."));
    }
    buildTokens() {
      const said = "Tokens: choose one with the arrow keys";
      const strip = el("div", { class: "vit-strip", role: "toolbar", "aria-label": said });
      this.tokens = list(T, (t) => {
        const made = button(t ? canvas(4, 4) : el("span", { class: "vit-cls" }), () => this.choose(t));
        made.append(el("small", {}, String(t)));
        return made;
      });
      strip.append(...this.tokens);
      const first = (b) => b.offsetTop === this.tokens[0].offsetTop;
      roving(strip, this.tokens, () => this.tokens.filter(first).length, (t) => this.choose(t));
      return this.section("tokens", "50 tokens, in order", strip);
    }
    showTokens() {
      const { dropped } = this.what;
      Parts.paintSeen(this.see, this.pixels, this.reader(), dropped, this.colors);
      this.tokens.forEach((made, t) => {
        const gone = !!(dropped && dropped[t]);
        press(made, t === this.token);
        made.tabIndex = t === this.token ? 0 : -1;
        made.classList.toggle("vit-lit", t === this.reader());
        made.classList.toggle("vit-dropped", gone);
        const said = t ? `${t}: patch in ${place(t)}` : "0: class token";
        made.setAttribute("aria-label", said + (gone ? ", dropped" : ""));
        if (!t) return;
        const c = made.firstChild.getContext("2d");
        c.clearRect(0, 0, 4, 4);
        c.drawImage(this.pixels, ...Parts.corner(t, 4), 4, 4, 0, 0, 4, 4);
      });
    }

    buildMaps() {
      this.big = canvas(392, 464,
        { class: "vit-big", role: "img", "aria-label": "What the chosen token reads, patch by patch" });
      this.scale = el("p", { class: "vit-scale" }, "0 ", el("span", {}, el("i")), " ", el("b"),
        el("small", {}, " of its reading; the mark is the even share, 2 %"));
      const said = "Blocks and heads: choose one with the arrow keys";
      const grid = el("div", { class: "vit-heads", role: "toolbar", "aria-label": said });
      grid.append(el("span"), ...list(L, (l) => el("span", {}, `block ${l + 1}`)));
      const pick = (n) => { this.block = n % L; this.head = Math.floor(n / L); this.refresh(); };
      this.heads = list(L * (H + 1), (n) => button(canvas(112, 128), () => pick(n)));
      this.meanName = el("span", {}, "mean");
      for (let k = 0; k <= H; k++) {
        const label = k < H ? el("span", {}, `head ${k + 1}`) : this.meanName;
        grid.append(label, ...this.heads.slice(k * L, (k + 1) * L));
      }
      roving(grid, this.heads, () => L, pick);
      const follow = () => { this.head = H; this.setRollout(!this.rollout); this.refresh(); };
      this.roll = button("Rollout", follow, {
        title: "Attention followed through all blocks so far (Abnar and Zuidema, 2020)",
      });
      this.setRollout(false);
      this.common = note();
      const buttons = row(button("Class token", () => this.choose(0)), this.roll);
      return this.section("maps", "Who reads whom", el("div", { class: "vit-two" },
        el("div", {}, this.big, this.scale), el("div", {}, grid, this.common, buttons)), this.reads);
    }
    setRollout(on) { this.rollout = on; press(this.roll, on); }
    showMaps() {
      if (!this.out) {
        for (const c of [this.big, ...this.heads.map((b) => b.firstChild)]) {
          c.getContext("2d").clearRect(0, 0, c.width, c.height);
        }
        this.reads.textContent = "";
        return;
      }
      const t = this.reader(), { lines, colors } = this, { dropped, off } = this.what;
      const all = this.heads.map((_, n) => this.shares(t, n % L, Math.floor(n / L)));
      const end = (maps) => {  // of a scale: a round number that no patch passes
        const most = Math.max(...maps.map((a) => Math.max(...a.slice(1))));
        return [0.05, 0.1, 0.2, 0.3, 0.5].find((x) => x >= most) || 1;
      };
      const one = all[this.head * L + this.block], own = end([one]);
      const map = { lines, colors, dropped, chosen: t };
      Parts.paintMap(this.big, { ...map, top: own, shares: one, numbers: true });
      this.scale.querySelector("b").textContent = percent(own, 0);
      this.scale.querySelector("i").style.left = `${2 / own}%`;
      const top = end(all);
      this.common.textContent = `All small maps have one scale, 0 to ${percent(top, 0)}.`;
      this.meanName.textContent = this.rollout ? "rollout" : "mean";
      this.heads.forEach((made, n) => {
        const l = n % L, k = Math.floor(n / L), chosen = l === this.block && k === this.head;
        const out = k < H && !!(off && off[l * H + k]);
        const kind = k < H ? `head ${k + 1}` : this.meanName.textContent;
        Parts.paintMap(made.firstChild, { ...map, top, shares: all[n] });
        press(made, chosen);
        made.tabIndex = chosen ? 0 : -1;
        made.classList.toggle("vit-off", out);
        made.setAttribute("aria-label", `Block ${l + 1}, ${kind}${out ? ", switched off" : ""}`);
      });
      this.reads.textContent = this.described(t, one);
    }
    described(t, shares) {
      const block = this.block + 1, head = this.head === H ? "mean of heads" : `head ${this.head + 1}`;
      const rolled = this.rollout && this.head === H;
      const where = rolled ? `Rollout through blocks 1 to ${block}` : `Block ${block}, ${head}`;
      const most = [...shares.keys()].slice(1).sort((i, j) => shares[j] - shares[i]).slice(0, 3);
      const told = most.map((j) => `patch ${j} (${place(j)}; ${percent(shares[j])})`).join(", ");
      return `${where}: ${name(t)}${t ? ` (${place(t)})` : ""} reads most from ${told}; `
        + `from the class token ${percent(shares[0])}.`;
    }

    buildLens() {
      const title = (scope, text) => el("th", { scope }, String(text));
      const head = el("tr", {}, title("col", "block"), ...list(10, (k) => title("col", k)));
      this.rows = list(L, (l) => el("tr", {}, title("row", l + 1), ...list(10, () => el("td"))));
      const said = "Probabilities in percent, if the head read the class token after each block";
      return this.section("lens", "The answer after each block", el("table", {},
        el("caption", {}, said), el("thead", {}, head), el("tbody", {}, ...this.rows)));
    }
    showLens() {
      this.rows.forEach((tr, l) => {
        const p = this.out && self.VitEngine.probabilities(this.out.lens[l]);
        const top = p ? best(p) : -1;
        [...tr.cells].slice(1).forEach((td, k) => {
          td.textContent = p && p[k] >= 0.005 ? (100 * p[k]).toFixed(0) : "";
          td.style.background = p ? this.colors.fill(p[k]) : "";
          td.style.color = p ? this.colors.on(p[k]) : "";
          td.classList.toggle("vit-top", k === top);
        });
      });
    }

    // ---- what if
    heads4() { return (this.head === H ? [0, 1, 2, 3] : [this.head]).map((k) => this.block * H + k); }
    buildWhat() {
      const flags = (found, n) => (found || Array(n).fill(false)).slice();
      const drop = () => {
        const dropped = flags(this.what.dropped, T);
        dropped[this.token] = !dropped[this.token];
        this.change({ dropped });
      };
      const half = () => {
        const dropped = flags(null, T);
        for (const p of shuffled(T - 1).slice(0, 24)) dropped[p + 1] = true;
        this.change({ dropped });
      };
      const off = () => {
        const now = flags(this.what.off, L * H), on = this.heads4().every((n) => now[n]);
        for (const n of this.heads4()) now[n] = !on;
        this.change({ off: now });
      };
      this.controls = {
        zero: button("Zero the positions",
          () => this.change({ noPositions: !this.what.noPositions })),
        shuffle: button("Shuffle the patches",
          () => this.change({ order: this.what.order ? null : shuffled(T - 1) })),
        drop: button("Drop the chosen patch", drop),
        half: button("Drop 24 at random", half),
        head: button("Switch off", off),
        restore: button("Restore everything",
          () => this.change({ noPositions: false, order: null, dropped: null, off: null })),
      };
      this.result = note();
      return this.section("what", "What if?", row(...Object.values(this.controls)), this.result);
    }
    showWhat() {
      const { noPositions, order, dropped, off } = this.what;
      const { zero, shuffle, drop, head, restore } = this.controls;
      press(zero, noPositions);
      press(shuffle, order);
      press(drop, dropped && dropped[this.token]);
      press(head, this.heads4().every((n) => off && off[n]));
      drop.textContent = this.token ? `Drop patch ${this.token}` : "Drop the chosen patch";
      drop.disabled = !this.token;
      head.textContent = this.head === H ? `Switch off block ${this.block + 1}’s heads`
        : `Switch off head ${this.head + 1} of block ${this.block + 1}`;
      restore.disabled = !Object.keys(this.what).length;
      this.result.textContent = this.plain ? this.told() : this.out ? "Nothing is changed." : "";
    }
    told() {
      const { noPositions, order, dropped, off } = this.what;
      const all = [noPositions && "no positions", order && "patches shuffled",
        dropped && `${count(dropped)} of 49 patches dropped`, off && `${count(off)} of 24 heads off`];
      const text = all.filter(Boolean).join(", ");
      const [from, to] = [this.plain, this.out].map((out) => {
        const p = self.VitEngine.probabilities(out.logits);
        return `${best(p)} (${percent(p[best(p)])})`;
      });
      const moved = Math.max(...this.out.logits.map((v, k) => Math.abs(v - this.plain.logits[k])));
      return `${text[0].toUpperCase()}${text.slice(1)}: from ${from} to ${to}; `
        + `the logit that moves most moves by ${moved.toFixed(2)}. `
        + "A mark in a bar shows where it stood.";
    }

    // ---- the tour
    showTour() {
      const here = TOUR[this.step];
      for (const part of this.root.querySelectorAll(".vit-part")) {
        part.classList.toggle("vit-now", !!here && part.dataset.part === here[0]);
      }
      if (!here) {
        this.tour.replaceChildren(button("Take the tour: six steps", () => this.go(0)));
        return;
      }
      const last = this.step + 1 === TOUR.length;
      this.tour.replaceChildren(
        el("p", { "aria-live": "polite" }, el("b", {}, `${this.step + 1} of ${TOUR.length}  `), here[1]),
        row(
          button("Back", () => this.go(this.step - 1), { disabled: this.step === 0 }),
          button(last ? "Done" : "Next", () => this.go(last ? -1 : this.step + 1)),
          button("Skip the tour", () => this.go(-1))));
    }
    go(step) {
      this.step = step;
      if (step === 2) { this.setRollout(false); Object.assign(this, { token: 0, block: 3, head: 2 }); }
      this.showTour();
      this.refresh();
      const part = step >= 0 && this.root.querySelector(`[data-part=${TOUR[step][0]}]`);
      const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
      if (part) part.scrollIntoView({ block: "start", behavior: still ? "auto" : "smooth" });
      this.tour.querySelectorAll("button")[step < 0 ? 0 : 1].focus({ preventScroll: true });
    }
  }

  const all = () => {
    for (const root of document.querySelectorAll(".vit-live")) root.vit = new Live(root);
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", all); else all();
})();
