// <mura-download>: a link to a file inside the page, so that the server keeps no copy. data-base64 is the content, and
// each file has its own data-file. The download starts at once.
(() => {
  class MuraDownload extends HTMLElement {
    static observedAttributes = ["data-file"];

    connectedCallback() { this.offer(); }

    attributeChangedCallback(name, before) { if (before !== null) this.offer(); } // Gradio reuses the element

    offer() { // after all attributes and the link are set
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
