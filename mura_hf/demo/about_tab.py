"""The tab "About": what this is, what it is not, and how to use it from a program.

The word before the first upload, where strangers share the server.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

DISCLAIMER = (
    "**Not a medical device.** For research and teaching, never for the care of a patient. "
    "Upload nothing that names one."
)

ABOUT = """
## What this page does
It reads a **study**: one or more radiographic views of a finger, hand, wrist, forearm, elbow, humerus or shoulder. It
answers whether the study looks abnormal to the model, with a calibrated probability, and shows where the model looked.

- **Abnormal** is what the labels of a checkpoint's training called so. In MURA that is a fracture, but also hardware,
  degeneration, a lesion or a dislocation; in FracAtlas a fracture alone. Beside each answer stands which.
- **Three bands.** A study is *uncertain* between the threshold that finds 95 of 100 abnormal studies and the one that
  leaves 95 of 100 normal ones alone. **Nothing flagged does not exclude a fracture.**
- **Operating point.** The probability above which a study is flagged. What each was measured to achieve on studies
  that had no say in it stands below the choice, as counts; drag the prevalence to that of the place where you are.
- **Heatmaps** show the model's attention for abnormal against normal, not a lesion. **Boxes** mark its strongest spot.
- **Not answered** means that a picture does not look like those of training.

## What becomes of uploads
They are decoded in a process of their own with limits of time and memory, lie in a folder of this app alone, and are
removed when the page is closed, or after an hour without use. There are no analytics, no history, and no names of
files in logs. What is found of a patient in a DICOM file is used for warnings alone and never shown or kept.

## From a program
```python
from gradio_client import Client, handle_file

client = Client("http://127.0.0.1:7860")
views = [handle_file("wrist_pa.png"), handle_file("wrist_lateral.png")]
answer = client.predict(views=views, api_name="/predict_study")
print(answer["probability"], answer["band"], answer["views"][0]["box"])
```
`/similar` and `/worklist` are called in the same way. In Python without a server:
`StudyPredictor.from_pretrained("mura-film")(["wrist_pa.png"])`.

## Limits
The bundled checkpoints are small. `mura-film` was trained on FracAtlas (CC BY 4.0, Abedeen et al., 2023),
`mura-phantom` on synthetic pictures that say nothing about patients. Their cards, in the tab
**Models**, give every figure that was measured, and what was not.
"""


PRIVACY = (
    "**Before you upload.** This page runs on a shared server on the internet. What you upload is read in its memory, "
    "is seen by nobody, and is removed when you leave. Still: upload only pictures that may be shared, with no name, "
    "number or date of a patient in the picture or in the file."
)


@dataclass(frozen=True)
class PrivacyWord:
    """The word in one tab.

    Attributes:
        agree: Button of who has read it.
        gated: What is shown from then on.
    """

    agree: gr.Button
    gated: Sequence[Any]


def build_agreement() -> gr.Button:
    """Adds the word; returns its button."""
    with gr.Column(elem_classes="privacy"):
        gr.Markdown(PRIVACY)
        return gr.Button("I understand: show the upload box", variant="primary")


def connect_words(words: Sequence[PrivacyWord]) -> None:
    """Makes who has agreed in one tab have agreed in all."""
    buttons = [word.agree for word in words]
    gated = [component for word in words for component in word.gated]
    for button in buttons:
        button.click(
            lambda: [gr.update(visible=False)] * len(buttons) + [gr.update(visible=True)] * len(gated), None,
            [*buttons, *gated], api_visibility="private", show_progress="hidden",
        )  # fmt: skip
