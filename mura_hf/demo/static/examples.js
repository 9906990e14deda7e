// Gradio labels the pictures of a gallery by number; screen readers should say what they show.
(() => {
  const label = () => {
    for (const button of document.querySelectorAll("#examples button.thumbnail-item")) {
      const caption = button.querySelector(".caption-label")?.textContent.trim();
      if (caption && button.getAttribute("aria-label") !== caption) button.setAttribute("aria-label", caption);
    }
  };
  new MutationObserver(label).observe(document.documentElement, { childList: true, subtree: true });
})();
