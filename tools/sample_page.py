"""Write docs/sample-*.png and docs/player.html: python3 -m tools.sample_page."""

from __future__ import annotations

from pathlib import Path

from midi.pianoroll import draw_piano_roll
from utils import atomic_write
from web.player import Sample, read_sample, render_player

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "player.html"
HEADING = "Performance RNN: generated piano music"


def load_samples() -> list[Sample]:
    """Read the samples in docs/, in the order of their names."""
    return [read_sample(path) for path in sorted(DOCS.glob("sample-*.mid"))]


def main() -> None:
    """Write the pictures and the page."""
    samples = load_samples()
    for sample in samples:
        picture = draw_piano_roll(
            sample.notes,
            f"{sample.name}   {sample.title}",
            sample.requested,
            {label: text for label, text in sample.summary.items() if label != "control"},
            sample.command,
        )
        atomic_write(DOCS / f"{sample.name}.png", picture)
    atomic_write(PAGE, render_player(samples, HEADING))
    print(f"{PAGE}: {len(samples)} samples")


if __name__ == "__main__":
    main()
