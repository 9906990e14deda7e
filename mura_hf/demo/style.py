"""Looks of the page: a calm reading room, light and dark, without fonts from the network."""

import gradio as gr

_FONT = ("system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def make_theme() -> gr.themes.Base:
    """The app's theme."""
    return gr.themes.Base(
        primary_hue="sky", secondary_hue="slate", neutral_hue="slate", font=_FONT, font_mono=_MONO, radius_size="lg"
    ).set(
        body_background_fill="*neutral_100",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_text_color="white",
    )


CSS = """
:root { --mura-heat: .5; --mura-box: 1; --flag: #b3261e; --calm: #1b6e53; --unsure: #8a5a00; }
.dark { --flag: #ff8a80; --calm: #6fd3ae; --unsure: #ffcc66; }
.gradio-container {
  max-width: min(1400px, 100%) !important; margin: 0 auto !important; padding-top: 2.2rem !important;
}
.gradio-container > .main { max-width: 100%; }
@media (max-width: 640px) {
  .gradio-container { padding-top: 5rem !important; }
  .gradio-container > .main { padding: 12px !important; }
}
#heading h1 { margin: .2rem 0 0; font-size: 1.7rem; letter-spacing: -.01em; }
#heading p { margin: .25rem 0 0; color: var(--body-text-color-subdued); }
#disclaimer {
  position: fixed; top: 0; left: 0; right: 0; z-index: 50; padding: .45rem 1rem !important; background: #12303f;
  border-radius: 0; text-align: center;
}
#disclaimer p { margin: 0; color: #fff; font-size: .9rem; line-height: 1.3; }
#disclaimer strong { color: #ffd166; }
#examples .caption-label {
  left: 0; right: 0; bottom: 0; max-width: none; white-space: normal; overflow: visible; text-align: center;
  font-size: .78rem; line-height: 1.25; border-radius: 0; color: #fff; background: rgba(5, 7, 10, .82);
  border: 0;
}
#examples .caption-label, #examples .selected .caption-label { opacity: 1; }
#examples .thumbnail-lg, #examples button.thumbnail-item { background: #05070a; }
.answer {
  padding: 1.1rem 1.2rem; border-left: .45rem solid var(--tone); border-radius: .7rem;
  background: var(--block-background-fill); box-shadow: var(--block-shadow);
}
.answer.abnormal { --tone: var(--flag); }
.answer.normal { --tone: var(--calm); }
.answer.uncertain, .answer.withheld { --tone: var(--unsure); }
.answer .verdict {
  display: flex; flex-wrap: wrap; align-items: baseline; justify-content: space-between; gap: .3rem 1rem;
}
.answer h2 { margin: 0; font-size: 1.45rem; color: var(--tone); }
.answer .chance {
  font-size: 1.45rem; font-variant-numeric: tabular-nums; font-weight: 650; color: var(--body-text-color);
}
.answer p { margin: .45rem 0 0; color: var(--body-text-color); }
.answer .fine { color: var(--body-text-color-subdued); font-size: .88rem; }
.meter {
  position: relative; height: .8rem; margin: .8rem 0 .3rem; border-radius: .4rem;
  background: var(--neutral-300);
}
.dark .meter { background: var(--neutral-700); }
.meter .fill { height: 100%; border-radius: .4rem; background: var(--tone); }
.meter .mark {
  position: absolute; top: -.25rem; bottom: -.25rem; width: .16rem; background: var(--body-text-color);
}
.notice {
  margin-top: .7rem; padding: .65rem .9rem; border-radius: .6rem; border: 1px solid #d4a017;
  background: #fff6dc; color: #4a3500;
}
.dark .notice { background: #33280a; color: #ffe6a3; border-color: #8a6d1a; }
.notice.bad { border-color: #c9483f; background: #fdeceb; color: #611a15; }
.dark .notice.bad { background: #3a1512; color: #ffc9c4; border-color: #8c322b; }
.notice ul { margin: .3rem 0 0; padding-left: 1.2rem; }
.notice b { color: inherit; }
.views {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 215px), 1fr)); gap: .9rem;
  align-items: start;
}
.view {
  margin: 0; border-radius: .7rem; overflow: hidden; background: var(--block-background-fill);
  border: 1px solid var(--border-color-primary);
}
.view .stage { display: flex; justify-content: center; background: #05070a; }
.view .stack { position: relative; line-height: 0; }
.view img { display: block; margin: 0; }
.view .film { max-height: 58vh; max-width: 100%; }
.view .heat { position: absolute; inset: 0; width: 100%; height: 100%; opacity: var(--mura-heat); }
.view .box {
  position: absolute; border: 2px solid #fff; outline: 1.5px solid #000; opacity: var(--mura-box);
  pointer-events: none;
}
.view figcaption {
  padding: .6rem .8rem; background: var(--block-background-fill); color: var(--body-text-color);
  line-height: 1.4;
}
.view .name { overflow-wrap: anywhere; font-weight: 600; font-size: .9rem; }
.view .state.abnormal { color: var(--flag); }
.view .state.normal { color: var(--calm); }
.view .fine { color: var(--body-text-color-subdued); font-size: .86rem; }
.empty {
  padding: 3rem 1rem; text-align: center; border: 2px dashed var(--border-color-primary); border-radius: .8rem;
  color: var(--body-text-color-subdued);
}
"""
