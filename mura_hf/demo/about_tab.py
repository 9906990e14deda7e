"""The tab "About", the disclaimer above all tabs, and the privacy notice of a public page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

DISCLAIMER = (
    "**Not a medical device.** For research and teaching, never for the care of a patient. "
    "Do not upload anything that names a patient."
)

ABOUT = """
## What this page does
It reads a **study**: one or more radiographic views of a finger, hand, wrist, forearm, elbow, humerus or shoulder. It
says whether the study looks abnormal to the model, with a calibrated probability, and shows where the model looked.

- **Abnormal** means what the training labels of a checkpoint call abnormal. In MURA this is a fracture, but also
  hardware, degeneration, a lesion or a dislocation. In FracAtlas it is a fracture only. Each answer says which.
- **Three bands.** A study is *uncertain* if its probability lies between two thresholds: one finds 95 of 100 abnormal
  studies, the other leaves 95 of 100 normal studies unflagged. **Nothing flagged does not exclude a fracture.**
- **Operating point.** The probability above which a study is flagged. Below the choice, the page shows how each
  operating point performed on held-out studies, as counts. Set the prevalence to that of your own studies.
- **Heatmaps** show the model attention for abnormal against normal, not a lesion. **Boxes** mark the strongest region.
- **Not answered** means that a picture does not look like the training images.

## What happens to uploads
They are decoded in a separate process with limits of time and memory. They are stored in a folder that only this app
uses, and removed when you close the page or after one hour without use. The app has no analytics, keeps no history and
writes no file names to its log. Patient data in a DICOM file are used for warnings only, and never shown or stored.

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
The bundled checkpoints are small. `mura-film` was trained on FracAtlas (CC BY 4.0, Abedeen et al., 2023).
`mura-phantom` was trained on synthetic images only: do not use it on real radiographs. Their cards, in the tab
**Models**, give all measured figures and say what was not measured.
"""

PRIVACY = (
    "**Before you upload.** This page runs on a shared server on the internet. Your files are read in its memory, "
    "are not shown to anybody else, and are removed when you leave. Still, upload only pictures that may be shared, "
    "without the name, number or date of a patient in the picture or in the file."
)


@dataclass(frozen=True)
class PrivacyNotice:
    """The privacy notice of one tab.

    Attributes:
        agree: Button that accepts the notice.
        gated: Components that are shown after that.
    """

    agree: gr.Button
    gated: Sequence[Any]


def build_agreement() -> gr.Button:
    """Adds the notice to the page; returns its button."""
    with gr.Column(elem_classes="privacy"):
        gr.Markdown(PRIVACY)
        return gr.Button("I understand: show the upload box", variant="primary")


def connect_notices(notices: Sequence[PrivacyNotice]) -> None:
    """Accepting the notice of one tab accepts it for all tabs."""
    buttons = [notice.agree for notice in notices]
    gated = [component for notice in notices for component in notice.gated]
    for button in buttons:
        button.click(
            lambda: [gr.update(visible=False)] * len(buttons) + [gr.update(visible=True)] * len(gated), None,
            [*buttons, *gated], api_visibility="private", show_progress="hidden",
        )  # fmt: skip
