// How every page begins: its payload is read and drawn, and what goes wrong is said on it.

export function showPage(draw) {
  draw(JSON.parse(document.getElementById("payload").textContent)).then(
    () => { document.documentElement.dataset.ready = "true"; },
    (error) => {
      document.getElementById("problem").textContent = "This page could not be drawn: " + error.message;
      throw error;
    });
}

// Draws anew where the width has changed; heights follow from what is drawn.
export function onResize(node, draw) {
  let width = node.clientWidth;
  new ResizeObserver(() => {
    if (width === node.clientWidth) return;
    width = node.clientWidth;
    draw();
  }).observe(node);
}
