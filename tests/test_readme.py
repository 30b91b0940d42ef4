"""What the README shows is what happens."""

import re
from pathlib import Path

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_example_prints_what_the_readme_says(real_data, capsys):
    code, output = re.search(r"```python\n(.+?)```\s+```text\n(.+?)```", README, re.DOTALL).groups()
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == output


def test_the_results_are_the_shipped_models():
    from vit_tutorial.checkpoint import pretrained_card

    card = pretrained_card("mnist")
    assert f"{card['parameters']:,}" in README
    assert f"{card['test_accuracy']:.2%}".replace("%", " %") in README
