// Returns what is wrong with the page that is shown: what is cut, hard to read, or lacks a name.
(() => {
  // A telephone's innerWidth grows with what is too wide; its clientWidth does not.
  const found = [], width = document.documentElement.clientWidth, limit = width + 0.5, LEAST = 4.5, SMALLEST = 7.5;
  const name = (one) => `${one.tagName.toLowerCase()} "${(one.textContent || one.getAttribute("alt") || "").trim().slice(0, 40)}"`;
  const say = (what, one) => found.push(`${what}: ${name(one)}`);
  const shown = (one) => one.checkVisibility({ visibilityProperty: true }) && !one.closest(".skip, title, style");
  if (document.documentElement.scrollWidth > width) found.push(`scrollWidth ${document.documentElement.scrollWidth} > ${width}`);

  for (const one of document.body.querySelectorAll("*")) {
    if (!shown(one) || one.closest("defs, clipPath, thead")?.getClientRects().length === 0) continue;
    const box = one.getBoundingClientRect(), style = getComputedStyle(one);
    if (!box.width || style.clipPath.startsWith("inset") || one.closest("thead") && getComputedStyle(one.closest("thead")).position === "absolute") continue;
    if (one.closest("svg") && one.tagName !== "svg" && one.tagName !== "text") continue;
    if (box.right > limit || box.left < -0.5) say(`beyond the edge (${box.left.toFixed()} to ${box.right.toFixed()})`, one);
    if (one instanceof HTMLElement && style.overflowX !== "visible" && one.scrollWidth > one.clientWidth + 1) say("cut", one);
    if (one.tagName === "text") {
      const frame = one.ownerSVGElement.getBoundingClientRect();
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1) say("outside its figure", one);
      const size = parseFloat(style.fontSize) * one.getScreenCTM().a;
      if (size < SMALLEST && Math.abs(one.getScreenCTM().b) < 0.01) say(`${size.toFixed(1)} pixels high`, one);
    }
  }

  const parse = (colour) => {
    const parts = (colour.match(/[\d.]+/g) || []).map(Number);
    if (!colour.startsWith("rgb")) return null;
    return [...parts.slice(0, 3), parts.length > 3 ? parts[3] : 1];
  };
  const over = (top, below) => [0, 1, 2].map((k) => top[3] * top[k] + (1 - top[3]) * below[k]).concat(1);
  const light = (colour) => {
    const [r, g, b] = colour.map((value) => value / 255).map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  // The colours that lie below a point, from the page's up to what holds the text.
  const ground = (holder, x, y) => {
    let colour = [255, 255, 255, 1];
    for (const below of document.elementsFromPoint(x, y).reverse()) {
      if (below === holder || holder.contains(below) && below !== holder) continue;
      const style = getComputedStyle(below);
      const own = below instanceof SVGElement && below.tagName !== "svg" ? (style.fill === "none" || below.tagName === "text" ? null : parse(style.fill)) : parse(style.backgroundColor);
      if (own && own[3]) colour = over([own[0], own[1], own[2], own[3] * parseFloat(below instanceof SVGElement ? style.fillOpacity : 1) * parseFloat(style.opacity)], colour);
    }
    const own = holder instanceof SVGElement ? null : parse(getComputedStyle(holder).backgroundColor);
    return own && own[3] ? over(own, colour) : colour;
  };
  const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (words.nextNode()) {
    const holder = words.currentNode.parentElement;
    if (!words.currentNode.textContent.trim() || !shown(holder)) continue;
    const range = document.createRange();
    range.selectNodeContents(words.currentNode);
    const box = range.getClientRects()[0];
    if (!box || !box.width || box.width < 2) continue;
    const style = getComputedStyle(holder);
    const own = parse(holder instanceof SVGElement ? style.fill : style.color);
    if (!own) { say("its colour cannot be read", holder); continue; }
    let faint = 1;
    for (let above = holder; above; above = above.parentElement) faint *= parseFloat(getComputedStyle(above).opacity);
    const below = ground(holder, box.left + box.width / 2, box.top + box.height / 2);
    const reached = contrast(over([own[0], own[1], own[2], own[3] * faint], below), below);
    if (reached < LEAST) say(`contrast ${reached.toFixed(2)}`, holder);
  }

  for (const one of document.querySelectorAll("th:not([scope]), img:not([alt]), img[alt=''], svg.plot:not([aria-label]), table:not([aria-label])")) say("without a name or scope", one);
  for (const one of document.querySelectorAll("a[href^='#']")) if (!document.getElementById(one.getAttribute("href").slice(1))) say("leads nowhere", one);
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  if (new Set(ids).size !== ids.length) found.push(`an id is there twice: ${ids.filter((id, place) => ids.indexOf(id) !== place).slice(0, 3)}`);
  const levels = [...document.querySelectorAll("h1, h2, h3, h4")].map((one) => Number(one.tagName[1]));
  if (levels[0] !== 1 || levels.some((level, place) => place && (level > levels[place - 1] + 1 || level === 1))) found.push(`headings: ${levels}`);
  if (document.querySelectorAll("main").length !== 1) found.push("not one main");
  return [...new Set(found)].slice(0, 20);
})()
