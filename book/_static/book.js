// Small accessibility repairs of the theme.
document.addEventListener("DOMContentLoaded", () => {
  // WCAG 2.5.3: the accessible name must contain the visible text
  for (const b of document.querySelectorAll(".search-button-field, .theme-switch-button, details > summary[aria-label]")) {
    b.removeAttribute("aria-label");
  }
  for (const b of document.querySelectorAll(".theme-switch-button")) {
    const s = document.createElement("span");
    s.className = "visually-hidden";
    s.textContent = "Colour mode";
    b.append(s);
  }
  // content outside a landmark: the sidebar with the logo
  const side = document.querySelector(".bd-sidebar-primary");
  if (side && side.tagName !== "DIALOG") {
    side.setAttribute("role", "complementary");
    side.setAttribute("aria-label", "Book navigation");
  }
  // the roles that docutils gives to a bibliography are no longer allowed
  for (const entry of document.querySelectorAll(".citation-list > .citation")) {
    entry.setAttribute("role", "listitem");
  }
  // what scrolls sideways can be reached by keyboard, at every width of the window
  const reach = () => {
    for (const box of document.querySelectorAll(".bd-article pre, .pst-scrollable-table-container, .bd-article div.math, .bd-article .math-wide")) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    }
  };
  reach();
  addEventListener("resize", reach);
  // The section that is read is lit in the page's contents. The theme's own way to do it knows no
  // section that is longer than ten screens.
  const entries = [];
  for (const link of document.querySelectorAll("nav.page-toc a[href^='#']")) {
    const place = document.getElementById(decodeURIComponent(link.hash.slice(1)));
    if (place) entries.push({ link, place });
  }
  document.body.removeAttribute("data-bs-spy");
  let lit = null, waits = false;
  const light = () => {
    const atEnd = innerHeight + scrollY > document.documentElement.scrollHeight - 2;
    const read = entries.filter(({ place }) => place.getBoundingClientRect().top < (atEnd ? innerHeight : 80)).pop();
    waits = false;
    if (read === lit) return;
    lit = read;
    for (const { link } of entries) {
      link.classList.toggle("active", Boolean(read) && link.parentElement.contains(read.link));
      if (read && link === read.link) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    const box = read && read.link.closest(".bd-sidebar-secondary");  // a long list is scrolled along
    if (!box) return;
    const { top, bottom } = read.link.getBoundingClientRect(), frame = box.getBoundingClientRect();
    if (top < frame.top + 60) box.scrollTop += top - frame.top - 60;
    else if (bottom > frame.bottom - 20) box.scrollTop += bottom - frame.bottom + 20;
  };
  addEventListener("scroll", () => {
    if (!waits) requestAnimationFrame(light);
    waits = true;
  }, { passive: true });
  light();
  // What do you expect? The output below waits until the reader asks for it.
  for (const output of document.querySelectorAll(".cell.tag_expect > .cell_output")) {
    const fold = document.createElement("details"), ask = document.createElement("summary");
    fold.className = "vit-expect";
    const say = () => { ask.textContent = fold.open ? "Hide the output" : "I have a guess: show the output"; };
    fold.addEventListener("toggle", say);
    fold.open = location.hash.length > 1 && Boolean(output.querySelector("#" + CSS.escape(location.hash.slice(1))));
    say();
    output.before(fold);
    fold.append(ask, output);
  }
  // a printed page shows all of them
  addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll("details.vit-expect")) fold.open = true;
  });
});
