"""What is passed, chapter by chapter, and what is next."""

from types import ModuleType

import vit_tutorial.checks.attention as attention
import vit_tutorial.checks.attention_maps as attention_maps
import vit_tutorial.checks.class_token as class_token
import vit_tutorial.checks.empty_file as empty_file
import vit_tutorial.checks.encoder as encoder
import vit_tutorial.checks.find_the_bug as find_the_bug
import vit_tutorial.checks.head as head
import vit_tutorial.checks.more_data as more_data
import vit_tutorial.checks.patches as patches
import vit_tutorial.checks.positions as positions
import vit_tutorial.checks.projection as projection
import vit_tutorial.checks.recipe as recipe
import vit_tutorial.checks.scale as scale
import vit_tutorial.checks.training as training
import vit_tutorial.checks.transfer as transfer
import vit_tutorial.checks.what_it_learned as what_it_learned
from vit_tutorial.checks.state import remembered

CHAPTERS: dict[str, ModuleType] = {
    "01 Patching": patches,
    "02 Projection": projection,
    "03 Class token": class_token,
    "04 Positions": positions,
    "05 Attention heads": attention,
    "06 Encoder": encoder,
    "07 Head": head,
    "08 Training": training,
    "16 From an empty file": empty_file,  # to be taken after 08
    "09 Attention maps": attention_maps,
    "10 What it learned": what_it_learned,
    "11 More data": more_data,
    "12 Transfer": transfer,
    "13 Scale": scale,
    "14 The recipe": recipe,
    "15 Find the bug": find_the_bug,
}


def exercises(chapter: ModuleType) -> list[str]:
    """The names of a chapter's checks, in the order of its file."""
    return [
        name
        for name, value in vars(chapter).items()
        if name.startswith("check_") and value.__module__ == chapter.__name__
    ]


def progress() -> None:
    """Print which exercises are passed, in this session or before, and which is next.

    The file is `vit_tutorial/progress.json` in $XDG_STATE_HOME, else in ~/.local/state; where it
    cannot be written, progress lasts for the session.
    """
    done, ahead = set(remembered()), ""
    for title, chapter in CHAPTERS.items():
        names = exercises(chapter)
        marks = "".join("✓" if name in done else "○" for name in names)
        count = sum(name in done for name in names)
        print(f"{title:23}{marks:9}{count:3} of {len(names)}")
        open_here = [name for name in names if name not in done]
        ahead = ahead or (f"next: {open_here[0]}, chapter {title}" if open_here else "")
    print(ahead or "everything is passed")
