// <mura-download>: a link to a file that the page itself holds, so that nothing has to lie on the server. The content
// stands in data-base64, and another data-file means another file.
// The download starts at once.
(() => {
  class MuraDownload extends HTMLElement {
    static observedAttributes = ["data-file"];

    connectedCallback() { this.offer(); }

    attributeChangedCallback(name, before) { if (before !== null) this.offer(); } // Gradio keeps the element

    offer() { // once all attributes and the link are there
      setTimeout(() => {
        if (!this.isConnected) return;
        URL.revokeObjectURL(this.url);
        const bytes = Uint8Array.from(atob(this.dataset.base64), (letter) => letter.charCodeAt(0));
        this.url = URL.createObjectURL(new Blob([bytes], { type: this.dataset.type }));
        const link = this.querySelector("a");
        link.href = this.url;
        link.download = this.dataset.name;
        link.click();
      });
    }

    disconnectedCallback() {
      URL.revokeObjectURL(this.url);
      this.url = null;
    }
  }
  if (!customElements.get("mura-download")) customElements.define("mura-download", MuraDownload);
})();
