// The widgets of the chapters: attention, similarity of positions, sizes of patches.
// Mouse, touch and keyboard choose a patch; a sentence says what the picture shows.
(() => {
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const make = (kind, look = {}, ...inside) => {
    const found = Object.assign(document.createElement(kind), look);
    found.append(...inside);
    return found;
  };
  const FULL = 0.5; // the share from which on a map has its full colour
  const percent = (share) => (100 * share).toFixed(share < 0.1 ? 1 : 0) + " %";
  const cosine = (value) => value.toFixed(2).replace("-", "\u2212");
  const place = (n, side) => `patch ${n + 1} (row ${Math.floor(n / side) + 1}, column ${(n % side) + 1})`;

  // a digit as the picture behind a grid; ink on paper
  function draw(grid, pixels) {
    const canvas = make("canvas", { width: 28, height: 28 });
    const paper = canvas.getContext("2d"), data = paper.createImageData(28, 28);
    pixels.forEach((ink, i) => data.data.set([255 - ink, 255 - ink, 255 - ink, 255], 4 * i));
    paper.putImageData(data, 0, 0);
    grid.style.backgroundImage = `url(${canvas.toDataURL()})`;
  }

  // a grid of side x side cells; choose(n) where the reader points, taps or moves with arrow keys
  function gridOf(side, words, choose, look = "") {
    const cells = Array.from({ length: side * side }, () => make("div", { className: "vit-cell" }));
    const grid = make("div", { className: "vit-grid " + look }, ...cells);
    grid.style.gridTemplateColumns = `repeat(${side}, 1fr)`;
    grid.setAttribute("role", choose ? "application" : "img");
    grid.setAttribute("aria-label", words);
    if (choose) {
      grid.tabIndex = 0;
      const point = (event) => {
        const n = cells.indexOf(event.target);
        if (n >= 0) choose(n);
      };
      grid.addEventListener("pointerover", (event) => event.pointerType === "mouse" && point(event));
      grid.addEventListener("click", point);
      grid.addEventListener("keydown", (event) => {
        const now = cells.findIndex((cell) => cell.classList.contains("vit-here"));
        const x = now % side, step = {
          ArrowLeft: x > 0 ? -1 : 0, ArrowRight: x < side - 1 ? 1 : 0, ArrowUp: -side, ArrowDown: side,
        }[event.key];
        if (event.key === "Home") choose(-1);
        else if (step && now + step >= 0 && now + step < cells.length) choose(now + step);
        else if (step === undefined) return;
        event.preventDefault();
      });
    }
    return { grid, cells };
  }

  const panel = (title, grid) => make("div", { className: "vit-panel" }, make("p", { textContent: title }), grid);
  const fill = (cell, share, ink = "--vit-blue") => {
    cell.style.background = `color-mix(in oklab, var(${ink}) ${(100 * share).toFixed(1)}%, var(--vit-page))`;
  };
  const here = (cells, n) => cells.forEach((cell, i) => cell.classList.toggle("vit-here", i === n));
  const choice = (title, names, changed) => {
    const select = make("select", {}, ...names.map((name) => make("option", { textContent: name })));
    select.addEventListener("change", changed);
    return { select, label: make("label", {}, title, select) };
  };
  const sentence = () => {
    const said = make("p", { className: "vit-said" });
    said.setAttribute("aria-live", "polite");
    return said;
  };

  function attention(root, data) {
    const weights = bytes(data.weights), pixels = bytes(data.pixels), said = sentence();
    const { blocks: L, heads: h, tokens: T } = data;
    let reader = 9; // as in the chapter's figure; -1 is the class token
    const count = (n) => Array.from({ length: n }, (_, i) => String(i + 1));
    const digit = choice("Digit", data.digits, () => show());
    const block = choice("Block", count(L), () => show());
    const head = choice("Head", [...count(h), "mean"], () => show());
    block.select.selectedIndex = 1;
    head.select.selectedIndex = 2;
    const token = make("button", { type: "button", className: "vit-ask", textContent: "Class token" });
    token.addEventListener("click", () => show(-1));
    const image = gridOf(7, "The digit. Arrow keys move the patch that reads, Home is the class token.", (n) => show(n), "vit-picture");
    const map = gridOf(7, "How much is read from each patch", null);
    function row() {
      const b = block.select.selectedIndex, k = head.select.selectedIndex, heads = k === h ? [...Array(h).keys()] : [k];
      const read = new Float32Array(T);
      for (const one of heads) {
        const at = (((digit.select.selectedIndex * L + b) * h + one) * T + reader + 1) * T;
        for (let t = 0; t < T; t++) read[t] += (weights[at + t] / 255 / heads.length) * data.top;
      }
      return read;
    }
    function show(n = reader) {
      reader = n;
      const read = row(), own = digit.select.selectedIndex * 784;
      draw(image.grid, pixels.subarray(own, own + 784));
      here(image.cells, reader);
      here(map.cells, reader);
      // the root makes small weights visible; the same scale for all maps
      map.cells.forEach((cell, i) => fill(cell, Math.min(1, Math.sqrt(read[i + 1] / FULL))));
      const order = [...read.keys()].sort((a, b) => read[b] - read[a]);
      const name = (t) => (t ? place(t - 1, 7) : "the class token");
      said.textContent = `Block ${block.select.value}, head ${head.select.value}: ${name(reader + 1)} reads most from `
        + `${name(order[0])}, ${percent(read[order[0]])}, then ${name(order[1])}, ${percent(read[order[1]])}. Even would be ${percent(1 / T)}.`;
    }
    root.append(
      make("div", { className: "vit-controls" }, digit.label, block.label, head.label, token),
      make("div", { className: "vit-panels" }, panel("Who reads: choose a patch", image.grid), panel(`What is read: colour grows with the square root, full from ${percent(FULL)} on`, map.grid)),
      said,
    );
    show();
  }

  function positions(root, data) {
    const kinds = Object.keys(data.alike), tables = kinds.map((kind) => bytes(data.alike[kind]));
    const said = sentence();
    let now = 24; // the middle
    const kind = choice("Positions", kinds, () => show());
    const map = gridOf(7, "Similarity to the chosen position. Arrow keys move it.", (n) => show(Math.max(0, n)));
    function show(n = now) {
      now = n;
      const alike = tables[kind.select.selectedIndex];
      const row = Array.from(alike.subarray(49 * n, 49 * n + 49), (v) => v / 127.5 - 1);
      here(map.cells, n);
      map.cells.forEach((cell, i) => fill(cell, Math.abs(row[i]), row[i] < 0 ? "--vit-rust" : "--vit-blue"));
      const order = [...row.keys()].filter((i) => i !== n).sort((a, b) => row[b] - row[a]);
      said.textContent = `The position of ${place(n, 7)} is most like that of ${place(order[0], 7)}, cosine ${cosine(row[order[0]])}, `
        + `and least like that of ${place(order[47], 7)}, ${cosine(row[order[47]])}.`;
    }
    root.append(
      make("div", { className: "vit-controls" }, kind.label),
      make("div", { className: "vit-panels" }, panel("Choose a patch: blue is alike, rust is opposite", map.grid)), said,
    );
    show();
  }

  function patches(root, data) {
    const pixels = bytes(data.pixels), sizes = [1, 2, 4, 7, 14, 28], said = sentence();
    const slider = make("input", { type: "range", min: 0, max: sizes.length - 1, value: 2, step: 1 });
    const frame = make("div", { className: "vit-panels" });
    slider.addEventListener("input", () => show());
    function show() {
      const P = sizes[slider.value], side = 28 / P, N = side * side;
      const image = gridOf(side, `A digit in ${N} patches`, null, "vit-picture");
      draw(image.grid, pixels);
      frame.replaceChildren(panel(`Patches of ${P} × ${P} pixels`, image.grid));
      slider.setAttribute("aria-valuetext", `${P} by ${P} pixels`);
      said.textContent = `N = ${N.toLocaleString("en")} patches of ${P * P} number${P > 1 ? "s" : ""} each; attention compares N × N = ${(N * N).toLocaleString("en")} pairs in every head.`;
    }
    root.append(make("div", { className: "vit-controls" }, make("label", {}, "Patch side P", slider)), frame, said);
    show();
  }

  // a script, since a page on a disk may not fetch
  const load = (src) => new Promise((done, failed) => {
    document.head.append(make("script", { src, onload: done, onerror: failed }));
  });

  const widgets = { attention, positions, patches };
  for (const root of document.querySelectorAll(".vit-widget")) {
    const ask = root.querySelector(".vit-ask");
    ask.hidden = false;
    ask.addEventListener("click", async () => {
      ask.disabled = true;
      try {
        await load(root.dataset.from);
        widgets[root.dataset.widget](root, VIT_DATA);
        ask.remove();
        root.querySelector("select, input, [tabindex]").focus();
      } catch {
        ask.disabled = false;
        ask.textContent = "The data did not load: try again";
      }
    });
  }
})();
