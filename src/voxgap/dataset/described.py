"""`dataset.json` as nnU-Net and the Medical Segmentation Decathlon write it, as samples.

nnU-Net's raw format: documentation/dataset_format.md of MIC-DKFZ/nnUNet. The Decathlon's: Antonelli et al., Nature
Communications 13, 2022; MONAI's data lists are of the same form.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from voxgap import io, paths
from voxgap.dataset.listing import Listing, Row, refuse
from voxgap.errors import VoxgapError

NAME = "dataset.json"
MAX_BYTES = 2**26
_PARTS = {"training": "train", "validation": "validation", "test": "test", "testing": "test"}
_PAIR = '{"image": "FILE", "label": "FILE"}'
_LISTED = '{"images": ["FILE", ...], "label": "FILE"}'


def find(path: Path) -> Listing | None:
    """List what a `dataset.json` describes, or the folder that one lies in; None where there is none of these.

    Raises:
        VoxgapError: It is damaged, or files that it names are not there.
    """
    file = path / NAME if path.is_dir() else path
    if not file.is_file():
        return None
    about = _read(file)
    if "channel_names" in about or "file_ending" in about:
        return _with_names(file, _apart(file, _nnunet(file, about)), about)
    if isinstance(about.get("training"), list):
        return _with_names(file, _apart(file, _decathlon(file, about)), about)
    if path.is_dir():
        return None
    raise VoxgapError(f"{file}: names neither `training` (the Decathlon) nor `channel_names` (nnU-Net)")


def with_names_beside(listing: Listing) -> Listing:
    """Name classes and channels of a table as the `dataset.json` in its folder does, if there is one.

    `labels` names the values of label maps; `modality` the channels of files that hold all of a sample.

    Raises:
        VoxgapError: It can't be read.
    """
    file = listing.folder / NAME
    drawn = any(row.label_map for row in listing.rows)
    if not file.is_file() or (listing.channels and not drawn):
        return listing
    about = _read(file)
    if not listing.channels and about.get("modality"):
        names = _channels(file, about["modality"], "modality")
        first = next((file for row in listing.rows for file in row.files if file), None)
        with contextlib.suppress(VoxgapError):  # of a file that can't be read, its reader says why
            if first is not None and io.scan(first).shape[3] == len(names):
                listing = listing._replace(within=names)
    return _with_names(file, listing, about) if drawn else listing


def names_of(listing: Listing) -> dict[str, Any]:
    """Return what `with_names_beside` takes from a `dataset.json`: what a table has no place for, empty if nothing."""
    labels: dict[str, int] = {name: value for value, name in enumerate(listing.classes)}
    if labels and listing.unsaid is not None:
        labels["ignore"] = listing.unsaid
    modality = {str(index): name for index, name in enumerate(listing.within)}
    return {key: said for key, said in (("modality", modality), ("labels", labels)) if said}


def _read(file: Path) -> dict[str, Any]:
    if file.stat().st_size > MAX_BYTES:
        raise VoxgapError(f"{file}: is larger than a list of samples; give a manifest")
    try:
        about = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise VoxgapError(f"{file}: can't be read as JSON ({error}); mend it") from None
    if not isinstance(about, dict):
        raise VoxgapError(f"{file}: holds no fields; give one as nnU-Net or the Decathlon writes it")
    return about


def _nnunet(file: Path, about: Mapping[str, Any]) -> Listing:
    """List cases by their label maps; a channel without a file is missing."""
    folder, ending = file.parent, about.get("file_ending")
    if not isinstance(ending, str) or not ending:
        raise VoxgapError(
            f"{file}: file_ending is {ending!r}; give the suffix of the images, such as .nii.gz"
        )
    channels = _channels(file, about.get("channel_names"), "channel_names")
    rows: list[Row] = []
    for images, labels, part in (("imagesTr", "labelsTr", "train"), ("imagesTs", "labelsTs", "test")):
        known = sorted(f for f in _files(folder / labels) if f.name.endswith(ending))
        cases = {label.name.removesuffix(ending): label for label in known}
        for case, label in cases.items():
            numbered = [folder / images / f"{case}_{index:04d}{ending}" for index in range(len(channels))]
            rows.append(_case(label.relative_to(folder), numbered, label, part))
        named = {f.name.removesuffix(ending)[:-5] for f in _files(folder / images) if f.name.endswith(ending)}
        _say_left_out(folder / images, sorted(named - set(cases)))
    listed = about.get("dataset")
    if isinstance(listed, dict):
        rows = _listed(file, listed)
    elif listed is not None and not isinstance(listed, str):
        raise VoxgapError(f'{file}: dataset must name cases: {{"CASE": {_LISTED}}}; or leave it out')
    if not rows:
        raise VoxgapError(
            f"{file}: no label map in {folder / 'labelsTr'} ends with {ending}; check file_ending"
        )
    refuse(
        str(file),
        [
            f"{row.where}: none of its channels is there: imagesTr/..._0000{ending}"
            for row in rows
            if not any(row.files)
        ],
    )
    refuse(
        str(file),
        [
            f"{row.where}: {len(row.files)} images, {len(channels)} channel_names"
            for row in rows
            if len(row.files) != len(channels)
        ],
    )
    return Listing(_parted(rows), channels, folder=folder)


def _listed(file: Path, cases: Mapping[str, Any]) -> list[Row]:
    """List the cases of nnU-Net that name their files, wherever those lie."""
    refuse(
        str(file),
        [
            f"dataset: {name}: is no {_LISTED}"
            for name, case in cases.items()
            if not isinstance(case, dict)
            or not _are_texts(case.get("images"))
            or not isinstance(case.get("label"), str)
        ],
    )
    return [
        _case(
            Path(name),
            [paths.resolve(image, file.parent) for image in case["images"]],
            paths.resolve(case["label"], file.parent),
            "train",
        )
        for name, case in cases.items()
    ]


def _are_texts(said: Any) -> bool:
    return isinstance(said, list) and bool(said) and all(isinstance(one, str) and one.strip() for one in said)


def _apart(file: Path, listing: Listing) -> Listing:
    """Return a listing, once no image of it is its own label map."""
    refuse(
        str(file),
        [
            f"{row.where}: its image and its label are one file, {row.label_map.name}; name both"
            for row in listing.rows
            if row.label_map
            and any(one and one.exists() and one.resolve() == row.label_map.resolve() for one in row.files)
        ],
    )
    return listing


def _case(where: Path, files: Sequence[Path], label: Path, part: str) -> Row:
    there = tuple(file if file.exists() else None for file in files)
    return Row(str(where), there, split=part, label_map=label)


def _files(folder: Path) -> list[Path]:
    return [f for f in folder.iterdir() if not f.name.startswith(".")] if folder.is_dir() else []


def _decathlon(file: Path, about: Mapping[str, Any]) -> Listing:
    """List the pairs that the file names; images without a label are left out."""
    folder = file.parent
    names = _channels(file, about["modality"], "modality") if about.get("modality") else ()
    rows: list[Row] = []
    problems: list[str] = []
    several = False
    for key, part in _PARTS.items():
        alone = []
        entries = about.get(key) or []
        if not isinstance(entries, list):
            raise VoxgapError(f"{file}: {key} must be a list of {_PAIR}")
        for number, entry in enumerate(entries):
            image, label = (
                (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (entry, None)
            )
            # MONAI's lists for classification name a class by a number.
            if not _are_texts(image if isinstance(image, list) else [image]) or not (
                label is None or isinstance(label, int | float) or _are_texts([label])
            ):
                problems.append(f"{key} {number}: is no {_PAIR}")
                continue
            if label is None:
                alone.append(Path(str(image)).name)
                continue
            files, numbered = _images(image, folder, len(names))
            several |= numbered or isinstance(image, list)
            drawn = paths.resolve(label, folder) if isinstance(label, str) else None
            for one in (*files, drawn):
                if one is not None and not io.split_item(one)[0].exists():
                    problems.append(f"{key} {number}: {one}: no such file")
            said = "" if drawn is not None else str(label)
            rows.append(Row(f"{key} {number}", files, said, split=part, label_map=drawn))
        _say_left_out(file, alone)
    refuse(str(file), problems)
    widths = {len(row.files) for row in rows}
    if not rows or len(widths) > 1:
        raise VoxgapError(
            f"{file}: {'holds no image with a label' if not rows else 'images of other numbers of files'}"
        )
    if not several:
        return Listing(_parted(rows), within=names, folder=folder)
    width = widths.pop()
    return Listing(
        _parted(rows), names if len(names) == width else tuple(map(str, range(width))), folder=folder
    )


def _images(image: Any, folder: Path, channels: int) -> tuple[tuple[Path | None, ...], bool]:
    """Return the files of a case; of nnU-Net's first version the file that is named stands for one per channel."""
    if isinstance(image, list):
        return tuple(paths.resolve(str(one), folder) for one in image), False
    path = paths.resolve(str(image), folder)
    if path.exists() or not channels:
        return (path,), False
    known = max((suffix for suffix in io.FORMATS if path.name.endswith(suffix)), key=len, default="")
    stem = path.name.removesuffix(known)
    numbered = [path.with_name(f"{stem}_{index:04d}{known}") for index in range(channels)]
    there = tuple(one if one.exists() else None for one in numbered)
    return (there, True) if any(there) else ((path,), False)


def _channels(file: Path, said: Any, field: str) -> tuple[str, ...]:
    """Return names by their numbers: `{"0": "T1", "1": "FLAIR"}`, or a list."""
    try:
        names = [said[key] for key in sorted(said, key=int)] if isinstance(said, dict) else said
        assert _are_texts(names)
    except (AssertionError, TypeError, ValueError):
        raise VoxgapError(f'{file}: {field} must name each channel by its number, as {{"0": "T1"}}') from None
    return tuple(names) if len(set(names)) == len(names) else tuple(f"{n}_{i}" for i, n in enumerate(names))


def _with_names(file: Path, listing: Listing, about: Mapping[str, Any]) -> Listing:
    """Add what the values of label maps are called: `{"liver": 1}` of nnU-Net, `{"1": "liver"}` of the Decathlon."""
    said = about.get("labels")
    if not said:
        return listing
    if not isinstance(said, dict):
        return _without_names(file, listing, "they are not names by their values")
    names: dict[int, str] = {}
    for key, value in said.items():
        number, name = (key, value) if str(key).isdecimal() and not str(value).isdecimal() else (value, key)
        if isinstance(number, bool) or not str(number).isdecimal() or not isinstance(name, str):
            return _without_names(file, listing, f"{key!r} stands for more than one value, or none")
        if int(number) in names:
            return _without_names(file, listing, f"{number} has two names")
        names[int(number)] = name
    # nnU-Net's label for voxels that nobody has said anything of; it is the highest.
    unsaid = next((number for number, name in names.items() if name == "ignore"), None)
    if unsaid is not None and "training" not in about:
        del names[unsaid]
        listing = listing._replace(unsaid=unsaid)
    values = sorted(names)
    if values != list(range(len(values))):
        return _without_names(
            file, listing, f"the values are {', '.join(map(str, values[:10]))}, not 0 to {len(values) - 1}"
        )
    return listing._replace(classes=tuple(names[value] for value in values))


def _without_names(file: Path, listing: Listing, why: str) -> Listing:
    warnings.warn(f"{file}: labels name no classes, which go by their numbers: {why}", stacklevel=4)
    return listing


def _parted(rows: list[Row]) -> list[Row]:
    """Drop the split where all samples are in one part of it: they are dealt out then."""
    return rows if len({row.split for row in rows}) > 1 else [row._replace(split="") for row in rows]


def _say_left_out(where: Path, names: Sequence[str]) -> None:
    if names:
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        warnings.warn(f"{where}: left out {len(names)} images without a label map: {some}", stacklevel=5)
