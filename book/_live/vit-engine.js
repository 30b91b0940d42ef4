/* The forward pass of the book's Vision Transformer in plain JavaScript: no dependency, no build.
   A classic script (window.VitEngine, also from file://), or require() in node.
   Names are those of the package; T tokens, D numbers each, h heads of size d, L blocks. */
(function (root, make) {
  if (typeof module === "object" && module.exports) module.exports = make();
  else root.VitEngine = make();
})(typeof self === "undefined" ? this : self, function () {
  "use strict";

  // ---- weights: a whole number of -46..46 is one character, and a row shares one scale
  function unpack(file) {
    const bytes = Uint8Array.from(atob(file.scales), (c) => c.charCodeAt(0));
    const scales = new Float32Array(bytes.buffer), W = {};
    let at = 0, row = 0;
    for (const [name, rows, cols] of file.tensors) {
      const w = (W[name] = new Float64Array(rows * cols));
      for (let i = 0; i < w.length; i++) {
        const whole = level(file.levels.charCodeAt(at++));
        w[i] = Math.fround(scales[row + Math.floor(i / cols)] * whole);  // float32, as in PyTorch
      }
      row += rows;
    }
    return W;
  }
  const level = (code) => code - 78 - (code > 34) - (code > 92);  // without " and backslash

  // ---- layers, on flat arrays row by row; 64-bit numbers, which JavaScript computes with anyway
  function linear(x, n, inner, w, b, outer, y) {  // y = x w.T + b, by blocks of 2 rows x 4 columns
    for (let r = 0; r < n; r += 2) {  // (at the edge the last row or column is done twice)
      const r1 = Math.min(r + 1, n - 1), x0 = r * inner, x1 = r1 * inner;
      for (let o = 0; o < outer; o += 4) {
        const o1 = Math.min(o + 1, outer - 1), o2 = Math.min(o + 2, outer - 1);
        const o3 = Math.min(o + 3, outer - 1);
        const w0 = o * inner, w1 = o1 * inner, w2 = o2 * inner, w3 = o3 * inner;
        let s0 = b[o], s1 = b[o1], s2 = b[o2], s3 = b[o3], t0 = s0, t1 = s1, t2 = s2, t3 = s3;
        for (let i = 0; i < inner; i++) {
          const u = x[x0 + i], v = x[x1 + i];
          const p0 = w[w0 + i], p1 = w[w1 + i], p2 = w[w2 + i], p3 = w[w3 + i];
          s0 += u * p0; s1 += u * p1; s2 += u * p2; s3 += u * p3;
          t0 += v * p0; t1 += v * p1; t2 += v * p2; t3 += v * p3;
        }
        const k = r * outer, m = r1 * outer;
        y[k + o] = s0; y[k + o1] = s1; y[k + o2] = s2; y[k + o3] = s3;
        y[m + o] = t0; y[m + o1] = t1; y[m + o2] = t2; y[m + o3] = t3;
      }
    }
  }
  function layerNorm(x, n, D, gain, bias, y) {
    for (let o = 0; o < n * D; o += D) {
      let mean = 0, square = 0;
      for (let i = 0; i < D; i++) mean += x[o + i] / D;
      for (let i = 0; i < D; i++) square += (x[o + i] - mean) ** 2 / D;
      const k = 1 / Math.sqrt(square + 1e-6);
      for (let i = 0; i < D; i++) y[o + i] = (x[o + i] - mean) * k * gain[i] + bias[i];
    }
  }
  function gelu(a, n) {  // exact: erf by Abramowitz and Stegun, 7.1.26, to 1.5e-7
    for (let i = 0; i < n; i++) {
      const x = a[i], z = Math.abs(x) * Math.SQRT1_2, t = 1 / (1 + 0.3275911 * z);
      const p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027
        + t * 1.061405429)))), erf = 1 - p * Math.exp(-z * z);
      a[i] = 0.5 * x * (1 + (x < 0 ? -erf : erf));
    }
  }
  function softmax(a, from, to) {
    let top = -Infinity, sum = 0;
    for (let i = from; i < to; i++) if (a[i] > top) top = a[i];
    for (let i = from; i < to; i++) sum += a[i] = Math.exp(a[i] - top);
    for (let i = from; i < to; i++) a[i] /= sum;
  }

  // ---- the model
  function create(file) {
    const { image_size: S, patch_size: P, hidden_size: D, layers: L, heads: h, mlp_size: M,
      classes: K } = file.config, W = unpack(file);
    const G = S / P, N = G * G, T = N + 1, d = D / h, f = (n) => new Float64Array(n);
    const patches = f(N * P * P), z = f(T * D), x = f(T * D), qkv = f(3 * T * D), read = f(T * D);
    const hidden = f(T * M), none = f(T), q = f(T * d), key = f(T * d), v = f(d * T), c = f(T * d);
    const dense = (name, a, n, inner, outer, y) =>
      linear(a, n, inner, W[name + ".weight"], W[name + ".bias"], outer, y);
    const norm = (name, n) => layerNorm(z, n, D, W[name + ".weight"], W[name + ".bias"], x);
    const add = (n) => { for (let i = 0; i < n * D; i++) z[i] += read[i]; };

    function embed(image, what) {
      for (let p = 0; p < N; p++) {
        const from = what.order ? what.order[p] : p;
        for (let i = 0; i < P * P; i++) {
          const row = Math.floor(from / G) * P + Math.floor(i / P), col = (from % G) * P + (i % P);
          patches[p * P * P + i] = (image[row * S + col] - file.mean) / file.std;
        }
      }
      dense("embedding.patches.projection", patches, N, P * P, D, x);
      const positions = W["embedding.positions"], token = W["embedding.class_token"];
      for (let i = 0; i < T * D; i++) {
        z[i] = (i < D ? token[i] : x[i - D]) + (what.noPositions ? 0 : positions[i]);
      }
    }

    function head(map, k, what, off) {  // one head: fills its map, and its part of what is read
      for (let t = 0; t < T; t++) for (let i = 0; i < d; i++) {
        const at = t * 3 * D + k * d + i;
        q[t * d + i] = qkv[at] / Math.sqrt(d);
        key[t * d + i] = qkv[at + D];
        v[i * T + t] = qkv[at + 2 * D];
      }
      linear(q, T, d, key, none, T, map);
      for (let t = 0; t < T; t++) {
        for (let j = 1; j < T; j++) if (what.dropped && what.dropped[j]) map[t * T + j] = -Infinity;
        softmax(map, t * T, (t + 1) * T);
      }
      linear(map, T, T, v, none, d, c);
      for (let i = 0; i < T * d; i++) {
        read[Math.floor(i / d) * D + k * d + (i % d)] = off ? 0 : c[i];  // off: it adds nothing
      }
    }

    /* image: 28 x 28 numbers in 0..1. `what` if: `order` (patch order[p] stands at place p),
       `dropped` (by token: nobody reads it), `off` (by block * h + head), `noPositions`.
       maps[((block * h + head) * T + reader) * T + read]; lens: the logits after each block. */
    function forward(image, what = {}) {
      const maps = f(L * h * T * T), lens = [];
      embed(image, what);
      for (let l = 0; l < L; l++) {
        const block = `encoder.blocks.${l}.`;
        norm(block + "norm1", T);
        dense(block + "attention.qkv", x, T, D, 3 * D, qkv);
        for (let k = 0, n = l * h; k < h; k++, n++) {
          head(maps.subarray(n * T * T, (n + 1) * T * T), k, what, what.off && what.off[n]);
        }
        const n = l < L - 1 ? T : 1;  // after the last map nobody reads the patches any more
        x.set(read);
        dense(block + "attention.projection", x, n, D, D, read);
        add(n);
        norm(block + "norm2", n);
        dense(block + "mlp.0", x, n, D, M, hidden);
        gelu(hidden, n * M);
        dense(block + "mlp.3", hidden, n, M, D, read);
        add(n);
        norm("encoder.norm", 1);
        dense("head", x, 1, D, K, (lens[l] = f(K)));
      }
      return { logits: lens[L - 1], lens, maps };
    }
    return { ...file.config, T, G, file, forward };
  }

  // attention rollout through the first `blocks` blocks: as attention_maps.attention_rollout
  function rollout(maps, blocks, h, T) {
    let sum = new Float32Array(T * T).map((_, i) => +(i % (T + 1) === 0));
    for (let l = 0; l < blocks; l++) {
      const next = new Float32Array(T * T);
      for (let t = 0; t < T; t++) for (let j = 0; j < T; j++) {
        let step = t === j ? 0.5 : 0;
        for (let k = 0; k < h; k++) step += maps[((l * h + k) * T + t) * T + j] / (2 * h);
        for (let i = 0; i < T; i++) next[t * T + i] += step * sum[j * T + i];
      }
      sum = next;
    }
    return sum;
  }
  const probabilities = (logits) => { const p = logits.slice(); softmax(p, 0, p.length); return p; };

  // ---- strokes [[[x, y], ...], ...] to 28 x 28 pixels, as MNIST was made: the longer side of the
  // drawing fills 20 pixels, the pen is always as wide, the center of mass is moved to the middle
  function draw(segments, pen, S) {
    const image = new Float32Array(S * S), reach = pen / 2 + 0.5;
    const near = (v) => Math.max(0, Math.min(S - 1, v));
    for (const [ax, ay, bx, by] of segments) {
      const dx = bx - ax, dy = by - ay, long = Math.max(dx * dx + dy * dy, 1e-9);
      const x1 = near(Math.ceil(Math.max(ax, bx) + reach)), y1 = near(Math.ceil(Math.max(ay, by) + reach));
      for (let y = near(Math.floor(Math.min(ay, by) - reach)); y <= y1; y++) {
        for (let x = near(Math.floor(Math.min(ax, bx) - reach)); x <= x1; x++) {
          const px = x + 0.5 - ax, py = y + 0.5 - ay;
          const k = Math.min(1, Math.max(0, (px * dx + py * dy) / long));
          const ink = Math.min(1, reach - Math.hypot(px - k * dx, py - k * dy));
          if (ink > image[y * S + x]) image[y * S + x] = ink;
        }
      }
    }
    return image;
  }
  function strokesToImage(strokes, pen = 2.5, S = 28) {
    const parts = strokes.flatMap((s) => s.map((p, i) => [...s[Math.max(0, i - 1)], ...p]));
    if (!parts.length) return new Float32Array(S * S);
    const side = (k) => parts.flatMap((p) => [p[k], p[k + 2]]);
    const range = (v) => v.reduce(([a, b], u) => [Math.min(a, u), Math.max(b, u)], [1 / 0, -1 / 0]);
    const [x0, x1] = range(side(0)), [y0, y1] = range(side(1));
    const scale = (S - 8 - pen) / Math.max(x1 - x0, y1 - y0, 1e-6);
    const place = (p, ox, oy) => p.map((v, i) => (v - (i % 2 ? oy : ox)));
    const boxed = parts.map((p) => place(p, (x0 + x1) / 2, (y0 + y1) / 2).map((v) => v * scale + S / 2));
    let mass = 0, mx = 0, my = 0;
    draw(boxed, pen, S).forEach((v, i) => {
      mass += v; mx += v * ((i % S) + 0.5); my += v * (Math.floor(i / S) + 0.5);
    });
    return draw(boxed.map((p) => place(p, mx / mass - S / 2, my / mass - S / 2)), pen, S);
  }

  return { create, unpack, rollout, probabilities, strokesToImage };
});
