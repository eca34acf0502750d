// What a reader sees of the page, as data: an expression whose value is an object of lists. Decides nothing.
(() => {
  const channels = (colour) => (colour.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const seen = (colour) => { const c = channels(colour); return c.length < 4 || c[3] > 0; };
  const luminance = (colour) => {
    const [r, g, b] = channels(colour).slice(0, 3).map((c) => {
      const s = c / 255;
      return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (seen(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const box = (element) => {
    const r = element.getBoundingClientRect();
    return { left: r.left + scrollX, right: r.right + scrollX, top: r.top + scrollY, bottom: r.bottom + scrollY,
             width: r.width, height: r.height };
  };
  const texts = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || element.closest("title, style, script")) continue;
    const style = getComputedStyle(element), inSvg = element instanceof SVGElement;
    const scale = inSvg ? Math.abs(element.getScreenCTM().a) : 1;
    texts.push({
      text: node.textContent.trim().slice(0, 60), size: parseFloat(style.fontSize) * scale, chart: inSvg,
      contrast: contrast(inSvg ? style.fill : style.color, behind(element)), ...box(element),
    });
  }
  const drawn = (element) => {
    const style = getComputedStyle(element);
    const colour = style.fill !== "none" && element.tagName !== "line" && element.tagName !== "polyline"
      ? style.fill : style.stroke;
    return { tag: element.tagName, contrast: contrast(colour, behind(element)), ...box(element) };
  };
  return {
    width: document.documentElement.scrollWidth, screen: innerWidth, height: document.documentElement.scrollHeight,
    beyond: [...document.querySelectorAll("main *")]
      .filter((e) => !e.closest(".wide") && e.getBoundingClientRect().right > innerWidth + 0.5)
      .map((e) => e.tagName + " " + e.textContent.slice(0, 40)),
    texts,
    charts: [...document.querySelectorAll(".chart")].map((e) => ({ label: e.getAttribute("aria-label"), ...box(e) })),
    lines: [...document.querySelectorAll("svg polyline, svg circle")].map(drawn),
    bars: [...document.querySelectorAll(".bar")].map((e) => ({
      value: Number(e.dataset.value), whole: e.parentElement.getBoundingClientRect().width,
      contrast: contrast(getComputedStyle(e).backgroundColor, behind(e.closest(".rates"))), ...box(e) })),
    scrolled: [...document.querySelectorAll(".wide")].map((e) => e.scrollWidth - e.clientWidth),
    paper: behind(document.querySelector("main")),
  };
})()
