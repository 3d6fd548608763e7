"""Renders report/index.html, one self-contained page, from sections and page.html.j2. Pure."""

from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from orchestrator.report.figures import PALETTE
from orchestrator.report.sections import Section


def environment() -> Environment:
    """Returns where the templates of pages are; they escape every name."""
    made = Environment(
        loader=PackageLoader("orchestrator.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["palette"] = PALETTE
    return made


def render(title: str, under: str, sections: Sequence[Section], pictures: Mapping[str, str]) -> str:
    """Renders the page; `under` stands below the title, and `pictures` are data URIs by place."""
    page = {"title": title, "under": under, "sections": sections, "pictures": pictures}
    return environment().get_template("page.html.j2").render(page)
