// How a page begins: its payload is drawn, and what goes wrong is said.

export function showPage(draw) {
  draw(JSON.parse(document.getElementById("payload").textContent)).then(
    () => { document.documentElement.dataset.ready = "true"; },
    (error) => {
      document.getElementById("problem").textContent = "This page could not be drawn: " + error.message;
      throw error;
    });
}

// Draws anew where the width has changed.
export function onResize(node, draw) {
  let width = node.clientWidth;
  new ResizeObserver(() => {
    if (width === node.clientWidth) return;
    width = node.clientWidth;
    draw();
  }).observe(node);
}
