"""`voxgap augment`: what augmentation does to a volume and its gaps, as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxgap.cli.console import out
from voxgap.errors import VoxgapError

if TYPE_CHECKING:
    import numpy as np

    from voxgap.augment import Record
    from voxgap.volume import Volume


def augment(
    file: Annotated[
        str, typer.Argument(help="A volume (.nii.gz, .nii, .npy, .npz), or sample:NAME.", metavar="FILE")
    ],
    transform: Annotated[
        str,
        typer.Option(
            "--transform",
            help="default, strong, none, or a list: flip,rotate:15,scale:0.9..1.1,extra_gaps:0..0.3.",
        ),
    ] = "default",
    kind: Annotated[str, typer.Option(help="What the presets are for: scan, video or grid.")] = "scan",
    seed: Annotated[int, typer.Option(min=0, help="Another number is another draw.")] = 0,
    draws: Annotated[int, typer.Option(min=1, max=12, help="How many draws the picture shows.")] = 3,
    picture: Annotated[
        Path | None,
        typer.Option("--out", help="Where the PNG goes; by default beside you, named after FILE."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write the first draw as a volume, in any format voxgap writes.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace what is in --out and --save.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Open the picture.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was drawn, to be replayed.")] = False,
) -> None:
    """Draw a volume before and after augmentation, gaps coloured: they move with the data.

    Examples:

      voxgap augment scan.nii.gz --show

      voxgap augment sample:nodules --transform rotate:30,scale:0.8..1.2 --seed 3 --out turned.png
    """
    from voxgap.augment import from_text
    from voxgap.files import check_new, write_bytes
    from voxgap.io import scan, suffix
    from voxgap.pictures import png, slices
    from voxgap.volume import upright

    volume = _volume(file)
    if save is not None:
        suffix(save)
    chosen = from_text(transform, kind)
    check_new([path for path in (picture, save) if path is not None], overwrite)
    rows, records = {"before": volume.values}, []
    for index in range(draws):
        record = chosen.sample(_generator(seed, index), volume.shape, volume.spacing)
        rows[f"draw {index + 1}"] = chosen.apply(volume.values, record)
        records.append(record)
    path = picture or Path(f"{_stem(file)}-augmented.png")
    known = not file.startswith("sample:") and scan(file).rises
    write_bytes(path, png(slices({label: upright(values, known) for label, values in rows.items()})))
    if save is not None:
        _save(save, volume, rows["draw 1"])
    if as_json:
        typer.echo(json.dumps(records))
    else:
        _report(records, rows, path)
    if show:
        typer.launch(str(path))


def _volume(file: str) -> Volume:
    """Return the volume, or the first of a sample's that has a gap, else its first."""
    import numpy as np

    from voxgap.dataset import load_data
    from voxgap.io import read
    from voxgap.volume import Volume

    if not file.startswith("sample:"):
        return read(file)
    dataset = load_data(file)
    gapped = np.flatnonzero([np.isnan(volume).any() for volume in dataset.volumes])
    chosen = int(gapped[0]) if gapped.size else 0
    return Volume(dataset.volumes[chosen], spacing=dataset.spacing, channels=dataset.channels)


def _generator(seed: int, index: int) -> np.random.Generator:
    import numpy as np

    return np.random.default_rng([seed, index])


def _stem(file: str) -> str:
    return Path(file.removeprefix("sample:")).name.split(".")[0] or "volume"


def _save(path: Path, volume: Volume, values: np.ndarray) -> None:
    from voxgap.io import write
    from voxgap.volume import Volume

    if values.shape != volume.shape:
        raise VoxgapError(f"{path}: the size changed, and the geometry with it; save without crops and turns")
    write(path, Volume(values, volume.affine, volume.spacing, volume.channels))


def _report(records: list[Record], rows: dict[str, np.ndarray], path: Path) -> None:
    import numpy as np

    from voxgap.augment.transform import steps

    for record, (label, values) in zip([{"transform": "nothing"}, *records], rows.items(), strict=True):
        names = ", ".join(step["transform"] for step in steps(record)) or "unchanged"
        out.print(f"{label:8} {np.isnan(values).mean():6.1%} missing   {'' if label == 'before' else names}")
    out.print(f"picture: {path}")
