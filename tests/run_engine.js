// node run_engine.js FOLDER < {"images": path or "strokes": [...], "what": {...}} > float32 numbers:
// for each image its pixels (strokes alone), the logits after each block, and all attention maps
const fs = require("fs"), path = require("path"), folder = process.argv[2];
const engine = require(path.join(folder, "vit-engine.js"));
require(path.join(folder, "vit-weights.js"));
const model = engine.create(globalThis.VIT_WEIGHTS), ask = JSON.parse(fs.readFileSync(0));
const images = [];
if (ask.strokes) {
  for (const strokes of ask.strokes) images.push(engine.strokesToImage(strokes, ask.pen));
} else {
  const bytes = fs.readFileSync(ask.images), all = new Float32Array(bytes.buffer, 0, bytes.length / 4);
  for (let i = 0; i < all.length; i += 784) images.push(all.subarray(i, i + 784));
}
const numbers = [], times = [];
for (const image of images) {
  const start = performance.now(), { lens, maps } = model.forward(image, ask.what);
  times.push(performance.now() - start);
  const kept = ask.strokes ? [image, ...lens] : ask.rollout
    ? [engine.rollout(maps, ask.rollout, model.heads, model.T)] : [...lens, maps];
  for (const a of kept) numbers.push(Buffer.from(Float32Array.from(a).buffer));
}
fs.writeFileSync(ask.out, Buffer.concat(numbers));
times.sort((a, b) => a - b);
console.log(JSON.stringify({ ms: times[times.length >> 1] }));
