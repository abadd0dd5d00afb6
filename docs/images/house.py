"""Draws house.svg, the picture in docs/design.md: run it again when a room is added."""

from __future__ import annotations

from pathlib import Path

WIDTH, ROW, GAP = 940, 44, 10
NUMPY, KERAS, BOTH, PLAIN = "#dbe9f6", "#fde5cd", "#e3e0f3", "#e9ecef"
# From above to below; a room imports those below it, and of its own row at most those to its right.
ROWS: tuple[tuple[str, tuple[tuple[str, str, tuple[str, ...]], ...]], ...] = (
    ("doors", (("", PLAIN, ("cli", "server")),)),
    (
        "where they meet",
        (
            (
                "",
                BOTH,
                (
                    "filling",
                    "distributed",
                    "bundle",
                    "experiment",
                    "web",
                    "inspection",
                    "report",
                    "pictures",
                    "trust",
                ),
            ),
        ),
    ),
    ("a bundle, opened", (("", BOTH, ("runtime", "cluster")),)),
    (
        "data and networks",
        (
            (
                "NumPy",
                NUMPY,
                ("evidence", "dataset", "samples", "subjects", "paths", "promises", "acquire", "drift"),
            ),
            ("Keras", KERAS, ("training", "models", "history")),
        ),
    ),
    (
        "their parts",
        (
            ("NumPy", NUMPY, ("grid", "augment", "missingness", "metrics", "table")),
            ("Keras", KERAS, ("fill", "layers", "backend")),
        ),
    ),
    (
        "volumes and plans",
        (
            (
                "NumPy",
                NUMPY,
                ("io", "resample", "align", "volume", "decision", "patches", "shapes", "recipe", "intensity"),
            ),
        ),
    ),
    (
        "for all",
        (
            (
                "",
                PLAIN,
                (
                    "observed",
                    "ragged",
                    "arrays",
                    "files",
                    "process",
                    "names",
                    "registry",
                    "progress",
                    "doubts",
                    "errors",
                ),
            ),
        ),
    ),
)


def drawing() -> str:
    """Return the SVG."""
    height = len(ROWS) * (ROW + 26) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for number, (title, groups) in enumerate(ROWS):
        y = 12 + number * (ROW + 26)
        parts.append(f'<text x="10" y="{y + ROW / 2 + 5}" font-size="13" fill="#555">{title}</text>')
        count = sum(len(rooms) for _, _, rooms in groups)
        space = WIDTH - 150 - 10 - 24 * (len(groups) - 1)
        wide = (space - GAP * (count - len(groups))) / count
        x = 150.0
        for _, colour, rooms in groups:
            for room in rooms:
                parts.append(
                    f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{ROW}" rx="5" fill="{colour}" '
                    'stroke="#888" stroke-width="0.7"/>'
                )
                size = min(14, 1.62 * wide / len(room))
                parts.append(
                    f'<text class="room" x="{x + wide / 2:.1f}" y="{y + ROW / 2 + 5}" font-size="{size:.1f}" '
                    f'text-anchor="middle">{room}</text>'
                )
                x += wide + GAP
            x += 24 - GAP
        if number < len(ROWS) - 1:
            parts.append(
                f'<path d="M {150 + (WIDTH - 160) / 2} {y + ROW + 4} v 14 m -5 -5 l 5 6 l 5 -6" '
                'fill="none" stroke="#888"/>'
            )
    legend = ((NUMPY, "NumPy"), (KERAS, "Keras"), (BOTH, "both"))
    y = height - 14
    for number, (colour, word) in enumerate(legend):
        x = 150 + number * 90
        parts.append(
            f'<rect x="{x}" y="{y - 11}" width="14" height="14" rx="3" fill="{colour}" stroke="#888"/>'
        )
        parts.append(f'<text x="{x + 20}" y="{y}" font-size="12" fill="#555">{word}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("house.svg").write_text(drawing())
