// Gradio names the pictures of a gallery by number; a listener needs to hear what they show.
(() => {
  const name = () => {
    for (const button of document.querySelectorAll("#examples button.thumbnail-item")) {
      const caption = button.querySelector(".caption-label")?.textContent.trim();
      if (caption && button.getAttribute("aria-label") !== caption) button.setAttribute("aria-label", caption);
    }
  };
  new MutationObserver(name).observe(document.documentElement, { childList: true, subtree: true });
})();
