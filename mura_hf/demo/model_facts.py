"""What is known of a checkpoint that is loaded, as a small table."""

from html import escape

from ..inference import StudyPredictor
from ..inference.achievements import Achievement

_DIGITS = 12  # of the digest


def facts_html(predictor: StudyPredictor) -> str:
    """Size, backbone, input and weights of a checkpoint, and what its operating points were measured to achieve."""
    config, model = predictor.model.config, predictor.model
    weights = predictor.weights_sha256
    facts = [
        ("Checkpoint", escape(predictor.checkpoint)),
        ("Backbone", escape(str(config.backbone) or "not told")),
        ("Parameters", f"{sum(parameter.numel() for parameter in model.parameters()):,}"),
        ("Input", escape(_input_text(predictor))),
        ("Weights, SHA-256", f"<code>{weights[:_DIGITS]}…</code>" if weights else "not known"),
    ]
    rows = "".join(f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in facts)
    return (
        f'<div class="facts"><div class="scroll" tabindex="0" role="region" aria-label="Facts"><table><caption>Facts'
        f"</caption><tbody>{rows}</tbody></table></div>{_points_html(predictor)}</div>"
    )


def _points_html(predictor: StudyPredictor) -> str:
    points = sorted(predictor.model.config.operating_points.items(), key=lambda point: point[1])
    found = {name: predictor.achievements.get(name, float(value), None) for name, value in points}
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{float(value):.3g}</td>{_counts(found[name])}</tr>'
        for name, value in points
    )
    measured = next((one for one in found.values() if one is not None), None)
    of = f"Measured on {escape(measured.held_out)}." if measured else "Not measured for these weights."
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Operating points"><table><caption>Operating points'
        '</caption><thead><tr><th scope="col">Name</th><th scope="col">Flagged above</th><th scope="col">Sensitivity'
        f'</th><th scope="col">Specificity</th></tr></thead><tbody>{rows}</tbody></table></div>'
        f'<p class="fine">{of}</p>'
    )


def _counts(found: Achievement | None) -> str:
    if found is None:
        return "<td>–</td><td>–</td>"
    right = found.n_normal - found.n_flagged_normal
    return (
        f"<td>{_share(found.n_flagged_abnormal, found.n_abnormal, found.sensitivity)}</td>"
        f"<td>{_share(right, found.n_normal, found.specificity)}</td>"
    )


def _share(count: int, of: int, value: float | None) -> str:
    return f"{count:,} of {of:,} ({value:.2f})" if value is not None else "–"


def _input_text(predictor: StudyPredictor) -> str:
    size = getattr(predictor.processor, "size", None)
    if size is None:
        size = getattr(getattr(predictor.processor, "processor", None), "size", None)
    try:
        return f"{int(size['height'])} × {int(size['width'])} px"  # type: ignore[index]
    except (TypeError, KeyError, ValueError):
        return "as its own image processor makes it"
