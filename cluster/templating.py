"""Pages from templates: every value is escaped, and one that is missing is an error."""

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def page_template(name: str) -> Template:
    """Give a template of `cluster/templates`."""
    environment = Environment(
        loader=PackageLoader("cluster"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
