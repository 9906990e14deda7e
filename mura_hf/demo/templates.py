"""All sentences that visitors read: the short ones here, longer HTML in `templates/`, which is rendered here.

A test finds texts in other modules of the demo. Messages of errors that other rooms raise stay there. Scripts get
their words from `SCRIPT_TEXTS`.

Names of files, labels and cards come from strangers. They reach the page in two ways only: as values of a template,
which escapes them, or through `escape_text` where Gradio renders HTML itself. `gr.Markdown` gets fixed texts and the
cards of the package only, because no escaping stops it from making links of addresses.
"""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import escape

from ..explain import AUTO
from ..inference.prediction import OPERATING_POINTS, OUT_OF_DISTRIBUTION

# The frame of the page

DISCLAIMER = "**Not a medical device.** For research and teaching only. Do not upload anything that names a patient."

RETENTION = "Uploads are removed within two minutes after you close the page, and after one hour without use."
"""Also in README.md. The numbers are those of `Uploads`."""

PRIVACY = (
    "**Before you upload.** This page runs on a shared server on the internet. Nobody else sees your files. "
    f"{RETENTION} Still, upload only pictures that may be shared, without the name, number or date of a patient in "
    "the picture or in the file."
)
AGREE = "I understand"
QUESTION = "Is there {a_finding} in this X-ray?"
TAGLINE = (
    "Give it an X-ray of a finger, hand, wrist, arm or shoulder. A small research model says at once whether it "
    "suspects {a_finding}."
)
ADDRESS = "http://127.0.0.1:7860"
"""Where a server is found on its own machine."""

TABS = READ, WORKLIST, MODELS, ABOUT = "Read a study", "Worklist", "Models", "About"
"""Names of the tabs in their order."""

SCRIPT_TEXTS = {
    "drop": "Drop to read as a new study",
    "dropList": "Drop to read as a worklist",
    "refused": "Not read, because the server refused the request. Open the study again.",
    "uploading": "Uploading …",
    "example": "Opening the example …",
    "study": "Opening the study …",
    "full": "Full screen",
    "leave": "Leave full screen",
    "worklist": WORKLIST,
    "all": "{} studies",
    "some": "{} of {} studies",
    "place": "{} ({} of {})",
    "seen": "✓ opened",
    "before": "opened before",
}
"""Words of `static/*.js`, which fills in the braces from left to right."""

BANDS = {
    "suspected": ("▲", "suspected"),
    "uncertain": ("◐", "uncertain"),
    OUT_OF_DISTRIBUTION: ("⊘", "not answered"),
    "failed": ("✕", "not read"),
    "low": ("○", "not flagged"),
}
"""Sign and text of each band of a view or a study, in the order in which the worklist sorts."""

# The tab "Read a study"

FORMATS = "PNG, JPEG, TIFF, BMP, WebP, DICOM or a ZIP file. All views together are one study."
NEW_STUDY, ADD_VIEWS, STUDY_FILES = "Choose an X-ray", "Add views", "Files of this study"
SHOW_ANYWAY = "Show the answer anyway"
SHOW_UNUSUAL = "Include the unusual pictures"
HOW_SURE, ALIKE, REPORT, OPTIONS = "How sure is this?", "Similar X-rays", "Save a report", "More options"
PREVALENCE = "Studies with a finding among 100 that you read (prevalence)"
OPERATING_POINT, BODY_PART, METHOD, SEARCH = "Operating point", "Body part", "Heatmap method", "Search in"
POINT = "{name}: above {threshold}"
FOUND = "found by the model"
ANYWHERE, SAME_PART = "Whole database", "Same body part"
METHODS = {
    AUTO: "Grad-CAM (default)",
    "layer_cam": "LayerCAM",
    "smooth_grad_cam": "Smooth Grad-CAM (slower)",
    "occlusion": "Occlusion (slowest)",
}
REPORTS = {"pdf": "Report as PDF", "json": "Report as JSON"}
NO_REPORT = "Read a study first. The report is about that study."
NO_EXAMPLE = "There is no such example."

FRACTURE, NO_FRACTURE, NO_FINDING, ANY_FINDING = "fracture", "no fracture", "no finding", "a finding"
EXAMPLE = "{subject}: {finding}"
CREDIT = "Picture: {}"
DRAWN, THE_FINDING = "This synthetic picture was drawn with {}.", "the finding “{}”"
RADIOLOGISTS = "Two radiologists saw {} in this X-ray."
PLACE_UNKNOWN = "The place of the box was not checked."
COMPARED = {"right": "Correct", "undecided": "Not decided", "missed": "Miss", "alarm": "False alarm"}
TAG = "Example. {}:"

UNUSUAL_LEFT_OUT = "{} does not look like the X-rays that the model was trained on, so the answer is given without it."
WITHHELD_NO_ARM = "this does not look like an upper-limb X-ray"
WITHHELD_UNLIKE = "this is unlike the X-rays that the model was trained on"
WITHHELD_PHANTOMS = "this model knows synthetic pictures only"
COLOURED = "it is a colour picture"
LIGHT_BORDER = "its border is light, while that of an X-ray is dark"
OTHER_REGION = "it seems to show another part of the body ({})"
CONTRADICTED = (
    "You chose {given}, but the picture looks like {a_found}. Is {given} right? If not, choose {found} under "
    f"“{OPTIONS}”."
)
POOLING = {
    "mean": "It is the mean of the views",
    "max": "It is that of the most suspicious view",
    "noisy_or": "It is the chance that at least one view shows a finding (noisy-or)",
    "gated_attention": "It combines the views, weighted by learned attention",
    "ensemble": "It is a weighted mean of several models",
    "specialized": "It comes from the model for this body part",
}
ALL_STUDIES, SOME_STUDIES = "all", "{} % of the"

UNUSUAL_VIEW, USUAL_VIEW = "⊘ unusual", "not unusual by itself"
STANDS_OUT = "probability {} by itself"
UNKNOWN_METHOD = "unknown method"

NO_SIMILAR_YET = "Similar X-rays are shown here after a study was read."
NOT_SEARCHED = "Not searched, because this does not look like the X-rays that the model was trained on."
NO_PART_TO_SEARCH = "This checkpoint does not predict the body part. Choose one, or search the whole database."
NO_INDEX = "{} has no database of studies, so there are no similar cases."
NONE_OF_PART = "The database has no study of this body part."

KNOWN = (
    "A picture is nearly identical to one that the model has learned from. If it is the same X-ray, this answer "
    f"proves nothing; see “{ALIKE}”."
)

# The tab "Worklist"

ARCHIVE = "ZIP file with at most {:,} studies"
PLACE, PLACE_EXAMPLE = "Or a folder, ZIP or CSV file on the computer that runs this page", "/data/MURA-v1.1/valid"
POINT_INFO = "The probability above which a study is called abnormal."
READ_STUDIES, STOP, TRY_PHANTOMS = "Read the studies", "Stop", "Try it with twelve phantom studies"
NO_STUDIES = (
    "No studies at hand? Try **synthetic phantoms**, which are not patients. They are read by `{}` unless you choose "
    "a model."
)
DOWNLOADS = {"csv": "Download CSV", "json": "Download JSON"}
WAITING = "Waiting: the server reads one worklist at a time …"
SEARCHING, LOADING = "Searching for studies …", "Loading the checkpoint …"
ONE_STUDY = "All {} pictures were read as one study; put each study into a folder of its own to divide them. "
OUTDATED = (
    "The list was read with another model or operating point than the one chosen now, by which an opened study is "
    "read. Read the studies again."
)
COLUMNS = {
    "study": "Study",
    "part": "Body part",
    "chance": "Probability",
    "band": "Answer",
    "views": "Views",
    "notes": "Notes",
}
"""Columns of the table, which the script sorts by these keys."""

PHANTOM, UNKNOWN_PART, PROBABLY = "phantom {}", "unknown", "probably {}"
NOT_ANSWERED = (
    "Studies that are not answered do not look like the X-rays that the checkpoint was trained on, so its answer may "
    "be meaningless. The downloads contain the answer, and you can see it after you open the study."
)
LEFT_OUT, NOT_OPENED = "Left out", "Not opened"
NOTE_LEFT_OUT = f"{LEFT_OUT}: {{}}"
SUMMARY = "Checkpoint: {checkpoint}; called abnormal: above {threshold} (“{point}”)."
TOO_MANY_STUDIES = (
    "{name} contains {count:,} studies; a worklist may have {most:,} here. Nothing was read. Split it, or use "
    "scripts/predict.py on your own machine."
)
FOLDER_TOO_LARGE = "One folder contains {count:,} views; a study may have {most} here. Nothing was read."
TWO_SOURCES = "Give either a ZIP file or a path, and clear the other one."
NO_SOURCE = "There is nothing to read yet. Give a ZIP file, or try the phantom studies."
NOT_LISTED = "This study is no longer in the worklist. Read the studies again."
CANNOT_OPEN = "The study cannot be opened."
MORE_VIEWS = "A study may have at most {most} views there; {rest} more were left out."
VIEW_GONE = "{} no longer exists, so it was left out."
NO_ROOM = "{} was left out: the server has no room for so large a study."

# The tab "Models"

MODEL_NAME, MODEL_FOLDER = "Name, Hub name", " or local folder"
MODEL_INFO = (
    "Choose a bundled checkpoint, or type user/model: any image classifier of transformers or timm with two labels. "
    "Empty for the default. Code from the Hub is never run."
)
REVISION, MAIN, ABNORMAL_LABEL, LABEL_HINT = "Revision", "main", "Abnormal label", "found by its name"
REVISION_INFO = "Branch, tag or commit on the Hub. Empty for the newest version."
LABEL_INFO = "Only needed if the two labels of a model do not say which one means abnormal."
LOAD, COMPARE, COMPARE_TITLE = "Load the model", "Compare", "## Compare two on the open study"
COMPARING = "Both checkpoints read the study …"
CHECKPOINT_A, CHECKPOINT_B = "Checkpoint A", "Checkpoint B"
IN_USE = "Model in use: {checkpoint} ({backbone}). {note}"
EXTERNAL = "It is an external checkpoint; abnormal means {}."
PHANTOMS_ONLY = "It was trained on synthetic phantoms only."
SEE_CARD = "Its card, below, says what it was trained on."
NOT_LOADED = "Not loaded. {}. The previous model stays in use."
FACTS = {
    "checkpoint": "Checkpoint",
    "auroc": "AUROC, held-out studies",
    "data": "Data, licence of the weights",
    "backbone": "Backbone",
    "parameters": "Parameters",
    "input": "Input",
    "weights": "Weights, SHA-256",
}
INTERVAL = "{} (95 % interval {:.3f} to {:.3f})"
UNKNOWN, OWN_SIZE = "unknown", "set by its own image processor"
CARD = "Card of the model in use"
NO_CARD = "This checkpoint has no model card, so its training data and its performance are unknown."
UNREADABLE_CARD = "The card cannot be read. {}"
CUT_CARD = "[Cut here: the card has {:,} more characters.]"
NO_PLOT = "{}: not available here; see the card on the Hub."
UNTRUSTED_CARD = (
    "Shown as plain text. Pictures and links in a card by another author could show that author who reads it."
)
NO_OPEN_STUDY = f"Open a study first, in the tab “{READ}”."
STUDY, NO_ANSWER, NO_ANSWER_SHOWN = "Study", "no answer", "not answered"
VIEW_ANSWER, NO_HEATMAP = "{band}, probability {probability}", ", no heatmap"

# Names of checkpoints that cannot be used

LABEL_WITHOUT_NAME = "The abnormal label needs the name of a model; enter a name, or clear the label."
REVISION_WITHOUT_NAME = "The revision belongs to a Hub name; enter a name, or clear the revision."
REVISION_OF_BUNDLED = "{} comes with the package and has no revisions; clear the revision."
NO_HUB_NAME = "“{name}” is not a Hub name such as user/model, nor one of {bundled}{folders}."
NO_FOLDERS = "; local folders can be read only if the app serves on loopback"
NO_SUCH_FOLDER = ", nor a folder on this machine"

# Files that are not read

TOO_MANY_VIEWS = "A study may have at most {most} views here; not read: {names}."
NOT_UPLOADED = "Give a list of uploaded files. The server does not read paths or addresses."
NO_LONGER_HERE = "{} is no longer on the server; upload it again."
NO_ZIP = "{} is not a ZIP file, or it is damaged; pack it again."
ZIP_TOO_LARGE = "{} lists far more files than a worklist has; split it."
TOO_MANY_ZIPS = "{name} was not read: a study may be in {most} ZIP files at most."
SEVERAL_STUDIES = (
    "{name} contains {count} studies, but this tab reads one; open it in the worklist, or drop the views of one study."
)

# Requests that are refused

BUSY = "Too many requests at the moment. Your files are still in the box. Try again in a minute."
CROWDED = "Too many requests from your network at the same time. Try again in a minute."
FULL = "The server has no room for more files at the moment. Try again in a few minutes."
SLOW = "Your data arrived too slowly, so the request was stopped. Try again with a faster connection."
UPLOAD_TOO_LARGE = "One upload may have at most {} MiB. Upload less at once."
NO_FILES = "The files of an upload must be files."
UNEXPECTED = "Something went wrong on the server. Your files are not the cause. Try again."
NOT_AVAILABLE = "This address is not available."
NAME_TOO_LONG = "The name of a session or an upload is too long."
REQUEST_TOO_LONG = "The request is too long."
NO_JSON = "The request is not valid JSON."
NOT_PRIVATE = (
    "This app was started for its own machine only, so it does not answer a request {}. If other people should reach "
    "it, start it with MURA_PUBLIC=1; it then has the limits of a public app."
)
PROXY_SIGNS = {
    "header": "that a proxy has forwarded",
    "client": "from another machine",
    "version": "with HTTP/1.0, which proxies use",
    "root_path": "below a root path",
    "host": "for another host name",
    "origin": "from the page of another host",
}
"""How one sees that a request did not come directly from this machine; continues `NOT_PRIVATE`."""

# Programs, and whoever starts the app

NO_FILE = "No file was given."
BAD_K = "k is {k!r}; it must be a number from 1 to {most}."
NO_STRING = "An argument is {!r}, which is not a string."
OUT_OF_TIME = "The time limit was reached after {done:,} of {total:,} studies; split it."
NO_MCP = 'MURA_MCP=1 needs a package that is not installed: pip install "gradio[mcp]"'
NO_PORT = "GRADIO_SERVER_PORT is {!r}. Set it to a port number, or unset it."
NO_CHECKPOINT = "The app cannot start without a checkpoint. {}"
NO_SERVER = "The app cannot be served at {host}, port {port}: {error}"


def render(template: str, **values: Any) -> str:
    """Renders a template by its name without ".html"."""
    return _ENVIRONMENT.get_template(f"{template}.html").render(values)


def escape_text(text: str) -> str:
    """HTML that shows a text as it is. For `gr.Warning`, `gr.Info` and `gr.Error`, whose texts Gradio renders."""
    return str(escape(_encodable(text)))


def with_article(noun: str) -> str:
    """A noun with its article: "a fracture"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def about_text(space: str, credits: list[str]) -> str:
    """The tab "About" as Markdown.

    Args:
        space: Name of the Space that serves the page; empty elsewhere, where a script puts the address of the page in
            the place of `ADDRESS`.
        credits: Whom to credit for the films among the examples.
    """
    values = {"retention": RETENTION, "address": space or ADDRESS, "credits": credits}
    return _ENVIRONMENT.get_template("about.md").render(values)


def worklist_help() -> str:
    """What the tab "Worklist" reads, as Markdown."""
    return _ENVIRONMENT.get_template("worklist_help.md").render()


def error_html(sentence: str) -> str:
    """An error message that is not about a single file."""
    return render("message", error=sentence)


def note_html(sentence: str) -> str:
    """A sentence in small print."""
    return render("message", note=sentence)


def probability_text(probability: float) -> str:
    """A probability with two decimals that never looks certain."""
    if probability < 0.005:
        return "below 0.01"
    return f"{probability:.2f}" if probability < 0.995 else "above 0.99"


def operating_point_text(name: str) -> str:
    """The name of an operating point on the page."""
    return OPERATING_POINTS.get(name, name)


def threshold_text(threshold: float) -> str:
    """The threshold of an operating point, or a limit of a band, on the page."""
    return f"{threshold:.3g}"


def _of_100(share: float) -> str:
    """A share as a count that never looks certain: not seen in the measurement does not mean never."""
    if share >= 0.995:
        return "more than 99"
    return f"{100 * share:.0f}" if share >= 0.005 else "fewer than 1"


def _encodable(text: str) -> str:
    """Text that can be encoded: a file name may contain bytes that are not characters."""
    return text.encode("utf-8", "replace").decode("utf-8")


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_ENVIRONMENT.filters |= {
    "encodable": _encodable,
    "fixed": format,
    "of_100": _of_100,
    "operating_point": operating_point_text,
    "probability": probability_text,
    "threshold": threshold_text,
    "unusual": lambda views: [view.name for view in views if view.in_distribution is False],
    "words": lambda name: name.replace("_", " "),
}
