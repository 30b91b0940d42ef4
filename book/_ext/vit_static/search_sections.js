// A result of the search leads to the section that has most of the words, shows its words and no
// contents list or drawing, and stands before results that have fewer of them.
(() => {
  const BLOCKS = "p, li, dd, dt, pre, td, figcaption, h2, h3, h4";
  const NOISE = "script, style, svg, nav, .headerlink, .copybtn, .vit-map-frame, #jb-print-docs-body";
  const words = (place) => place.textContent.replace(/\s+/g, " ").trim();
  const escaped = (text) => text.replace(/[.*+\-?^${}()|[\]\\]/g, "\\$&");

  function best(article, stems) {
    const phrase = new RegExp("\\b" + stems.map(escaped).join("\\w*\\W+"), "i");
    const share = (text) => stems.filter((stem) => text.includes(stem)).length / stems.length;
    const title = share(words(article.querySelector("h1") || article).toLowerCase());
    let found = null;
    for (const block of article.querySelectorAll(BLOCKS)) {
      if (block.querySelector(BLOCKS)) continue;
      const text = words(block), section = block.closest("section");
      const heading = section && section.querySelector(":scope > h1, :scope > h2, :scope > h3, :scope > h4");
      if (!share(text.toLowerCase())) continue;
      const told = [...block.querySelectorAll("em, strong")].some((part) => phrase.test(words(part)));
      const rank = 10 * share(text.toLowerCase()) + 6 * phrase.test(text) + 3 * told
        + 4 * share(heading ? words(heading).toLowerCase() : "") + 4 * title
        + 1.5 * Boolean(heading && heading.localName !== "h1")
        - 4 * Boolean(block.closest("pre")) - 1 * (block === heading) - 12 * Boolean(block.closest(".citation"));
      if (!found || rank > found.rank) found = { rank, text, section, heading };
    }
    return found;
  }

  function excerpt(text, stems) {
    const low = text.toLowerCase();
    const at = Math.min(...stems.map((stem) => low.indexOf(stem)).filter((place) => place >= 0), text.length);
    const start = at < 90 ? 0 : text.indexOf(" ", at - 90) + 1;
    return (start ? "…" : "") + text.slice(start, start + 240) + (text.length > start + 240 ? "…" : "");
  }

  // what has no summary is a name of the package: first where it is the name that was asked for
  function rankOf(result) {
    const asked = new URLSearchParams(location.search).get("q").trim().toLowerCase();
    const name = words(result.querySelector("a")).split(".").pop().toLowerCase();
    return Number(result.dataset.rank || (name === asked.replace(/\(.*/, "") ? 40 : 5));
  }

  function lead(result, found, anchor) {
    const link = result.querySelector("a");
    if (!anchor && found.heading && found.section.id && found.heading.localName !== "h1") {
      link.href = link.getAttribute("href").split("#")[0] + "#" + found.section.id;
      link.append(" › " + words(found.heading));
    }
    result.dataset.rank = anchor ? 30 : found.rank;
    const page = (other) => other.querySelector("a").href.split("#")[0];
    const entries = [...result.parentElement.children].filter((other) => other.querySelector("a").hash.startsWith("#term-"));
    if (!anchor && entries.some((other) => page(other) === page(result))) return result.remove();
    const same = [...result.parentElement.children].filter((other) => other.querySelector("a").href === link.href);
    if (same.length > 1) return same[1].remove();
    const after = [...result.parentElement.children].find((other) => rankOf(other) < rankOf(result));
    if (after) after.before(result);
  }

  addEventListener("DOMContentLoaded", () => {
    Search.makeSearchSummary = (page, terms, anchor) => {
      const summary = document.createElement("p");
      const stems = [...terms].map((stem) => stem.replace(/i$/, ""));  // of "patchify" it is "patchifi"
      summary.className = "context";
      const article = new DOMParser().parseFromString(page, "text/html").querySelector(".bd-article");
      if (!article || !stems.length) return summary;
      for (const noise of article.querySelectorAll(NOISE)) noise.remove();
      const place = anchor && article.querySelector("#" + CSS.escape(anchor.slice(1)));
      const entry = place && place.localName === "dt" ? place.parentElement.querySelector(`#${CSS.escape(place.id)} ~ dd`) : place;
      const found = best(entry && entry.localName === "section" ? entry : article, stems);
      const text = entry && entry.localName === "dd" ? words(entry) : found ? found.text : "";
      summary.textContent = excerpt(text, stems);
      if (found || anchor) queueMicrotask(() => lead(summary.closest("li"), found, anchor));
      return summary;
    };
  });
})();
